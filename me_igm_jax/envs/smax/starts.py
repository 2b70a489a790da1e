"""Where units start in the SMACv2-like scenarios of JaxMARL: the same random numbers, computed once.

JaxMARL places one team in the middle and one around it for both possible assignments, and then picks one
assignment. For teams of equal size this is the same as choosing a random key: half of the work, and half of
what must be compiled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NOISE = 2.0  # around the middle, and around each corner group's place


class EqualTeams(NamedTuple):
    """The same as SurroundAndReflectPositionDistribution of JaxMARL, for two teams of n units."""

    n: int
    width: float
    height: float

    def generate(self, key: jax.Array) -> jax.Array:
        """Positions [2 n, 2] of allies, then enemies: one team surrounded, or both mirrored."""
        choice_key, surround_key, reflect_key = jax.random.split(key, 3)
        surrounds = jax.random.uniform(choice_key) < 0.5
        return jnp.where(surrounds, self._surround(surround_key), self._reflect(reflect_key))

    def _surround(self, key: jax.Array) -> jax.Array:
        """One team around the middle, the other in up to four groups on the way to the corners."""
        key, allies_inside_key, enemies_inside_key = jax.random.split(key, 3)
        allies_inside = jax.random.randint(key, (), 0, 2) == 1
        key, inside_key = jax.random.split(jnp.where(allies_inside, allies_inside_key, enemies_inside_key))
        key, group_key = jax.random.split(key)
        key, place_key = jax.random.split(key)
        _, outside_key = jax.random.split(key)

        middle = jnp.array([self.width / 2, self.height / 2])
        corners = jnp.array([[0.0, 0.0], [0.0, self.height], [self.width, 0.0], [self.width, self.height]])
        group = jax.random.categorical(group_key, jnp.log(jnp.full(4, 0.25)), shape=(self.n,))
        t = jax.random.uniform(place_key, (4, 1))
        places = t * middle + (1 - t) * corners
        inside = middle + self._noise(inside_key)
        outside = places[group] + self._noise(outside_key)
        return jnp.where(
            allies_inside, jnp.concatenate([inside, outside]), jnp.concatenate([outside, inside])
        )

    def _noise(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (self.n, 2), minval=-NOISE, maxval=NOISE)

    def _reflect(self, key: jax.Array) -> jax.Array:
        """Allies anywhere in the left half, enemies opposite."""
        _, ally_key = jax.random.split(key)
        half = jnp.array([self.width / 2, self.height])
        allies = jax.random.uniform(ally_key, (self.n, 2), minval=jnp.zeros(2), maxval=half)
        enemies = jnp.stack([self.width - allies[:, 0], allies[:, 1]], axis=-1)
        return jnp.concatenate([allies, enemies])
