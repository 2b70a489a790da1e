"""mSAC (Pu et al. 2021): soft actor-critic, its twin joint critics decomposed into the agents' values.

With Mix_k the mixers of the critics k = 1, 2, it has the losses

    critics  sum_k (Mix_k((Q_ki(u_i))_i, s) - G)^2, G the lambda-return of min_k V^-_k
    actor    -min_k V_k(s), the critics and mixers held (released: -V_1)
    V_k(s) = Mix_k((E_pi_i[Q_ki - alpha log pi_i])_i, s)

They are means over the real transitions. The expectations are exact and taken inside the mixer: that is the
expected joint value when the mixer is linear, and an approximation when it is QMIX's. The entropy enters
there, not beside the return. The target critics move at every gradient step. The options choose between the
form of the paper and that of the released code (docs/algorithms.md). In every form, one gradient moves all
networks; the released code trains the critics first, and the actor against the new critics.
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..config import Config, Hypers, hypers, option, register_learner
from ..config.hypers import CriticRate, LearningRate, TargetRate, TdLambda, Temperature, temperature_is
from ..networks.actors import Actor, make_actor
from ..networks.agents import AgentNet, example_inputs, make_agent_net
from ..networks.critics import LinearMixer
from ..networks.layers import apply
from ..networks.mixers import QMIX
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, gradients_through, new_learner
from ..ops.policies import Categorical, categorical, chosen
from ..ops.returns import batch_return
from ..ops.target_networks import refresh_targets
from ..ops.temperature import first_temperature, step_with_temperature
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params

REWARD_STD = 10.0  # of standardised rewards
LOGITS = (-5.0, 2.0)  # bounds of clamped logits
GROUPS = {"actor": "actor", "critic": "critic", "mixer": "critic"}  # each has an optimiser and a clip
learned = temperature_is("sgd", "adam")


def mixes_by_qmix(config: Config) -> bool:
    """The mixers are QMIX's."""
    return config.algo.mixer == "qmix"


@dataclasses.dataclass(frozen=True)
class MsacOptions:
    """mSAC's parts: those of the paper, or what the released code has in their place."""

    mixer: Literal["qmix", "linear"] = option(
        "qmix", "QMIX's mixer (paper), or sum_i |w_i(s)| Q_i + b(s) (released)."
    )
    mixing_embed: int = option(32, "Width of QMIX's mixing layer.", low=1, when=mixes_by_qmix)
    hyper_embed: int = option(64, "Hidden width of its hyper-networks.", low=1, when=mixes_by_qmix)
    actor_value: Literal["min", "first"] = option(
        "min",
        "What improves the actor: the smaller of both joint values, or the first critic's (released).",
    )
    standardise: bool = option(
        False, "Give the rewards of every batch mean 0 and standard deviation 10 (released)."
    )
    clamp: bool = option(
        False, "Keep the policy's logits within [-5, 2] (released): odds of exp(7) at most."
    )
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )
    temperature: Literal["fixed", "anneal", "linear", "sgd", "adam"] = option(
        "fixed",
        "alpha: fixed, falling over hypers.alpha_steps (anneal: geometrically), or learned on log alpha.",
    )
    target_entropy: Literal["given", "actions"] = option(
        "given",
        "Entropy that the temperature aims at: hypers.target_entropy, or -|A| per agent (released). No "
        "policy has so little, so that the temperature falls for ever.",
        when=learned,
    )


@hypers
class MsacHypers(LearningRate, CriticRate, TdLambda, TargetRate, Temperature, Hypers):
    """mSAC's hyperparameters."""

    tau: float = option(
        0.005, "Share of the online critics that enters the target critics at every step.", low=0, high=1
    )
    target_entropy: float = option(
        0.24,
        "Entropy that the learned temperature aims at, in nats per agent.",
        when=lambda config: learned(config) and config.algo.target_entropy == "given",
    )


