"""The value family, discrete actions: QMIX, VDN, QPLEX, Qatten, Weighted QMIX, QTRAN, Soft-QMIX, ME-IGM.

Which member a run is, is a choice of parts in `config.algo`. Without a softmax policy, data are collected
epsilon-greedily, and targets bootstrap from the greedy next action (double Q-learning). With one (ME-IGM,
Soft-QMIX), targets bootstrap from a sample of the current policy, and its entropy is added.

Losses (ME-IGM Eqs. 8, 9, 11; docs/algorithms.md says what is taken from a paper or from released code):
  L(theta) = 1/2 w (Q_tot(s, u) - G)^2                  G: `td_targets`, w: `ops.losses.td_weights`
  L(phi)   = 1/2 (sg Q_tot(s, u) - sum_i OPT_i(sg Q_i(u_i), s))^2     with a softmax policy
  L(omega) = alpha (H(pi) - N H_target)                 on log alpha, with a learned temperature
  L(psi)   = 1/2 (Q^(s, u) - G)^2                       with a central critic
QTRAN replaces L(theta) by `ops.losses.qtran_loss`.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ..config import Config, register_learner
from ..ops.batches import first_instants
from ..ops.gradient_share import ALONE, GradientShare
from ..ops.losses import JointValues
from ..ops.policies import (
    Categorical,
    chosen,
    epsilon_greedy,
    greedy_action,
    masked,
    sample,
    softmax_policy,
)
from ..ops.returns import batch_return
from ..ops.schedules import exploration_rate
from ..ops.target_networks import refresh_targets
from ..types import Algorithm, Batch, Carry, EnvSpec, Inspection, Learner, Metrics, Params, TimeStep
from .value_family import (
    Outputs,
    Parts,
    Targets,
    apply_part,
    entropy_bonus,
    first_learner,
    learn,
    make_parts,
    policy_logits,
    transformed,
    unroll,
)
from .value_options import ValueHypers, ValueOptions

# -- values and policies --------------------------------------------------------------------------


def current_policy(parts: Parts, learner: Learner, q: jax.Array, step: TimeStep) -> Categorical:
    """softmax(OPT_i(g_i(q_i)) / alpha) over the available actions; q [..., N, A] before g_i."""
    utilities = transformed(parts, learner.params, q, step.state)
    logits = policy_logits(parts, learner.params, utilities, step.state)
    return softmax_policy(logits / jnp.exp(learner.log_alpha), step.avail)


def mix(parts: Parts, params: Params, utilities: jax.Array, action: jax.Array, step: TimeStep) -> jax.Array:
    """Q_tot(s, u) of utilities [..., N, A] (after g_i) and joint actions u [..., N] -> [...]."""
    taken, q_max = chosen(utilities, action), masked(utilities, step.avail).max(-1)
    onehot = jax.nn.one_hot(action, utilities.shape[-1])
    return apply_part(parts, "mixer", params, taken, step.state, q_max=q_max, action=onehot)


def mix_central(
    parts: Parts, params: Params, q: jax.Array, action: jax.Array, state: jax.Array
) -> jax.Array:
    """Q^(s, u) of the central critic, from q [..., N, A] of its agent network: u [..., N] -> [...]."""
    return apply_part(parts, "central_mixer", params, chosen(q, action), state)


def joint_values(parts: Parts, params: Params, q: Outputs, batch: Batch) -> JointValues:
    """Values of the batch's joint actions and of the greedy ones; q as `unroll` returns it."""
    T, action = len(batch.reward), batch.action
    step, q = first_instants((batch.steps, q), T)
    best = greedy_action(q["agent"], step.avail)
    utilities = transformed(parts, params, q["agent"], step.state)
    q_tot, q_tot_best = (mix(parts, params, utilities, u, step) for u in (action, best))
    q_hat, q_hat_best, opt_sum = q_tot, q_tot_best, q_tot
    if parts.central_mixer is not None:
        q_central = q["central_agent"]
        q_hat, q_hat_best = (mix_central(parts, params, q_central, u, step.state) for u in (action, best))
    if parts.transform is not None:
        opt_sum = chosen(policy_logits(parts, params, utilities, step.state), action).sum(-1)
    return JointValues(
        q_tot=q_tot,
        q_tot_best=q_tot_best,
        q_hat=q_hat,
        q_hat_best=q_hat_best,
        is_best=(action == best).all(-1),
        opt_sum=opt_sum,
    )


