"""The training loop: the file to read first. Everything here is pure and traced.

    iteration = collect with the exploring policy -> write to replay -> a few gradient steps
    epoch     = iterations until its share of the environment steps is collected -> diagnostics
    train     = init -> scan of (epoch -> evaluation of full greedy episodes)         (one XLA program)

Seeds and hyperparameters are axes added from outside:

    train = make_train(config)
    jax.jit(jax.vmap(train, (0, None)))(keys, config.hypers)                      # S seeds
    jax.jit(jax.vmap(jax.vmap(train, (0, None)), (None, 0)))(keys, sweep(...))    # P x S

No `lax.cond` stands around collection, replay or evaluation: under vmap it would run both branches
and copy the buffer. Loop bounds decide instead, and all members share them (ops/members.py): an epoch
goes on until its slowest member has its steps, and gradient steps begin after the warm-up. A member
that has all of its steps learns no more. Collection stands in the program once, which is what most of
its compile time goes to.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..algos import make_algorithm
from ..config import Config, ConfigError
from ..config.registry import learner_entry
from ..config.schedule import Schedule, schedule
from ..envs import make_env
from ..ops.gradient_share import ALONE, GradientShare
from ..types import Algorithm, Batch, Env, Metrics
from .evaluate import summarise
from .pieces import RunState, collect, epoch, evaluate_at, first_state, iterate, update
from .replay import Replay
from .shared_instants import share_instants
from .storage import choose_replay


class Program(NamedTuple):
    """The pieces of one experiment's program; all pure, all to be vmapped over seeds.

    config    with replay.store decided
    init      key, hypers -> RunState: networks and an empty buffer
    collect   learner, key, env_steps, hypers -> Batch that the exploring policy meets
    epoch     RunState, index 0 .. run.evals - 1 (shared by all seeds), hypers -> RunState, metrics
    evaluate  learner, the state's key, index -> per-episode arrays
    """

    config: Config
    env: Env
    algo: Algorithm
    schedule: Schedule
    replay: Replay
    init: Callable[[jax.Array, Any], RunState]
    collect: Callable[..., Batch]
    epoch: Callable[..., tuple[RunState, Metrics]]
    evaluate: Callable[..., dict[str, jax.Array]]


def make_program(
    config: Config,
    *,
    env: Env | None = None,
    algo: Algorithm | None = None,
    members: int | None = None,
    share: GradientShare = ALONE,
) -> Program:
    """Compose environment, algorithm, replay and evaluation as `config` says.

    env, algo   objects that win over the names in `config`
    members     how many seeds times hyper-points train side by side (by default run.seeds); they
                decide what replay.store=auto stores
    share       devices that share each gradient step; each holds the same state
    Raises ConfigError when the settings do not fit each other.
    """
    env = make_env(config) if env is None else env
    algo = named_algorithm(config, env, share) if algo is None else algo
    sizes = schedule(config, algo.data)
    check_length(config, sizes, env)
    collectors = {store: partial(collect, config, env, algo, store) for store in ("observations", "states")}
    config, replay = choose_replay(config, env, algo, sizes, collectors, members or config.run.seeds)
    collector = collectors[config.replay.store]
    # Traced once and then reused: tracing is seconds of Python.
    once = partial(jax.jit, inline=True)
    step = once(partial(update, config, algo, sizes, replay, share))
    # One-step episodes count alike for all members. To let members wait costs a copy of the learner.
    equal_steps = env.spec.one_step and config.collect.mode == "episodes"
    each = partial(iterate, config, algo, sizes, replay, collector, step, equal_steps)
    return Program(
        config=config,
        env=env,
        algo=algo,
        schedule=sizes,
        replay=replay,
        init=once(partial(first_state, algo, replay)),
        collect=collector,
        epoch=partial(epoch, config, algo, sizes, replay, step, each),
        evaluate=partial(evaluate_at, config, env, algo),
    )


def make_train(
    config: Config, *, env: Env | None = None, algo: Algorithm | None = None
) -> Callable[[jax.Array, Any], tuple[RunState, Metrics]]:
    """train(key, hypers) -> (RunState, metrics [evals]): a whole run as one traceable function."""
    program = make_program(config, env=env, algo=algo)

    def train(key: jax.Array, hypers: Any) -> tuple[RunState, Metrics]:
        def step(state: RunState, index: jax.Array):
            state, metrics = program.epoch(state, index, hypers)
            return state, summarise(program.evaluate(state.learner, state.key, 0)) | metrics

        return jax.lax.scan(step, program.init(key, hypers), jnp.arange(config.run.evals))

    return train


def named_algorithm(config: Config, env: Env, share: GradientShare) -> Algorithm:
    """The learner that `config` names, with instants shared when it can (shared_instants.py)."""
    algo = make_algorithm(config, env.spec, share)
    return share_instants(algo, env.spec) if learner_entry(config.learner).shared_instants else algo


def check_length(config: Config, sizes: Schedule, env: Env) -> None:
    """Raise ConfigError when there are more evaluations than collections."""
    length = env.spec.horizon if config.collect.mode == "episodes" else config.collect.length
    most, run = sizes.envs * length, config.run
    if run.total_steps < run.evals * most:
        raise ConfigError(
            f"run.evals={run.evals}: run.total_steps={run.total_steps} are {run.total_steps // most} "
            f"collections of up to {most} steps; use run.evals={max(1, run.total_steps // most)} or fewer"
            + ("" if run.total_steps >= most else f" and run.total_steps={most} or more")
        )
