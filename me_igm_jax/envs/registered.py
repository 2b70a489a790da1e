"""jaxmarl/*: the cooperative environments with discrete actions that JaxMARL registers, as they are.

  * A step never resets, and an episode has its true end: `terminal` is an end by the rules of the game,
    `truncated` the time limit. JaxMARL's `done` mixes the two; `FACTS` says which it can mean.
  * The reward is the mean over the agents: the reward itself where it is shared, as in most. (JaxMARL's
    own rollout manager adds up the same reward once per agent, except in SMAX, Overcooked and Hanabi.)
    A shaped reward in `info` becomes `Outcome.shaping` in the same way.
  * Observations and actions of different sizes are padded; what an agent does not have is unavailable.
  * The state is JaxMARL's world state where it has one (raw in SMAX's: prefer smax/*), else the
    observations, concatenated.
  * An agent that is done before the others is not alive.
Observations come out of JaxMARL's step together with the state and are kept beside it: no smaller
snapshot is known.
"""

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config
from ..types import Env, EnvSpec, Outcome, TimeStep
from .upstream import quiet


class Facts(NamedTuple):
    """What JaxMARL's interface does not tell about an environment."""

    limit: int  # steps of its longest episode
    ends: bool = True  # by its rules; else `done` is nothing but the time limit
    limit_is_terminal: bool = False
    legal: str = ""  # the method that gives the legal actions, if not all are
    options: Mapping[str, Any] = {}  # of its constructor
    max_return: float | None = None


_MPE = Facts(26, ends=False)  # JaxMARL tests its limit, 25, before it counts

FACTS = {
    "MPE_simple_v3": _MPE,
    "MPE_simple_spread_v3": _MPE,
    "MPE_simple_speaker_listener_v4": _MPE,
    "MPE_simple_reference_v3": _MPE,
    # Foerster et al. 2016: the prisoners have 4 N - 6 days.
    "switch_riddle": Facts(6, limit_is_terminal=True, max_return=1.0),
    "HeuristicEnemySMAX": Facts(101, legal="get_avail_actions"),  # counts as MPE does
    # Two players draw 40 cards; each but the last drawn may pay for a hint, besides the first 8 hints;
    # after the last one both move once more.
    "hanabi": Facts(89, limit_is_terminal=True, legal="get_legal_moves", max_return=25.0),
    "overcooked": Facts(400, ends=False),
    "overcooked_v2": Facts(400, ends=False),
    "coin_game": Facts(100, ends=False, options={"shared_rewards": True}),  # 10 rounds of 10 steps
    "jaxnav": Facts(500, options={"act_type": "Discrete"}),
}

_RIVALS = "its agents are rivals, so it has no team reward"
_UNFIT: dict[str, tuple[str, ...]] = {
    _RIVALS: (
        "MPE_simple_tag_v3", "MPE_simple_world_comm_v3", "MPE_simple_crypto_v3", "MPE_simple_push_v3",
        "MPE_simple_adversary_v3",
    ),
    f"{_RIVALS}; smax/* and jaxmarl/HeuristicEnemySMAX have one team": ("SMAX",),
    "it needs the weights of a trained enemy; smax/* has the heuristic one": ("LearnedPolicyEnemySMAX",),
    "its actions are continuous": (
        "MPE_simple_facmac_v1", "MPE_simple_facmac_3a_v1", "MPE_simple_facmac_6a_v1",
        "MPE_simple_facmac_9a_v1", "ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8",
        "walker2d_2x3",
    ),
    "it is a general-sum game that gives no observations and rewards by agent": (
        "storm", "storm_2p", "storm_np",
    ),
    "it needs the package jaxrobotarium, which is not part of JaxMARL's release": (
        "JaxRobotarium_navigation", "JaxRobotarium_discovery", "JaxRobotarium_material_transport",
        "JaxRobotarium_warehouse", "JaxRobotarium_arctic_transport", "JaxRobotarium_foraging",
        "JaxRobotarium_rware", "JaxRobotarium_predator_prey",
    ),
}  # fmt: skip
UNFIT = {name: why for why, names in _UNFIT.items() for name in names}


