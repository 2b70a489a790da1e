"""The loop over epochs, as long as nobody asks it to stop."""

import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ..training.pieces import RunState
from . import checkpoint, devices, records
from .compiled import Steps
from .plan import Plan
from .sinks import open_sinks

OnEpoch = Callable[[int, dict[str, np.ndarray]], None]


class Loop(NamedTuple):
    """Where the loop ended, and what it did in this process."""

    state: RunState
    epoch: int
    env_steps: float  # of all members
    updates: float
    seconds: float


def train(
    plan: Plan, steps: Steps, state: RunState, epoch: int, interrupt: "Interrupt", on_epoch: OnEpoch | None
) -> Loop:
    """Epochs until all are done, or until a signal asks to stop."""
    run, lead = plan.config.run, devices.is_lead()
    before = progress_of(state)
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        sinks = open_sinks(plan.directory, plan.config, epoch) if lead else []
        for sink in sinks:
            stack.callback(sink.close)
        bar = stack.enter_context(progress_bar(plan, int(before[0].min())))
        while epoch < run.evals and not devices.anywhere(interrupt.asked):
            state, found = steps.epoch(state, jnp.asarray(epoch, jnp.int32), plan.members.hypers)
            played = steps.greedy_episodes(state, run.eval_episodes)
            metrics = {k: v.mean(1) for k, v in played.items()} | devices.fetch(found)
            for sink in sinks:
                sink.write(records.rows(epoch, metrics, run.seeds, plan.members.points, run.first_seed))
            epoch += 1
            bar.set_postfix_str(records.headline(metrics), refresh=False)
            bar.update(min(int(metrics["env_steps"].min()), run.total_steps) - bar.n)
            if on_epoch:
                on_epoch(epoch, metrics)
            if run.checkpoint_every and epoch % run.checkpoint_every == 0:
                checkpoint.save(plan.directory, epoch, state)
    seconds = time.perf_counter() - begin
    env_steps, updates = (float((x - y).sum()) for x, y in zip(progress_of(state), before, strict=True))
    return Loop(state=state, epoch=epoch, env_steps=env_steps, updates=updates, seconds=seconds)


def progress_of(state: RunState) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps and gradient steps so far, [members] each."""
    return devices.fetch((state.env_steps, state.learner.updates))


def progress_bar(plan: Plan, done: int) -> tqdm:
    """Environment steps of the slowest member."""
    config = plan.config
    return tqdm(
        total=config.run.total_steps,
        initial=min(done, config.run.total_steps),
        unit="step",
        unit_scale=True,
        desc=f"{config.preset} {records.env_name(plan.program, plan.objects)}",
        disable=not (config.run.progress and devices.is_lead()),
    )


class Interrupt:
    """Turns the first Ctrl-C or termination signal into a request to stop after the epoch."""

    def __enter__(self):
        self.asked = False
        self._old: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: leave the signals alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this epoch (again to stop at once)", flush=True)

    def __exit__(self, *exc):
        for number, handler in self._old.items():
            signal.signal(number, handler)
