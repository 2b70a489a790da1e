"""The value family: one learner composed of agent net x local x mixer x transform x policy x temperature.

QMIX, VDN, QPLEX, Qatten, Weighted QMIX and QTRAN bootstrap from the greedy next action (double
Q-learning); the maximum-entropy members bootstrap from an action sampled from the current policy and
add its entropy. Which member a run is, is a choice of parts in `config.algo`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..config import Config, Hypers
from ..mixers import CentralMixer, make_mixer
from ..policies import epsilon_greedy, greedy_action, linear_schedule, masked, sample, softmax_policy
from ..returns import lambda_return, masked_mean
from ..split import ALONE, Split
from ..transforms import make_local, make_transform
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params, TimeStep
from .agent import apply, chosen, each_sample, empty_step, make_agent_net, trim
from .learning import (
    first_temperature,
    new_learner,
    optimiser,
    soft_step,
    target_refresher,
)
from .losses import JointValues, q_tot_loss

sg = jax.lax.stop_gradient


class Targets(NamedTuple):
    """What the online networks are fitted to, and the policy it was computed with."""

    q_tot: jax.Array  # [T, B] lambda-return
    entropy: jax.Array  # [T, B] exact joint entropy of the current policy


def make_value(config: Config, spec: EnvSpec, split: Split = ALONE) -> Algorithm:
    """Build the learner that `config.algo` describes, for environments of shape `spec`.

    Losses (ME-IGM Eqs. 8, 9, 11; see docs/algorithms.md for what is taken from paper or code):
      L(theta) = 1/2 w (Q_tot(s, u) - G)^2          G: `returns.lambda_return`, w: `losses.td_weights`
      L(phi)   = 1/2 (sg Q_tot(s, u) - sum_i OPT_i(sg Q_i(u_i), s))^2
      L(omega) = alpha (H(pi) - N H_target)          on log alpha
      L(psi)   = 1/2 (Q^(s, u) - G)^2                the central critic, if there is one
    QTRAN's L(theta) is `losses.qtran_loss`.
    """
    algo = config.algo
    soft = algo.policy == "softmax"
    agent = make_agent_net(config.net, spec)
    mixer, central_mixer = make_mixer(algo), CentralMixer(algo.central_embed)
    transform, local = make_transform(algo), make_local(algo)

    # -- acting -----------------------------------------------------------------------------------

    def act(learner: Learner, carry, step: TimeStep, key, env_steps, hypers: Hypers):
        hidden, q = agent.step(learner.params["agent"], carry, step)
        if soft:
            logits = policy_logits(learner.params, q, step.state)
            policy = softmax_policy(logits / jnp.exp(learner.log_alpha), step.avail)
            action = sample(key, policy)
        else:
            eps = linear_schedule(hypers.eps_start, hypers.eps_end, hypers.eps_steps, env_steps)
            action = epsilon_greedy(key, q, step.avail, eps)
        return (hidden, action), action

    def greedy(learner: Learner, carry, step: TimeStep):
        hidden, q = agent.step(learner.params["agent"], carry, step)
        action = greedy_action(q, step.avail)
        return (hidden, action), action

    # -- values -----------------------------------------------------------------------------------

    def unroll(params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Utilities of every agent network, each [T or T+1, B, N, A]."""
        return {k: agent.unroll(p, batch) for k, p in params.items()}

    def policy_logits(params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
        values = apply(local, params["local"], q, state)
        return apply(transform, params["transform"], sg(values), state)

    def mix(params: Params, q, action: jax.Array, state, avail) -> jax.Array:
        """Q_tot(s, action) from raw utilities q."""
        values = apply(local, params["local"], q, state)
        return apply(mixer, params["mixer"], *to_mix(values, action, avail), state)

    def to_mix(values, action, avail):
        onehot = jax.nn.one_hot(action, spec.n_actions)
        return chosen(values, action), masked(values, avail).max(-1), onehot

    def mix_central(params: Params, q, action, state, avail) -> jax.Array:
        return apply(central_mixer, params["central_mixer"], *to_mix(q, action, avail), state)

    # -- learning ---------------------------------------------------------------------------------

    def targets(learner: Learner, q, batch: Batch, key, hypers: Hypers) -> Targets:
        T = len(batch.reward)
        alpha = jnp.exp(learner.log_alpha)
        state, avail = batch.steps.state, batch.steps.avail
        policy = softmax_policy(policy_logits(learner.params, q, state) / alpha, avail)
        entropy = policy.entropy().sum(-1)  # [T(+1), B]
        if spec.one_step:
            return Targets(batch.reward, jnp.broadcast_to(entropy, batch.reward.shape))
        if soft:
            action = sample(key, policy, split)
            h = {
                "sample": -policy.log_prob(action).sum(-1),
                "exact": entropy,
                "none": jnp.zeros_like(entropy),
            }
            bonus = alpha * h[algo.entropy]
        else:
            action, bonus = greedy_action(q, avail), jnp.zeros_like(entropy)
        target = learner.target
        q_target = unroll(split_params(target)[0], batch)
        if algo.central_critic:
            value = mix_central(target, q_target["central_agent"], action, state, avail)
        else:
            value = mix(target, q_target["agent"], action, state, avail)
        g = lambda_return(
            batch.reward, batch.discount, batch.mask, value, bonus, hypers.gamma, hypers.td_lambda
        )
        return Targets(g, entropy[:T])

    def losses(qs, heads: Params, batch: Batch, g: jax.Array, hypers: Hypers):
        T, mask, taken = len(batch.reward), batch.mask, batch.action
        state, avail = batch.steps.state[:T], batch.steps.avail[:T]
        q = qs["agent"][:T]
        best = greedy_action(q, avail)
        q_tot, q_tot_best = (mix(heads, q, u, state, avail) for u in (taken, best))
        logits = policy_logits(heads, sg(q), state)
        opt_sum = chosen(logits, taken).sum(-1)
        gap = sg(q_tot) - opt_sum
        metrics = {
            "loss_opt": 0.5 * masked_mean(jnp.square(gap), mask),
            "q_tot": masked_mean(q_tot, mask),
            "target": masked_mean(g, mask),
            "delta_q": masked_mean(jnp.abs(gap), mask),
        }
        loss, q_hat, q_hat_best = metrics["loss_opt"], q_tot, q_tot_best
        if algo.central_critic:
            q_central = qs["central_agent"][:T]
            q_hat, q_hat_best = (mix_central(heads, q_central, u, state, avail) for u in (taken, best))
            metrics["loss_central"] = 0.5 * masked_mean(jnp.square(q_hat - g), mask)
            loss += metrics["loss_central"]
        is_best = (taken == best).all(-1)
        values = JointValues(q_tot, q_tot_best, q_hat, q_hat_best, is_best, opt_sum)
        fit = q_tot_loss(algo, values, g, mask, hypers)
        return loss + fit, metrics | {f"loss_{algo.fit}": fit}

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        agents, heads = split_params(learner.params)
        batch = trim(batch, spec)
        # One unroll serves both the targets and, through its pull-back, the gradient.
        qs, pull_back = jax.vjp(lambda p: unroll(p, batch), agents)
        goal = targets(learner, qs["agent"], batch, key, hypers)
        grad = jax.grad(losses, argnums=(0, 1), has_aux=True)
        (d_qs, d_heads), metrics = grad(qs, heads, batch, goal.q_tot, hypers)
        grads = {**pull_back(d_qs)[0], **d_heads}
        entropy = masked_mean(goal.entropy, batch.mask)
        grads, metrics, entropy = split.merged((grads, metrics, entropy), batch.mask)
        tx = optimiser(algo.optimiser, hypers.lr, hypers, env_steps)
        learner, taken = soft_step(algo, spec, learner, grads, tx, entropy, env_steps, hypers)
        return learner, metrics | taken

    # -- life cycle -------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        keys = iter(jax.random.split(key, 6))
        _, state, q, per_agent = empty_step(spec)
        mixing = (per_agent, per_agent, q, state)
        params = {
            "agent": agent.init(next(keys)),
            "mixer": mixer.init(next(keys), *mixing),
            "transform": transform.init(next(keys), q, state),
            "local": local.init(next(keys), q, state),
        }
        if algo.central_critic:
            params["central_agent"] = agent.init(next(keys))
            params["central_mixer"] = central_mixer.init(next(keys), *mixing)
        tx = optimiser(algo.optimiser, hypers.lr, hypers)
        return new_learner(params, params, tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        state, avail = batch.steps.state[:T], batch.steps.avail[:T]
        q = unroll(split_params(learner.params)[0], batch)["agent"][:T]
        logits = policy_logits(learner.params, q, state)
        probs = jnp.asarray(softmax_policy(logits / jnp.exp(learner.log_alpha), avail).probs)
        taken, best = batch.action, greedy_action(q, avail)

        view = Inspection(
            q=apply(local, learner.params["local"], q, state),
            q_tot=mix(learner.params, q, taken, state, avail),
            q_tot_greedy=mix(learner.params, q, best, state, avail),
            greedy=best,
            logits=logits,
            probs=probs,
        )
        return each_sample(view, batch)

    return Algorithm(init, agent.carry, act, greedy, update, target_refresher(spec), inspect)


def split_params(params: Params) -> tuple[Params, Params]:
    """The networks unrolled over time, and all that is applied to their outputs."""
    agents = {k: v for k, v in params.items() if k in ("agent", "central_agent")}
    return agents, {k: v for k, v in params.items() if k not in agents}
