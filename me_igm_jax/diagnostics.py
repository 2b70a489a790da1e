"""How well the parts of a learner agree with each other. All quantities are zero in the ideal."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .policies import greedy_action, masked
from .returns import masked_mean
from .types import Algorithm, Batch, Env, Learner, Metrics


def diagnose(algo: Algorithm, learner: Learner, batch: Batch) -> Metrics:
    """Measure on a batch:

    igm_gap       mean of max(0, Q_tot(s, u) - Q_tot(s, greedy u)) over the batch's joint actions: a
                  lower bound of the IGM gap; 0 for every mixer that satisfies IGM.
    misalignment  mean of max_a Q_i - Q_i(most probable action): the utility lost by acting on the
                  policy's mode; what ME-IGM's order-preserving transformation rules out.

    A learner without such values is measured by neither.
    """
    view = algo.inspect(learner, batch)
    avail, alive = (x[: len(batch.reward)] for x in (batch.steps.avail, batch.steps.alive))
    metrics = {}
    if view.q_tot is not None and view.q_tot_greedy is not None:
        gap = jax.nn.relu(view.q_tot - view.q_tot_greedy)
        metrics["igm_gap"] = masked_mean(gap, batch.mask)
    if view.q is not None and view.logits is not None:
        mode = jax.nn.one_hot(greedy_action(view.logits, avail), view.q.shape[-1])
        lost = masked(view.q, avail).max(-1) - (view.q * mode).sum(-1)
        metrics["misalignment"] = masked_mean(lost, alive * batch.mask[..., None])
    return metrics


class GameTable(NamedTuple):
    """What a learner believes about a one-shot game."""

    q_tot: jax.Array | None  # [A, ..., A]; None for a learner without joint values
    probs: jax.Array  # [N, A]
    greedy: jax.Array  # [N]


def game_table(algo: Algorithm, env: Env, learner: Learner) -> GameTable:
    """Q_tot of every joint action, each agent's policy and greedy action at the start state."""
    spec = env.spec
    joint = itertools.product(range(spec.n_actions), repeat=spec.n_agents)
    actions = jnp.asarray(list(joint))[None]  # [1, A^N, N]
    B = actions.shape[1]
    start = env.observe(env.reset(jax.random.key(0)))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, B, *x.shape)), start)
    one = jnp.ones((1, B))
    first = jnp.ones((2, B), bool)
    view = algo.inspect(learner, Batch(steps, first, actions, 0 * one, 0 * one, one))
    shape = (spec.n_actions,) * spec.n_agents
    q_tot = None if view.q_tot is None else view.q_tot[0].reshape(shape)
    assert view.probs is not None  # the actions are discrete
    return GameTable(q_tot, view.probs[0, 0], view.greedy[0, 0])
