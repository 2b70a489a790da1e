"""Independent Q-learning: each agent fits its Q_i to the reward of the team, and nothing is mixed.

  G_i = r + gamma d_i [ (1 - lambda) Q^-_i(o', u*) + lambda G_i' ],   u* = argmax_a Q_i(o', a)
  L   = 1/2 (Q_i(o, u_i) - G_i)^2, the mean over the living agents of the real transitions

Q^- is the target network: the online network picks the next action and the target network values it (double
Q-learning). d_i is 0 at a true end. It is also 0 when agent i dies, because a dead agent learns no values.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from me_igm_jax import Algorithm, Batch, Config, EnvSpec, Inspection, Learner, hypers, option
from me_igm_jax.config import Epsilon, Hypers, LearningRate, TargetRate, TdLambda, register_learner
from me_igm_jax.networks.agents import AgentNet, make_agent_net
from me_igm_jax.ops.means import masked_mean
from me_igm_jax.ops.optimisers import new_learner, optimiser, stepped
from me_igm_jax.ops.policies import chosen, epsilon_greedy, greedy_action
from me_igm_jax.ops.returns import lambda_return
from me_igm_jax.ops.schedules import exploration_rate
from me_igm_jax.ops.target_networks import refresh_targets


@dataclasses.dataclass(frozen=True)
class IqlOptions:
    """Choices: config.algo."""

    target_interval: int = option(100, "Episodes between two refreshes of the target network.", low=1)


@hypers
class IqlHypers(LearningRate, TdLambda, Epsilon, TargetRate, Hypers):
    """Numbers that can be swept: config.hypers."""


def td_targets(q: jax.Array, q_target: jax.Array, batch: Batch, hypers: IqlHypers) -> jax.Array:
    """G_i [T, B, N], from q and q_target [T + 1, B, N, A] of the online and of the target network."""
    value = chosen(q_target, greedy_action(q, batch.steps.avail))  # [T + 1, B, N]
    outcome = (batch.reward, batch.discount, batch.mask)
    reward, discount, mask = (jnp.broadcast_to(x[..., None], value[1:].shape) for x in outcome)
    discount = discount * batch.steps.alive[1:]
    return lambda_return(reward, discount, mask, value, hypers.gamma, hypers.td_lambda)


def td_loss(q: jax.Array, targets: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L [] and the metrics that every update returns."""
    T = len(batch.reward)
    living = batch.mask[..., None] * batch.steps.alive[:T]  # [T, B, N]
    taken = chosen(q[:T], batch.action)
    loss = 0.5 * masked_mean(jnp.square(taken - targets), living)
    return loss, {
        "loss_td": loss,
        "q_tot": masked_mean(taken, living),
        "target": masked_mean(targets, living),
    }


def update(agent: AgentNet, learner: Learner, batch: Batch, key, env_steps, hypers: IqlHypers):
    """One gradient step. The online network runs once, for the targets and for the gradient."""
    q, pull_back = jax.vjp(lambda params: agent.unroll(params, batch), learner.params["agent"])
    targets = td_targets(q, agent.unroll(learner.target["agent"], batch), batch, hypers)
    d_q, metrics = jax.grad(td_loss, has_aux=True)(q, targets, batch)
    grads = {"agent": pull_back(d_q)[0]}
    learner = stepped(learner, grads, optimiser("adam", hypers.lr, hypers, env_steps))
    return learner, metrics | {"grad_norm": optax.global_norm(grads)}


def act(agent: AgentNet, learner: Learner, carry, step, key, env_steps, hypers: IqlHypers):
    """Epsilon-greedy actions; the carry is what the network remembers, and the action."""
    memory, q = agent.step(learner.params["agent"], carry, step)
    action = epsilon_greedy(key, q, step.avail, exploration_rate(hypers, env_steps))
    return (memory, action), action


def greedy(agent: AgentNet, learner: Learner, carry, step):
    """argmax_a Q_i over the available actions."""
    memory, q = agent.step(learner.params["agent"], carry, step)
    action = greedy_action(q, step.avail)
    return (memory, action), action


def inspect(agent: AgentNet, learner: Learner, batch: Batch) -> Inspection:
    """The utilities; there is no joint value, and no policy but the greedy one."""
    q = agent.unroll(learner.params["agent"], batch)[: len(batch.reward)]
    return Inspection(greedy=greedy_action(q, batch.steps.avail[: len(q)]), q=q)


@register_learner("iql", options=IqlOptions, hypers=IqlHypers)
def make_iql(config: Config, spec: EnvSpec) -> Algorithm:
    """The wiring: the functions above around the network that config.net describes."""
    agent = make_agent_net(config.net, spec)

    def init(key: jax.Array, hypers: IqlHypers) -> Learner:
        return new_learner({"agent": agent.init(key)}, ["agent"], optimiser("adam", hypers.lr, hypers))

    return Algorithm(
        init=init,
        carry=agent.carry,
        act=partial(act, agent),
        greedy=partial(greedy, agent),
        update=partial(update, agent),
        inspect=partial(inspect, agent),
        refresh_target=refresh_targets,
        target_interval=config.algo.target_interval,
    )
