"""Parts of batches: some of the sequences, or the first instants."""

from typing import Any

import jax


def take_sequences(tree: Any, which: jax.Array | slice) -> Any:
    """The sequences `which` (axis B) of every array [T, B, ...] in `tree`.

    An array with one sequence stands for all of them (`training/shared_instants.py`), so it stays whole.
    """
    return jax.tree.map(lambda x: x if x.shape[1] == 1 else x[:, which], tree)


def first_instants(tree: Any, count: int) -> Any:
    """The first `count` instants of every array [T, ...] in `tree`."""
    return jax.tree.map(lambda x: x[:count], tree)
