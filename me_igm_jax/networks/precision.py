"""Mixed precision: matrix products whose operands are rounded, with everything else in float32.

Parameters, sums, activations, gradients and optimisers stay float32, so that small updates are not lost
and no loss needs scaling: bfloat16 has the range of float32. The products of both derivatives are rounded
in the same way.
"""

import jax
import jax.numpy as jnp


def product(x: jax.Array, w: jax.Array, operands: str = "float32") -> jax.Array:
    """x @ w, summed in float32.

    Args:
      x: [..., D].
      w: [D, F].
      operands: the type that x and w are rounded to, "float32" or "bfloat16" (config.net.operands).

    Returns: [..., F] float32.
    """
    return x @ w if operands == "float32" else _rounded(x, w, operands)


def _rounded_product(x: jax.Array, w: jax.Array, operands: str) -> jax.Array:
    return jnp.matmul(x.astype(operands), w.astype(operands), preferred_element_type=jnp.float32)


def _keep_operands(x: jax.Array, w: jax.Array, operands: str):
    return _rounded_product(x, w, operands), (x, w)


def _derivatives(operands: str, kept, d_out: jax.Array):
    x, w = kept
    rows, d_rows = x.reshape(-1, x.shape[-1]), d_out.reshape(-1, d_out.shape[-1])
    return _rounded_product(d_out, w.T, operands), _rounded_product(rows.T, d_rows, operands)


_rounded = jax.custom_vjp(_rounded_product, nondiff_argnums=(2,))
_rounded.defvjp(_keep_operands, _derivatives)
