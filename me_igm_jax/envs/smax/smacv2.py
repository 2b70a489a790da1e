"""The rules of SMACv2 for teams and start positions (`distributions.py` of oxwhirl/smacv2) on SMAX's map.

Teams: each unit is sampled on its own, with weights .45, .45 and .10. A team of nothing but medivacs, or of
nothing but banelings, is sampled again. The enemy team is a copy; surplus enemies are sampled by the same
rule. Positions: with probability one half mirrored, else the allies at the centre, surrounded. SMACv2 puts
units on exactly the same point there, and StarCraft separates them; here they start up to half a unit
apart. Allies are sorted by (type, x, y), as in SMACv2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .simulator import Simulator, Units

WEIGHTS = (0.45, 0.45, 0.10)
EXCEPTIONS = ("medivac", "baneling")  # a team of nothing else is sampled again
SIZE = 32.0
CORNERS = np.array([[0.0, 0.0], [0.0, SIZE], [SIZE, 0.0], [SIZE, SIZE]], np.float32)
JITTER = 0.5


def sample_start(sim: Simulator, blank: Units, key: jax.Array) -> Units:
    """`blank`, the start of any battle, with types, health and positions by the rules of SMACv2."""
    types, positions = sample_battle(key, sim.unit_type_names, sim.num_allies, sim.num_enemies)
    health = sim.unit_type_health[types]
    start = blank.replace(unit_types=types, unit_positions=positions, unit_health=health)
    return sim.push_units_away(start)


def sample_battle(key: jax.Array, names: Sequence[str], n: int, m: int) -> tuple[jax.Array, jax.Array]:
    """Types [n + m] and positions [n + m, 2] of n allies and m enemies.

    The allies are sorted by (type name, x, y).
    """
    team_key, place_key = jax.random.split(key)
    types = sample_types(team_key, names, n, m)
    positions = sample_positions(place_key, n, m)
    rank = jnp.array([sorted(names).index(name) for name in names])
    order = jnp.lexsort((positions[:n, 1], positions[:n, 0], rank[types[:n]]))
    order = jnp.concatenate([order, jnp.arange(n, n + m)])
    return types[order], positions[order]


def sample_types(key: jax.Array, names: Sequence[str], n: int, m: int) -> jax.Array:
    """Types of n allies and m >= n enemies, [n + m] uint8."""
    ally_key, surplus_key = jax.random.split(key)
    team = sample_team(ally_key, names, n)
    parts = [team, team] if n == m else [team, team, sample_team(surplus_key, names, m - n)]
    return jnp.concatenate(parts)


def sample_team(key: jax.Array, names: Sequence[str], size: int) -> jax.Array:
    """`size` independent samples, repeated while all are exceptions, [size] uint8."""
    exception = jnp.array([name in EXCEPTIONS for name in names])
    logits = jnp.log(jnp.array(WEIGHTS))

    def sample(key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, logits, shape=(size,)).astype(jnp.uint8)

    def again(loop):
        key, _ = jax.random.split(loop[0])
        return key, sample(key)

    return jax.lax.while_loop(lambda loop: exception[loop[1]].all(), again, (key, sample(key)))[1]


def sample_positions(key: jax.Array, n: int, m: int) -> jax.Array:
    """Start positions [n + m, 2]: mirrored or surrounded, each with probability one half."""
    which_key, reflect_key, surround_key = jax.random.split(key, 3)
    reflected = jax.random.bernoulli(which_key)
    return jnp.where(reflected, reflect(reflect_key, n, m), surround(surround_key, n, m))


def reflect(key: jax.Array, n: int, m: int) -> jax.Array:
    """[n + m, 2]: allies anywhere in x <= 15, the enemies mirrored, surplus enemies anywhere in x >= 16."""
    ally_key, surplus_key = jax.random.split(key)
    allies = jax.random.uniform(ally_key, (n, 2)) * jnp.array([SIZE / 2 - 1, SIZE])
    mirrored = allies.at[:, 0].set(SIZE - allies[:, 0])
    surplus = jax.random.uniform(surplus_key, (m - n, 2)) * jnp.array([SIZE / 2, SIZE])
    return jnp.concatenate([allies, mirrored, surplus + jnp.array([SIZE / 2, 0.0])])


def surround(key: jax.Array, n: int, m: int) -> jax.Array:
    """[n + m, 2]: allies at the centre; enemies in 1 to 4 groups, each somewhere on another diagonal."""
    count_key, member_key, corner_key, where_key, jitter_key = jax.random.split(key, 5)
    groups = jax.random.randint(count_key, (), 1, 5)
    member = jax.random.randint(member_key, (m,), 0, groups)
    corner = jax.random.permutation(corner_key, jnp.asarray(CORNERS))
    centre = jnp.full((2,), SIZE / 2)
    inner = centre + 2 * jnp.sign(corner - centre)
    t = jax.random.uniform(where_key, (4, 1))
    # Kept off the border by the jitter. If they were clipped afterwards, two units could coincide for ever.
    place = jnp.clip(t * inner + (1 - t) * corner, JITTER, SIZE - JITTER)[member]
    jitter = JITTER * jax.random.uniform(jitter_key, (n + m, 2), minval=-1.0, maxval=1.0)
    together = jnp.concatenate([jnp.broadcast_to(centre, (n, 2)), place])
    return together + jitter
