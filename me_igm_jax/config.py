"""All that a user can set. The dataclasses here are the single source of truth.

`Config` holds shapes, sizes and choices: frozen and hashable; a change compiles a new program.
`Hypers` holds floats: a pytree that is traced, so any of them can be swept inside one program.
Presets (YAML) and the command line only fill these classes in: see `presets.py` and `cli.py`.
"""

import dataclasses
from typing import Literal

import jax


class ConfigError(ValueError):
    """A setting that cannot work. Its message is one line that names the key and the way out."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypers:
    """Numbers that may differ between the members of one compiled sweep."""

    lr: float = 1e-3
    """Adam's learning rate, at first."""
    lr_decay: float = 1.0
    """Share of the learning rate that is left after lr_steps; 1 keeps it constant."""
    lr_steps: float = 1_000_000.0
    """Environment steps over which the learning rate falls linearly."""
    gamma: float = 0.99
    """Discount factor."""
    td_lambda: float = 0.4
    """Mixing factor of the lambda-return; 0 is the one-step target."""
    max_grad_norm: float = 10.0
    """Global gradient norm above which gradients are scaled down."""
    tau: float = 1.0
    """Share of the online weights that enters the target at each refresh; 1 is a hard copy."""
    alpha: float = 1.0
    """Temperature: the constant one, or where a learned or annealed one starts."""
    alpha_lr: float = 0.3
    """Step size of the learned temperature, on log alpha."""
    target_entropy: float = 0.24
    """Entropy that the learned temperature aims at, nats per agent."""
    alpha_end: float = 0.03
    """Where an annealed temperature ends."""
    alpha_steps: float = 20_000.0
    """Environment steps over which an annealed temperature falls, geometrically."""
    eps_start: float = 1.0
    """First exploration rate of epsilon-greedy."""
    eps_end: float = 0.05
    """Last exploration rate of epsilon-greedy."""
    eps_steps: float = 100_000.0
    """Environment steps over which epsilon falls linearly."""
    shaping: float = 1.0
    """Weight of the environment's shaped reward, if it has one, at first; evaluation never counts it."""
    shaping_steps: float = 1_000_000.0
    """Environment steps over which that weight falls linearly to zero."""
    optimistic_weight: float = 0.1
    """Weighted QMIX's lower weight: of over-estimates or of poor joint actions; 1 is no weighting."""
    nopt_weight: float = 0.1
    """Weight of QTRAN's constraint on all joint actions beside that on the greedy one."""


@dataclasses.dataclass(frozen=True)
class Algo:
    """The parts that a value-decomposition learner is composed of."""

    mixer: Literal["vdn", "qmix", "qplex", "qatten", "vdn_s"] = "qmix"
    """How utilities become Q_tot."""
    local: Literal["identity", "residual"] = "identity"
    """Order-preserving g_i applied to the utilities before mixing (Soft-QMIX: residual)."""
    transform: Literal["identity", "opt", "mlp"] = "identity"
    """How utilities become policy logits: not at all, order-preserving, or an unconstrained MLP."""
    policy: Literal["epsilon_greedy", "softmax"] = "epsilon_greedy"
    """How training data is collected, and which next action a target uses (greedy or sampled)."""
    temperature: Literal["fixed", "anneal", "sgd", "adam"] = "fixed"
    """Fixed, annealed over hypers.alpha_steps, or learned on log alpha by SGD or Adam."""
    entropy: Literal["sample", "exact", "none"] = "sample"
    """Entropy bonus of a softmax policy's target: -log pi of the sampled action, exact, or none."""
    fit: Literal["td", "qtran"] = "td"
    """What Q_tot is fitted to: the TD target, or the central critic under QTRAN's two constraints."""
    weighting: Literal["uniform", "optimistic", "centrally", "soft_qmix"] = "uniform"
    """TD weights: 1; Weighted QMIX's, optimistic or central; those of the released Soft-QMIX."""
    central_critic: bool = False
    """Bootstrap from an unrestricted central critic (Weighted QMIX, QTRAN) instead of from Q_tot."""
    target_interval: int = 200
    """Episodes between two refreshes of the target networks."""
    mixing_embed: int = 32
    """Width of QMIX's mixing layer, and of Qatten's queries and keys."""
    hyper_embed: int = 64
    """Hidden width of every hyper-network."""
    opt_layers: int = 1
    """Layers of the order-preserving transformation: 1 or 2."""
    opt_embed: int = 16
    """Hidden width of g_i and of the two-layer order-preserving transformation."""
    mlp_embed: int = 64
    """Hidden width of the MLP that replaces the OPT in the ablation."""
    qplex_heads: int = 4
    """Attention heads (kernels) of QPLEX's lambda network."""
    qplex_layers: int = 2
    """Layers of QPLEX's key, agent and action extractors."""
    qatten_heads: int = 4
    """Attention heads of Qatten."""
    central_embed: int = 256
    """Hidden width of the central critic's mixing network."""


@dataclasses.dataclass(frozen=True)
class Net:
    """The agents' shared network."""

    torso: Literal["mlp", "cnn"] = "mlp"
    """What reads the observations: the hidden layers alone, or convolutions before them (grids only)."""
    hidden: int = 64
    """Width of the hidden layers and of the recurrent state."""
    layers: int = 1
    """Hidden layers before the GRU or, without one, before the output."""
    recurrent: bool = True
    """A GRU after the hidden layers; without it the agent remembers nothing."""
    last_action: bool = True
    """Feed the agent its own last action."""
    agent_id: bool = True
    """Feed the agent its own index, one-hot."""


