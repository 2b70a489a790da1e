"""How well the parts of a learner agree with each other, and tables of what it believes about a game."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..ops.means import masked_mean
from ..ops.policies import greedy_action, masked
from ..types import Algorithm, Batch, Env, EnvSpec, Learner, Metrics

LARGEST_TABLE = 10_000  # joint actions


def diagnose(algo: Algorithm, learner: Learner, batch: Batch) -> Metrics:
    """Measure on a batch; each number is zero in the ideal case:

    igm_gap       mean of max(0, Q_tot(s, u) - Q_tot(s, greedy u)) over the joint actions of the batch: a
                  lower bound of the IGM gap. It is 0 for every mixer that satisfies IGM.
    misalignment  mean of max_a Q_i - Q_i(most probable action): the utility that is lost by acting on
                  the policy's mode. ME-IGM's order-preserving transformation rules it out.

    A learner without such values is measured by neither.
    """
    if algo.inspect is None:
        return {}
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
    """What a learner believes about a game at its start."""

    q_tot: jax.Array | None  # [A, ..., A]; None for a learner without joint values
    probs: jax.Array | None  # [N, A]; None for a learner without a stochastic policy
    greedy: jax.Array  # [N]


def has_game_table(spec: EnvSpec) -> bool:
    """All episodes begin alike, and the joint actions are few enough to write a table of them."""
    return not spec.continuous and spec.one_start and spec.n_actions**spec.n_agents <= LARGEST_TABLE


def game_table(algo: Algorithm, env: Env, learner: Learner) -> GameTable:
    """Q_tot of every joint action, each agent's policy and greedy action at the start state."""
    assert algo.inspect is not None
    spec = env.spec
    joint = itertools.product(range(spec.n_actions), repeat=spec.n_agents)
    actions = jnp.asarray(list(joint))[None]  # [1, A^N, N]
    B = actions.shape[1]
    start = env.observe(env.reset(jax.random.key(0)))
    one = jnp.ones((1, B))
    batch = Batch(
        steps=jax.tree.map(lambda x: jnp.broadcast_to(x, (2, B, *x.shape)), start),
        first=jnp.ones((2, B), bool),
        action=actions,
        reward=0 * one,
        discount=0 * one,
        mask=one,
    )
    view = algo.inspect(learner, batch)
    shape = (spec.n_actions,) * spec.n_agents
    return GameTable(
        q_tot=None if view.q_tot is None else view.q_tot[0].reshape(shape),
        probs=None if view.probs is None else view.probs[0, 0],
        greedy=view.greedy[0, 0],
    )
