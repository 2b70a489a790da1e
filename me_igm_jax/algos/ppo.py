"""MAPPO and IPPO: several passes of clipped policy gradients over what was just collected.

Yu et al. 2022 (MAPPO), de Witt et al. 2020 (IPPO), Schulman et al. 2016 and 2017 (GAE, PPO).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..config import Config, Hypers
from ..policies import greedy_action
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params
from .actor import make_actor
from .agent import each_sample, make_agent_net, trim
from .learning import actor_critic_optimiser

GROUPS = {"actor": "actor", "critic": "critic"}


class Critic(NamedTuple):
    """A state value, of the team (M = 1) or of each agent (M = N), in the units it is learned in."""

    init: Callable[[jax.Array], Params]
    value: Callable[[Params, Batch], jax.Array]  # params, batch -> [T(+1), B, M]


class Collected(NamedTuple):
    """A batch as it was before the update: what every gradient step is measured against."""

    batch: Batch
    log_prob: jax.Array  # [T, B, N] of the actions, under the policy that took them
    advantage: jax.Array  # [T, B, N] normalised
    value: jax.Array  # [T, B, M] the critic's outputs
    target: jax.Array  # [T, B, M] in the units of the critic's outputs


class Running(NamedTuple):
    """Exponential averages from zero; `weight`, that of a constant one, is what they are short of."""

    mean: jax.Array
    square: jax.Array
    weight: jax.Array


def make_ppo(config: Config, spec: EnvSpec) -> Algorithm:
    """Build MAPPO (ppo.critic=state) or IPPO (observation), for environments of shape `spec`.

    With r = pi(a) / pi_old(a), A the normalised advantage, pi_old and V_old from before the update:
      L(pi) = - E[min(r A, clip(r, 1 - c, 1 + c) A)] - w E[H(pi)]          of the living agents
      L(V)  = E[max(h(V - G), h(V_old + clip(V - V_old, -c, c) - G))]      h: Huber's loss or half a square
      A_t   = G_t - V_old,t: GAE, where G is `returns.lambda_return` without a bonus
    V and G are in units of the returns' running mean and deviation (MAPPO's value normalisation).
    The values of the dead are learned too, because the targets of the living bootstrap from them.
    """
    algo, ppo = config.algo, config.ppo
    actor, critic = make_actor(config.net, spec), make_critic(config, spec)

    def units(stats: Running | tuple[()]):
        """(mean, deviation) of the returns, or (0, 1) where the critic predicts returns as they are."""
        return moments(stats) if isinstance(stats, Running) else (0.0, 1.0)

    def look_back(learner: Learner, batch: Batch, hypers: Hypers):
        """(Collected, the running statistics, metrics), by the learner that collected `batch`."""
        T, seen = len(batch.reward), trim(batch, spec)
        output = critic.value(learner.params["critic"], seen)
        mean, deviation = units(learner.target)
        value = mean + deviation * output

        def each_value(x):  # [T, B] -> [T, B, M]
            return jnp.broadcast_to(x[..., None], (*x.shape, output.shape[-1]))

        reward, discount, mask = map(each_value, (batch.reward, batch.discount, batch.mask))
        g = reward
        if not spec.one_step:
            none = jnp.zeros_like(value)
            g = lambda_return(reward, discount, mask, value, none, hypers.gamma, hypers.td_lambda)
        now = jnp.broadcast_to(value[:T], g.shape)
        stats = learner.target
        if isinstance(stats, Running):
            stats = tracked(stats, g, mask)
        mean, deviation = units(stats)
        log_prob = jnp.asarray(actor.policy(learner.params["actor"], seen)[:T].log_prob(batch.action))
        live = living(seen, batch.mask)
        collected = Collected(
            batch=batch,
            log_prob=log_prob,
            advantage=normalised(jnp.broadcast_to(g - now, live.shape), live),
            value=jnp.broadcast_to(output[:T], g.shape),
            target=(g - mean) / deviation,
        )
        return collected, stats, {"q_tot": masked_mean(now, mask), "target": masked_mean(g, mask)}

    def loss(params: Params, old: Collected, hypers: Hypers) -> tuple[jax.Array, Metrics]:
        T, batch, c = len(old.value), trim(old.batch, spec), hypers.clip
        live = living(batch, batch.mask)
        policy = actor.policy(params["actor"], batch)[:T]
        # Nothing but the living can move the ratio, or overflow it.
        change = jnp.where(live > 0, policy.log_prob(batch.action) - old.log_prob, 0.0)
        ratio = jnp.exp(change)
        gain = jnp.minimum(ratio * old.advantage, jnp.clip(ratio, 1 - c, 1 + c) * old.advantage)
        value = critic.value(params["critic"], batch)[:T]
        error = penalty(value - old.target, hypers)
        if ppo.clip_values:
            near = old.value + jnp.clip(value - old.value, -c, c)
            error = jnp.maximum(error, penalty(near - old.target, hypers))
        metrics = {
            "loss_actor": -masked_mean(gain, live),
            "loss_critic": masked_mean(error, jnp.broadcast_to(batch.mask[..., None], error.shape)),
            "entropy": masked_mean(jnp.broadcast_to(policy.entropy(), live.shape), live),
            "approx_kl": masked_mean(ratio - 1 - change, live),
            "clip_fraction": masked_mean(1.0 * (jnp.abs(ratio - 1) > c), live),
        }
        total = metrics["loss_actor"] - hypers.entropy_weight * metrics["entropy"] + metrics["loss_critic"]
        return total, metrics

    def penalty(error: jax.Array, hypers: Hypers) -> jax.Array:
        return optax.huber_loss(error, delta=hypers.huber_delta) if ppo.huber else 0.5 * jnp.square(error)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        """All passes over `batch`; the metrics are means over their gradient steps."""
        B, steps = batch.reward.shape[1], ppo.epochs * ppo.minibatches
        collected, stats, metrics = look_back(learner, batch, hypers)
        tx = actor_critic_optimiser(algo.optimiser, GROUPS, hypers, env_steps)

        def step(learned, part: jax.Array):
            params, opt_state = learned
            sequences = jax.tree.map(lambda x: x[:, part], collected)
            grads, metrics = jax.grad(loss, has_aux=True)(params, sequences, hypers)
            change, opt_state = tx.update(grads, opt_state, params)
            metrics["grad_norm"] = optax.global_norm(grads)
            return (optax.apply_updates(params, change), opt_state), metrics

        order = jnp.tile(jnp.arange(B), (ppo.epochs, 1))
        parts = jax.random.permutation(key, order, axis=1, independent=True).reshape(steps, -1)
        learned, each = jax.lax.scan(step, (learner.params, learner.opt_state), parts)
        learner = learner._replace(
            params=learned[0], opt_state=learned[1], target=stats, updates=learner.updates + steps
        )
        return learner, metrics | jax.tree.map(jnp.mean, each)

    def refresh_target(learner: Learner, due: jax.Array, hypers: Hypers) -> Learner:
        return learner  # there are no target networks

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        params = {"actor": actor.init(actor_key), "critic": critic.init(critic_key)}
        zero = jnp.zeros(())
        return Learner(
            params=params,
            target=Running(zero, zero, zero) if ppo.normalise_values else (),
            opt_state=actor_critic_optimiser(algo.optimiser, GROUPS, hypers).init(params),
            log_alpha=zero,
            alpha_opt_state=(),
            updates=jnp.zeros((), jnp.int32),
        )

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        policy = actor.policy(learner.params["actor"], batch)[:T]
        logits, probs = jnp.asarray(policy.logits), jnp.asarray(policy.probs)
        greedy = greedy_action(logits, batch.steps.avail[:T])
        view = Inspection(None, None, None, greedy, logits, probs)
        return each_sample(view, batch)

    return Algorithm(
        init, actor.carry, actor.act, actor.greedy, update, refresh_target, inspect, data="fresh"
    )


def make_critic(config: Config, spec: EnvSpec) -> Critic:
    """The agents' network with one output: for each of them, or for a single one that sees the state."""
    net = dataclasses.replace(config.net, output_scale=1.0)
    if config.ppo.critic == "observation":
        agents = make_agent_net(net, spec, outputs=1)
        return Critic(agents.init, lambda params, batch: agents.unroll(params, batch)[..., 0])
    net = dataclasses.replace(net, torso="mlp", last_action=False, agent_id=False, shared=True)
    team = make_agent_net(net, spec._replace(n_agents=1, obs_shape=(spec.state_dim,)), outputs=1)

    def value(params: Params, batch: Batch) -> jax.Array:
        seen = {"obs": batch.steps.state[..., None, :], "alive": batch.steps.alive[..., :1]}
        alone = batch._replace(steps=batch.steps._replace(**seen), action=batch.action[..., :1])
        return team.unroll(params, alone)[..., 0]

    return Critic(team.init, value)


def living(batch: Batch, mask: jax.Array) -> jax.Array:
    """1 for every living agent of every real transition, [T, B, N]."""
    return batch.steps.alive[: len(mask)] * mask[..., None]


def normalised(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` with mean 0 and deviation 1 where it is real."""
    x = x - masked_mean(x, mask)
    return x / (jnp.sqrt(masked_mean(jnp.square(x), mask)) + 1e-5)


def tracked(stats: Running, x: jax.Array, mask: jax.Array, keep: float = 0.99999) -> Running:
    """`stats` after one more batch, whatever its size (MAPPO's ValueNorm)."""
    new = masked_mean(x, mask), masked_mean(jnp.square(x), mask), 1.0
    return Running(*(keep * old + (1 - keep) * value for old, value in zip(stats, new, strict=True)))


def moments(stats: Running) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation), the latter at least 0.1."""
    weight = jnp.maximum(stats.weight, 1e-5)
    mean = stats.mean / weight
    return mean, jnp.sqrt(jnp.maximum(stats.square / weight - jnp.square(mean), 1e-2))
