"""Deterministic policy gradients, for continuous actions: MADDPG, FacMADDPG and deterministic DOP.

They differ in the critic. Sources: Lowe et al. 2017 (MADDPG), de Witt et al. 2020 (FacMADDPG), Peng et al.
2021 (FACMAC), Wang et al. 2021 (DOP).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from ..config import Config, Hypers, hypers, option, register_learner
from ..config.hypers import CriticRate, Epsilon, LearningRate, TargetRate, TdLambda
from ..networks.actors import Actor, make_deterministic_actor
from ..networks.critics import PositiveSum
from ..networks.joint_critics import JointCritic, factored_critic, undivided_critic
from ..networks.mixers import QMIX
from ..ops.action_box import to_box, to_unit
from ..ops.batches import first_instants
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, new_learner, stepped
from ..ops.returns import batch_return
from ..ops.target_networks import refresh_targets
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params

GROUPS = {"actor": "actor", "critic": "critic"}


def critic_is(*names: str) -> Callable[[Any], bool]:
    """A predicate for `when`: the critic is one of `names`."""
    return lambda config: config.algo.critic in names


@dataclasses.dataclass(frozen=True)
class DdpgOptions:
    """Options of the deterministic policy gradients."""

    critic: Literal["joint", "monotonic", "linear"] = option(
        "joint",
        "Q(s, u) of the joint action (MADDPG), QMIX's mixer over Q_i(tau_i, u_i) (FacMADDPG), or DOP's "
        "sum_i k_i(s) Q_i + b(s).",
    )
    hidden: int = option(
        64,
        "Width of the joint critic's two hidden layers; or of the memory that Q_i reads, and of its layer "
        "on the memory and the action.",
        low=1,
    )
    mixing_embed: int = option(
        32, "Width of QMIX's mixing layer, or columns of W(s) in k = |W(s)| |w(s)|.", low=1,
        when=critic_is("monotonic", "linear"),
    )  # fmt: skip
    hyper_embed: int = option(
        64, "Hidden width of QMIX's hyper-networks.", low=1, when=critic_is("monotonic")
    )
    target_interval: int = option(200, "Episodes between two refreshes of the target networks.", low=1)
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )


@hypers
class DdpgHypers(LearningRate, CriticRate, TdLambda, TargetRate, Epsilon, Hypers):
    """Hyperparameters of the deterministic policy gradients. Epsilon is the rate of uniform actions."""

    noise: float = option(
        0.1, "Standard deviation of the exploring noise, as a share of half the action's range.", low=0
    )
    action_penalty: float = option(
        0.0, "Weight of the mean square of the policy's actions, in [-1, 1], in its loss.", low=0
    )


class DdpgNets(NamedTuple):
    """The networks, named as their parameters are, and the box of the actions."""

    actor: Actor
    critic: JointCritic
    spec: EnvSpec


def make_critic(config: Config, spec: EnvSpec) -> JointCritic:
    """The critic that `config.algo` (DdpgOptions) names; the reward is the team's, so one is enough."""
    options, operands = config.algo, config.net.operands
    if options.critic == "joint":
        return undivided_critic(spec, options.hidden, operands)
    if options.critic == "linear":
        mixer = PositiveSum(spec.n_agents, options.mixing_embed, operands=operands)
    else:
        mixer = QMIX(options.mixing_embed, options.hyper_embed, operands)
    return factored_critic(config.net, spec, options.hidden, mixer)


# -- targets and losses ---------------------------------------------------------------------------


def policy_actions(nets: DdpgNets, params: Params, batch: Batch) -> jax.Array:
    """mu(tau) in [-1, 1], [T or T + 1, B, N, d]."""
    return to_unit(nets.actor.policy(params["actor"], batch), nets.spec)


def ddpg_targets(nets: DdpgNets, target: Params, batch: Batch, hypers: DdpgHypers) -> jax.Array:
    """Lambda-returns of Q^-_tot(s', mu^-(tau')), [T, B]."""
    encoded = nets.critic.encode(target["critic"], batch)
    value = nets.critic.q_tot(target["critic"], encoded, policy_actions(nets, target, batch))
    return batch_return(batch, value, hypers)


def value_of_all(critic: JointCritic, params: Params, encoded: Any, mu: jax.Array, action: jax.Array):
    """Q_tot(s, mu_1, ..., mu_N), [T, B]: all agents act by their policies (FACMAC, DOP)."""
    return critic.q_tot(params, encoded, mu)