class Parts(NamedTuple):
    """mSAC's choices and networks. An axis K = 2 in front of parameters counts the critics."""

    options: MsacOptions
    spec: EnvSpec
    actor: Actor  # pi_i
    critic: AgentNet  # Q_ki, with an axis K
    mixer: nn.Module  # Mix_k, with an axis K


@register_learner("msac", options=MsacOptions, hypers=MsacHypers, shared_instants=True)
def make_msac(config: Config, spec: EnvSpec) -> Algorithm:
    """Build mSAC for environments of shape `spec`; `config.net` describes the networks of pi_i and Q_ki."""
    options, operands = config.algo, config.net.operands
    linear = options.mixer == "linear"
    parts = Parts(
        options=options,
        spec=spec,
        actor=make_actor(config.net, spec, bounds=LOGITS if options.clamp else None),
        critic=make_agent_net(config.net, spec),
        mixer=LinearMixer(operands)
        if linear
        else QMIX(options.mixing_embed, options.hyper_embed, operands),
    )
    return Algorithm(
        init=partial(init, parts), carry=parts.actor.carry,
        act=parts.actor.act, greedy=parts.actor.greedy,
        update=partial(update, parts), inspect=partial(inspect, parts),
    )  # fmt: skip


# -- values: I is the number of instants, T or T + 1 ----------------------------------------------


def unroll(parts: Parts, params: Params, batch: Batch) -> dict[str, jax.Array]:
    """actor: logits [I, B, N, A]; critic: Q_ki [K, I, B, N, A]."""
    return {
        "actor": jnp.asarray(parts.actor.policy(params["actor"], batch).logits),
        "critic": utilities(parts, params["critic"], batch),
    }


def utilities(parts: Parts, params: Params, batch: Batch) -> jax.Array:
    """Q_ki of all actions, [K, I, B, N, A]."""
    return jax.vmap(lambda p: parts.critic.unroll(p, batch))(params)


