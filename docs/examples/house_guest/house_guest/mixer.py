"""A mixer for teams that are as good as their weakest member."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from me_igm_jax import register_mixer
from me_igm_jax.networks.layers import MLP


@register_mixer("soft_min")
class SoftMin(nn.Module):
    """Q_tot = -N/k log( 1/N sum_i exp(-k Q_i) ) + b(s), a soft minimum with the sharpness k(s) > 0.

    IGM: it grows with every Q_i. For k -> 0 it is the sum of the Q_i, for large k it is N min_i Q_i.
    """

    hyper_embed: int = 64  # filled with algo.hyper_embed
    operands: str = "float32"  # filled with net.operands

    @nn.compact
    def __call__(self, q_taken, state, *, q_max=None, action=None) -> jax.Array:
        n = q_taken.shape[-1]
        sharpness, bias = jnp.moveaxis(MLP((self.hyper_embed, 2), self.operands)(state), -1, 0)
        k = 0.1 + nn.softplus(sharpness)
        mean = nn.logsumexp(-k[..., None] * q_taken, axis=-1) - jnp.log(n)
        return -n * mean / k + bias
