"""The value family with continuous actions: values of proposed actions in place of a value per action.

Each agent has a network Q_i(o_i, u) and at every instant K proposals u_1 .. u_K, uniform in its box.
It takes proposal k with probability softmax_k(OPT_i(Q_i(u_k), s) / alpha), and the density of its action,

    pi_i(u) = K / |box| E[ e^l(u) / (e^l(u) + sum of K - 1 others) ],    l = OPT_i(Q_i, s) / alpha,

is strictly increasing in Q_i(u) for every K, because x / (x + c) is: order is preserved, not only in the
limit e^l(u) / integral e^l. With a monotone mixer the best actions of the agents are therefore at once the
modes of the policy and the maximiser of Q_tot, over any product of sets of actions (docs/algorithms.md).
The losses are those of `value`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config, register_learner
from ..ops.action_box import log_volume, to_unit, uniform
from ..ops.batches import first_instants
from ..ops.box_search import best_in_box, pick
from ..ops.gradient_share import ALONE
from ..ops.losses import JointValues
from ..ops.policies import Categorical, categorical, sample
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
from .value_options import FamilyHypers, ValueContinuousOptions

# -- values and policies --------------------------------------------------------------------------


def propose(parts: Parts, proposals: int, key: jax.Array, leading: tuple[int, ...]) -> jax.Array:
    """Uniform proposals for every agent, [*leading, N, K, d]."""
    return uniform(key, (*leading, parts.spec.n_agents, proposals), parts.spec)


def action_values(parts: Parts, params: Params, h: jax.Array, actions: jax.Array) -> jax.Array:
    """q_i(h, u) before g_i: h [..., N, H], actions [..., N, K, d] -> [..., N, K]."""
    return apply_part(parts, "head", params, h[..., None, :], to_unit(actions, parts.spec))


def best_action(parts: Parts, options: ValueContinuousOptions, params: Params, h: jax.Array) -> jax.Array:
    """argmax_u q_i(h, u), [..., N, H] -> [..., N, d]."""
    return best_in_box(
        lambda actions: action_values(parts, params, h, actions),
        h.shape[:-1],
        parts.spec,
        options.proposals,
        options.refinements,
    )


def utilities_of(
    parts: Parts, params: Params, h: jax.Array, actions: jax.Array, state: jax.Array
) -> jax.Array:
    """g_i(q_i(h, u), s) of actions [..., N, K, d] -> [..., N, K]; h [..., N, H], state [..., G]."""
    return transformed(parts, params, action_values(parts, params, h, actions), state)


def proposal_policy(
    parts: Parts, learner: Learner, h: jax.Array, proposals: jax.Array, state: jax.Array
) -> Categorical:
    """softmax_k(OPT_i(g_i(q_i(u_k))) / alpha) over proposals [..., N, K, d]."""
    utilities = utilities_of(parts, learner.params, h, proposals, state)
    logits = policy_logits(parts, learner.params, utilities, state)
    return categorical(logits / jnp.exp(learner.log_alpha))


def mix(
    parts: Parts, params: Params, h: jax.Array, action: jax.Array, others: jax.Array, state: jax.Array
) -> jax.Array:
    """Q_tot(s, u) of joint actions u [..., N, d] -> [...].

    The best action of an agent is taken to be u_i or one of `others` [..., N, K, d]; h [..., N, H].
    """
    taken = utilities_of(parts, params, h, action[..., None, :], state)[..., 0]
    q_max = jnp.maximum(utilities_of(parts, params, h, others, state).max(-1), taken)
    unit = to_unit(action, parts.spec)
    return apply_part(parts, "mixer", params, taken, state, q_max=q_max, action=unit)


def mix_central(
    parts: Parts, params: Params, h: jax.Array, action: jax.Array, state: jax.Array
) -> jax.Array:
    """Q^(s, u) of the central critic, from h [..., N, H] of its agent network: u [..., N, d] -> [...]."""
    head = {"head": params["central_head"]}
    q = action_values(parts, head, h, action[..., None, :])[..., 0]
    return apply_part(parts, "central_mixer", params, q, state)


def joint_values(
    parts: Parts, params: Params, h: Outputs, proposals: jax.Array, batch: Batch
) -> JointValues:
    """Values of the batch's joint actions; h as `unroll` returns it, proposals [T or T + 1, B, N, K, d].

    The values of the greedy joint actions are not computed: those of the batch stand for them.
    """
    T, action = len(batch.reward), batch.action
    state, h, proposals = first_instants((batch.steps.state, h, proposals), T)
    q_tot = mix(parts, params, h["agent"], action, proposals, state)
    q_hat = opt_sum = q_tot
    if parts.central_mixer is not None:
        q_hat = mix_central(parts, params, h["central_agent"], action, state)
    if parts.transform is not None:
        taken = utilities_of(parts, params, h["agent"], action[..., None, :], state)
        opt_sum = policy_logits(parts, params, taken, state)[..., 0].sum(-1)
    return JointValues(
        q_tot=q_tot,
        q_tot_best=q_tot,
        q_hat=q_hat,
        q_hat_best=q_hat,
        is_best=jnp.zeros(action.shape[:2], bool),
        opt_sum=opt_sum,
    )


# -- targets --------------------------------------------------------------------------------------


def td_targets(
    parts: Parts, options: ValueContinuousOptions, learner: Learner, h: jax.Array, proposals: jax.Array,
    batch: Batch, key: jax.Array, hypers: FamilyHypers,
) -> Targets:  # fmt: skip
    """G: the lambda-return of what the target networks say of the next joint action, one of the proposals.

    It is the best by the online networks, h [T or T + 1, B, N, H], or sampled from the current policy.
    Then alpha times the entropy of the next instant is added (ME-IGM App. A).
    """
    if parts.transform is not None:
        policy = proposal_policy(parts, learner, h, proposals, batch.steps.state)
        density = float(np.log(options.proposals)) - log_volume(parts.spec)  # K / |box|, in the log
        index = sample(key, policy)
        entropy = jnp.asarray(policy.entropy() - density).sum(-1)
        log_prob = (jnp.asarray(policy.log_prob(index)) + density).sum(-1)
        bonus = jnp.exp(learner.log_alpha) * entropy_bonus(options.entropy, log_prob, entropy)
    else:
        index = action_values(parts, learner.params, h, proposals).argmax(-1)
        entropy = bonus = None
    value = target_value(parts, learner.target, batch, pick(proposals, index), proposals)
    return Targets(batch_return(batch, value, hypers, bonus), entropy)


def target_value(
    parts: Parts, target: Params, batch: Batch, action: jax.Array, proposals: jax.Array
) -> jax.Array:
    """What the target networks say of a joint action at every instant, [T or T + 1, B, N, d] -> [.., B]."""
    h, state = unroll(parts, target, batch), batch.steps.state
    if parts.central_mixer is not None:
        return mix_central(parts, target, h["central_agent"], action, state)
    return mix(parts, target, h["agent"], action, proposals, state)


# -- the functions of the learner (types.Algorithm) -----------------------------------------------


def act(
    parts: Parts, options: ValueContinuousOptions,
    learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers,
):  # fmt: skip
    """One of the proposals: a sample of the policy, or the best one but with probability epsilon any."""
    proposal_key, key, explore_key = jax.random.split(key, 3)
    memory, h = parts.agent.step(learner.params["agent"], carry, step)
    proposals = propose(parts, options.proposals, proposal_key, (len(h),))
    if parts.transform is not None:
        index = sample(key, proposal_policy(parts, learner, h, proposals, step.state))
    else:
        explores = jax.random.uniform(explore_key, h.shape[:-1]) < exploration_rate(hypers, env_steps)
        best = action_values(parts, learner.params, h, proposals).argmax(-1)
        index = jnp.where(explores, 0, best)  # every proposal is a uniform sample
    action = pick(proposals, index)
    return (memory, action), action


def greedy(parts: Parts, options: ValueContinuousOptions, learner: Learner, carry: Carry, step: TimeStep):
    """The best actions by q: g_i keeps the order of the utilities, so it need not be applied."""
    memory, h = parts.agent.step(learner.params["agent"], carry, step)
    action = best_action(parts, options, learner.params, h)
    return (memory, action), action


def update(
    parts: Parts, options: ValueContinuousOptions,
    learner: Learner, batch: Batch, key, env_steps, hypers: FamilyHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step of all parts together, and one step of the temperature."""
    proposal_key, key = jax.random.split(key)
    proposals = propose(parts, options.proposals, proposal_key, batch.first.shape)

    def targets_of(h: Outputs) -> Targets:
        return td_targets(parts, options, learner, h["agent"], proposals, batch, key, hypers)

    def values_of(heads: Params, h: Outputs) -> JointValues:
        return joint_values(parts, heads, h, proposals, batch)

    return learn(parts, options, ALONE, learner, batch, env_steps, hypers, targets_of, values_of)


def inspect(parts: Parts, options: ValueContinuousOptions, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch."""
    T, params = len(batch.reward), learner.params
    h, state = first_instants((parts.agent.unroll(params["agent"], batch), batch.steps.state), T)
    best = best_action(parts, options, params, h)
    others = best[..., None, :]
    return Inspection(
        greedy=best,
        q_tot=mix(parts, params, h, batch.action, others, state),
        q_tot_greedy=mix(parts, params, h, best, others, state),
    )


@register_learner(
    "value_continuous",
    options=ValueContinuousOptions,
    hypers=FamilyHypers,
    actions="continuous",
    shared_instants=True,
)
def make_value_continuous(config: Config, spec: EnvSpec) -> Algorithm:
    """The learner that `config.algo` (ValueContinuousOptions) describes, for actions in `spec`'s box."""
    options, parts = config.algo, make_parts(config, spec)
    return Algorithm(
        init=partial(first_learner, parts, options),
        carry=parts.agent.carry,
        act=partial(act, parts, options),
        greedy=partial(greedy, parts, options),
        update=partial(update, parts, options),
        inspect=partial(inspect, parts, options),
        refresh_target=refresh_targets,
        target_interval=options.target_interval,
    )
