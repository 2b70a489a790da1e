"""How many environments to run in parallel: what this device collects fastest with, by measurement.

A CPU's caches are full after a few environments; an accelerator waits for its kernels' launches, which more
environments share.
"""

import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from . import devices
from .config import Config, ConfigError, Hypers
from .presets import override
from .train import make_program

FACTORS = (2, 4, 8)
WORTH = 1.1  # a doubling must pay at least so much, or another run of the clock would choose otherwise


def fit_environments(config: Config, keys: jax.Array, hypers: Hypers, mesh) -> Config:
    """`config` with as many environments as collect fastest here, all members of keys [M] together.

    Gradient steps per transition stay as they are: a collection of twice as many sequences is followed
    by twice as many. Prints what was measured. Raises ConfigError where that would change what is
    learned from, or where processes would have to agree.
    """
    if make_program(config).algo.data != "replay":
        raise ConfigError(
            f"collect.tune=True: {config.preset} learns from whole collections; set collect.envs"
        )
    if config.run.distributed:
        raise ConfigError("collect.tune=True: processes would choose apart; set collect.envs")
    config = replace(config, collect=replace(config.collect, tune=False))
    rates = {config.collect.envs: steps_per_second(config, keys, hypers, mesh)}
    best = config
    for factor in FACTORS:
        try:
            more = scaled(config, factor)
        except ConfigError:  # the replay is too small for so many
            break
        rates[more.collect.envs] = steps_per_second(more, keys, hypers, mesh)
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


def steps_per_second(config: Config, keys: jax.Array, hypers: Hypers, mesh) -> float:
    """Environment steps that all members together collect in a second, compiled as a run compiles."""
    program = make_program(config)

    def collect(learner, key, hypers):
        return program.collect(learner, key, jnp.zeros(()), hypers)

    over = partial(devices.over_members, mesh=mesh)
    compiled = partial(jax.jit, compiler_options=devices.compiler_options())
    learners = compiled(over(program.algo.init))(keys, hypers)
    collect = compiled(over(collect, at_a_time=devices.seeds_at_a_time(config.run)))
    batch = jax.block_until_ready(collect(learners, keys, hypers))
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(collect(learners, keys, hypers))
        seconds.append(time.perf_counter() - begin)
    return batch.mask.size / min(seconds)
