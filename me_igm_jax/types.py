"""The vocabulary and the contracts of all parts. No logic lives here.

Axis letters, the same everywhere:
  P hyper-points   S seeds   (both are only ever added from outside, by vmap)
  E evaluations    T time    B environments or sequences
  N agents         A actions D observation features   G state features   H hidden

Arrays inside the library are [T, B, N, ...]. B and N are never flattened across a module boundary.
An instant is a moment before acting; T transitions lie between T + 1 instants.

There is no `done`. An episode ends by `terminal` (do not bootstrap) or `truncated` (bootstrap from
the true final instant). Learners only ever see `discount` (0 when terminal), `mask` (1 when the
transition is real) and `first` (reset the recurrent carry before reading this instant).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax

Params = Any  # a pytree of arrays
Carry = Any  # what an acting agent remembers, a pytree of arrays [B, N, ...]
EnvState = Any  # whatever an environment keeps, a pytree of arrays
Snapshot = Any  # the part of an EnvState that a replay keeps, in the smallest types
Metrics = dict[str, jax.Array]  # scalars, []

# -- environments ---------------------------------------------------------------------------------


class EnvSpec(NamedTuple):
    """What is fixed about an environment. It is hashable, so a function may close over it.

    name               family/name, or whatever the author calls it
    n_agents           N
    n_actions          A, the same for every agent; 0 when actions are continuous
    obs_shape          shape of one agent's observation
    state_dim          G, the length of the central state
    horizon            the exact number of steps after which an episode ends at the latest
    limit_is_terminal  that time limit is a true end (no bootstrap); else it is a truncation
    stats              the names of what every `Outcome.stats` holds
    max_return         the best possible undiscounted return, when it is known
    one_start          every episode starts from the same instant
    action_dim         d, numbers in an action, when actions are continuous
    action_bounds      (low, high) of each of these numbers
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
        """Every transition is terminal: nothing is bootstrapped and no next instant is read."""
        return self.horizon == 1 and self.limit_is_terminal

    @property
    def one_shot(self) -> bool:
        """Every episode is one step from the same instant: what networks read is a constant."""
        return self.one_step and self.one_start


class TimeStep(NamedTuple):
    """What is known before acting, at one instant."""

    obs: jax.Array  # [..., N, *D] float
    state: jax.Array  # [..., G] float; for training and exploration only, never for greedy acting
    avail: jax.Array  # [..., N, A] bool, one or more true for every agent (continuous: [..., N, 1], true)
    alive: jax.Array  # [..., N] bool


class Outcome(NamedTuple):
    """What a joint action led to. The reward is the team's."""

    reward: jax.Array  # [...] float; what evaluation counts
    terminal: jax.Array  # [...] bool
    truncated: jax.Array  # [...] bool; never together with terminal
    stats: dict[str, jax.Array]  # episode statistics, read at the last step; names as in EnvSpec.stats
    shaping: jax.Array | None = None  # [...] help for learning (hypers.shaping weighs it), if there is any


class Frame(NamedTuple):
    """One instant of one episode as a picture shows it. All arrays are NumPy arrays."""

    snapshot: Any
    seen: TimeStep
    action: Any  # [N] what is done now; None at the end
    step: int
    total: float  # the return so far


class Env(NamedTuple):
    """Pure functions over one environment; vmap adds B. A step never resets by itself.

    reset     key -> state
    step      key, state, action [N] (continuous: [N, d]) -> state, Outcome
    expand    snapshot -> TimeStep
    compress  state -> snapshot, the least that must be kept to know again what was seen
    draw      matplotlib axes, Frame -> None; paints one frame on empty axes (optional)
    """

    spec: EnvSpec
    reset: Callable[[jax.Array], EnvState]
    step: Callable[[jax.Array, EnvState, jax.Array], tuple[EnvState, Outcome]]
    expand: Callable[[Snapshot], TimeStep]
    compress: Callable[[EnvState], Snapshot] = lambda state: state
    draw: Callable[[Any, Frame], None] | None = None

    def observe(self, state: EnvState) -> TimeStep:
        """What is known in `state` before acting."""
        return self.expand(self.compress(state))


