"""The vocabulary that every part shares. No logic lives here.

Axis letters, the same everywhere:
  P hyper-points   S seeds   (both only ever added from outside, by vmap)
  E evaluations    T time    B environments or sequences
  N agents         A actions D observation features   G state features   H hidden

Arrays inside the library are [T, B, N, ...]; B and N are never flattened across a module boundary.

There is no `done`. An episode ends by `terminal` (do not bootstrap) or `truncated` (bootstrap from
the true final instant); learners only ever see `discount` (0 where terminal), `mask` (1 where the
transition is real) and `first` (reset the recurrent carry before reading this instant).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

Params = Any  # a pytree of arrays
Carry = Any  # what an acting agent remembers, arrays [B, N, ...]
EnvState = Any
Snapshot = Any  # what a replay keeps of an EnvState, in the smallest types
Metrics = dict[str, jax.Array]


class EnvSpec(NamedTuple):
    """What is fixed about an environment. Hashable, so it may be closed over or be a static argument.

    `horizon` is the exact number of steps after which an episode ends at the latest;
    `limit_is_terminal` says whether that time limit is a true end (no bootstrap) or a truncation.
    `stats` names what every `Outcome.stats` holds; `max_return` is the best possible undiscounted
    return where it is known, in the units of `Outcome.reward`. `one_start` says that every episode
    starts from the same instant. Where actions are continuous, `n_actions` is 0 and an agent's action
    is `action_dim` numbers within `action_bounds`.
    """

    name: str
    n_agents: int
    n_actions: int
    obs_shape: tuple[int, ...]
    state_dim: int
    horizon: int
    limit_is_terminal: bool
    stats: tuple[str, ...] = ()
    max_return: float | None = None
    one_start: bool = False
    action_dim: int = 0
    action_bounds: tuple[float, float] | None = None

    @property
    def continuous(self) -> bool:
        """Actions are vectors, not indices: there is nothing to enumerate or to mask."""
        return self.action_bounds is not None

    @property
    def one_step(self) -> bool:
        """Every transition is terminal: nothing is ever bootstrapped and no next instant is read."""
        return self.horizon == 1 and self.limit_is_terminal

    @property
    def one_shot(self) -> bool:
        """One-step episodes that all look the same before acting: what networks see is a constant."""
        return self.one_step and self.one_start


class TimeStep(NamedTuple):
    """What is known before acting, at one instant."""

    obs: jax.Array  # [..., N, *D] float
    state: jax.Array  # [..., G] float; for training and exploration only, never for greedy execution
    avail: jax.Array  # [..., N, A] bool; one or more for every agent (continuous: one true column)
    alive: jax.Array  # [..., N] bool


class Outcome(NamedTuple):
    """What an action led to. The reward is the team's."""

    reward: jax.Array  # [...] float; what evaluation counts
    terminal: jax.Array  # [...] bool
    truncated: jax.Array  # [...] bool; never together with terminal
    stats: dict[str, jax.Array]  # episode statistics, meaningful at the last step
    shaping: jax.Array | float = 0.0  # [...] help for learning, annealed away (hypers.shaping)


class Env(NamedTuple):
    """Pure functions over one environment (vmap adds B). No step ever resets by itself.

    A snapshot is the least that must be kept of a state to know again what was seen in it; a replay
    of snapshots is a fraction of the size of one of observations.
    """

    spec: EnvSpec
    reset: Callable[[jax.Array], EnvState]  # key -> state
    step: Callable[[jax.Array, EnvState, jax.Array], tuple[EnvState, Outcome]]
    # key, state, action [N] (continuous: [N, action_dim])
    expand: Callable[[Snapshot], TimeStep]
    compress: Callable[[EnvState], Snapshot] = lambda state: state

    def observe(self, state: EnvState) -> TimeStep:
        """What is known in `state` before acting."""
        return self.expand(self.compress(state))


class Batch(NamedTuple):
    """T transitions and the T+1 instants around them, for B sequences.

    A sequence holds one masked episode or, packed, several; either way `first` marks where an
    episode begins and a transition with mask 0 carries no information.
    """

    steps: TimeStep  # leading axes [T+1, B]; in a replay of states, snapshots
    first: jax.Array  # [T+1, B] bool
    action: jax.Array  # [T, B, N] int (continuous: [T, B, N, action_dim] float)
    reward: jax.Array  # [T, B] float
    discount: jax.Array  # [T, B] float, 0 where terminal, else 1
    mask: jax.Array  # [T, B] float, 1 where the transition is real


class Learner(NamedTuple):
    """All that is learned, and so all that a policy checkpoint must hold."""

    params: Params
    target: Params  # target networks, or what else is kept without gradients (running statistics)
    opt_state: Any
    log_alpha: jax.Array  # [] or, with a temperature for each agent, [N + 1] float
    alpha_opt_state: Any
    updates: jax.Array  # [] int, gradient steps taken


class Inspection(NamedTuple):
    """What a learner believes about a batch: for diagnostics and tables, never for training.

    What a learner has no notion of is None.
    """

    q: jax.Array | None  # [T, B, N, A] utilities, values of each agent's actions
    q_tot: jax.Array | None  # [T, B] joint value of the batch's actions
    q_tot_greedy: jax.Array | None  # [T, B] joint value of the greedy joint action
    greedy: jax.Array  # [T, B, N] the greedy joint action (continuous: [T, B, N, action_dim])
    logits: jax.Array | None  # [T, B, N, A] policy logits before division by the temperature
    probs: jax.Array | None  # [T, B, N, A] exploration policy


class Algorithm(NamedTuple):
    """Pure functions with the static configuration closed over.

    `data` says what `update` is given: sequences drawn from replay, everything that was just
    collected ("fresh"; replay then holds no more), or both, the fresh sequences first.
    """

    init: Callable[..., Learner]  # key, hypers -> Learner
    carry: Callable[[int], Carry]  # B -> Carry
    act: Callable[..., tuple[Carry, jax.Array]]
    # learner, carry, TimeStep [B], key, env_steps, hypers -> Carry, action [B, N]; may read the state
    greedy: Callable[..., tuple[Carry, jax.Array]]
    # learner, carry, TimeStep [B] -> Carry, action [B, N]; decentralised, must not read the state
    update: Callable[..., tuple[Learner, Metrics]]
    # learner, Batch, key, env_steps, hypers -> Learner, metrics
    refresh_target: Callable[..., Learner]  # learner, due [] bool, hypers -> Learner
    inspect: Callable[[Learner, Batch], Inspection]
    data: Literal["replay", "fresh", "both"] = "replay"
