"""MAPPO and IPPO: several passes of clipped policy gradients over the data that were just collected.

Yu et al. 2022 (MAPPO), de Witt et al. 2020 (IPPO), Schulman et al. 2016 and 2017 (GAE, PPO).
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..config import Config, ConfigError, Hypers, hypers, option, register_learner
from ..config.hypers import CriticRate, LearningRate, TdLambda
from ..networks.actors import Actor, make_actor
from ..networks.value_net import ValueNet, make_value_net
from ..ops.batches import take_sequences
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, new_learner, stepped
from ..ops.policies import greedy_action
from ..ops.returns import batch_return
from ..ops.running_statistics import moments, no_statistics, tracked
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params

GROUPS = {"actor": "actor", "critic": "critic"}


@dataclasses.dataclass(frozen=True)
class PpoOptions:
    """Options of MAPPO and IPPO."""

    critic: Literal["state", "observation"] = option(
        "state", "What the values read: the central state (MAPPO), or each agent's observations (IPPO)."
    )
    epochs: int = option(5, "Passes over the data that were just collected.", low=1)
    minibatches: int = option(1, "Parts that each pass is cut into, whole sequences each.", low=1)
    normalise_values: bool = option(
        True, "The critic predicts returns in units of their running mean and deviation."
    )
    clip_values: bool = option(True, "Clip how far the values move, like the probabilities of actions.")
    huber: bool = option(True, "Huber's loss (hypers.huber_delta) in place of squares.")
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )

    def check(self, config: Config) -> None:
        """Raise ConfigError when the sequences cannot be cut into minibatches."""
        envs = config.collect.envs
        if envs % self.minibatches:
            raise ConfigError(f"algo.minibatches={self.minibatches}: must divide collect.envs={envs}")


@hypers
class PpoHypers(LearningRate, CriticRate, TdLambda, Hypers):
    """Hyperparameters of MAPPO and IPPO."""

    clip: float = option(
        0.2,
        "How far the probability of an action may move, relative to the one before the update.",
        above=0,
    )
    entropy_weight: float = option(0.01, "Weight of the policy's entropy in the objective.", low=0)
    huber_delta: float = option(
        10.0,
        "Error at which Huber's loss turns from quadratic to linear, in the units of the critic's outputs.",
        above=0,
        when=lambda config: config.algo.huber,
    )


class PpoNets(NamedTuple):
    """The networks, named as their parameters are."""

    actor: Actor
    critic: ValueNet


class Collected(NamedTuple):
    """A batch, and what the learner believed about it before the update; no gradient step changes it."""

    batch: Batch
    log_prob: jax.Array  # [T, B, N] of the actions
    advantage: jax.Array  # [T, B, N] normalised
    value: jax.Array  # [T, B, M] the critic's outputs
    targets: jax.Array  # [T, B, M] of the critic's outputs


# -- before the gradient steps --------------------------------------------------------------------


def look_back(
    nets: PpoNets, options: PpoOptions, learner: Learner, batch: Batch, hypers: PpoHypers
) -> tuple[Collected, Any, Metrics]:
    """(Collected, the statistics after this batch, metrics), by the learner that collected `batch`.

    The advantage is GAE, A_t = G_t - V_t, with G the lambda-return of V, normalised over living agents.
    With options.normalise_values the critic's outputs are (V - mean) / deviation of the returns.
    """
    T, live = len(batch.reward), living(batch)
    output = nets.critic.value(learner.params["critic"], batch)
    mean, deviation = units(learner.statistics, options)
    value = mean + deviation * output
    returns = batch_return(batch, value, hypers)
    now = jnp.broadcast_to(value[:T], returns.shape)
    mask = jnp.broadcast_to(batch.mask[..., None], returns.shape)
    statistics = tracked(learner.statistics, returns, mask) if options.normalise_values else ()
    mean, deviation = units(statistics, options)
    collected = Collected(
        batch=batch,
        log_prob=nets.actor.policy(learner.params["actor"], batch)[:T].log_prob(batch.action),
        advantage=normalised(jnp.broadcast_to(returns - now, live.shape), live),
        value=jnp.broadcast_to(output[:T], returns.shape),
        targets=(returns - mean) / deviation,
    )
    return collected, statistics, {"q_tot": masked_mean(now, mask), "target": masked_mean(returns, mask)}


def living(batch: Batch) -> jax.Array:
    """1 for every living agent of every real transition, [T, B, N]."""
    return batch.steps.alive[: len(batch.mask)] * batch.mask[..., None]


def normalised(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` with mean 0 and deviation 1 over what is real."""
    x = x - masked_mean(x, mask)
    return x / (jnp.sqrt(masked_mean(jnp.square(x), mask)) + 1e-5)


def units(statistics: Any, options: PpoOptions) -> tuple[jax.Array | float, jax.Array | float]:
    """(mean, deviation) that turn the critic's outputs into returns."""
    return moments(statistics) if options.normalise_values else (0.0, 1.0)


# -- the gradient steps ---------------------------------------------------------------------------


def minibatches(key: jax.Array, sequences: int, epochs: int, parts: int) -> jax.Array:
    """Which sequences each gradient step reads, [epochs * parts, sequences / parts].

    Every pass reads all of them once, in a new random order.
    """
    every = jnp.tile(jnp.arange(sequences), (epochs, 1))
    return jax.random.permutation(key, every, axis=1, independent=True).reshape(epochs * parts, -1)


