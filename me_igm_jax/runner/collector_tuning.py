"""How many environments to run in parallel: what this device collects fastest with, by measurement.

The caches of a CPU are full after a few environments. An accelerator waits for the launch of its
kernels, which more environments share.
"""

import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ..config import Config, ConfigError, override
from ..training.train import Program, make_program
from ..types import Algorithm, Env
from . import devices
from .members import Members

FACTORS = (2, 4, 8)
WORTH = 1.1  # a smaller gain is noise: another measurement would choose otherwise


def fit_environments(
    config: Config, members: Members, mesh: Mesh, *, env: Env | None = None, algo: Algorithm | None = None
) -> Config:
    """`config` with as many environments as collect fastest here, with all members together.

    Gradient steps per transition stay as they are: a collection of twice as many sequences is followed
    by twice as many. Prints what was measured. Raises ConfigError when that would change what is
    learned from, or when processes would have to agree.
    """
    make = partial(make_program, env=env, algo=algo, members=members.size)
    if make(config).algo.data != "replay":
        raise ConfigError(
            f"collect.tune=True: {config.preset} learns from whole collections; set collect.envs"
        )
    if config.run.distributed:
        raise ConfigError("collect.tune=True: each process would choose for itself; set collect.envs")
    best = config = replace(config, collect=replace(config.collect, tune=False))
    rates = {config.collect.envs: steps_per_second(make(config), members, mesh)}
    for factor in FACTORS:
        try:
            more = scaled(config, factor)
            program = make(more)
        except ConfigError:  # the replay, or the whole run, is too small for that many
            break
        rates[more.collect.envs] = steps_per_second(program, members, mesh)
        if rates[more.collect.envs] < WORTH * rates[best.collect.envs]:
            break
        best = more
    measured = ", ".join(f"{envs}: {rate:,.0f}" for envs, rate in rates.items())
    print(f"collect.envs={best.collect.envs} (steps/s collected with {measured})")
    return best


def scaled(config: Config, factor: int) -> Config:
    """`config` with `factor` times as many environments; the replay is a whole number of collections."""
    envs = factor * config.collect.envs
    return override(
        config, {"collect.envs": envs, "replay.capacity": config.replay.capacity // envs * envs}
    )


def steps_per_second(program: Program, members: Members, mesh: Mesh) -> float:
    """Environment steps that all members together collect in a second, compiled as a run compiles."""

    def collect(learner, key, hypers):
        return program.collect(learner, key, jnp.zeros(()), hypers)

    over = partial(devices.over_members, mesh=mesh)
    compiled = partial(jax.jit, compiler_options=devices.compiler_options())
    learners = compiled(over(program.algo.init))(members.keys, members.hypers)
    collect_all = compiled(over(collect, at_a_time=devices.seeds_at_a_time(program.config.run)))
    batch = jax.block_until_ready(collect_all(learners, members.keys, members.hypers))
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(collect_all(learners, members.keys, members.hypers))
        seconds.append(time.perf_counter() - begin)
    return batch.mask.size / min(seconds)
