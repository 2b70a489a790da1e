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
    """
    view = algo.inspect(learner, batch)
    T = len(batch.reward)
    avail, alive = batch.steps.avail[:T], batch.steps.alive[:T]
    gap = jax.nn.relu(view.q_tot - view.q_tot_greedy)
    mode = jax.nn.one_hot(greedy_action(view.logits, avail), view.q.shape[-1])
    lost = masked(view.q, avail).max(-1) - (view.q * mode).sum(-1)
    acting = alive * batch.mask[..., None]
    return {
        "igm_gap": masked_mean(gap, batch.mask),
        "misalignment": masked_mean(lost, acting),
    }


class GameTable(NamedTuple):
    """What a learner believes about a one-shot game."""

    q_tot: jax.Array  # [A, ..., A]
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
    greedy = greedy_action(view.q[0, 0], start.avail)
    shape = (spec.n_actions,) * spec.n_agents
    return GameTable(view.q_tot[0].reshape(shape), view.probs[0, 0], greedy)
