"""Deterministic policy gradients, for continuous actions: MADDPG (Lowe et al. 2017), FacMADDPG (de Witt et
al. 2020; FACMAC, Peng et al. 2021) and deterministic DOP (Wang et al. 2021). They differ in the critic.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..boxes import to_box, to_unit
from ..config import Config, ConfigError, Hypers
from ..mixers import QMIX, concat
from ..nets import MLP
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params
from .actor import make_deterministic_actor
from .agent import ActionValue, apply, each_sample, empty_step, make_agent_net, trim
from .dop import LinearMixer, instants
from .learning import (
    actor_critic_optimiser,
    new_learner,
    stepped,
    target_refresher,
)

sg = jax.lax.stop_gradient
GROUPS = {"actor": "actor", "critic": "critic"}


class Critic(NamedTuple):
    """Q_tot(s, u) as functions of its parameters, actions in [-1, 1].

    What the actions of an instant share is `encode`d once; leading axes broadcast.
    """

    init: Callable[[jax.Array], Params]
    encode: Callable[[Params, Batch], Any]  # -> arrays [T(+1), B, ...]
    q_tot: Callable[[Params, Any, jax.Array], jax.Array]  # params, encoded, u [..., N, d] -> [...]


def joint_critic(config: Config, spec: EnvSpec) -> Critic:
    """Q(s, u_1, ..., u_N), two layers on all of it. The reward is the team's, so one serves all agents."""
    width = config.ddpg.hidden
    module = MLP((width, width, 1))

    def init(key: jax.Array) -> Params:
        return module.init(key, jnp.zeros(spec.state_dim + spec.n_agents * spec.action_dim))

    def encode(params: Params, batch: Batch) -> jax.Array:
        return batch.steps.state

    def q_tot(params: Params, state: jax.Array, action: jax.Array) -> jax.Array:
        return apply(module, params, concat(state, action.reshape(*action.shape[:-2], -1)))[..., 0]

    return Critic(init, encode, q_tot)


