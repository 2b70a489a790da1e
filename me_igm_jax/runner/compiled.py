"""The program of all members, compiled ahead of time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ..training.pieces import RunState
from ..training.train import Program
from . import checkpoint, devices
from .members import Members


class Step(NamedTuple):
    """One of the program's functions over all members: as traced, and compiled."""

    traced: Callable
    compiled: Any  # a jax.stages.Compiled

    def __call__(self, *args):
        return self.compiled(*args)


class Steps(NamedTuple):
    """What the host calls."""

    init: Step  # keys, hypers -> state
    epoch: Step  # state, index, hypers -> state, metrics
    evaluate: Step  # learners, keys, index -> per-episode arrays
    seconds: float  # spent compiling

    def greedy_episodes(self, state: RunState, count: int, first: int = 0) -> dict[str, np.ndarray]:
        """`count` greedy episodes of each member, as arrays [members, count].

        The compiled evaluation plays a fixed number of them and is called until there are enough; its
        calls take the indices first, first + 1, ..., which stand for different episodes.
        """
        parts: list[dict[str, np.ndarray]] = []
        while sum(part["return"].shape[1] for part in parts) < count:
            index = jnp.asarray(first + len(parts), jnp.int32)
            parts.append(devices.fetch(self.evaluate(state.learner, state.key, index)))
        return {k: np.concatenate([part[k] for part in parts], axis=1)[:, :count] for k in parts[0]}


def compile_program(program: Program, members: Members, mesh: Mesh, at_a_time: int | None = None) -> Steps:
    """Compile the three functions ahead of time, at the same time (XLA compiles outside the GIL).

    Tracing is Python and takes turns: the largest comes last, while the others compile.
    """
    begin = time.perf_counter()
    placed = partial(checkpoint.abstract, sharding=devices.member_sharding(mesh))
    keys, hypers, index = placed(members.keys), placed(members.hypers), jnp.zeros((), jnp.int32)
    init = devices.over_members(program.init, mesh)
    epoch = devices.over_members(program.epoch, mesh, (1,), at_a_time)
    evaluate = devices.over_members(program.evaluate, mesh, (2,))
    state = placed(jax.eval_shape(init, keys, hypers))
    options = devices.compiler_options()
    with ThreadPoolExecutor(3) as pool:
        small = [
            pool.submit(lowered.compile, options)
            for lowered in (
                jax.jit(init).lower(keys, hypers),
                jax.jit(evaluate).lower(state.learner, state.key, index),
            )
        ]
        c_epoch = jax.jit(epoch, donate_argnums=0).lower(state, index, hypers).compile(options)
        c_init, c_evaluate = (future.result() for future in small)
    seconds = time.perf_counter() - begin
    return Steps(Step(init, c_init), Step(epoch, c_epoch), Step(evaluate, c_evaluate), seconds)
