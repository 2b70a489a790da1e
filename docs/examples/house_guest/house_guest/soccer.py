"""Line soccer: two players bring a ball to the end of a line. The player with the ball can only pass it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from me_igm_jax import Env, EnvSpec, Frame, Outcome, TimeStep, option, register_env

STAY, BACK, FORWARD, PASS = range(4)
LENGTHS = {"short": 5, "long": 9}


class SoccerState(NamedTuple):
    cell: jax.Array  # [2] int, where the players stand
    holder: jax.Array  # [] int, the player with the ball
    time: jax.Array  # [] int, steps taken


@dataclasses.dataclass(frozen=True)
class SoccerOptions:
    """What a user can set: --env-options.reach, --env-options.horizon."""

    reach: int = option(2, "Cells that a pass can cross; a longer pass loses the ball.", low=1)
    horizon: int = option(30, "Steps after which an episode is cut off.", low=1)


def line_soccer(name: str, length: int, options: SoccerOptions) -> Env:
    """The game on a line of `length` cells. A goal pays 1 and ends the episode; a lost ball ends it too."""
    spec = EnvSpec(
        name=name,
        n_agents=2,
        n_actions=4,
        obs_shape=(3,),
        state_dim=3,
        horizon=options.horizon,
        limit_is_terminal=False,  # the time limit is a truncation: values are bootstrapped beyond it
        stats=("won",),
        max_return=1.0,
    )

    def reset(key: jax.Array) -> SoccerState:
        zero = jnp.zeros((), jnp.int32)
        return SoccerState(cell=jax.random.randint(key, (2,), 0, 2), holder=zero, time=zero)

    def step(key: jax.Array, state: SoccerState, action: jax.Array) -> tuple[SoccerState, Outcome]:
        has_ball = jnp.arange(2) == state.holder
        move = jnp.where(has_ball, 0, (action == FORWARD).astype(int) - (action == BACK))
        cell = jnp.clip(state.cell + move, 0, length - 1)
        passes = action[state.holder] == PASS
        lost = passes & (jnp.abs(cell[0] - cell[1]) > options.reach)
        holder = jnp.where(passes, 1 - state.holder, state.holder)
        goal = ~lost & (cell[holder] == length - 1)
        terminal = goal | lost
        after = SoccerState(cell=cell, holder=holder, time=state.time + 1)
        outcome = Outcome(
            reward=goal.astype(float),
            terminal=terminal,
            truncated=(after.time >= options.horizon) & ~terminal,
            stats={"won": goal},
        )
        return after, outcome

    def expand(state: SoccerState) -> TimeStep:
        place, has_ball = state.cell / (length - 1), jnp.arange(2) == state.holder
        runs, passes = ~has_ball, has_ball
        return TimeStep(
            obs=jnp.stack([place, place[::-1], has_ball], axis=-1),  # own place, the other's, the ball
            state=jnp.append(place, state.holder),
            avail=jnp.stack([jnp.ones(2, bool), runs, runs, passes], axis=-1),
            alive=jnp.ones(2, bool),
        )

    def draw(axes, frame: Frame) -> None:
        axes.set(xlim=(-1, length), ylim=(-1, 2), yticks=[])
        axes.scatter(frame.snapshot.cell, [0, 1], s=300)
        axes.scatter(frame.snapshot.cell[frame.snapshot.holder], frame.snapshot.holder, s=60)

    return Env(spec=spec, reset=reset, step=step, expand=expand, draw=draw)


@register_env("soccer", options=SoccerOptions, names=tuple(LENGTHS))
def by_name(name: str, options: SoccerOptions) -> Env:
    """--plugin house_guest --env soccer/short"""
    return line_soccer(f"soccer/{name}", LENGTHS[name], options)


def make(options: SoccerOptions) -> Env:
    """--env house_guest.soccer:make"""
    return line_soccer("line soccer", LENGTHS["short"], options)
