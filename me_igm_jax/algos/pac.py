"""PAC (Zhou et al. 2022): Weighted QMIX whose utilities read messages that foretell counterfactual best
actions, and soft actors, improved against it, that act without any message.
"""

from dataclasses import replace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ..config import Config, ConfigError, Hypers
from ..mixers import CentralMixer, make_mixer
from ..policies import epsilon_greedy, greedy_action, masked
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params, TimeStep
from .actor import exploration_rate, make_actor
from .agent import apply, chosen, each_sample, empty_step, make_agent_net, trim
from .learning import (
    actor_critic_optimiser,
    first_temperature,
    new_learner,
    next_temperature,
    stepped,
    target_refresher,
)
from .losses import JointValues, q_tot_loss

sg = jax.lax.stop_gradient
NETS = ("actor", "agent", "encoder", "predictor", "central_agent")
HEADS = ("mixer", "central_mixer")


class Goal(NamedTuple):
    """What the networks are fitted to."""

    q_tot: jax.Array  # [T, B] lambda-return
    label: jax.Array  # [T, B, N] counterfactual best actions
    best: jax.Array  # [T, B, N] the policies' most probable actions


def make_pac(config: Config, spec: EnvSpec) -> Algorithm:
    """Build PAC for environments of shape `spec`. Losses, each a mean over the real transitions:

      L(theta) = 1/2 w (Q_tot(s, u, m) - G)^2              w: `losses.td_weights`
      L(psi)   = 1/2 (Q^(s, u) - G)^2                      the central critic
      L(xi)    = c sum_i [-log p(u*_i | o_i, m_i) + beta KL(N(mu_i, 1) || N(0, 1))]
      L(phi)   = sg f(E_pi[alpha log pi_i - sg Q_i(o_i, m_i)], s)     f: the mixer of Q_tot
      L(alpha) = alpha (H(pi) - H_target)                  on log alpha
      u*_i     = argmax_a Q^(s, a, a*_-i),   a* = (argmax_a pi_i)_i

    G is the lambda-return of Q^-(s', a*'). Agent j tells agent i m_ji ~ N(mu_ji, 1), read from what j
    sees (encoder); p is the predictor. The messages serve the critics alone: actors act on their own.
    c, beta, alpha's floor: hypers.message_weight, hypers.message_beta, hypers.alpha_end.
    """
    algo, N, A, d = config.algo, spec.n_agents, spec.n_actions, config.pac.message
    if algo.mixer == "qplex":
        raise ConfigError(
            "algo.mixer=qplex: pac mixes values that belong to no action; use algo.mixer=qmix"
        )
    told = spec._replace(obs_shape=(empty_step(spec).obs[0, 0].size + N * d,))
    memoryless = replace(config.net, recurrent=False, layers=2)
    actor = make_actor(config.net, spec)
    encoder = make_agent_net(memoryless, spec, outputs=N * d)
    predictor = make_agent_net(replace(memoryless, hidden=4 * N * d), told)
    agent, central_agent = make_agent_net(config.net, told), make_agent_net(config.net, spec)
    mixer, central_mixer = make_mixer(algo), CentralMixer(algo.central_embed)
    groups = {name: "actor" if name == "actor" else "critic" for name in (*NETS, *HEADS)}

    # -- acting -----------------------------------------------------------------------------------

    def act(learner: Learner, carry, step: TimeStep, key, env_steps, hypers: Hypers):
        (hidden, _), best = actor.greedy(learner, carry, step)
        eps = exploration_rate(hypers, env_steps)
        action = epsilon_greedy(key, jax.nn.one_hot(best, A), step.avail, eps)
        return (hidden, action), action

    # -- values -----------------------------------------------------------------------------------

    def unroll(params: Params, batch: Batch, noise: jax.Array | float) -> Params:
        """log pi, utilities, logits of the predictor and utilities of the central critic, each
        [T(+1), B, N, A], and the messages' means [T(+1), B, N, N d]; `noise` is added to those.
        """
        mean = encoder.unroll(params["encoder"], batch)
        heard = hearing(batch, exchanged(mean + noise))
        return {
            "actor": jnp.asarray(actor.policy(params["actor"], batch).logits),
            "agent": agent.unroll(params["agent"], heard),
            "encoder": mean,
            "predictor": predictor.unroll(params["predictor"], heard),
            "central_agent": central_agent.unroll(params["central_agent"], batch),
        }

    def mix(params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
        """f(q, s) of one value for each agent, [..., N] -> [...]."""
        return apply(mixer, params["mixer"], q, q, q, state)

    def mix_central(params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
        return apply(central_mixer, params["central_mixer"], q, q, q, state)

    def counterfactual(params: Params, q: jax.Array, best: jax.Array, steps: TimeStep) -> jax.Array:
        """u*_i [..., N]: each agent's best available action by Q^ if the others do `best` [..., N]."""
        held = chosen(q, best)

        def values(i: jax.Array) -> jax.Array:
            """Q^(s, a, best_-i) of every action a of agent i, [..., A]."""
            joint = jnp.where(jnp.arange(N) == i, q[..., i, :, None], held[..., None, :])
            return mix_central(params, joint, steps.state[..., None, :])

        # One agent after the other: all at once are N x A joint actions wide.
        each = jax.lax.map(values, jnp.arange(N))
        return greedy_action(jnp.moveaxis(each, 0, -2), steps.avail)

    # -- learning ---------------------------------------------------------------------------------

    def targets(learner: Learner, out: Params, batch: Batch, hypers: Hypers) -> Goal:
        T, steps = len(batch.reward), batch.steps
        best = out["actor"].argmax(-1)
        now = jax.tree.map(lambda x: x[:T], steps)
        label = counterfactual(learner.params, out["central_agent"][:T], best[:T], now)
        if spec.one_step:
            return Goal(batch.reward, label, best[:T])
        q = central_agent.unroll(learner.target["central_agent"], batch)
        value = mix_central(learner.target, chosen(q, best), steps.state)
        outcome = (batch.reward, batch.discount, batch.mask)
        g = lambda_return(*outcome, value, jnp.zeros_like(value), hypers.gamma, hypers.td_lambda)
        return Goal(g, label, best[:T])

    def losses(out: Params, heads: Params, batch: Batch, goal: Goal, alpha: jax.Array, hypers: Hypers):
        T, mask, taken, g = len(batch.reward), batch.mask, batch.action, goal.q_tot
        state, avail = batch.steps.state[:T], batch.steps.avail[:T]
        out = jax.tree.map(lambda x: x[:T], out)

        def mean(x: jax.Array) -> jax.Array:
            return masked_mean(jnp.broadcast_to(x, mask.shape), mask)

        q, q_central = out["agent"], out["central_agent"]
        q_tot, q_tot_best = (mix(heads, chosen(q, u), state) for u in (taken, goal.best))
        q_hat, q_hat_best = (mix_central(heads, chosen(q_central, u), state) for u in (taken, goal.best))
        is_best = (taken == goal.best).all(-1)
        values = JointValues(q_tot, q_tot_best, q_hat, q_hat_best, is_best, chosen(q, taken).sum(-1))

        cost = (jnp.exp(out["actor"]) * (alpha * out["actor"] - sg(q))).sum(-1)
        log_p = chosen(nn.log_softmax(masked(out["predictor"], avail)), goal.label)
        metrics = {
            "loss_critic": q_tot_loss(algo, values, g, mask, hypers),
            "loss_central": 0.5 * mean(jnp.square(q_hat - g)),
            "loss_actor": mean(mix(sg(heads), cost, state)),
            "loss_label": -mean(log_p.sum(-1)),
            "message_nats": 0.5 * mean(jnp.square(out["encoder"]).sum((-2, -1))),
            "q_tot": mean(q_tot),
            "target": mean(g),
        }
        bottleneck = metrics["loss_label"] + hypers.message_beta * metrics["message_nats"]
        fit = metrics["loss_critic"] + metrics["loss_central"] + metrics["loss_actor"]
        return fit + hypers.message_weight * bottleneck, metrics

    def temperature(learner: Learner, hypers: Hypers) -> jax.Array:
        return jnp.maximum(jnp.exp(learner.log_alpha), hypers.alpha_end)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        T, batch, alpha = len(batch.reward), trim(batch, spec), temperature(learner, hypers)
        nets, heads = ({k: learner.params[k] for k in names} for names in (NETS, HEADS))
        # A draw of its own for every sample, also where all share their instant.
        noise = jax.random.normal(key, (len(batch.first), batch.reward.shape[1], N, N * d))
        # One unroll serves both the targets and, through its pull-back, the gradient.
        out, pull_back = jax.vjp(lambda p: unroll(p, batch, noise), nets)
        goal = targets(learner, out, batch, hypers)
        grad = jax.grad(losses, argnums=(0, 1), has_aux=True)
        (d_out, d_heads), metrics = grad(out, heads, batch, goal, alpha, hypers)
        grads = {**pull_back(d_out)[0], **d_heads}

        entropy = -(jnp.exp(out["actor"]) * out["actor"]).sum((-2, -1))[:T]
        entropy = masked_mean(jnp.broadcast_to(entropy, batch.mask.shape), batch.mask)
        wanted = N * (-A if config.pac.target_entropy == "actions" else hypers.target_entropy)
        next_alpha = next_temperature(algo, learner, entropy, wanted, env_steps, hypers)
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers, env_steps)
        metrics |= {"entropy": entropy / N, "alpha": alpha, "grad_norm": optax.global_norm(grads)}
        return stepped(learner, grads, tx, next_alpha), metrics

    # -- life cycle -------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        keys, step = jax.random.split(key, len(groups)), empty_step(spec)
        mixing = (step.alive, step.alive, step.alive, step.state)
        inits = {
            "actor": actor.init,
            "agent": agent.init,
            "encoder": encoder.init,
            "predictor": predictor.init,
            "central_agent": central_agent.init,
            "mixer": lambda k: mixer.init(k, *mixing),
            "central_mixer": lambda k: central_mixer.init(k, *mixing),
        }
        params = {name: inits[name](k) for name, k in zip(groups, keys, strict=True)}
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers)
        central = ("central_agent", "central_mixer")
        return new_learner(params, central, tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        """What follows from messages without noise."""
        T, batch = len(batch.reward), trim(batch, spec)
        out, state = unroll(learner.params, batch, 0.0), batch.steps.state[:T]
        q, log_pi = out["agent"][:T], out["actor"][:T]
        best = log_pi.argmax(-1)
        q_tot, q_tot_best = (mix(learner.params, chosen(q, u), state) for u in (batch.action, best))
        return each_sample(Inspection(q, q_tot, q_tot_best, best, log_pi, jnp.exp(log_pi)), batch)

    return Algorithm(init, actor.carry, act, actor.greedy, update, target_refresher(spec), inspect)


def exchanged(sent: jax.Array) -> jax.Array:
    """What each agent is told by all, of what each tells all (itself included): [..., N, N d] both."""
    *lead, n, width = sent.shape
    return sent.reshape(*lead, n, n, width // n).swapaxes(-2, -3).reshape(sent.shape)


def hearing(batch: Batch, messages: jax.Array) -> Batch:
    """`batch` whose observations, one vector each, end with `messages` [T(+1), B, N, M]."""
    lead, steps = messages.shape[:3], batch.steps
    obs = steps.obs.reshape(*steps.obs.shape[:3], -1)
    obs = jnp.concatenate([jnp.broadcast_to(obs, (*lead, obs.shape[-1])), messages], axis=-1)
    steps = steps._replace(obs=obs, alive=jnp.broadcast_to(steps.alive, lead))
    return batch._replace(steps=steps, first=jnp.broadcast_to(batch.first, lead[:2]))
