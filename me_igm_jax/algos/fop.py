"""FOP (Zhang et al. 2021): soft actor-critic whose joint value is factorised so that the individual soft
policies make up the joint one. `config.fop` says where the paper's form or the released code's is used.
"""

from typing import NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from ..config import Config, ConfigError, Fop, Hypers
from ..mixers import importance, similarity
from ..nets import MLP
from ..policies import sample
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params
from .actor import make_actor
from .agent import apply, chosen, each_sample, empty_step, make_agent_net, trim
from .learning import (
    actor_critic_optimiser,
    first_temperature,
    new_learner,
    soft_step,
    target_refresher,
)

sg = jax.lax.stop_gradient
RATIO = 10.0  # alpha_i stays within this factor of alpha: the paper's ratio has no bounds of its own


class Joint(NamedTuple):
    """A joint value and what it was made of."""

    q: jax.Array  # [...] Q_jt(s, u)
    weight: jax.Array  # [..., N] lambda_i(s, u)
    penalty: jax.Array  # [...] squared attention logits, summed over heads and agents


class Factorisation(nn.Module):
    """Q_jt from individual Q_i and soft V_i (FOP section 4.3), lambda_i as QPLEX's.

    paper      Q_jt = sum_i lambda_i(s, u) (Q_i - V_i) + V_jt(s)
    released   Q_jt = sum_i w_i(s) Q_i + V(s) + sum_i (lambda_i(s, u) - 1) sg[w_i (Q_i - V_i)],
               w_i = 1 or the sum of Qatten's attention heads
    """

    fop: Fop
    embed: int
    hyper: int

    @nn.compact
    def __call__(self, q: jax.Array, v: jax.Array, action: jax.Array, state: jax.Array) -> Joint:
        fop, n = self.fop, action.shape[-2]
        weight = importance(fop.heads, (self.hyper,) * (fop.layers - 1), action, state)
        value = MLP((self.embed, 1))(state)[..., 0]
        if fop.form == "paper":
            return Joint((weight * (q - v)).sum(-1) + value, weight, jnp.zeros_like(value))
        w, penalty = 1.0, jnp.zeros_like(value)
        if fop.attention:
            logits = similarity(fop.heads, n, self.hyper, self.embed, state)
            w = nn.softmax(logits).sum(-2) + 1e-10
            penalty = jnp.square(logits).sum((-2, -1))
        advantage = sg(w * (q - v))
        return Joint((w * q).sum(-1) + value + ((weight - 1) * advantage).sum(-1), weight, penalty)


class Goal(NamedTuple):
    """What the networks are fitted to, and the temperatures and the policy it was computed with."""

    q: jax.Array  # [T, B] lambda-return
    v: jax.Array  # [T, B, N] soft values of the current policy
    alpha: jax.Array  # [N] individual temperatures
    entropy: jax.Array  # [T, B] joint entropy of the current policy


def temperature_ratio(gain: jax.Array, weighted: jax.Array, mask: jax.Array) -> jax.Array:
    """E[Q_i - V_i] / E[lambda_i (Q_i - V_i)] for each agent, [..., N] -> [N]; 1 where the signs differ."""

    def mean(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: masked_mean(jnp.broadcast_to(x, mask.shape), mask), -1)(x)

    above, below = mean(gain), mean(weighted)
    ratio = above / jnp.where(above * below > 0, below, 1.0)
    return jnp.where(above * below > 0, jnp.clip(ratio, 1 / RATIO, RATIO), 1.0)