# -- experience -----------------------------------------------------------------------------------


class Batch(NamedTuple):
    """T transitions and the T + 1 instants around them, for B sequences.

    A sequence holds one masked episode or, packed, several. `first` marks where an episode begins.
    A transition with mask 0 carries no information.
    """

    steps: Any  # TimeStep, leading axes [T + 1, B]; snapshots instead while a replay of states holds them
    first: jax.Array  # [T + 1, B] bool
    action: jax.Array  # [T, B, N] int (continuous: [T, B, N, d] float)
    reward: jax.Array  # [T, B] float
    discount: jax.Array  # [T, B] float, 0 when terminal, else 1
    mask: jax.Array  # [T, B] float, 1 when the transition is real


# -- learners -------------------------------------------------------------------------------------


class Learner(NamedTuple):
    """All that is learned, and so all that a policy checkpoint must hold. () stands for "none"."""

    params: Params
    target: Params = ()  # target networks
    opt_state: Any = ()
    log_alpha: Any = ()  # [] float or, with a temperature for each agent, [N + 1]
    alpha_opt_state: Any = ()
    statistics: Any = ()  # running statistics, kept without gradients
    updates: Any = 0  # [] int, gradient steps taken


class Inspection(NamedTuple):
    """What a learner believes about a batch: for diagnostics and tables, never for training.

    What a learner has no notion of is None.
    """

    greedy: jax.Array  # [T, B, N] the greedy joint action (continuous: [T, B, N, d])
    q: jax.Array | None = None  # [T, B, N, A] utilities, values of each agent's actions
    q_tot: jax.Array | None = None  # [T, B] joint value of the batch's actions
    q_tot_greedy: jax.Array | None = None  # [T, B] joint value of the greedy joint action
    logits: jax.Array | None = None  # [T, B, N, A] policy logits before division by the temperature
    probs: jax.Array | None = None  # [T, B, N, A] the policy that explores


class Init(Protocol):
    """The learner before its first update."""

    def __call__(self, key: jax.Array, hypers: Any, /) -> Learner: ...


class Act(Protocol):
    """Exploring actions [B, N] at one instant (leading axis B). May read the central state."""

    def __call__(
        self, learner: Learner, carry: Carry, step: TimeStep, key: jax.Array, env_steps: jax.Array,
        hypers: Any, /,
    ) -> tuple[Carry, jax.Array]: ...  # fmt: skip


class Greedy(Protocol):
    """Greedy actions [B, N] at one instant. Decentralised: agent i reads its observations alone."""

    def __call__(self, learner: Learner, carry: Carry, step: TimeStep, /) -> tuple[Carry, jax.Array]: ...


class Update(Protocol):
    """One gradient step (or all passes over fresh data).

    The metrics are scalars. They hold at least `q_tot` (mean value of what was done), `target` (mean of
    what values are fitted to) and `grad_norm`; learners with a stochastic policy add `entropy`, in
    nats per agent.
    """

    def __call__(
        self, learner: Learner, batch: Batch, key: jax.Array, env_steps: jax.Array, hypers: Any, /
    ) -> tuple[Learner, Metrics]: ...


class RefreshTarget(Protocol):
    """The learner with its target networks moved when `due` [] bool is set."""

    def __call__(self, learner: Learner, due: jax.Array, hypers: Any, /) -> Learner: ...


class Algorithm(NamedTuple):
    """A learner as pure functions, with the static configuration closed over.

    `carry` gives what B acting teams remember before an episode. `refresh_target` is called after each
    collection; it is due once in `target_interval` episodes. A learner without target networks, or one
    that moves them in `update`, has neither. `data` says what `update` is given: sequences drawn from
    replay, everything that was just collected ("fresh"; replay then holds no more), or both, the fresh
    sequences first.
    """

    init: Init
    carry: Callable[[int], Carry]
    act: Act
    greedy: Greedy
    update: Update
    inspect: Callable[[Learner, Batch], Inspection] | None = None
    refresh_target: RefreshTarget | None = None
    target_interval: int | None = None
    data: Literal["replay", "fresh", "both"] = "replay"
