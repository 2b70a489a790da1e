"""FOP (Zhang et al. 2021) for continuous actions: squashed Gaussians under a factorised joint value.

The paper plays its differential game with it; no code of it was released. For u from replay and a_i ~ pi_i,
its losses are

    critic   (Q_jt(s, u) - G)^2, G the lambda-return of Q^-_jt(s', a') - alpha log pi_jt(a')     (9)
    value    (Q_i(a_i) - alpha_i log pi_i(a_i) - V_i)^2                                         (10)
    actor    alpha_i log pi_i(a_i) - Q_i(a_i), its gradient through a_i                         (11)

and the temperatures alpha_i = alpha E_pi[Q_i - V_i] / E_pi[lambda_i (Q_i - V_i)] (section 4.3). One
gradient moves all networks.

Q_jt reads actions in [-1, 1]. Densities are of actions in the units of the box, and so are entropies and
the target entropy: SAC's -1 per dimension of [-1, 1] is -1 + log(half the box) here. Dead agents have no
entropy and no part in the actors' loss. The agents share the head that reads their actions in Q_i,
whatever `net.shared` says.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..config import Config, register_learner
from ..config.registry import build
from ..networks.actors import Actor, make_gaussian_actor, mode, sample_actions
from ..networks.agents import AgentNet, example_inputs, make_agent_net
from ..networks.critics import ActionValue, PositiveSum
from ..networks.factorisation import Factorisation, JointValue, temperature_ratio
from ..networks.layers import apply
from ..ops.action_box import to_unit
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, new_learner
from ..ops.returns import batch_return
from ..ops.target_networks import refresh_targets
from ..ops.temperature import first_temperature, step_with_temperature
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params
from .fop_options import FopContinuousOptions, FopHypers

# Of the networks; each group has an optimiser and a gradient clip.
GROUPS = {"actor": "actor", "critic": "critic", "head": "critic", "mixer": "critic", "value": "value"}


class Parts(NamedTuple):
    """FOP's choices and networks."""

    options: FopContinuousOptions
    spec: EnvSpec
    actor: Actor  # pi_i
    critic: AgentNet  # what Q_i remembers, h_i
    head: ActionValue  # Q_i(h_i, a_i)
    mixer: Factorisation | PositiveSum  # Q_jt
    value: AgentNet  # V_i


class Sampled(NamedTuple):
    """Actions of the current policy, with gradients to its parameters. I is T or T + 1 instants."""

    action: jax.Array  # [I, B, N, d], in the box
    log_pi: jax.Array  # [I, B, N] log density; 0 for the dead


@register_learner(
    "fop_continuous", options=FopContinuousOptions, hypers=FopHypers, actions="continuous",
    shared_instants=True,
)  # fmt: skip
def make_fop_continuous(config: Config, spec: EnvSpec) -> Algorithm:
    """Build FOP for environments of shape `spec`; `config.net` describes the networks of pi_i, h_i and V_i.

    Its output scale is the policies' alone.
    """
    options, operands = config.algo, config.net.operands
    net = dataclasses.replace(config.net, output_scale=1.0)
    parts = Parts(
        options=options,
        spec=spec,
        actor=make_gaussian_actor(config.net, spec),
        critic=make_agent_net(net, spec, outputs=net.hidden),
        head=ActionValue(net.hidden, operands),
        mixer=(
            PositiveSum(spec.n_agents, options.mixing_embed, operands=operands)
            if options.form == "linear"
            else build(Factorisation, **vars(options), operands=operands)
        ),
        value=make_agent_net(net, spec, outputs=1),
    )
    return Algorithm(
        init=partial(init, parts), carry=parts.actor.carry,
        act=parts.actor.act, greedy=parts.actor.greedy,
        update=partial(update, parts), inspect=partial(inspect, parts),
        refresh_target=refresh_targets, target_interval=options.target_interval,
    )  # fmt: skip


# -- values ---------------------------------------------------------------------------------------


def sampled(parts: Parts, params: Params, batch: Batch, key: jax.Array) -> Sampled:
    """One action of every agent at every instant of the batch."""
    policy = parts.actor.policy(params["actor"], batch)
    action, log_pi = sample_actions(policy, key, batch.reward.shape[1])
    return Sampled(action, log_pi * batch.steps.alive)


def utility(parts: Parts, params: Params, h: jax.Array, action: jax.Array) -> jax.Array:
    """Q_i of actions in the box: h [..., N, H], action [..., N, d] -> [..., N]."""
    return apply(parts.head, params["head"], h, to_unit(action, parts.spec))


def joint_value(
    parts: Parts, params: Params, q: jax.Array, v: jax.Array, action: jax.Array, state: jax.Array
) -> JointValue:
    """Q_jt of actions in the box: q, v [..., N], action [..., N, d], state [..., G]."""
    if isinstance(parts.mixer, PositiveSum):
        k, b = apply(parts.mixer, params["mixer"], state)
        return JointValue(q=(k * q).sum(-1) + b, weight=k, penalty=jnp.zeros_like(b))
    return apply(parts.mixer, params["mixer"], q, v, to_unit(action, parts.spec), state)


# -- targets: nothing here is differentiated ------------------------------------------------------


def critic_targets(
    parts: Parts, target: Params, v: jax.Array, now: Sampled, batch: Batch, alpha: jax.Array, hypers: Any
) -> jax.Array:
    """G of Eq. 9, [T, B]; v [I, B, N] is V_i of the online network."""
    q = utility(parts, target, parts.critic.unroll(target["critic"], batch), now.action)
    value = joint_value(parts, target, q, v, now.action, batch.steps.state).q
    return batch_return(batch, value, hypers, bonus=-alpha * now.log_pi.sum(-1))


