"""One-step episodes: let networks read each instant once. The one wrapper that knows of it.

In a one-step episode nothing is bootstrapped, so networks need not read the final instant. When all
episodes begin alike too (matrix games), what networks read is one instant for the whole batch.
"""

import jax
import jax.numpy as jnp

from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner


def share_instants(algo: Algorithm, spec: EnvSpec) -> Algorithm:
    """`algo` given batches whose instants are those that its networks must read.

    steps and first have T instants in place of T + 1, and one sequence in place of B when all look
    alike; action, reward, discount and mask stay [T, B]. Target networks are never read, so they are
    not refreshed. Environments with longer episodes leave `algo` as it is.
    """
    if not spec.one_step:
        return algo

    def update(learner: Learner, batch: Batch, key, env_steps, hypers):
        return algo.update(learner, trimmed(batch, spec), key, env_steps, hypers)

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        assert algo.inspect is not None
        view, lead = algo.inspect(learner, trimmed(batch, spec)), batch.reward.shape
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape[2:])), view)

    inspecting = None if algo.inspect is None else inspect
    return algo._replace(update=update, inspect=inspecting, refresh_target=None, target_interval=None)


def trimmed(batch: Batch, spec: EnvSpec) -> Batch:
    """`batch` without final instants, and with one sequence of instants when all look alike."""
    T, B = batch.reward.shape
    count = 1 if spec.one_shot else B
    steps, first = jax.tree.map(lambda x: x[:T, :count], (batch.steps, batch.first))
    return batch._replace(steps=steps, first=first)
