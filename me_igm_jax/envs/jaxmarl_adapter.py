"""Any cooperative JaxMARL environment with discrete actions as an Env: `from_jaxmarl`.

  * A step never resets, and an episode has its true end: `terminal` is an end by the rules of the game,
    `truncated` is the time limit. The `done` of JaxMARL mixes the two.
  * The reward is the mean over the agents. When all agents share one reward, as in most environments, that
    is the reward itself. (The rollout manager of JaxMARL adds up the same reward once per agent, except in
    SMAX, Overcooked and Hanabi.) A shaped reward in `info` becomes `Outcome.shaping` in the same way.
  * Observations and actions of different sizes are padded. What an agent does not have is unavailable.
  * The central state is the world state of JaxMARL when there is one (raw in SMAX: prefer smax/*), else the
    observations, concatenated.
  * An agent that is done before the others is not alive.
Observations come out of a step together with the state and are kept: no smaller snapshot is known.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..config import ConfigError
from ..types import Env, EnvSpec, Outcome, TimeStep
from .common import quiet

RIVALS = "its agents are rivals, so it has no team reward"
RIVAL_CLASSES = {
    "SimpleTagMPE", "SimpleWorldCommMPE", "SimpleCryptoMPE", "SimplePushMPE", "SimpleAdversaryMPE", "SMAX",
    "InTheGrid", "InTheGrid_2p", "InTheMatrix",
}  # fmt: skip
LEGAL_METHODS = ("get_avail_actions", "get_legal_moves")

Game = Any  # a MultiAgentEnv of JaxMARL: rules and constants, no state


class JaxmarlState(NamedTuple):
    game: Any  # the state of JaxMARL
    seen: TimeStep
    step: jax.Array  # [] int


class Interface(NamedTuple):
    """What is fixed about a game, and how its legal actions are known."""

    agents: tuple[str, ...]
    counts: np.ndarray  # [N] int, actions of each agent
    obs_shape: tuple[int, ...]  # of every agent; flat when their shapes differ
    legal: Callable[[Any], Mapping[str, jax.Array]] | None  # state -> agent -> [its actions]; None: all


class Limit(NamedTuple):
    """When an episode ends."""

    horizon: int
    is_terminal: bool  # the time limit is a true end
    done_is_terminal: bool  # `done` of the game means a true end, else only its time limit


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """`quiet`, without warnings: JaxNav prints and warns whenever it is made or traced."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@silent()
def from_jaxmarl(
    env: Game,
    *,
    name: str | None = None,
    limit: int | None = None,
    limit_is_terminal: bool = False,
    done_is_terminal: bool = True,
    max_return: float | None = None,
) -> Env:
    """All agents of a JaxMARL MultiAgentEnv object as one team.

    Args:
      env: the object. It is copied, not changed. Its actions must be discrete.
      name: what tables and plots call it; by default the name of its class.
      limit: steps of the longest episode; by default the object's `max_steps`. (JaxMARL's MPE and SMAX test
        that number before they count a step, so there an episode of JaxMARL has one step more.)
      limit_is_terminal: the time limit is a true end: values are not bootstrapped beyond it.
      done_is_terminal: `done` means an end by the rules of the game. Say False when the game never ends
        before its time limit: `done` is then ignored.
      max_return: the best possible undiscounted return, when it is known.

    Raises ConfigError when the agents are rivals, when actions are not discrete, or when there is no
    reward, observation or time limit to work with.
    """
    title = type(env).__name__
    _check(title, env)
    horizon = int(getattr(env, "max_steps", 0) if limit is None else limit)
    if horizon < 1:
        raise ConfigError(f"from_jaxmarl({title}): limit={limit}: give the steps of its longest episode")
    # The game's own limit must not end an episode within the horizon when `done` is to mean an end by the
    # rules: one step more. Otherwise `done` is not read, and what observations show of the clock is exact.
    game = with_max_steps(env, horizon + 1 if done_is_terminal else horizon)
    face = interface(game)
    ends = Limit(horizon=horizon, is_terminal=limit_is_terminal, done_is_terminal=done_is_terminal)
    reset = silent()(partial(_reset, game, face))
    spec = EnvSpec(
        name=name or title,
        n_agents=len(face.agents),
        n_actions=int(face.counts.max()),
        obs_shape=face.obs_shape,
        state_dim=jax.eval_shape(reset, jax.random.key(0)).seen.state.size,
        horizon=horizon,
        limit_is_terminal=limit_is_terminal,
        max_return=max_return,
    )
    return Env(
        spec=spec,
        reset=reset,
        step=silent()(partial(_step, game, face, ends)),
        expand=lambda seen: seen,
        compress=lambda state: state.seen,
    )


# -- what the object is ---------------------------------------------------------------------------