@dataclasses.dataclass(frozen=True)
class Collect:
    """How experience is gathered between updates."""

    mode: Literal["episodes", "stream"] = "episodes"
    """Whole masked episodes, or packed sequences of fixed length that hold several episodes."""
    envs: int = 4
    """Parallel environments."""
    length: int = 128
    """Steps in a packed sequence (stream only)."""
    fresh_starts: int = 8
    """Start states prepared for each sequence (stream only); they are reused if more are needed."""
    episodes_per_update: int = 4
    """Episodes collected for each gradient step (episodes only)."""
    transitions_per_update: int = 256
    """Transitions collected for each gradient step (stream only)."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """The replay buffer of one seed, counted in episodes or, when streaming, in sequences."""

    capacity: int = 5000
    """Sequences kept; the oldest go first."""
    batch: int = 128
    """Sequences in a gradient step's batch."""
    warmup: int | None = None
    """Sequences collected before the first gradient step; by default one batch."""
    store: Literal["observations", "states"] = "observations"
    """What is kept of each instant: all that was seen, or a snapshot of the environment's state, from
    which a sample's observations are recomputed (a fraction of the memory)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How stored observations, and the central states seen with them, are rounded."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One experiment: how long, how many seeds, what is measured and where it is kept."""

    seeds: int = 1
    """Independent runs in one program."""
    seed: int = 0
    """Where the seeds start: run s uses key fold_in(key(seed), s)."""
    total_steps: int = 1_000_000
    """Environment steps of each seed, warm-up included."""
    evals: int = 20
    """Evaluations, evenly spaced over the steps."""
    eval_episodes: int = 32
    """Greedy episodes at each evaluation, exactly."""
    final_eval_episodes: int = 128
    """Greedy episodes after the last step, exactly."""
    dir: str | None = None
    """Run directory; by default runs/<preset>-<env>-<time>."""
    devices: int | None = None
    """Devices to spread the seeds over; by default all accelerators, or a CPU device per core."""
    seeds_per_batch: int | None = None
    """Seeds that a device trains side by side, batch after batch in each epoch; by default all. Small
    batches stay in a CPU's cache; the state is then held twice."""
    deterministic: bool = False
    """Ask the GPU for reproducible kernels (slower). CPU runs are reproducible anyway."""
    checkpoint_every: int = 0
    """Evaluations between checkpoints that can be resumed; 0: only when interrupted."""
    progress: bool = True
    """Show a progress bar."""
    sinks: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where to send metrics besides the run directory."""


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Options of the matrix/* environments."""

    payoff: tuple | None = None
    """Payoff tensor of matrix/custom, nested lists with one level per player."""
    steps: int = 1
    """How often the game is played in an episode; above 1, a repeated game."""


@dataclasses.dataclass(frozen=True)
class Differential:
    """Options of the differential/* environments."""

    reward_scale: float = 0.1
    """Multiplies the reward; FOP's 0.1 makes the best return 1."""


@dataclasses.dataclass(frozen=True)
class Smax:
    """Options of the smax/* environments."""

    reward_scale: float = 10.0
    """Multiplies JaxMARL's reward; 10 puts the best return near 20, as in SMAC."""
    reward: Literal["smax", "smacv2"] = "smax"
    """JaxMARL's (health taken and the win, half each) or SMACv2's (health, kills, win; best return 20)."""
    max_steps: int | None = None
    """Steps after which an episode ends, a terminal time-out; by default 100 in JaxMARL's scenarios, 200
    in SMACv2's, SMAC's limit in its maps."""
    see_enemy_actions: bool | None = None
    """Show what enemies did last; by default only in JaxMARL's scenarios."""
    walls_cause_death: bool | None = None
    """Units die at the edge of the map; by default only in JaxMARL's scenarios."""


@dataclasses.dataclass(frozen=True)
class Overcooked:
    """Options of the overcooked/* environments."""

    horizon: int = 400
    """Steps of every episode; its end is terminal. Streamed sequences must be as long to see all of it."""


@dataclasses.dataclass(frozen=True)
class Jaxmarl:
    """Options of the jaxmarl/* environments."""

    max_steps: int | None = None
    """Steps after which an episode is cut off; by default at the environment's own limit."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything about an experiment. `load` fills it from a preset."""

    preset: str = "me_qmix"
    """The algorithm: a file in configs/ (see `me-igm list`)."""
    env: str = "smax/3m"
    """family/name of the environment (see `me-igm list`)."""
    algo: Algo = Algo()
    net: Net = Net()
    collect: Collect = Collect()
    replay: Replay = Replay()
    run: Run = Run()
    matrix: Matrix = Matrix()
    differential: Differential = Differential()
    smax: Smax = Smax()
    overcooked: Overcooked = Overcooked()
    jaxmarl: Jaxmarl = Jaxmarl()
    hypers: Hypers = Hypers()

    @property
    def envs_per_update(self) -> float:
        """Environment sequences collected for each gradient step."""
        c = self.collect
        if c.mode == "episodes":
            return c.episodes_per_update
        return c.transitions_per_update / c.length

    @property
    def updates_per_iteration(self) -> int:
        """Gradient steps after each collection."""
        return int(self.collect.envs / self.envs_per_update)

    @property
    def warmup_iterations(self) -> int:
        """Collections before the first gradient step."""
        warmup = self.replay.batch if self.replay.warmup is None else self.replay.warmup
        return max(1, -(-warmup // self.collect.envs))
