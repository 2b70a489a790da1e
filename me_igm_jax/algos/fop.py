"""FOP (Zhang et al. 2021) for discrete actions: soft actor-critic with a factorised joint value.

With pi_jt = prod_i pi_i, and Q_jt the factorisation of `networks.factorisation`, it has the losses

    critic   (Q_jt(s, u) - G)^2, G the lambda-return of min_k Q^-_jt(s', a') - alpha log pi_jt(a')   (9)
    value    (E_pi[Q_i - alpha_i log pi_i] - V_i)^2                                                 (10)
    actor    E_pi[alpha_i log pi_i - Q_i]                                                           (11)

and the temperatures alpha_i = alpha E_pi[Q_i - V_i] / E_pi[lambda_i (Q_i - V_i)] (section 4.3). The options
choose between the form of the paper and that of the released code (docs/algorithms.md). Two things differ
from the released code in every form. One gradient moves all networks; there the actor learns first, and the
critics' a' are sampled from the new actor. One clip of the gradient norm serves both critics with their
mixers; there each critic has a clip.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..config import Config, register_learner
from ..config.registry import build
from ..networks.actors import Actor, make_actor
from ..networks.agents import AgentNet, example_inputs, make_agent_net
from ..networks.factorisation import Factorisation, joint_values, soft_values, temperature_ratio
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, gradients_through, new_learner
from ..ops.policies import Categorical, categorical, chosen, sample
from ..ops.returns import batch_return
from ..ops.target_networks import refresh_targets
from ..ops.temperature import first_temperature, step_with_temperature
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params
from .fop_options import FopHypers, FopOptions


class Parts(NamedTuple):
    """FOP's choices and networks. An axis K in front of parameters counts the critics."""

    options: FopOptions
    spec: EnvSpec
    groups: dict[str, str]  # of the networks; each group has an optimiser and a gradient clip
    actor: Actor  # pi_i
    critic: AgentNet  # Q_i, with an axis K
    mixer: Factorisation  # Q_jt, with an axis K
    value: AgentNet  # V_i, unless it follows from Q_i


class Targets(NamedTuple):
    """What the networks are fitted to, and the policy's part in it."""

    q: jax.Array  # [T, B] G, for Q_jt
    v: jax.Array  # [T, B, N] for V_i
    alpha: jax.Array  # [N] alpha_i
    entropy: jax.Array  # [T, B] joint entropy of the current policy


@register_learner("fop", options=FopOptions, hypers=FopHypers, shared_instants=True)
def make_fop(config: Config, spec: EnvSpec) -> Algorithm:
    """Build FOP for environments of shape `spec`; `config.net` describes the networks of pi_i, Q_i, V_i."""
    groups = {"actor": "actor", "critic": "critic", "mixer": "critic"}
    parts = Parts(
        options=config.algo,
        spec=spec,
        groups=groups | ({"value": "value"} if config.algo.value == "network" else {}),
        actor=make_actor(config.net, spec),
        critic=make_agent_net(config.net, spec),
        mixer=build(Factorisation, **vars(config.algo), operands=config.net.operands),
        value=make_agent_net(config.net, spec, outputs=1),
    )
    return Algorithm(
        init=partial(init, parts), carry=parts.actor.carry,
        act=parts.actor.act, greedy=parts.actor.greedy,
        update=partial(update, parts), inspect=partial(inspect, parts),
        refresh_target=refresh_targets, target_interval=config.algo.target_interval,
    )  # fmt: skip


# -- values: I is the number of instants, T or T + 1 ----------------------------------------------


def unroll(parts: Parts, params: Params, batch: Batch) -> dict[str, jax.Array]:
    """actor: logits [I, B, N, A]; critic: Q_i [K, I, B, N, A]; value: V_i [I, B, N], if it is a network."""
    out = {
        "actor": jnp.asarray(parts.actor.policy(params["actor"], batch).logits),
        "critic": utilities(parts, params["critic"], batch),
    }
    if "value" in params:
        out["value"] = parts.value.unroll(params["value"], batch)[..., 0]
    return out