def _check(title: str, env: Game) -> None:
    """Raise ConfigError when the agents of `env` cannot be a team with discrete actions."""

    def check(ok: bool, why: str) -> None:
        if not ok:
            raise ConfigError(f"from_jaxmarl({title}): {why}")

    rule = "it has no step_env; hand in the environment itself, not a wrapper around it"
    check(hasattr(type(env), "step_env"), rule)
    check(not RIVAL_CLASSES & {c.__name__ for c in type(env).__mro__}, RIVALS)
    for agent in env.agents:
        space = env.action_space(agent)
        kind = type(space).__name__
        check(getattr(space, "n", None) is not None, f"actions of {agent} are {kind}, only Discrete works")
    obs, state = jax.eval_shape(env.reset, jax.random.key(0))
    check(isinstance(obs, Mapping) and {*env.agents} <= {*obs}, "it gives no observation to each agent")
    actions = {agent: jnp.zeros((), jnp.int32) for agent in env.agents}
    _, _, reward, done, _ = jax.eval_shape(env.step_env, jax.random.key(0), state, actions)
    scalar = isinstance(reward, Mapping) and all(
        agent in reward and math.prod(jnp.shape(reward[agent])) == 1 for agent in env.agents
    )
    check(scalar, "it gives no reward to each agent, so there is no team reward")
    check({*env.agents, "__all__"} <= {*done}, "its `done` does not name each agent and __all__")


def with_max_steps(game: Game, steps: int) -> Game:
    """A copy of the game with `max_steps` set, also in the game that it wraps, when there is one."""
    fields = dict(vars(game))
    if "max_steps" in fields:
        fields["max_steps"] = steps
    if "_env" in fields:
        fields["_env"] = with_max_steps(fields["_env"], steps)
    # copy.copy asks for __setstate__, and a __getattr__ that reads self._env would never stop answering.
    twin = object.__new__(type(game))
    vars(twin).update(fields)
    return twin


def interface(game: Game) -> Interface:
    """Sizes, and the method that gives the legal actions."""
    agents = tuple(game.agents)
    counts = np.array([int(game.action_space(agent).n) for agent in agents])
    obs, state = jax.eval_shape(game.reset, jax.random.key(0))
    shapes = {obs[agent].shape for agent in agents}
    flat = (max(math.prod(shape) for shape in shapes),)
    return Interface(
        agents=agents,
        counts=counts,
        obs_shape=shapes.pop() if len(shapes) == 1 else flat,
        legal=_legal_method(game, agents, counts, state),
    )


def _legal_method(game: Game, agents: tuple[str, ...], counts: np.ndarray, state: Any) -> Callable | None:
    """The first method that gives a mask as long as each agent's actions; None when there is none.

    The base class has one that is not implemented, and JaxNav has one of the wrong length.
    """
    for name in LEGAL_METHODS:
        method = getattr(game, name, None)
        try:
            legal = jax.eval_shape(method, state) if method is not None else {}
        except NotImplementedError:
            continue
        if all(a in legal and legal[a].shape == (n,) for a, n in zip(agents, counts, strict=True)):
            return method
    return None


# -- the Env --------------------------------------------------------------------------------------


def _reset(game: Game, face: Interface, key: jax.Array) -> JaxmarlState:
    obs, state = game.reset(key)
    seen = _look(game, face, obs, state, jnp.ones((len(face.agents),), bool))
    return JaxmarlState(game=state, seen=seen, step=jnp.zeros((), jnp.int32))


def _step(
    game: Game, face: Interface, ends: Limit, key: jax.Array, state: JaxmarlState, action: jax.Array
) -> tuple[JaxmarlState, Outcome]:
    moves = {agent: action[i] for i, agent in enumerate(face.agents)}
    obs, after, reward, done, info = game.step_env(key, state.game, moves)
    now = state.step + 1
    limit, over = now >= ends.horizon, done["__all__"]
    terminal = (over & ends.done_is_terminal) | (limit & ends.is_terminal)
    alive = ~jnp.stack([jnp.asarray(done[agent]) for agent in face.agents]) | over
    outcome = Outcome(
        reward=_mean(face, reward),
        terminal=terminal,
        truncated=limit & ~terminal,
        stats={},
        shaping=_mean(face, info["shaped_reward"]) if "shaped_reward" in info else None,
    )
    seen = _look(game, face, obs, after, alive)
    return JaxmarlState(game=after, seen=seen, step=now), outcome


def _mean(face: Interface, reward: Mapping[str, jax.Array]) -> jax.Array:
    """The mean over the agents, []."""
    return jnp.stack([reward[agent] for agent in face.agents]).astype(jnp.float32).mean()


def _look(
    game: Game, face: Interface, obs: Mapping[str, jax.Array], state: Any, alive: jax.Array
) -> TimeStep:
    width = math.prod(face.obs_shape)
    flat = [obs[agent].reshape(-1).astype(jnp.float32) for agent in face.agents]
    team = jnp.stack([jnp.pad(x, (0, width - x.size)) for x in flat])
    central = game.get_world_state(state) if hasattr(game, "get_world_state") else team
    n_actions = int(face.counts.max())
    avail = jnp.arange(n_actions) < face.counts[:, None]
    if face.legal is not None:
        legal = face.legal(state)
        masks = [jnp.pad(legal[agent], (0, n_actions - legal[agent].size)) for agent in face.agents]
        avail &= jnp.stack(masks).astype(bool)
    return TimeStep(
        obs=team.reshape(-1, *face.obs_shape),
        state=central.reshape(-1).astype(float),
        avail=avail,
        alive=alive,
    )
