"""MAAC (Iqbal & Sha 2019) for continuous actions: critics that attend to the actions of the other agents.

The paper's policy gradient has a counterfactual baseline, a sum over an agent's discrete actions. For
continuous actions the reparameterised gradient takes its place. The critics are one network, which is told
which agent it serves; the reward is the team's. The joint value is the mean of the Q_i.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..config import Config, ConfigError, Hypers, hypers, option, register_learner
from ..config.hypers import CriticRate, LearningRate, TargetRate, TdLambda, Temperature
from ..networks.actors import Actor, make_gaussian_actor, mode, sample_actions
from ..networks.agents import AgentNet, make_agent_net
from ..networks.critics import AttentionCritic
from ..networks.layers import apply
from ..ops.action_box import to_unit
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, new_learner
from ..ops.returns import batch_return
from ..ops.target_networks import refresh_targets
from ..ops.temperature import first_temperature, step_with_temperature
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params

GROUPS = {"actor": "actor", "features": "critic", "critic": "critic"}


@dataclasses.dataclass(frozen=True)
class MaacOptions:
    """Options of MAAC."""

    heads: int = option(4, "Attention heads over the other agents.", low=1)
    hidden: int = option(64, "Width of the critics' layers, a multiple of the heads.", low=1)
    temperature: Literal["fixed", "anneal", "linear", "sgd", "adam"] = option(
        "fixed",
        "Fixed, falling over hypers.alpha_steps (anneal: geometrically), or learned on log alpha (sgd, "
        "adam).",
    )
    target_interval: int = option(200, "Episodes between two refreshes of the target networks.", low=1)
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )

    def check(self, config: Config) -> None:
        """Raise ConfigError when the heads cannot share the width."""
        if self.hidden % self.heads:
            raise ConfigError(f"algo.hidden={self.hidden}: must be a multiple of algo.heads={self.heads}")


@hypers
class MaacHypers(LearningRate, CriticRate, TdLambda, TargetRate, Temperature, Hypers):
    """Hyperparameters of MAAC."""


class MaacNets(NamedTuple):
    """The networks, named as their parameters are, and the box of the actions."""

    actor: Actor
    features: AgentNet  # what each agent sees and remembers, for the critic
    critic: AttentionCritic
    spec: EnvSpec


def attended_values(
    nets: MaacNets, params: Params, h: jax.Array, action: jax.Array, own: bool = False
) -> jax.Array:
    """Q_i of joint actions [..., N, d] in the units of the box, given features h [..., N, H] -> [..., N].

    With `own`, the gradient of Q_i reaches agent i's action alone.
    """
    return apply(nets.critic, params["critic"], h, to_unit(action, nets.spec), own)


def maac_targets(
    nets: MaacNets, learner: Learner, batch: Batch, key: jax.Array, hypers: MaacHypers
) -> jax.Array:
    """Lambda-returns of Q^-_i(s', a') - alpha log pi^-_i(a'_i), a' of the target policies pi^-, [T, B, N].

    Densities are of actions in the units of the box. The dead have no entropy.
    """
    target = learner.target
    action, log_pi = sample_actions(nets.actor.policy(target["actor"], batch), key, batch.reward.shape[1])
    value = attended_values(nets, target, nets.features.unroll(target["features"], batch), action)
    bonus = -jnp.exp(learner.log_alpha) * batch.steps.alive * log_pi
    return batch_return(batch, value, hypers, bonus)


def maac_losses(
    nets: MaacNets, params: Params, batch: Batch, targets: jax.Array, alpha: jax.Array, key: jax.Array
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """(L(critic) + L(actor), (metrics, joint entropy)), for u from replay and a ~ pi:

    L(critic) = (Q_i(s, u) - G_i)^2                  mean over all agents of real transitions
    L(actor)  = alpha log pi_i(a_i) - Q_i(s, a)      mean over living agents; its gradient through a_i alone
    """
    (T, B), mask, alive = batch.reward.shape, batch.mask, batch.steps.alive
    action, log_pi = sample_actions(nets.actor.policy(params["actor"], batch), key, B)
    action, log_pi = action[:T], (alive * log_pi)[:T]
    h = nets.features.unroll(params["features"], batch)[:T]
    q = attended_values(nets, params, h, batch.action)
    gain = attended_values(nets, *stop_gradient((params, h)), action, own=True) - alpha * log_pi
    metrics = {
        "loss_critic": masked_mean(jnp.square(q - targets).mean(-1), mask),
        "loss_actor": -masked_mean(gain, alive[:T] * mask[..., None]),
        "q_tot": masked_mean(q.mean(-1), mask),
        "target": masked_mean(targets.mean(-1), mask),
    }
    entropy = masked_mean(-log_pi.sum(-1), mask)
    return metrics["loss_critic"] + metrics["loss_actor"], (metrics, entropy)


def update(
    nets: MaacNets, options: MaacOptions, learner: Learner, batch: Batch, key: jax.Array, env_steps,
    hypers: MaacHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step of all networks, and one step of the temperature."""
    target_key, loss_key = jax.random.split(key)
    targets = maac_targets(nets, learner, batch, target_key, hypers)
    gradient = jax.grad(maac_losses, argnums=1, has_aux=True)
    alpha = jnp.exp(learner.log_alpha)
    grads, (metrics, entropy) = gradient(nets, learner.params, batch, targets, alpha, loss_key)
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    learner, step_metrics = step_with_temperature(
        options.temperature, nets.spec.n_agents, learner, grads, tx, entropy, env_steps, hypers
    )
    return learner, metrics | step_metrics


def first_learner(nets: MaacNets, options: MaacOptions, key: jax.Array, hypers: MaacHypers) -> Learner:
    """The learner before its first update."""
    keys, leading = jax.random.split(key, 3), (1, nets.spec.n_agents)
    h, action = (jnp.zeros((*leading, width)) for width in (options.hidden, nets.spec.action_dim))
    params = {
        "actor": nets.actor.init(keys[0]),
        "features": nets.features.init(keys[1]),
        "critic": nets.critic.init(keys[2], h, action),
    }
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers)
    return new_learner(params, GROUPS, tx, first_temperature(options.temperature, hypers))


def inspect(nets: MaacNets, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch."""
    T, params = len(batch.reward), learner.params
    h = nets.features.unroll(params["features"], batch)[:T]
    best = mode(nets.actor.policy(params["actor"], batch))[:T]
    q_tot, q_tot_greedy = (attended_values(nets, params, h, u).mean(-1) for u in (batch.action, best))
    return Inspection(greedy=best, q_tot=q_tot, q_tot_greedy=q_tot_greedy)


@register_learner(
    "maac", options=MaacOptions, hypers=MaacHypers, actions="continuous", shared_instants=True
)
def make_maac(config: Config, spec: EnvSpec) -> Algorithm:
    """MAAC for environments of shape `spec`."""
    options = config.algo
    net = dataclasses.replace(config.net, output_scale=1.0)  # a small scale is meant for policies
    nets = MaacNets(
        actor=make_gaussian_actor(config.net, spec),
        features=make_agent_net(net, spec, outputs=options.hidden),
        critic=AttentionCritic(options.hidden, options.heads, config.net.operands),
        spec=spec,
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
