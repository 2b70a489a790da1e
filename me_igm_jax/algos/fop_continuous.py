"""FOP (Zhang et al. 2021) for continuous actions, as its differential game has them: squashed Gaussians
under a factorised joint value. No code of it for such actions was released.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ..boxes import to_unit
from ..config import Config, ConfigError, Hypers
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params
from .actor import draw, make_gaussian_actor, mode
from .agent import ActionValue, apply, each_sample, empty_step, make_agent_net, trim
from .dop import LinearMixer
from .fop import Factorisation, Joint, temperature_ratio
from .learning import (
    actor_critic_optimiser,
    first_temperature,
    new_learner,
    soft_step,
    target_refresher,
)

sg = jax.lax.stop_gradient


def make_fop_continuous(config: Config, spec: EnvSpec) -> Algorithm:
    """Build FOP for continuous actions. Losses, each with its own optimiser, for u from replay, a_i ~ pi_i:

        critic   (Q_jt(s, u) - G)^2, G the lambda-return of Q^-_jt(s', a') - alpha log pi_jt(a')     (9)
        value    (Q_i(a_i) - alpha_i log pi_i(a_i) - V_i)^2                                         (10)
        actor    alpha_i log pi_i(a_i) - Q_i(a_i), its gradient through a_i                         (11)
        alpha_i  alpha E_pi[Q_i - V_i] / E_pi[lambda_i (Q_i - V_i)]                        (section 4.3)

    Q_jt is `Factorisation`'s, which reads actions in [-1, 1], or (form: linear) DOP's, with k_i(s) for
    lambda_i. Densities are of actions in the box's units, and so are entropies and their target: one of
    -1 per dimension in [-1, 1], SAC's, is -1 + log(half the box) here. The dead have no entropy and no
    part in the actors' loss. The agents share what reads their actions in Q_i, whatever `net.shared` says.
    """
    algo, fop, net = config.algo, config.fop, dataclasses.replace(config.net, output_scale=1.0)
    for key, value in {"entropy": "mean", "value": "logsumexp", "twin": True}.items():
        if getattr(fop, key) == value:
            raise ConfigError(f"fop.{key}={value}: is the released code's, which has no continuous actions")
    actor = make_gaussian_actor(config.net, spec)
    critic, value_net = (make_agent_net(net, spec, outputs=k) for k in (net.hidden, 1))
    head = ActionValue(net.hidden)
    linear = fop.form == "linear"
    mixer = (
        LinearMixer(spec.n_agents, algo.mixing_embed, "paper")
        if linear
        else Factorisation(fop, algo.mixing_embed, algo.hyper_embed)
    )
    groups = {"actor": "actor", "critic": "critic", "head": "critic", "mixer": "critic", "value": "value"}

    # -- values ------------------------------------------------------------------------------------

    def utility(params: Params, h: jax.Array, action: jax.Array) -> jax.Array:
        """Q_i of actions [..., N, d], [..., N]."""
        return apply(head, params, h, to_unit(action, spec))

    def joint(params: Params, q: jax.Array, v: jax.Array, action: jax.Array, state: jax.Array) -> Joint:
        if linear:
            k, b = apply(mixer, params, state)
            return Joint((k * q).sum(-1) + b, k, jnp.zeros_like(b))
        return apply(mixer, params, q, v, to_unit(action, spec), state)

    # -- learning ----------------------------------------------------------------------------------

    def goal(learner: Learner, v, action, log_pi, batch: Batch, hypers: Hypers) -> jax.Array:
        """The lambda-return G, [T, B]."""
        if spec.one_step:
            return batch.reward
        target = learner.target
        q = utility(target["head"], critic.unroll(target["critic"], batch), action)
        value = joint(target["mixer"], q, v, action, batch.steps.state).q
        bonus = -jnp.exp(learner.log_alpha) * log_pi.sum(-1)
        outcome = (batch.reward, batch.discount, batch.mask)
        return lambda_return(*outcome, value, bonus, hypers.gamma, hypers.td_lambda)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        batch, alpha = trim(batch, spec), jnp.exp(learner.log_alpha)
        (T, B), mask, state = batch.reward.shape, batch.mask, batch.steps.state

        def losses(params: Params):
            action, log_pi = draw(actor.policy(params["actor"], batch), key, B)
            log_pi *= batch.steps.alive
            h = critic.unroll(params["critic"], batch)[:T]
            v = value_net.unroll(params["value"], batch)[..., 0]
            held_v, held_action = sg(v), sg(action)
            g = goal(learner, held_v, held_action, sg(log_pi), batch, hypers)
            q = utility(params["head"], h, batch.action)
            mixed = joint(params["mixer"], q, held_v[:T], batch.action, state[:T])
            drawn = utility(sg(params["head"]), sg(h), action[:T])
            alphas = alpha * jnp.ones(spec.n_agents)
            if fop.temperatures == "ratio":
                now = (sg(drawn), held_v[:T], held_action[:T], state[:T])
                gain = sg(drawn) - held_v[:T]
                weight = joint(sg(params["mixer"]), *now).weight
                alphas *= temperature_ratio(gain, weight * gain, mask)
            soft = drawn - alphas * log_pi[:T]
            entropy = masked_mean(-log_pi[:T].sum(-1), mask)
            metrics = {
                "loss_critic": masked_mean(jnp.square(mixed.q - g), mask),
                "loss_value": masked_mean(jnp.square(sg(soft) - v[:T]).mean(-1), mask),
                "loss_actor": -masked_mean(soft, batch.steps.alive[:T] * mask[..., None]),
                "q_tot": masked_mean(mixed.q, mask),
                "target": masked_mean(g, mask),
                "alpha_i": alphas.mean(),
            }
            loss = metrics["loss_critic"] + metrics["loss_value"] + metrics["loss_actor"]
            if fop.attention:
                penalty = jnp.broadcast_to(mixed.penalty, mask.shape)
                loss += hypers.attention_penalty * masked_mean(penalty, mask)
            return loss, (metrics, entropy)

        grads, (metrics, entropy) = jax.grad(losses, has_aux=True)(learner.params)
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers, env_steps)
        learner, taken = soft_step(algo, spec, learner, grads, tx, entropy, env_steps, hypers)
        return learner, metrics | taken

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        keys, step = jax.random.split(key, 5), empty_step(spec)
        q, action = step.alive, jnp.zeros((*step.alive.shape, spec.action_dim))
        mixing = (step.state,) if linear else (q, q, action, step.state)
        params = {
            "actor": actor.init(keys[0]),
            "critic": critic.init(keys[1]),
            "head": head.init(keys[2], jnp.zeros((*q.shape, net.hidden)), action),
            "mixer": mixer.init(keys[3], *mixing),
            "value": value_net.init(keys[4]),
        }
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers)
        return new_learner(params, ("critic", "head", "mixer"), tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        (T, _), batch, params = batch.reward.shape, trim(batch, spec), learner.params
        h, state = critic.unroll(params["critic"], batch)[:T], batch.steps.state[:T]
        v = value_net.unroll(params["value"], batch)[:T, ..., 0]

        def q_jt(action: jax.Array) -> jax.Array:
            return joint(params["mixer"], utility(params["head"], h, action), v, action, state).q

        best = mode(actor.policy(params["actor"], batch))[:T]
        return each_sample(Inspection(None, q_jt(batch.action), q_jt(best), best, None, None), batch)

    return Algorithm(init, actor.carry, actor.act, actor.greedy, update, target_refresher(spec), inspect)
