"""The settings that every run has: the agents' network, collection, replay, the run itself."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from .errors import ConfigError
from .options import option
from .registry import AGENTS, learner_entry, part_fields


def agent_has(field: str) -> Callable[[Any], bool]:
    """A predicate for `when`: the class of the agents' network has this field."""
    return lambda config: field in part_fields(AGENTS.get(config.net.agent))


def has_replay(config: Any) -> bool:
    """The learner reads older experience too, so there is a replay whose size can be set."""
    return learner_entry(config.learner).data != "fresh"


def streams(config: Any) -> bool:
    """Experience comes as packed sequences of a fixed length."""
    return config.collect.mode == "stream"


@dataclasses.dataclass(frozen=True)
class Net:
    """The network of the agents' utilities or policies."""

    agent: str = option(
        "standard",
        "The agents' network: a registered name, or an import path package.module:Class.",
        registry=AGENTS,
    )
    torso: Literal["mlp", "cnn"] = option(
        "mlp",
        "What reads the observations: the hidden layers alone, or convolutions before them (grids only).",
        when=agent_has("grid"),
    )
    hidden: int = option(64, "Width of the hidden layers and of the recurrent state.", low=1)
    layers: int = option(
        1,
        "Hidden layers before the GRU or, without one, before the output.",
        low=1,
        when=agent_has("layers"),
    )
    recurrent: bool = option(
        True,
        "A GRU after the hidden layers; without it the agent remembers nothing.",
        when=agent_has("recurrent"),
    )
    last_action: bool = option(True, "Feed the agent its own last action.")
    agent_id: bool = option(True, "Feed the agent its own index, one-hot.")
    shared: bool = option(True, "One set of weights for all agents, or one for each.")
    layer_norm: bool = option(
        False, "Normalise the inputs and every hidden layer.", when=agent_has("layer_norm")
    )
    output_scale: float = option(
        1.0,
        "Multiplies the initial output weights; a small number starts a policy near uniform.",
        low=0,
        when=agent_has("output_scale"),
    )
    operands: Literal["float32", "bfloat16"] = option(
        "float32",
        "How the operands of matrix products are rounded, in every network; sums, parameters and all else "
        "stay float32 (mixed precision, for accelerators).",
    )


@dataclasses.dataclass(frozen=True)
class Collect:
    """How experience is gathered between updates."""

    mode: Literal["episodes", "stream"] = option(
        "episodes",
        "Whole masked episodes, or packed sequences of fixed length that hold several episodes.",
    )
    envs: int = option(4, "Parallel environments.", low=1)
    tune: bool = option(
        False,
        "Before training, measure whether this device collects faster with twice, four or eight times as "
        "many environments, and take the fastest. Gradient steps per transition stay as they are.",
        when=lambda config: learner_entry(config.learner).data == "replay",
    )
    length: int = option(
        128,
        "Steps in a packed sequence. Each begins with a new episode, so what comes later in longer "
        "episodes is never learned from.",
        low=1,
        when=streams,
    )
    fresh_starts: int = option(
        8,
        "Start states prepared for each sequence; they are reused when more are needed.",
        low=1,
        when=streams,
    )
    episodes_per_update: int = option(
        4,
        "Episodes collected for each gradient step.",
        low=1,
        when=lambda config: has_replay(config) and not streams(config),
    )
    transitions_per_update: int = option(
        256,
        "Transitions collected for each gradient step.",
        low=1,
        when=lambda config: has_replay(config) and streams(config),
    )


@dataclasses.dataclass(frozen=True)
class Replay:
    """The replay buffer of one seed, counted in sequences: an episode each, or a packed sequence each."""

    capacity: int = option(5000, "Sequences kept; the oldest go first.", low=1, when=has_replay)
    batch: int = option(128, "Sequences in the batch of a gradient step.", low=1, when=has_replay)
    warmup: int | None = option(
        None,
        "Sequences collected before the first gradient step; by default one batch.",
        low=1,
        when=has_replay,
    )
    store: Literal["auto", "observations", "states"] = option(
        "auto",
        "What is kept of each instant: all that was seen, or a snapshot of the environment's state, from "
        "which a sample's observations are computed again (a fraction of the memory). auto: observations "
        "when they fit into memory, else states.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32",
        "How stored observations, and the central states seen with them, are rounded.",
        when=lambda config: config.replay.store != "states",
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """One experiment: how long, how many seeds, what is measured and where it is kept."""

    seeds: int = option(1, "Independent runs in one program.", low=1)
    seed: int = option(0, "Run s of the seeds uses the key fold_in(key(seed), s).", low=0, high=2**32 - 1)
    first_seed: int = option(
        0, "The number s of the first of the seeds: 4 seeds from 10 on are 10 to 13.", low=0, high=2**32 - 1
    )
    total_steps: int = option(
        1_000_000, "Environment steps of each seed, warm-up included; met to within one collection.", low=1
    )
    evals: int = option(20, "Evaluations, evenly spaced over the steps.", low=1)
    eval_episodes: int = option(32, "Greedy episodes at each evaluation, exactly.", low=1)
    final_eval_episodes: int = option(128, "Greedy episodes after the last step, exactly.", low=1)
    dir: str | None = option(None, "Run directory; by default runs/<preset>-<env>-<time>.")
    devices: int | None = option(
        None,
        "Devices to spread the seeds over; by default all accelerators, or a CPU device per core.",
        low=1,
    )
    devices_per_seed: int | None = option(
        None,
        "Devices that share each gradient step of a seed, a part of the batch each. By default CPU cores "
        "that would have no seed, for a recurrent network and a large batch; else 1.",
        low=1,
    )
    distributed: bool = option(
        False,
        "Several processes form one run, found from the cluster's environment (SLURM, Open MPI) or from "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
    )
    seeds_per_batch: int | None = option(
        None,
        "Seeds that a CPU device trains side by side, batch after batch in each epoch; by default all. "
        "Small batches stay in its cache; the state is then held twice. Accelerators take all at once.",
        low=1,
    )
    deterministic: bool = option(
        False, "Ask the GPU for reproducible kernels (slower). CPU runs are reproducible anyway."
    )
    checkpoint_every: int = option(
        0, "Evaluations between checkpoints that can be resumed; 0: only when interrupted.", low=0
    )
    progress: bool = option(True, "Show a progress bar.")
    sinks: tuple[Literal["tensorboard", "wandb"], ...] = option(
        (), "Where to send metrics besides the run directory."
    )

    def check(self, config: Any) -> None:
        """Raise ConfigError when these settings cannot work together."""
        if self.distributed and self.dir is None:
            raise ConfigError("run.dir=None: run.distributed needs one directory for all processes")
        if self.distributed and self.devices_per_seed not in (None, 1):
            raise ConfigError(
                f"run.devices_per_seed={self.devices_per_seed}: must be 1 with run.distributed"
            )
