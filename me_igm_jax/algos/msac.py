"""mSAC (Pu et al. 2021): soft actor-critic, its twin joint critics decomposed into the agents' values.

`config.msac` says where the paper's form or the released code's is used.
"""

import dataclasses

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from ..config import Config, Hypers
from ..mixers import QMIX
from ..nets import Linear
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params
from .actor import make_actor
from .agent import apply, chosen, each_sample, empty_step, make_agent_net, trim
from .learning import actor_critic_optimiser, first_temperature, new_learner, refreshed, soft_step

sg = jax.lax.stop_gradient
REWARD_STD = 10.0  # of standardised rewards
LOGITS = (-5.0, 2.0)  # bounds of clamped ones


class LinearMixer(nn.Module):
    """Q_tot = sum_i |w_i(s)| Q_i + b(s), w and b linear in s: the released code's mixer."""

    @nn.compact
    def __call__(self, q_taken, q_max, action, state):
        w = jnp.abs(Linear(q_taken.shape[-1])(state))
        return (w * q_taken).sum(-1) + Linear(1)(state)[..., 0]


def standardised(reward: jax.Array, mask: jax.Array) -> jax.Array:
    """`REWARD_STD` (r - mean) / deviation, both over the batch's real transitions, [T, B]."""
    centred = reward - masked_mean(reward, mask)
    return REWARD_STD * centred / (jnp.sqrt(masked_mean(jnp.square(centred), mask)) + 1e-6)


def make_msac(config: Config, spec: EnvSpec) -> Algorithm:
    """Build mSAC for environments of shape `spec`. With Mix_k the mixers of the critics k = 1, 2,

        V_k(s)   = Mix_k((E_pi_i[Q_ki - alpha log pi_i])_i, s)
        critics  sum_k (Mix_k((Q_ki(u_i))_i, s) - G)^2, G the lambda-return of min_k V^-_k
        actor    -min_k V_k(s), the critics and mixers held (released: -V_1)

    Losses are means over the real transitions. The expectations are exact and taken inside the mixer: that
    of the joint value where it is linear, an approximation where it is QMIX's. The entropy enters there,
    not beside the return. The target critics follow at every gradient step (hypers.tau), so
    `refresh_target` has nothing to do.
    """
    algo, msac = config.algo, config.msac
    actor = make_actor(config.net, spec, LOGITS if msac.clamp else None)
    critic = make_agent_net(config.net, spec)
    mixer = LinearMixer() if msac.mixer == "linear" else QMIX(algo.mixing_embed, algo.hyper_embed)
    groups = {"actor": "actor", "critic": "critic", "mixer": "critic"}

    # -- values: a leading axis K = 2 counts the critics -------------------------------------------

    def values(params: Params, batch: Batch) -> jax.Array:
        """Q_ki, [K, T(+1), B, N, A]."""
        return jax.vmap(lambda p: critic.unroll(p, batch))(params)

    def mixed(params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
        """Mix_k of values [K, ..., N], [K, ...]."""
        return jax.vmap(lambda p, q: apply(mixer, p, q, None, None, state))(params, q)

    def soft_values(params: Params, q: jax.Array, policy: distrax.Categorical, alpha, state) -> jax.Array:
        """V_k, [K, ...], of Q_ki [K, ..., N, A]."""
        return mixed(params, (policy.probs * q).sum(-1) + alpha * policy.entropy(), state)

    # -- learning ----------------------------------------------------------------------------------

    def returns(target: Params, logits: jax.Array, batch: Batch, alpha, hypers: Hypers) -> jax.Array:
        """What the critics are fitted to, [T, B]."""
        reward = standardised(batch.reward, batch.mask) if msac.standardise else batch.reward
        if spec.one_step:
            return reward
        policy, q = distrax.Categorical(logits=logits), values(target["critic"], batch)
        value = soft_values(target["mixer"], q, policy, alpha, batch.steps.state).min(0)
        outcome = (reward, batch.discount, batch.mask)
        return lambda_return(*outcome, value, jnp.zeros_like(value), hypers.gamma, hypers.td_lambda)

    def losses(out: Params, mixers: Params, batch: Batch, g: jax.Array, alpha):
        T, mask = len(batch.reward), batch.mask

        def mean(x: jax.Array) -> jax.Array:
            return masked_mean(jnp.broadcast_to(x, mask.shape), mask)

        q, state = out["critic"][:, :T], batch.steps.state[:T]
        q_tot = mixed(mixers, chosen(q, batch.action), state)
        policy = distrax.Categorical(logits=out["actor"][:T])
        v = soft_values(sg(mixers), sg(q), policy, alpha, state)
        metrics = {
            "loss_critic": jax.vmap(lambda q: mean(jnp.square(q - g)))(q_tot).sum(),
            "loss_actor": -mean(v.min(0) if msac.actor_value == "min" else v[0]),
            "q_tot": mean(q_tot[0]),
            "target": mean(g),
        }
        entropy = mean(sg(policy.entropy()).sum(-1))
        return metrics["loss_critic"] + metrics["loss_actor"], (metrics, entropy)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers) -> tuple[Learner, Metrics]:
        batch, alpha = trim(batch, spec), jnp.exp(learner.log_alpha)
        nets = {"actor": learner.params["actor"], "critic": learner.params["critic"]}

        def unroll(p: Params) -> Params:
            logits = jnp.asarray(actor.policy(p["actor"], batch).logits)
            return {"actor": logits, "critic": values(p["critic"], batch)}

        # One unroll serves both the targets and, through its pull-back, the gradient.
        out, pull_back = jax.vjp(unroll, nets)
        g = returns(learner.target, out["actor"], batch, alpha, hypers)
        grad = jax.grad(losses, argnums=(0, 1), has_aux=True)
        (d_out, d_mixers), (metrics, entropy) = grad(out, learner.params["mixer"], batch, g, alpha)
        grads = {**pull_back(d_out)[0], "mixer": d_mixers}
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers, env_steps)
        if msac.target_entropy == "actions":
            hypers = dataclasses.replace(hypers, target_entropy=-float(spec.n_actions))
        learner, taken = soft_step(algo, spec, learner, grads, tx, entropy, env_steps, hypers)
        online = {k: learner.params[k] for k in learner.target}
        moved = refreshed(learner.target, online, jnp.asarray(not spec.one_step), hypers)
        return learner._replace(target=moved), metrics | taken

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        actor_key, critic_key, mixer_key = jax.random.split(key, 3)
        step = empty_step(spec)
        params = {
            "actor": actor.init(actor_key),
            "critic": jax.vmap(critic.init)(jax.random.split(critic_key)),
            "mixer": jax.vmap(lambda k: mixer.init(k, step.alive, None, None, step.state))(
                jax.random.split(mixer_key)
            ),
        }
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers)
        return new_learner(params, ("critic", "mixer"), tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        q, state = values(learner.params["critic"], batch)[:, :T], batch.steps.state[:T]
        policy = distrax.Categorical(logits=actor.policy(learner.params["actor"], batch).logits[:T])

        def q_tot(action: jax.Array) -> jax.Array:
            return mixed(learner.params["mixer"], chosen(q, action), state).min(0)

        best, logits, probs = (jnp.asarray(x) for x in (policy.mode(), policy.logits, policy.probs))
        view = Inspection(q.min(0), q_tot(batch.action), q_tot(best), best, logits, probs)
        return each_sample(view, batch)

    def refresh_target(learner: Learner, due: jax.Array, hypers: Hypers) -> Learner:
        return learner

    return Algorithm(init, actor.carry, actor.act, actor.greedy, update, refresh_target, inspect)