# -- targets --------------------------------------------------------------------------------------


def td_targets(
    parts: Parts, options: ValueOptions, learner: Learner, q: jax.Array, batch: Batch, key: jax.Array,
    hypers: ValueHypers, share: GradientShare = ALONE,
) -> Targets:  # fmt: skip
    """G: the lambda-return of what the target networks say of the next joint action.

    The next joint action is the greedy one of the online agent network, whose q [T or T + 1, B, N, A] are
    given, or a sample of the current policy. Then alpha times the entropy is added (ME-IGM App. A).
    """
    if parts.transform is not None:
        policy = current_policy(parts, learner, q, batch.steps)
        action, entropy = sample(key, policy, share), policy.entropy().sum(-1)
        bonus = entropy_bonus(options.entropy, policy.log_prob(action).sum(-1), entropy)
        bonus *= jnp.exp(learner.log_alpha)
    else:
        action, entropy, bonus = greedy_action(q, batch.steps.avail), None, None
    value = target_value(parts, learner.target, batch, action)
    return Targets(batch_return(batch, value, hypers, bonus), entropy)


def target_value(parts: Parts, target: Params, batch: Batch, action: jax.Array) -> jax.Array:
    """What the target networks say of a joint action at every instant, [T or T + 1, B, N] -> [..., B]."""
    q, state = unroll(parts, target, batch), batch.steps.state
    if parts.central_mixer is not None:
        return mix_central(parts, target, q["central_agent"], action, state)
    return mix(parts, target, transformed(parts, target, q["agent"], state), action, batch.steps)


# -- the functions of the learner (types.Algorithm) -----------------------------------------------


def act(parts: Parts, learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers):
    """A sample of the policy, or epsilon-greedy actions."""
    memory, q = parts.agent.step(learner.params["agent"], carry, step)
    if parts.transform is not None:
        action = sample(key, current_policy(parts, learner, q, step))
    else:
        action = epsilon_greedy(key, q, step.avail, exploration_rate(hypers, env_steps))
    return (memory, action), action


def greedy(parts: Parts, learner: Learner, carry: Carry, step: TimeStep):
    """The best actions by q: g_i keeps the order of the utilities, so it need not be applied."""
    memory, q = parts.agent.step(learner.params["agent"], carry, step)
    action = greedy_action(q, step.avail)
    return (memory, action), action


def update(
    parts: Parts, options: ValueOptions, share: GradientShare,
    learner: Learner, batch: Batch, key, env_steps, hypers: ValueHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step of all parts together, and one step of the temperature."""

    def targets_of(q: Outputs) -> Targets:
        return td_targets(parts, options, learner, q["agent"], batch, key, hypers, share)

    def values_of(heads: Params, q: Outputs) -> JointValues:
        return joint_values(parts, heads, q, batch)

    return learn(parts, options, share, learner, batch, env_steps, hypers, targets_of, values_of)


def inspect(parts: Parts, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch."""
    T, params = len(batch.reward), learner.params
    step, q = first_instants((batch.steps, parts.agent.unroll(params["agent"], batch)), T)
    utilities, best = transformed(parts, params, q, step.state), greedy_action(q, step.avail)
    logits = probs = None
    if parts.transform is not None:
        logits = policy_logits(parts, params, utilities, step.state)
        probs = jnp.asarray(current_policy(parts, learner, q, step).probs)
    return Inspection(
        greedy=best,
        q=utilities,
        q_tot=mix(parts, params, utilities, batch.action, step),
        q_tot_greedy=mix(parts, params, utilities, best, step),
        logits=logits,
        probs=probs,
    )


@register_learner(
    "value",
    options=ValueOptions,
    hypers=ValueHypers,
    # soft_qmix divides by the sum of its weights: the means over parts of a batch cannot be merged.
    shareable=lambda options: options.weighting != "soft_qmix",
    shared_instants=True,
)
def make_value(config: Config, spec: EnvSpec, share: GradientShare = ALONE) -> Algorithm:
    """The learner that `config.algo` (ValueOptions) describes, for environments of shape `spec`."""
    options, parts = config.algo, make_parts(config, spec)
    return Algorithm(
        init=partial(first_learner, parts, options),
        carry=parts.agent.carry,
        act=partial(act, parts),
        greedy=partial(greedy, parts),
        update=partial(update, parts, options, share),
        inspect=partial(inspect, parts),
        refresh_target=refresh_targets,
        target_interval=options.target_interval,
    )
