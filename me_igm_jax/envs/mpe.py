"""mpe/*: Spread, cooperative navigation, as the experiments of Soft-QMIX and ME-IGM define it.

Three agents must cover three landmarks and must not collide. These rules differ from JaxMARL's
SimpleSpreadMPE; all of them come from the code of the two papers:
  * Agents start in [-k, k]^2 and landmarks lie in [-0.8 k, 0.8 k]^2. k is 1 in spread, 1.5 in
    spread_medium and 2 in spread_hard.
  * The velocity is updated before the position.
  * The reward is a sum over the agents. Each agent adds minus the sum over the landmarks of the distance to
    the agent nearest to the landmark, and -1 for each agent that it touches. An agent touches itself too:
    this is a constant -3 per step, kept so that returns compare with the papers.
  * An episode has exactly 25 steps (26 in JaxMARL). Its end is terminal.
Distances are in units of the world: an agent has radius 0.15.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..config import register_env
from ..types import Env, EnvSpec, Frame, Outcome, TimeStep
from .common import others

N_AGENTS = 3  # and as many landmarks
N_ACTIONS = 5
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
    """Three sizes of the starting square."""
    return [*SCALES]


@register_env("mpe", names=names)
def make(name: str, options: Any = None) -> Env:
    """The task `name`. It has no options."""
    scale = SCALES[name]
    spec = EnvSpec(
        name=f"mpe/{name}",
        n_agents=N_AGENTS,
        n_actions=N_ACTIONS,
        obs_shape=(6 * N_AGENTS,),
        state_dim=6 * N_AGENTS * N_AGENTS,
        horizon=HORIZON,
        limit_is_terminal=True,
    )
    return Env(
        spec=spec, reset=partial(_reset, scale), step=_step, expand=_expand, draw=partial(draw, scale)
    )


def _reset(scale: float, key: jax.Array) -> World:
    agent_key, landmark_key = jax.random.split(key)
    shape = (N_AGENTS, 2)
    return World(
        position=scale * jax.random.uniform(agent_key, shape, minval=-1.0, maxval=1.0),
        velocity=jnp.zeros(shape),
        landmark=0.8 * scale * jax.random.uniform(landmark_key, shape, minval=-1.0, maxval=1.0),
        step=jnp.zeros((), jnp.int32),
    )


def _step(key: jax.Array, world: World, action: jax.Array) -> tuple[World, Outcome]:
    after = move(world, action)
    end = after.step >= HORIZON
    # Each pair that touches counts for both of its agents.
    reward = N_AGENTS * coverage(after) - N_AGENTS - 2 * touching_pairs(after)
    return after, Outcome(reward=reward, terminal=end, truncated=jnp.zeros_like(end), stats={})


def _expand(world: World) -> TimeStep:
    obs = team_obs(world)
    return TimeStep(
        obs=obs,
        state=obs.reshape(-1),
        avail=jnp.ones((N_AGENTS, N_ACTIONS), bool),
        alive=jnp.ones((N_AGENTS,), bool),
    )


def move(world: World, action: jax.Array, position_first: bool = False) -> World:
    """One step of the physics under actions [N]: stay, left, right, down, up.

        v' = (1 - damping) v + F dt,    x' = x + v' dt

    With `position_first`, x' = x + v dt as in JaxMARL.
    """
    directions = jnp.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], jnp.float32)
    push = SENSITIVITY * (jax.nn.one_hot(action, N_ACTIONS) @ directions)
    velocity = (1 - DAMPING) * world.velocity + (push + contact_forces(world.position)) * DT
    speed = world.velocity if position_first else velocity
    position = world.position + speed * DT
    return world._replace(position=position, velocity=velocity, step=world.step + 1)


def contact_forces(position: jax.Array) -> jax.Array:
    """Force [N, 2] that pushes agents apart when they are closer than two radii.

    F_i = sum_j k d_ij / |d_ij| m softplus((2 r - |d_ij|) / m), with d_ij = x_i - x_j.
    """
    delta = position[:, None] - position[None]
    itself = jnp.eye(N_AGENTS)
    distance = jnp.sqrt((delta**2).sum(-1) + itself)  # the diagonal only avoids 0 / 0
    depth = CONTACT_MARGIN * jax.nn.softplus((2 * RADIUS - distance) / CONTACT_MARGIN)
    force = CONTACT_FORCE * delta / distance[..., None] * depth[..., None]
    return (force * (1 - itself)[..., None]).sum(1)


def coverage(world: World) -> jax.Array:
    """Minus the sum over the landmarks of the distance to the nearest agent, []."""
    distance = jnp.linalg.norm(world.landmark[:, None] - world.position[None], axis=-1)
    return -distance.min(1).sum()


def touching_pairs(world: World) -> jax.Array:
    """How many pairs of agents overlap, []."""
    distance = jnp.linalg.norm(world.position[:, None] - world.position[None], axis=-1)
    return jnp.triu(distance < 2 * RADIUS, 1).sum()


def team_obs(world: World) -> jax.Array:
    """[N, 18]: own velocity and position, landmarks and other agents relative to it, silent channels."""
    landmark = (world.landmark[None] - world.position[:, None]).reshape(N_AGENTS, -1)
    other = others(world.position[None] - world.position[:, None])
    silence = jnp.zeros((N_AGENTS, 2 * (N_AGENTS - 1)))
    return jnp.concatenate([world.velocity, world.position, landmark, other, silence], axis=-1)


# -- picture --------------------------------------------------------------------------------------


def draw(scale: float, axes: Any, frame: Frame) -> None:
    """Landmarks as crosses, agents as discs of their true size with their velocities as arrows."""
    from matplotlib.patches import Circle

    world, reach = frame.snapshot, 1.5 * scale
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.plot(*world.landmark.T, "kx", markersize=9)
    for i, (x, y) in enumerate(world.position):
        axes.add_patch(Circle((x, y), RADIUS, color=f"C{i}", alpha=0.7, lw=0))
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 2, "width": 0.004}
    axes.quiver(*world.position.T, *world.velocity.T, **arrows)