def make_fop(config: Config, spec: EnvSpec) -> Algorithm:
    """Build FOP for environments of shape `spec`. Losses, each with its own optimiser:

    critic   (Q_jt(s, u) - G)^2, G the lambda-return of min_k Q^-_jt(s', a') - alpha log pi_jt(a')   (9)
    value    (E_pi[Q_i - alpha_i log pi_i] - V_i)^2                                                 (10)
    actor    E_pi[alpha_i log pi_i - Q_i]                                                           (11)
    alpha_i  alpha E_pi[Q_i - V_i] / E_pi[lambda_i (Q_i - V_i)]

    The networks of Q_i, V_i and pi_i are those that `config.net` describes.
    """
    algo, fop = config.algo, config.fop
    if fop.form == "linear":
        raise ConfigError("fop.form=linear: is for continuous actions; use fop.form=paper")
    actor, critic = make_actor(config.net, spec), make_agent_net(config.net, spec)
    value_net = make_agent_net(config.net, spec, outputs=1)
    mixer = Factorisation(fop, algo.mixing_embed, algo.hyper_embed)
    groups = {"actor": "actor", "critic": "critic", "mixer": "critic"}
    if fop.value == "network":
        groups["value"] = "value"
    count = 2 if fop.twin else 1

    # -- values: a leading axis K counts the critics -----------------------------------------------

    def unroll(params: Params, batch: Batch) -> Params:
        """Outputs of the networks in `params`: actor [T(+1), B, N, A], critic [K, ...], value [...]."""
        nets = {
            "actor": lambda p: actor.policy(p, batch).logits,
            "critic": jax.vmap(lambda p: critic.unroll(p, batch)),
            "value": lambda p: value_net.unroll(p, batch)[..., 0],
        }
        return {k: nets[k](p) for k, p in params.items() if k in nets}

    def soft_value(q: jax.Array, v: jax.Array | None, alpha: jax.Array) -> jax.Array:
        """V_i [(K,) ..., N] of utilities q [(K,) ..., N, A]; no gradient passes."""
        if v is not None:
            return sg(jnp.broadcast_to(v, q.shape[:-1]))
        return sg(alpha * nn.logsumexp(q / alpha, axis=-1))

    def joint(params: Params, q: jax.Array, v: jax.Array, action: jax.Array, state: jax.Array) -> Joint:
        """Q_jt of `action` by each critic, leaves [K, ...]."""
        onehot = jax.nn.one_hot(action, spec.n_actions)
        return jax.vmap(lambda p, q, v: apply(mixer, p, chosen(q, action), v, onehot, state))(params, q, v)

    # -- learning ----------------------------------------------------------------------------------

    def targets(learner: Learner, out: Params, batch: Batch, key: jax.Array, hypers: Hypers) -> Goal:
        T, alpha = len(batch.reward), jnp.exp(learner.log_alpha)
        lead = (len(out["actor"]), *batch.reward.shape[1:])  # a draw of its own for every sample
        logits = jnp.broadcast_to(out["actor"], (*lead, spec.n_agents, spec.n_actions))
        policy, state = distrax.Categorical(logits=logits), batch.steps.state
        action, probs = sample(key, policy), jnp.asarray(policy.probs)
        entropy, log_pi = (jnp.asarray(x) for x in (policy.entropy(), policy.log_prob(action)))
        v = soft_value(out["critic"], out.get("value"), alpha)
        alphas = alpha * jnp.ones(spec.n_agents)
        if fop.temperatures == "ratio":
            q, now_v = out["critic"][0, :T], v[0, :T]
            now = (q[None], now_v[None], action[:T], state[:T])
            weight = joint(learner.params["mixer"], *now).weight[0]
            gain = (probs[:T] * q).sum(-1) - now_v
            alphas *= temperature_ratio(gain, weight * (chosen(q, action[:T]) - now_v), batch.mask)
        q_min = out["critic"].min(0)
        soft_v = (probs * q_min).sum(-1) + alphas * entropy
        joint_entropy = entropy[:T].sum(-1)
        if spec.one_step:
            return Goal(batch.reward, soft_v, alphas, joint_entropy)
        q_target = unroll({"critic": learner.target["critic"]}, batch)["critic"]
        v_target = soft_value(q_target, out.get("value"), alpha)
        value = joint(learner.target["mixer"], q_target, v_target, action, state).q.min(0)
        bonus = -alpha * (log_pi.sum(-1) if fop.entropy == "sum" else log_pi.mean(-1))
        inside = bonus if fop.entropy == "sum" else jnp.zeros_like(bonus)
        g = lambda_return(
            batch.reward, batch.discount, batch.mask, value, inside, hypers.gamma, hypers.td_lambda
        )
        if fop.entropy == "mean":  # the released code adds it past terminal steps too
            g += batch.discount * bonus[1:]
        return Goal(g, soft_v[:T], alphas, joint_entropy)

    def losses(out: Params, mixers: Params, batch: Batch, goal: Goal, hypers: Hypers, alpha):
        T, mask = len(batch.reward), batch.mask

        def mean(x: jax.Array) -> jax.Array:
            return masked_mean(jnp.broadcast_to(x, mask.shape), mask)

        q, v = out["critic"][:, :T], out["value"][:T] if "value" in out else None
        mixed = joint(mixers, q, soft_value(q, v, alpha), batch.action, batch.steps.state[:T])
        policy = distrax.Categorical(logits=out["actor"][:T])
        gain = (policy.probs * sg(q.min(0))).sum(-1) + goal.alpha * policy.entropy()
        metrics = {
            "loss_critic": jax.vmap(lambda q: mean(jnp.square(q - goal.q)))(mixed.q).sum(),
            "loss_actor": -mean(gain.mean(-1)),
            "q_tot": mean(mixed.q[0]),
            "target": mean(goal.q),
        }
        loss = metrics["loss_critic"] + metrics["loss_actor"]
        if fop.attention:
            loss += hypers.attention_penalty * mean(mixed.penalty.sum(0))
        if v is not None:
            metrics["loss_value"] = mean(jnp.square(goal.v - v).mean(-1))
            loss += metrics["loss_value"]
        return loss, metrics

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        batch, alpha = trim(batch, spec), jnp.exp(learner.log_alpha)
        nets = {k: p for k, p in learner.params.items() if k != "mixer"}
        # One unroll serves both the targets and, through its pull-back, the gradient.
        out, pull_back = jax.vjp(lambda p: unroll(p, batch), nets)
        goal = targets(learner, out, batch, key, hypers)
        grad = jax.grad(losses, argnums=(0, 1), has_aux=True)
        (d_out, d_mixers), metrics = grad(out, learner.params["mixer"], batch, goal, hypers, alpha)
        grads = {**pull_back(d_out)[0], "mixer": d_mixers}
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers, env_steps)
        entropy = masked_mean(goal.entropy, batch.mask)
        learner, taken = soft_step(algo, spec, learner, grads, tx, entropy, env_steps, hypers)
        return learner, metrics | taken | {"alpha_i": goal.alpha.mean()}

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        keys = jax.random.split(key, 4)
        step = empty_step(spec)
        mixing = (step.alive, step.alive, step.avail, step.state)
        params = {
            "actor": actor.init(keys[0]),
            "critic": jax.vmap(critic.init)(jax.random.split(keys[1], count)),
            "mixer": jax.vmap(lambda k: mixer.init(k, *mixing))(jax.random.split(keys[2], count)),
        }
        if fop.value == "network":
            params["value"] = value_net.init(keys[3])
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers)
        return new_learner(params, ("critic", "mixer"), tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        out, state = unroll(learner.params, batch), batch.steps.state[:T]
        q, policy = out["critic"][:, :T], distrax.Categorical(logits=out["actor"][:T])
        value = out["value"][:T] if "value" in out else None
        v = soft_value(q, value, jnp.exp(learner.log_alpha))

        def q_jt(action: jax.Array) -> jax.Array:
            return joint(learner.params["mixer"], q, v, action, state).q.min(0)

        best, logits, probs = (jnp.asarray(x) for x in (policy.mode(), policy.logits, policy.probs))
        view = Inspection(q.min(0), q_jt(batch.action), q_jt(best), best, logits, probs)
        return each_sample(view, batch)

    return Algorithm(init, actor.carry, actor.act, actor.greedy, update, target_refresher(spec), inspect)