def mixed(mixer: nn.Module, params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
    """Mix_k of values q [K, ..., N], [K, ...]."""
    return jax.vmap(lambda p, q: apply(mixer, p, q, state))(params, q)


def soft_values(
    mixer: nn.Module, params: Params, q: jax.Array, policy: Categorical, alpha: jax.Array, state: jax.Array
) -> jax.Array:
    """V_k of Q_ki [K, ..., N, A] and pi_i [..., N], [K, ...]."""
    return mixed(mixer, params, (policy.probs * q).sum(-1) + alpha * policy.entropy(), state)


# -- targets --------------------------------------------------------------------------------------


def standardised(reward: jax.Array, mask: jax.Array) -> jax.Array:
    """`REWARD_STD` (r - mean) / deviation, both over the real transitions, [T, B]."""
    centred = reward - masked_mean(reward, mask)
    return REWARD_STD * centred / (jnp.sqrt(masked_mean(jnp.square(centred), mask)) + 1e-6)


def critic_targets(
    parts: Parts, target: Params, policy: Categorical, batch: Batch, alpha: jax.Array, hypers: Any
) -> jax.Array:
    """G, [T, B], under the current policies pi_i [I, B, N]."""
    q, state = utilities(parts, target["critic"], batch), batch.steps.state
    value = soft_values(parts.mixer, target["mixer"], q, policy, alpha, state).min(0)
    if parts.options.standardise:
        batch = batch._replace(reward=standardised(batch.reward, batch.mask))
    return batch_return(batch, value, hypers)


# -- losses ---------------------------------------------------------------------------------------


def critic_loss(q_tot: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """sum_k (Q_tot_k - G)^2: q_tot [K, T, B], targets and mask [T, B]."""
    return jax.vmap(lambda q: masked_mean(jnp.square(q - targets), mask))(q_tot).sum()


def actor_loss(v: jax.Array, actor_value: str, mask: jax.Array) -> jax.Array:
    """-min_k V_k, or -V_1 when `actor_value` is "first": v [K, T, B], mask [T, B]."""
    return -masked_mean(v.min(0) if actor_value == "min" else v[0], mask)


def losses(
    parts: Parts, out: dict, mixer: Params, targets: jax.Array, batch: Batch, alpha: jax.Array
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """(the sum of all losses, (metrics, the policy's mean joint entropy)); `out` is what `unroll` gives."""
    T, mask = len(batch.reward), batch.mask
    q, policy, state = out["critic"][:, :T], categorical(out["actor"][:T]), batch.steps.state[:T]
    q_tot = mixed(parts.mixer, mixer, chosen(q, batch.action), state)
    held_mixer, held_q = stop_gradient((mixer, q))
    v = soft_values(parts.mixer, held_mixer, held_q, policy, alpha, state)
    metrics = {
        "loss_critic": critic_loss(q_tot, targets, mask),
        "loss_actor": actor_loss(v, parts.options.actor_value, mask),
        "q_tot": masked_mean(q_tot[0], mask),
        "target": masked_mean(targets, mask),
    }
    entropy = masked_mean(stop_gradient(policy.entropy()).sum(-1), mask)
    return metrics["loss_critic"] + metrics["loss_actor"], (metrics, entropy)


# -- the learner ----------------------------------------------------------------------------------


def init(parts: Parts, key: jax.Array, hypers: Any) -> Learner:
    """The learner before its first update."""
    actor_key, critic_key, mixer_key = jax.random.split(key, 3)
    example = jnp.zeros((1, parts.spec.n_agents)), example_inputs(parts.spec).state
    params = {
        "actor": parts.actor.init(actor_key),
        "critic": jax.vmap(parts.critic.init)(jax.random.split(critic_key)),
        "mixer": jax.vmap(lambda k: parts.mixer.init(k, *example))(jax.random.split(mixer_key)),
    }
    tx = actor_critic_optimiser(parts.options.optimiser, GROUPS, hypers)
    temperature = first_temperature(parts.options.temperature, hypers)
    return new_learner(params, ("critic", "mixer"), tx, temperature)


def update(parts: Parts, learner: Learner, batch: Batch, key, env_steps, hypers) -> tuple[Learner, Metrics]:
    """One gradient step of all networks, and one of alpha; the target critics follow."""
    options, spec, alpha = parts.options, parts.spec, jnp.exp(learner.log_alpha)

    def targets(out: dict) -> jax.Array:
        return critic_targets(parts, learner.target, categorical(out["actor"]), batch, alpha, hypers)

    grads, _, (metrics, entropy) = gradients_through(
        unroll=lambda nets: unroll(parts, nets, batch),
        nets={name: learner.params[name] for name in ("actor", "critic")},
        heads={"mixer": learner.params["mixer"]},
        targets=targets,
        losses=lambda out, heads, fixed: losses(parts, out, heads["mixer"], fixed, batch, alpha),
    )
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    wanted = -float(spec.n_actions) if options.target_entropy == "actions" else None
    learner, more = step_with_temperature(
        options.temperature, spec.n_agents, learner, grads, tx, entropy, env_steps, hypers, wanted
    )
    return refresh_targets(learner, True, hypers), metrics | more


def inspect(parts: Parts, learner: Learner, batch: Batch) -> Inspection:
    """What the current networks believe; of both critics the smaller values."""
    T, out = len(batch.reward), unroll(parts, learner.params, batch)
    q, policy, state = out["critic"][:, :T], categorical(out["actor"][:T]), batch.steps.state[:T]
    greedy = jnp.asarray(policy.mode())

    def q_tot(action: jax.Array) -> jax.Array:
        return mixed(parts.mixer, learner.params["mixer"], chosen(q, action), state).min(0)

    return Inspection(
        greedy=greedy, q=q.min(0), q_tot=q_tot(batch.action), q_tot_greedy=q_tot(greedy),
        logits=jnp.asarray(policy.logits), probs=jnp.asarray(policy.probs),
    )  # fmt: skip