def value_of_each(critic: JointCritic, params: Params, encoded: Any, mu: jax.Array, action: jax.Array):
    """1/N sum_i Q(s, u_1, ..., mu_i, ..., u_N), [T, B]: each acts by its policy beside what the others did.

    Shapes: mu [T, B or 1, N, d], the recorded action [T, B, N, d]; both in [-1, 1] (MADDPG).
    """

    def of_one(agent: jax.Array) -> jax.Array:
        return critic.q_tot(params, encoded, jnp.where(agent[:, None], mu, action))

    return jax.vmap(of_one)(jnp.eye(action.shape[-2], dtype=bool)).mean(0)


def ddpg_losses(
    nets: DdpgNets, params: Params, batch: Batch, targets: jax.Array, climbed: Callable, hypers: DdpgHypers
) -> tuple[jax.Array, Metrics]:
    """(L(critic) + L(actor), metrics), means over real transitions:

        L(critic) = (Q_tot(s, u) - G)^2
        L(actor)  = -climbed + action_penalty * mean_i mu_i^2

    `climbed` is `value_of_all` or `value_of_each`. With the linear critic the actor follows DOP's gradient,
    sum_i k_i(s) grad mu_i grad_u Q_i.
    """
    T, mask, action = len(batch.reward), batch.mask, to_unit(batch.action, nets.spec)
    mu = policy_actions(nets, params, batch)[:T]
    encoded = first_instants(nets.critic.encode(params["critic"], batch), T)
    q = nets.critic.q_tot(params["critic"], encoded, action)
    gain = climbed(nets.critic, *stop_gradient((params["critic"], encoded)), mu, action)
    penalty = hypers.action_penalty * jnp.square(mu).mean((-2, -1))
    metrics = {
        "loss_actor": masked_mean(penalty - gain, mask),
        "loss_critic": masked_mean(jnp.square(q - targets), mask),
        "q_tot": masked_mean(q, mask),
        "target": masked_mean(targets, mask),
    }
    return metrics["loss_actor"] + metrics["loss_critic"], metrics


def update(
    nets: DdpgNets, options: DdpgOptions, learner: Learner, batch: Batch, key: jax.Array, env_steps,
    hypers: DdpgHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step; actor and critic each have an optimiser and a gradient clip."""
    targets = ddpg_targets(nets, learner.target, batch, hypers)
    climbed = value_of_each if options.critic == "joint" else value_of_all
    gradient = jax.grad(ddpg_losses, argnums=1, has_aux=True)
    grads, metrics = gradient(nets, learner.params, batch, targets, climbed, hypers)
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    return stepped(learner, grads, tx), metrics | {"grad_norm": optax.global_norm(grads)}


# -- the learner ----------------------------------------------------------------------------------


def first_learner(nets: DdpgNets, options: DdpgOptions, key: jax.Array, hypers: DdpgHypers) -> Learner:
    """The learner before its first update."""
    actor_key, critic_key = jax.random.split(key)
    params = {"actor": nets.actor.init(actor_key), "critic": nets.critic.init(critic_key)}
    return new_learner(params, GROUPS, actor_critic_optimiser(options.optimiser, GROUPS, hypers))


def inspect(nets: DdpgNets, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch."""
    T, params = len(batch.reward), learner.params["critic"]
    mu = policy_actions(nets, learner.params, batch)[:T]
    encoded = first_instants(nets.critic.encode(params, batch), T)
    return Inspection(
        greedy=to_box(mu, nets.spec),
        q_tot=nets.critic.q_tot(params, encoded, to_unit(batch.action, nets.spec)),
        q_tot_greedy=nets.critic.q_tot(params, encoded, mu),
    )


@register_learner(
    "ddpg", options=DdpgOptions, hypers=DdpgHypers, actions="continuous", shared_instants=True
)
def make_ddpg(config: Config, spec: EnvSpec) -> Algorithm:
    """MADDPG, FacMADDPG or deterministic DOP, by algo.critic, for environments of shape `spec`."""
    options = config.algo
    nets = DdpgNets(
        actor=make_deterministic_actor(config.net, spec), critic=make_critic(config, spec), spec=spec
    )
    return Algorithm(
        init=partial(first_learner, nets, options),
        carry=nets.actor.carry,
        act=nets.actor.act,
        greedy=nets.actor.greedy,
        update=partial(update, nets, options),
        inspect=partial(inspect, nets),
        refresh_target=refresh_targets,
        target_interval=options.target_interval,
    )
