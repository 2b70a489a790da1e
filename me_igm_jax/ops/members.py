"""Numbers over all members that vmap runs side by side: for loop bounds that all of them share.

A loop whose condition differs between the members of a vmap selects between old and new state in every
turn, which copies the replay buffer. A condition that all members share does not.
"""

import jax
from jax.custom_batching import custom_vmap


def _over_members(reduce):
    @custom_vmap
    def number(x: jax.Array) -> jax.Array:
        return x

    @number.def_vmap
    def _(axis_size, in_batched, x):
        return (number(reduce(x)), False) if in_batched[0] else (x, False)

    return number


lowest = _over_members(lambda x: x.min(0))
"""The smallest x [] of all members; x itself outside of vmap."""

highest = _over_members(lambda x: x.max(0))
"""The largest x [] of all members; x itself outside of vmap."""
