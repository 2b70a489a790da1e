"""mpe/*: Spread, cooperative navigation, as the experiments of Soft-QMIX and ME-IGM define it.

Three agents must cover three landmarks and not collide. What differs from JaxMARL's SimpleSpreadMPE,
all of it taken from the papers' code:
  * agents start in [-k, k]^2, landmarks in [-0.8 k, 0.8 k]^2: k = 1 (spread), 1.5 (spread_medium), 2
    (spread_hard);
  * the velocity is updated before the position;
  * the reward is the sum over the agents of -(distance of each landmark to its nearest agent) and
    -(collisions), where an agent collides with itself too: a constant -3 per step, kept so that
    returns compare with the papers';
  * an episode is exactly 25 steps, and its end is terminal (JaxMARL's lasts 26).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config
from ..types import Env, EnvSpec, Outcome, TimeStep
from .pairs import others

N = 3  # agents, and landmarks
RADIUS, SENSITIVITY, DT, DAMPING = 0.15, 5.0, 0.1, 0.25
CONTACT_FORCE, CONTACT_MARGIN = 1e2, 1e-3
HORIZON = 25
SCALES = {"spread": 1.0, "spread_medium": 1.5, "spread_hard": 2.0}


class World(NamedTuple):
    position: jax.Array  # [N, 2]
    velocity: jax.Array  # [N, 2]
    landmark: jax.Array  # [N, 2]
    step: jax.Array  # [] int


def names() -> Sequence[str]:
    return [*SCALES]


def make(name: str, config: Config) -> Env:
    """The task `name`; it has no options."""
    return _spread(f"mpe/{name}", SCALES[name])


def _spread(name: str, scale: float) -> Env:
    spec = EnvSpec(name, N, 5, (6 * N,), 6 * N * N, HORIZON, limit_is_terminal=True)

    def reset(key: jax.Array) -> World:
        agent_key, landmark_key = jax.random.split(key)
        position = scale * jax.random.uniform(agent_key, (N, 2), minval=-1.0, maxval=1.0)
        landmark = 0.8 * scale * jax.random.uniform(landmark_key, (N, 2), minval=-1.0, maxval=1.0)
        return World(position, jnp.zeros((N, 2)), landmark, jnp.zeros((), jnp.int32))

    def step(key: jax.Array, world: World, action: jax.Array):
        after = move(world, action)
        reward = N * coverage(after) - N - 2 * touching_pairs(after)
        end = after.step >= HORIZON
        return after, Outcome(reward, end, jnp.zeros_like(end), {})

    def expand(world: World) -> TimeStep:
        obs = team_obs(world)
        return TimeStep(obs, obs.reshape(-1), jnp.ones((N, 5), bool), jnp.ones((N,), bool))

    return Env(spec, reset, step, expand)


def move(world: World, action: jax.Array, position_first: bool = False) -> World:
    """One step of the physics under actions [N]: stay, left, right, down, up.

    v' = (1 - damping) v + F dt and x' = x + v' dt, or x' = x + v dt with `position_first` (JaxMARL).
    """
    directions = jnp.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], jnp.float32)
    push = SENSITIVITY * (jax.nn.one_hot(action, 5) @ directions)
    velocity = (1 - DAMPING) * world.velocity + (push + contact_forces(world.position)) * DT
    speed = world.velocity if position_first else velocity
    position = world.position + speed * DT
    return world._replace(position=position, velocity=velocity, step=world.step + 1)


def contact_forces(position: jax.Array) -> jax.Array:
    """Soft repulsion between agents closer than two radii, [N, 2]."""
    delta = position[:, None] - position[None]
    self_ = jnp.eye(N)
    distance = jnp.sqrt((delta**2).sum(-1) + self_)  # the diagonal only avoids 0 / 0
    depth = CONTACT_MARGIN * jax.nn.softplus((2 * RADIUS - distance) / CONTACT_MARGIN)
    force = CONTACT_FORCE * delta / distance[..., None] * depth[..., None]
    return (force * (1 - self_)[..., None]).sum(1)


def coverage(world: World) -> jax.Array:
    """-sum over landmarks of the distance to the nearest agent, []."""
    distance = jnp.linalg.norm(world.landmark[:, None] - world.position[None], axis=-1)
    return -distance.min(1).sum()


def touching_pairs(world: World) -> jax.Array:
    """How many pairs of agents overlap, []."""
    distance = jnp.linalg.norm(world.position[:, None] - world.position[None], axis=-1)
    return jnp.triu(distance < 2 * RADIUS, 1).sum()


def team_obs(world: World) -> jax.Array:
    """Own velocity and position, landmarks and the others relative to it, silent channels, [N, 18]."""
    landmark = (world.landmark[None] - world.position[:, None]).reshape(N, -1)
    other = others(world.position[None] - world.position[:, None])
    silence = jnp.zeros((N, 2 * (N - 1)))
    return jnp.concatenate([world.velocity, world.position, landmark, other, silence], axis=-1)