def utilities(parts: Parts, params: Params, batch: Batch) -> jax.Array:
    """Q_i of all actions, [K, I, B, N, A]."""
    return jax.vmap(lambda p: parts.critic.unroll(p, batch))(params)


def expected_soft_q(policy: Categorical, q: jax.Array, alphas: jax.Array) -> jax.Array:
    """E_pi[Q_i - alpha_i log pi_i]: policy [..., N], q [..., N, A], alphas [N] -> [..., N]."""
    return (policy.probs * q).sum(-1) + alphas * jnp.asarray(policy.entropy())


# -- targets --------------------------------------------------------------------------------------


def individual_temperatures(
    parts: Parts, params: Params, out: dict, policy: Categorical, action: jax.Array, batch: Batch, alpha
) -> jax.Array:
    """alpha_i by the first critic, [N]; E[lambda_i (Q_i - V_i)] is a mean over actions [I, B, N] of pi."""
    alphas = alpha * jnp.ones(parts.spec.n_agents)
    if parts.options.temperatures == "shared":
        return alphas
    T, first = len(batch.reward), jax.tree.map(lambda x: x[:1], params["mixer"])
    q, v = out["critic"][:1], soft_values(out["critic"][:1], out.get("value"), alpha)
    weight = joint_values(parts.mixer, first, q, v, action, batch.steps.state).weight[0]
    gain, weighted = (policy.probs * q[0]).sum(-1) - v[0], weight * (chosen(q[0], action) - v[0])
    return alphas * temperature_ratio(gain[:T], weighted[:T], batch.mask)


def critic_targets(
    parts: Parts, target: Params, v, policy: Categorical, action: jax.Array, batch: Batch, alpha, hypers
) -> jax.Array:
    """G of Eq. 9, [T, B], for actions [I, B, N] of pi; v [I, B, N] is V_i if it is a network, else None."""
    q = utilities(parts, target["critic"], batch)
    joint = joint_values(
        parts.mixer, target["mixer"], q, soft_values(q, v, alpha), action, batch.steps.state
    )
    value, log_pi = joint.q.min(0), jnp.asarray(policy.log_prob(action))
    if parts.options.entropy == "sum":
        return batch_return(batch, value, hypers, bonus=-alpha * log_pi.sum(-1))
    returns, bonus = batch_return(batch, value, hypers), -alpha * log_pi.mean(-1)
    if len(bonus) == len(returns):  # no transition has a next instant
        return returns
    return returns + batch.discount * bonus[1:]  # the released code adds it past terminal steps too


def make_targets(
    parts: Parts, learner: Learner, out: dict, batch: Batch, key: jax.Array, hypers: Any
) -> Targets:
    """What the losses are measured against; `out` is what `unroll` gives."""
    (T, B), alpha, logits = batch.reward.shape, jnp.exp(learner.log_alpha), out["actor"]
    # Every sequence samples actions of its own, also when all sequences share their instants.
    policy = categorical(jnp.broadcast_to(logits, (len(logits), B, *logits.shape[2:])))
    action = sample(key, policy)
    alphas = individual_temperatures(parts, learner.params, out, policy, action, batch, alpha)
    return Targets(
        q=critic_targets(parts, learner.target, out.get("value"), policy, action, batch, alpha, hypers),
        v=expected_soft_q(policy, out["critic"].min(0), alphas)[:T],
        alpha=alphas,
        entropy=jnp.asarray(policy.entropy())[:T].sum(-1),
    )


# -- losses ---------------------------------------------------------------------------------------


