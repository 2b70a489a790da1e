"""All that a user can set. The dataclasses here are the single source of truth.

`Config` holds shapes, sizes and choices: frozen and hashable; a change compiles a new program.
`Hypers` holds floats: a pytree that is traced, so any of them can be swept inside one program.
Presets (YAML) and the command line only fill these classes in: see `presets.py` and `cli.py`.
"""

import dataclasses
from typing import Literal

import jax

from .algos import Algo, Ddpg, Dop, Fop, Hasac, Maac, Msac, Pac, Ppo
from .envs import Differential, Jaxmarl, Matrix, Overcooked, Smax


class ConfigError(ValueError):
    """A setting that cannot work. Its message is one line that names the key and the way out."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypers:
    """Numbers that may differ between the members of one compiled sweep."""

    lr: float = 1e-3
    """Learning rate, at first."""
    critic_lr: float = 5e-4
    """Learning rate of the critics, where they have an optimiser of their own (not value family)."""
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
    """Where an annealed temperature ends; the floor of the one that PAC learns."""
    alpha_steps: float = 20_000.0
    """Environment steps over which an annealed temperature falls, geometrically."""
    eps_start: float = 1.0
    """First exploration rate of epsilon-greedy."""
    eps_end: float = 0.05
    """Last exploration rate of epsilon-greedy."""
    eps_steps: float = 100_000.0
    """Environment steps over which epsilon falls linearly."""
    noise: float = 0.1
    """Standard deviation of a deterministic policy's exploration, as a share of half the action's range."""
    action_penalty: float = 0.0
    """Weight of the mean square of a deterministic policy's actions, in [-1, 1], in its loss."""
    reward_scale: float = 1.0
    """Multiplies the rewards that are learned from; evaluation never does."""
    shaping: float = 1.0
    """Weight of the environment's shaped reward, if it has one, at first; evaluation never counts it."""
    shaping_steps: float = 1_000_000.0
    """Environment steps over which that weight falls linearly to zero."""
    optimistic_weight: float = 0.1
    """Weighted QMIX's lower weight: of over-estimates or of poor joint actions; 1 is no weighting."""
    clip: float = 0.2
    """PPO: how far the probability of an action may move, relative to the policy that collected it."""
    entropy_weight: float = 0.01
    """PPO: weight of the policy's entropy in its objective."""
    huber_delta: float = 10.0
    """Error at which Huber's loss turns from quadratic to linear, in the critic's own units."""
    entropy_share: float = 0.98
    """HASAC: target entropy as a share of the largest possible one (hasac.target_entropy)."""
    attention_penalty: float = 1e-3
    """FOP's released code: weight of the squared attention logits in the critics' loss."""
    trace: float = 0.93
    """DOP: decay of the tree-backup traces, beside the probabilities."""
    off_policy: float = 0.5
    """DOP: share of the tree-backup loss in the critic's, kappa; the rest is on-policy."""
    message_weight: float = 0.01
    """PAC: weight of the messages' loss beside the critics'."""
    message_beta: float = 1e-3
    """PAC: weight of the messages' information, in nats, beside the prediction's loss."""
    nopt_weight: float = 0.1
    """Weight of QTRAN's constraint on all joint actions beside that on the greedy one."""


@dataclasses.dataclass(frozen=True)
class Net:
    """The network of the agents' utilities or policies."""

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
    shared: bool = True
    """One set of weights for all agents, or one for each."""
    layer_norm: bool = False
    """Normalise the inputs and every hidden layer."""
    output_scale: float = 1.0
    """Multiplies the initial output weights; small ones start a policy near uniform."""
    operands: Literal["float32", "bfloat16"] = "float32"
    """How the operands of matrix products are rounded, in the networks of values, mixers and critics too;
    sums, parameters and all else stay float32 (mixed precision, for accelerators)."""


@dataclasses.dataclass(frozen=True)
class Collect:
    """How experience is gathered between updates."""

    mode: Literal["episodes", "stream"] = "episodes"
    """Whole masked episodes, or packed sequences of fixed length that hold several episodes."""
    envs: int = 4
    """Parallel environments."""
    tune: bool = False
    """Before training, measure whether this device collects faster with twice, four or eight times as many
    environments, and take the fastest; gradient steps per transition stay as they are. Not for
    learners that take in whole collections (MAPPO, IPPO, DOP)."""
    length: int = 128
    """Steps in a packed sequence (stream only). Each begins with a new episode, so what comes later in
    longer episodes is never learned from."""
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
    store: Literal["auto", "observations", "states"] = "auto"
    """What is kept of each instant: all that was seen, or a snapshot of the environment's state, from
    which a sample's observations are recomputed (a fraction of the memory). auto: observations, or the
    driver takes states where those would not fit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How stored observations, and the central states seen with them, are rounded."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One experiment: how long, how many seeds, what is measured and where it is kept."""

    seeds: int = 1
    """Independent runs in one program."""
    seed: int = 0
    """Where the seeds start: run s uses key fold_in(key(seed), s)."""
    first_seed: int = 0
    """Number s of the first run: with 4 seeds from 10 on, runs 10 to 13."""
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
    devices_per_seed: int | None = None
    """Devices that share each gradient step of a seed, a part of the batch each, and do all else alike. By
    default CPU cores that would have no seed, for a recurrent network and a large batch; else 1."""
    distributed: bool = False
    """Several processes form one run, found from the cluster's environment (SLURM, Open MPI) or from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."""
    seeds_per_batch: int | None = None
    """Seeds that a CPU device trains side by side, batch after batch in each epoch; by default all. Small
    batches stay in its cache; the state is then held twice. Accelerators take all at once."""
    deterministic: bool = False
    """Ask the GPU for reproducible kernels (slower). CPU runs are reproducible anyway."""
    checkpoint_every: int = 0
    """Evaluations between checkpoints that can be resumed; 0: only when interrupted."""
    progress: bool = True
    """Show a progress bar."""
    sinks: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where to send metrics besides the run directory."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything about an experiment. `load` fills it from a preset."""

    preset: str = "me_qmix"
    """The algorithm: a file in configs/ (see `me-igm list`)."""
    env: str = "smax/3m"
    """family/name of the environment (see `me-igm list`)."""
    algo: Algo = Algo()
    fop: Fop = Fop()
    hasac: Hasac = Hasac()
    msac: Msac = Msac()
    ppo: Ppo = Ppo()
    dop: Dop = Dop()
    pac: Pac = Pac()
    ddpg: Ddpg = Ddpg()
    maac: Maac = Maac()
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
