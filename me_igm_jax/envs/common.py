"""What several families need: importing JaxMARL quietly, and observing pairs of units."""

import contextlib
import io
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what is printed inside from the terminal.

    JaxMARL prints while it is imported, and it replaces sys.stdout by the terminal. JaxMARL is imported
    inside functions only, because the import takes seconds.
    """
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    saved = {name: getattr(sys, name) for name in names}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        for name, stream in saved.items():
            setattr(sys, name, stream)


def others(x: jax.Array) -> jax.Array:
    """What each unit i sees of all units j except itself, in their order.

    x [N, U, D] holds D features of unit j as unit i sees it, N <= U. Returns [N, (U - 1) D].
    """
    n, units = x.shape[:2]
    # Column j is unit j when j < i, and unit j + 1 when j >= i.
    before = jnp.arange(units - 1)[None, :] < jnp.arange(n)[:, None]
    return jnp.where(before[..., None], x[:, :-1], x[:, 1:]).reshape(n, -1)
