"""Mixed precision: matrix products whose operands are rounded, with everything else in float32.

Parameters, sums, activations, gradients and optimisers stay float32, so that small updates are not lost
and no loss needs scaling; bfloat16 has float32's range. Both derivatives' products are rounded likewise.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Literal

import jax
import jax.numpy as jnp

Operands = Literal["float32", "bfloat16"]
_operands: ContextVar[Operands] = ContextVar("operands", default="float32")


def with_operands(operands: Operands, f: Callable) -> Callable:
    """`f`, in which `product` rounds as told: a choice made while `f` is traced."""

    @wraps(f)
    def chosen(*args, **kwargs):
        token = _operands.set(operands)
        try:
            return f(*args, **kwargs)
        finally:
            _operands.reset(token)

    return chosen


def chosen_operands() -> Operands:
    """What the innermost `with_operands` says."""
    return _operands.get()


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x @ w of operands rounded as `with_operands` says, [..., D] x [D, F] -> [..., F]."""
    return rounded_product(x, w, chosen_operands())


def rounded_product(x: jax.Array, w: jax.Array, operands: Operands) -> jax.Array:
    """x @ w of operands rounded as told, summed in float32: [..., D] x [D, F] -> [..., F]."""
    return x @ w if operands == "float32" else _product(x, w, operands)


def _rounded(x: jax.Array, w: jax.Array, operands: Operands) -> jax.Array:
    return jnp.matmul(x.astype(operands), w.astype(operands), preferred_element_type=jnp.float32)


def _forward(x: jax.Array, w: jax.Array, operands: Operands):
    return _rounded(x, w, operands), (x, w)


def _backward(operands: Operands, kept, d_out: jax.Array):
    x, w = kept
    rows, d_rows = x.reshape(-1, x.shape[-1]), d_out.reshape(-1, d_out.shape[-1])
    return _rounded(d_out, w.T, operands), _rounded(rows.T, d_rows, operands)


_product = jax.custom_vjp(_rounded, nondiff_argnums=(2,))
_product.defvjp(_forward, _backward)
