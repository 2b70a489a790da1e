"""An agent network whose memory is a fading trace of what it has seen."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from me_igm_jax import register_agent
from me_igm_jax.networks.layers import Linear


@register_agent("trace")
class TraceAgent(nn.Module):
    """Linear - ReLU; its exponential average over time beside it; Linear."""

    outputs: int  # numbers per agent; always filled
    hidden: int = 64  # filled with net.hidden
    operands: str = "float32"  # filled with net.operands
    decay: float = 0.8  # there is no net.decay, so this stays

    @nn.nowrap
    def initial_carry(self, batch: int, agents: int) -> jax.Array:
        """The trace before an episode, [B, N, H]."""
        return jnp.zeros((batch, agents, self.hidden))

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        """carry [B, N, H], x [T, B, N, D], first [T, B] -> carry, outputs [T, B, N, outputs]."""
        features = nn.relu(Linear(self.hidden, operands=self.operands)(x))

        def step(trace, inputs):
            seen, begins = inputs  # [B, N, H], [B]
            trace = jnp.where(begins[:, None, None], 0.0, trace)
            trace = self.decay * trace + (1 - self.decay) * seen
            return trace, trace

        carry, traces = jax.lax.scan(step, carry, (features, first))
        both = jnp.concatenate([features, traces], axis=-1)
        return carry, Linear(self.outputs, operands=self.operands)(both)