class GameState(NamedTuple):
    game: Any  # JaxMARL's state
    seen: TimeStep
    step: jax.Array  # [] int


@contextlib.contextmanager
def _silent():
    """JaxMARL prints while it is imported; JaxNav prints and warns whenever it is made or traced."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def names() -> Sequence[str]:
    return [*FACTS]  # spelled out: importing JaxMARL costs seconds; a test compares them


@_silent()
def make(name: str, config: Config) -> Env:
    """JaxMARL's environment `name`, cut off after config.jaxmarl.max_steps if that is given."""
    import jaxmarl

    game = jaxmarl.make(name, **FACTS[name].options)
    return team_env(f"jaxmarl/{name}", game, FACTS[name], config.jaxmarl.max_steps)


def team_env(name: str, game: Any, facts: Facts, max_steps: int | None) -> Env:
    """All agents of `game` (a JaxMARL MultiAgentEnv) as one team."""
    agents, horizon = list(game.agents), max_steps or facts.limit
    limit_is_terminal = facts.limit_is_terminal and max_steps is None
    # Observations may show how far JaxMARL's clock is; beyond the horizon, it never says `done`.
    getattr(game, "_env", game).max_steps = horizon + facts.ends
    counts = np.array([int(game.action_space(agent).n) for agent in agents])
    n_actions = int(counts.max())
    shown = jax.eval_shape(game.reset, jax.random.key(0))[0]
    shapes = {shown[agent].shape for agent in agents}
    width = max(math.prod(shape) for shape in shapes)
    obs_shape = shapes.pop() if len(shapes) == 1 else (width,)

    def look(obs: Mapping[str, jax.Array], state: Any, alive: jax.Array) -> TimeStep:
        flat = [obs[agent].reshape(-1).astype(jnp.float32) for agent in agents]
        team = jnp.stack([jnp.pad(x, (0, width - x.size)) for x in flat])
        central = game.get_world_state(state) if hasattr(game, "get_world_state") else team
        avail = jnp.arange(n_actions) < counts[:, None]
        if facts.legal:
            legal = getattr(game, facts.legal)(state)
            avail &= jnp.stack([legal[agent] for agent in agents]).astype(bool)
        return TimeStep(team.reshape(-1, *obs_shape), central.reshape(-1).astype(float), avail, alive)

    @_silent()
    def reset(key: jax.Array) -> GameState:
        obs, state = game.reset(key)
        seen = look(obs, state, jnp.ones((len(agents),), bool))
        return GameState(state, seen, jnp.zeros((), jnp.int32))

    @_silent()
    def step(key: jax.Array, state: GameState, action: jax.Array):
        moves = {agent: action[i] for i, agent in enumerate(agents)}
        obs, after, reward, done, info = game.step_env(key, state.game, moves)
        now = state.step + 1
        limit, over = now >= horizon, done["__all__"]
        terminal = (over & facts.ends) | (limit & limit_is_terminal)
        alive = jnp.stack([~done[agent] | over for agent in agents])
        outcome = Outcome(
            reward=mean(reward),
            terminal=terminal,
            truncated=limit & ~terminal,
            stats={},
            shaping=mean(info["shaped_reward"]) if "shaped_reward" in info else 0.0,
        )
        return GameState(after, look(obs, after, alive), now), outcome

    def mean(reward: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.stack([reward[agent] for agent in agents]).astype(jnp.float32).mean()

    spec = EnvSpec(
        name=name,
        n_agents=len(agents),
        n_actions=n_actions,
        obs_shape=obs_shape,
        state_dim=jax.eval_shape(reset, jax.random.key(0)).seen.state.size,
        horizon=horizon,
        limit_is_terminal=limit_is_terminal,
        max_return=facts.max_return,
    )
    return Env(spec, reset, step, expand=lambda seen: seen, compress=lambda state: state.seen)
