"""Stochastic policies that are networks of their own: what FOP, HASAC, PPO and DOP act with."""

from collections.abc import Callable
from typing import NamedTuple

import distrax
import jax

from ..config import Hypers, Net
from ..policies import floored, greedy_action, linear_schedule, sample, softmax_policy
from ..types import Batch, Carry, EnvSpec, Learner, Params, TimeStep
from .agent import make_agent_net


class Actor(NamedTuple):
    """A decentralised policy; its parameters are `learner.params["actor"]`."""

    init: Callable[[jax.Array], Params]
    carry: Callable[[int], Carry]
    act: Callable[..., tuple[Carry, jax.Array]]  # as in Algorithm
    greedy: Callable[..., tuple[Carry, jax.Array]]  # as in Algorithm
    policy: Callable[[Params, Batch], distrax.Categorical]  # its params, batch -> [T(+1), B, N]


def make_actor(net: Net, spec: EnvSpec) -> Actor:
    """softmax of the network that `net` describes, over the available actions.

    While it learns it acts by `floored` pi; the floor, eps, is zero in most presets.
    """
    agent = make_agent_net(net, spec)

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers: Hypers):
        hidden, logits = agent.step(learner.params["actor"], carry, step)
        eps = linear_schedule(hypers.eps_start, hypers.eps_end, hypers.eps_steps, env_steps)
        action = sample(key, floored(softmax_policy(logits, step.avail), step.avail, eps))
        return (hidden, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        hidden, logits = agent.step(learner.params["actor"], carry, step)
        action = greedy_action(logits, step.avail)
        return (hidden, action), action

    def policy(params: Params, batch: Batch) -> distrax.Categorical:
        return softmax_policy(agent.unroll(params, batch), batch.steps.avail)

    return Actor(agent.init, agent.carry, act, greedy, policy)