def critic_loss(q: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 9, summed over the critics: q [K, T, B], targets and mask [T, B]."""
    return jax.vmap(lambda q: masked_mean(jnp.square(q - targets), mask))(q).sum()


def value_loss(v: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 10, a mean over agents: v and targets [T, B, N], mask [T, B]."""
    return masked_mean(jnp.square(targets - v).mean(-1), mask)


def actor_loss(policy: Categorical, q: jax.Array, alphas: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 11, a mean over agents: policy [T, B, N], q [T, B, N, A], alphas [N], mask [T, B]."""
    return -masked_mean(expected_soft_q(policy, stop_gradient(q), alphas).mean(-1), mask)


def losses(
    parts: Parts, out: dict, mixer: Params, targets: Targets, batch: Batch, alpha: jax.Array, hypers: Any
) -> tuple[jax.Array, Metrics]:
    """(the sum of all losses, metrics); `out` is what `unroll` gives, `mixer` the mixer's parameters."""
    T, mask = len(batch.reward), batch.mask
    q, v = out["critic"][:, :T], out["value"][:T] if "value" in out else None
    state = batch.steps.state[:T]
    joint = joint_values(parts.mixer, mixer, q, soft_values(q, v, alpha), batch.action, state)
    each = {
        "loss_critic": critic_loss(joint.q, targets.q, mask),
        "loss_actor": actor_loss(categorical(out["actor"][:T]), q.min(0), targets.alpha, mask),
    }
    if v is not None:
        each["loss_value"] = value_loss(v, targets.v, mask)
    total = sum(each.values(), start=jnp.zeros(()))
    if parts.options.attention:
        total += hypers.attention_penalty * masked_mean(joint.penalty.sum(0), mask)
    return total, each | {"q_tot": masked_mean(joint.q[0], mask), "target": masked_mean(targets.q, mask)}


# -- the learner ----------------------------------------------------------------------------------


def init(parts: Parts, key: jax.Array, hypers: Any) -> Learner:
    """The learner before its first update."""
    options, spec, K = parts.options, parts.spec, 2 if parts.options.twin else 1
    keys = jax.random.split(key, 4)
    each, one_hot = jnp.zeros((1, spec.n_agents)), jnp.zeros((1, spec.n_agents, spec.n_actions))
    example = (each, each, one_hot, example_inputs(spec).state)
    params = {
        "actor": parts.actor.init(keys[0]),
        "critic": jax.vmap(parts.critic.init)(jax.random.split(keys[1], K)),
        "mixer": jax.vmap(lambda k: parts.mixer.init(k, *example))(jax.random.split(keys[2], K)),
    }
    if options.value == "network":
        params["value"] = parts.value.init(keys[3])
    tx = actor_critic_optimiser(options.optimiser, parts.groups, hypers)
    return new_learner(params, ("critic", "mixer"), tx, first_temperature(options.temperature, hypers))


def update(parts: Parts, learner: Learner, batch: Batch, key, env_steps, hypers) -> tuple[Learner, Metrics]:
    """One gradient step of all networks, and one of alpha."""
    options, alpha = parts.options, jnp.exp(learner.log_alpha)
    grads, targets, metrics = gradients_through(
        unroll=lambda nets: unroll(parts, nets, batch),
        nets={name: p for name, p in learner.params.items() if name != "mixer"},
        heads={"mixer": learner.params["mixer"]},
        targets=lambda out: make_targets(parts, learner, out, batch, key, hypers),
        losses=lambda out, heads, fixed: losses(parts, out, heads["mixer"], fixed, batch, alpha, hypers),
    )
    tx = actor_critic_optimiser(options.optimiser, parts.groups, hypers, env_steps)
    entropy, rule, N = masked_mean(targets.entropy, batch.mask), options.temperature, parts.spec.n_agents
    learner, more = step_with_temperature(rule, N, learner, grads, tx, entropy, env_steps, hypers)
    return learner, metrics | more | {"alpha_i": targets.alpha.mean()}


def inspect(parts: Parts, learner: Learner, batch: Batch) -> Inspection:
    """What the current networks believe; of two critics the smaller values."""
    T, out = len(batch.reward), unroll(parts, learner.params, batch)
    policy, q, state = categorical(out["actor"][:T]), out["critic"][:, :T], batch.steps.state[:T]
    v = soft_values(q, out["value"][:T] if "value" in out else None, jnp.exp(learner.log_alpha))
    greedy = jnp.asarray(policy.mode())

    def q_jt(action: jax.Array) -> jax.Array:
        return joint_values(parts.mixer, learner.params["mixer"], q, v, action, state).q.min(0)

    return Inspection(
        greedy=greedy, q=q.min(0), q_tot=q_jt(batch.action), q_tot_greedy=q_jt(greedy),
        logits=jnp.asarray(policy.logits), probs=jnp.asarray(policy.probs),
    )  # fmt: skip