def ppo_loss(
    nets: PpoNets, params: Params, old: Collected, options: PpoOptions, hypers: PpoHypers
) -> tuple[jax.Array, Metrics]:
    """(L(pi) + L(V), metrics). With r = pi(a) / pi_old(a) and c = hypers.clip:

        L(pi) = -E[min(r A, clip(r, 1 - c, 1 + c) A)] - hypers.entropy_weight E[H(pi)]
        L(V)  = E[max(h(V - G), h(V_old + clip(V - V_old, -c, c) - G))]

    L(pi) is a mean over the living agents. L(V), of `value_error`, is one over all values: those of dead
    agents are learned too, because the targets of the living bootstrap from them.
    """
    T, batch, live = len(old.value), old.batch, living(old.batch)
    policy = nets.actor.policy(params["actor"], batch)[:T]
    # The ratio of what is not real could overflow, and its mask would not help: 0 * inf is not a number.
    log_ratio = jnp.where(live > 0, policy.log_prob(batch.action) - old.log_prob, 0.0)
    ratio = jnp.exp(log_ratio)
    error = value_error(nets.critic.value(params["critic"], batch)[:T], old, options, hypers)
    metrics = {
        "loss_actor": -masked_mean(clipped_gain(ratio, old.advantage, hypers.clip), live),
        "loss_critic": masked_mean(error, jnp.broadcast_to(batch.mask[..., None], error.shape)),
        "entropy": masked_mean(policy.entropy(), live),
        "approx_kl": masked_mean(ratio - 1 - log_ratio, live),
        "clip_fraction": masked_mean(jnp.abs(ratio - 1) > hypers.clip, live),
    }
    loss = metrics["loss_actor"] - hypers.entropy_weight * metrics["entropy"] + metrics["loss_critic"]
    return loss, metrics


def clipped_gain(ratio: jax.Array, advantage: jax.Array, clip: jax.Array | float) -> jax.Array:
    """min(r A, clip(r, 1 - c, 1 + c) A): nothing is gained by a ratio beyond the clip."""
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def value_error(value: jax.Array, old: Collected, options: PpoOptions, hypers: PpoHypers) -> jax.Array:
    """The critic's error at outputs `value` [T, B or 1, M], before its mean, [T, B, M].

    h(V - G), or with options.clip_values the larger of that and h(V_old + clip(V - V_old, -c, c) - G).
    h is Huber's loss or half a square.
    """

    def h(error: jax.Array) -> jax.Array:
        return (
            optax.huber_loss(error, delta=hypers.huber_delta) if options.huber else 0.5 * jnp.square(error)
        )

    error = h(value - old.targets)
    if not options.clip_values:
        return error
    near = old.value + jnp.clip(value - old.value, -hypers.clip, hypers.clip)
    return jnp.maximum(error, h(near - old.targets))


def update(
    nets: PpoNets, options: PpoOptions, learner: Learner, batch: Batch, key: jax.Array, env_steps,
    hypers: PpoHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """All passes over `batch`; the metrics of the losses are means over the gradient steps."""
    collected, statistics, metrics = look_back(nets, options, learner, batch, hypers)
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    gradient = jax.grad(ppo_loss, argnums=1, has_aux=True)

    def step(learner: Learner, part: jax.Array):
        grads, metrics = gradient(nets, learner.params, take_sequences(collected, part), options, hypers)
        return stepped(learner, grads, tx), metrics | {"grad_norm": optax.global_norm(grads)}

    parts = minibatches(key, batch.reward.shape[1], options.epochs, options.minibatches)
    learner, each = jax.lax.scan(step, learner, parts)
    return learner._replace(statistics=statistics), metrics | jax.tree.map(jnp.mean, each)


# -- the learner ----------------------------------------------------------------------------------


def first_learner(nets: PpoNets, options: PpoOptions, key: jax.Array, hypers: PpoHypers) -> Learner:
    """The learner before its first update."""
    keys = zip(nets._fields, jax.random.split(key), strict=True)
    params = {name: getattr(nets, name).init(net_key) for name, net_key in keys}
    learner = new_learner(params, (), actor_critic_optimiser(options.optimiser, GROUPS, hypers))
    return learner._replace(statistics=no_statistics() if options.normalise_values else ())


def inspect(nets: PpoNets, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch."""
    T = len(batch.reward)
    policy = nets.actor.policy(learner.params["actor"], batch)[:T]
    greedy = greedy_action(policy.logits, batch.steps.avail[:T])
    return Inspection(greedy=greedy, logits=policy.logits, probs=policy.probs)


@register_learner("ppo", options=PpoOptions, hypers=PpoHypers, data="fresh", shared_instants=True)
def make_ppo(config: Config, spec: EnvSpec) -> Algorithm:
    """MAPPO (algo.critic=state) or IPPO (algo.critic=observation) for environments of shape `spec`."""
    options = config.algo
    nets = PpoNets(make_actor(config.net, spec), make_value_net(config.net, spec, options.critic))
    return Algorithm(
        init=partial(first_learner, nets, options),
        carry=nets.actor.carry,
        act=nets.actor.act,
        greedy=nets.actor.greedy,
        update=partial(update, nets, options),
        inspect=partial(inspect, nets),
    )