def factored_critic(config: Config, spec: EnvSpec) -> Critic:
    """Q_i(tau_i, u_i) under a mixer.

    monotonic   QMIX's
    linear      sum_i k_i(s) Q_i + b(s) (DOP, Eq. 1)
    """
    algo, ddpg = config.algo, config.ddpg
    net = dataclasses.replace(config.net, output_scale=1.0)  # the actor's alone starts small
    agent, value = make_agent_net(net, spec, outputs=ddpg.hidden), ActionValue(ddpg.hidden)
    linear = ddpg.critic == "linear"
    if linear and config.dop.form != "paper":
        raise ConfigError(f"dop.form={config.dop.form}: only paper has continuous actions")
    qmix = QMIX(algo.mixing_embed, algo.hyper_embed)
    mixer = LinearMixer(spec.n_agents, algo.mixing_embed, "paper") if linear else qmix

    def init(key: jax.Array) -> Params:
        keys, step = jax.random.split(key, 3), empty_step(spec)
        q = step.alive
        return {
            "agent": agent.init(keys[0]),
            "value": value.init(keys[1], jnp.zeros(ddpg.hidden), jnp.zeros(spec.action_dim)),
            "mixer": mixer.init(keys[2], *(() if linear else (q, q, q)), step.state),
        }

    def encode(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return agent.unroll(params["agent"], batch), batch.steps.state

    def q_tot(params: Params, encoded: tuple[jax.Array, jax.Array], action: jax.Array) -> jax.Array:
        h, state = encoded
        q = apply(value, params["value"], h, action)
        if linear:
            k, b = apply(mixer, params["mixer"], state)
            return (k * q).sum(-1) + b
        return apply(mixer, params["mixer"], q, q, action, state)

    return Critic(init, encode, q_tot)


def make_ddpg(config: Config, spec: EnvSpec) -> Algorithm:
    """Build MADDPG, FacMADDPG or deterministic DOP for environments of shape `spec`. Losses, on replay:

        critic   (Q_tot(s, u) - G)^2, G the lambda-return of Q^-_tot(s', mu^-(tau'))
        actor    -Q_tot(s, mu_1(tau_1), ..., mu_N(tau_N))               monotonic (FACMAC), linear (DOP)
                 -1/N sum_i Q(s, u_1, ..., mu_i(tau_i), ..., u_N)       joint (MADDPG)
                 + action_penalty * mean_i mu_i^2

    Means are over real steps. With the linear critic the actor's is DOP's gradient, sum_i k_i(s) grad mu_i
    grad_u Q_i. Each has its own optimiser and clip.
    """
    actor = make_deterministic_actor(config.net, spec)
    joint = config.ddpg.critic == "joint"
    critic = (joint_critic if joint else factored_critic)(config, spec)

    def policy(params: Params, batch: Batch) -> jax.Array:
        """mu(tau) in [-1, 1], [T(+1), B, N, d]."""
        return to_unit(actor.policy(params, batch), spec)

    # -- learning ----------------------------------------------------------------------------------

    def critic_goal(target: Params, batch: Batch, hypers: Hypers) -> jax.Array:
        if spec.one_step:
            return batch.reward
        encoded = critic.encode(target["critic"], batch)
        value = critic.q_tot(target["critic"], encoded, policy(target["actor"], batch))
        outcome = (batch.reward, batch.discount, batch.mask)
        return lambda_return(*outcome, value, jnp.zeros_like(value), hypers.gamma, hypers.td_lambda)

    def improved(params: Params, encoded: Any, mu: jax.Array, action: jax.Array) -> jax.Array:
        """The value that the actor climbs; action [T, B, N, d] is what was done, [T, B] or [1, 1]."""
        if not joint:
            return critic.q_tot(params, encoded, mu)

        def deviation(agent: jax.Array) -> jax.Array:
            return critic.q_tot(params, encoded, jnp.where(agent[:, None], mu, action))

        return jax.vmap(deviation)(jnp.eye(spec.n_agents, dtype=bool)).mean(0)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        T, batch = len(batch.reward), trim(batch, spec)
        action = to_unit(batch.action, spec)
        goal = critic_goal(learner.target, batch, hypers)

        def mean(x: jax.Array) -> jax.Array:
            return masked_mean(jnp.broadcast_to(x, batch.mask.shape), batch.mask)

        def losses(params: Params):
            mu = policy(params["actor"], batch)[:T]
            encoded = instants(critic.encode(params["critic"], batch), T)
            q = critic.q_tot(params["critic"], encoded, action)
            gain = improved(sg(params["critic"]), sg(encoded), mu, action)
            penalty = hypers.action_penalty * jnp.square(mu).mean((-2, -1))
            metrics = {
                "loss_actor": mean(penalty - gain),
                "loss_critic": mean(jnp.square(q - goal)),
                "q_tot": mean(q),
                "target": mean(goal),
            }
            return metrics["loss_actor"] + metrics["loss_critic"], metrics

        grads, metrics = jax.grad(losses, has_aux=True)(learner.params)
        metrics["grad_norm"] = optax.global_norm(grads)
        tx = actor_critic_optimiser(config.algo.optimiser, GROUPS, hypers, env_steps)
        return stepped(learner, grads, tx), metrics

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        params = {"actor": actor.init(actor_key), "critic": critic.init(critic_key)}
        tx = actor_critic_optimiser(config.algo.optimiser, GROUPS, hypers)
        return new_learner(params, params, tx)

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        params, mu = learner.params["critic"], policy(learner.params["actor"], batch)[:T]
        encoded = instants(critic.encode(params, batch), T)
        done, best = (critic.q_tot(params, encoded, u) for u in (to_unit(batch.action, spec), mu))
        return each_sample(Inspection(None, done, best, to_box(mu, spec), None, None), batch)

    return Algorithm(init, actor.carry, actor.act, actor.greedy, update, target_refresher(spec), inspect)