def individual_temperatures(
    parts: Parts, params: Params, q: jax.Array, v: jax.Array, action: jax.Array, batch: Batch, alpha
) -> jax.Array:
    """alpha_i, [N], by means over sampled actions [T, B, N, d] whose Q_i and V_i are q and v [T, B, N]."""
    alphas = alpha * jnp.ones(parts.spec.n_agents)
    if parts.options.temperatures == "shared":
        return alphas
    weight = joint_value(parts, params, q, v, action, batch.steps.state[: len(q)]).weight
    return alphas * temperature_ratio(q - v, weight * (q - v), batch.mask)


# -- losses ---------------------------------------------------------------------------------------


def critic_loss(q: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 9: q, targets and mask [T, B]."""
    return masked_mean(jnp.square(q - targets), mask)


def value_loss(v: jax.Array, soft_q: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 10, a mean over agents: v and soft_q = Q_i - alpha_i log pi_i [T, B, N], mask [T, B]."""
    return masked_mean(jnp.square(stop_gradient(soft_q) - v).mean(-1), mask)


def actor_loss(soft_q: jax.Array, alive: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 11, a mean over the living: soft_q and alive [T, B, N], mask [T, B]."""
    return -masked_mean(soft_q, alive * mask[..., None])


def losses(
    parts: Parts, params: Params, target: Params, batch: Batch, key: jax.Array, alpha: jax.Array, hypers
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """(the sum of all losses, (metrics, the policy's mean joint entropy))."""
    T, mask, state = len(batch.reward), batch.mask, batch.steps.state
    now = sampled(parts, params, batch, key)
    h = parts.critic.unroll(params["critic"], batch)[:T]
    v = parts.value.unroll(params["value"], batch)[..., 0]
    held, held_v, held_now = stop_gradient((params, v, now))
    returns = critic_targets(parts, target, held_v, held_now, batch, alpha, hypers)
    replayed_q = utility(parts, params, h, batch.action)
    joint = joint_value(parts, params, replayed_q, held_v[:T], batch.action, state[:T])
    q = utility(parts, held, stop_gradient(h), now.action[:T])  # its gradient reaches the actor alone
    alphas = individual_temperatures(
        parts, held, stop_gradient(q), held_v[:T], held_now.action[:T], batch, alpha
    )
    soft_q = q - alphas * now.log_pi[:T]
    each = {
        "loss_critic": critic_loss(joint.q, returns, mask),
        "loss_value": value_loss(v[:T], soft_q, mask),
        "loss_actor": actor_loss(soft_q, batch.steps.alive[:T], mask),
    }
    total = sum(each.values(), start=jnp.zeros(()))
    if parts.options.attention:
        total += hypers.attention_penalty * masked_mean(joint.penalty, mask)
    means = {"q_tot": masked_mean(joint.q, mask), "target": masked_mean(returns, mask)}
    entropy = masked_mean(-now.log_pi[:T].sum(-1), mask)
    return total, (each | means | {"alpha_i": alphas.mean()}, entropy)


# -- the learner ----------------------------------------------------------------------------------


def init(parts: Parts, key: jax.Array, hypers: Any) -> Learner:
    """The learner before its first update."""
    keys, N = jax.random.split(key, 5), parts.spec.n_agents
    each, action = jnp.zeros((1, N)), jnp.zeros((1, N, parts.spec.action_dim))
    h, state = jnp.zeros((1, N, parts.head.hidden)), example_inputs(parts.spec).state
    mixed = (state,) if isinstance(parts.mixer, PositiveSum) else (each, each, action, state)
    params = {
        "actor": parts.actor.init(keys[0]),
        "critic": parts.critic.init(keys[1]),
        "head": parts.head.init(keys[2], h, action),
        "mixer": parts.mixer.init(keys[3], *mixed),
        "value": parts.value.init(keys[4]),
    }
    tx = actor_critic_optimiser(parts.options.optimiser, GROUPS, hypers)
    temperature = first_temperature(parts.options.temperature, hypers)
    return new_learner(params, ("critic", "head", "mixer"), tx, temperature)


def update(parts: Parts, learner: Learner, batch: Batch, key, env_steps, hypers) -> tuple[Learner, Metrics]:
    """One gradient step of all networks, and one of alpha."""
    options, alpha = parts.options, jnp.exp(learner.log_alpha)
    gradient = jax.grad(partial(losses, parts), has_aux=True)
    grads, (metrics, entropy) = gradient(learner.params, learner.target, batch, key, alpha, hypers)
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    rule, N = options.temperature, parts.spec.n_agents
    learner, more = step_with_temperature(rule, N, learner, grads, tx, entropy, env_steps, hypers)
    return learner, metrics | more


def inspect(parts: Parts, learner: Learner, batch: Batch) -> Inspection:
    """What the current networks believe. There are no utilities or probabilities of every action."""
    T, params = len(batch.reward), learner.params
    state = batch.steps.state[:T]
    h, v = (
        parts.critic.unroll(params["critic"], batch)[:T],
        parts.value.unroll(params["value"], batch)[:T, ..., 0],
    )
    greedy = mode(parts.actor.policy(params["actor"], batch))[:T]

    def q_jt(action: jax.Array) -> jax.Array:
        return joint_value(parts, params, utility(parts, params, h, action), v, action, state).q

    return Inspection(greedy=greedy, q_tot=q_jt(batch.action), q_tot_greedy=q_jt(greedy))
