"""Policies that are networks of their own, apart from any values: what actor-critics act with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..boxes import squashed_gaussian, to_box, uniform
from ..config import Hypers, Net
from ..policies import floored, greedy_action, linear_schedule, sample, softmax_policy
from ..types import Batch, Carry, EnvSpec, Learner, Params, TimeStep
from .agent import bounded, make_agent_net


class Actor(NamedTuple):
    """A decentralised policy; its parameters are `learner.params["actor"]`."""

    init: Callable[[jax.Array], Params]
    carry: Callable[[int], Carry]
    act: Callable[..., tuple[Carry, jax.Array]]  # as in Algorithm
    greedy: Callable[..., tuple[Carry, jax.Array]]  # as in Algorithm
    policy: Callable[[Params, Batch], Any]  # its params, batch -> [T(+1), B, N] distributions, or actions


def make_actor(net: Net, spec: EnvSpec, bounds: tuple[float, float] | None = None) -> Actor:
    """softmax of the network that `net` describes, over the available actions.

    While it learns it acts by `floored` pi; the floor, eps, is zero in most presets. `bounds`, if
    there are any, are those of its logits.
    """
    agent = make_agent_net(net, spec)
    agent = bounded(agent, *bounds) if bounds else agent

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers: Hypers):
        hidden, logits = agent.step(learner.params["actor"], carry, step)
        eps = exploration_rate(hypers, env_steps)
        action = sample(key, floored(softmax_policy(logits, step.avail), step.avail, eps))
        return (hidden, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        hidden, logits = agent.step(learner.params["actor"], carry, step)
        action = greedy_action(logits, step.avail)
        return (hidden, action), action

    def policy(params: Params, batch: Batch):
        return softmax_policy(agent.unroll(params, batch), batch.steps.avail)

    return Actor(agent.init, agent.carry, act, greedy, policy)


def make_gaussian_actor(net: Net, spec: EnvSpec) -> Actor:
    """`boxes.squashed_gaussian` of the network that `net` describes; greedy: the mean."""
    agent = make_agent_net(net, spec, outputs=2 * spec.action_dim)

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers: Hypers):
        hidden, out = agent.step(learner.params["actor"], carry, step)
        action = squashed_gaussian(out, spec).sample(seed=key)
        return (hidden, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        hidden, out = agent.step(learner.params["actor"], carry, step)
        action = mode(squashed_gaussian(out, spec))
        return (hidden, action), action

    def policy(params: Params, batch: Batch):
        return squashed_gaussian(agent.unroll(params, batch), spec)

    return Actor(agent.init, agent.carry, act, greedy, policy)


def draw(policy, key: jax.Array, B: int) -> tuple[jax.Array, jax.Array]:
    """Reparameterised actions [I, B, N, d] and log densities [I, B, N] of squashed Gaussians [I, B, N].

    Where the sequences of a trimmed batch share one policy, [I, 1, N], each has a draw of its own.
    """
    drawn = policy.sample_and_log_prob(seed=key, sample_shape=(B // policy.batch_shape[1],))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[1], B, *x.shape[3:]), drawn)


def mode(policy) -> jax.Array:
    """What greedy agents do, the mean of the Gaussian before it is squashed: [..., N, d]."""
    return policy.bijector.forward(policy.distribution.mean())


def make_deterministic_actor(net: Net, spec: EnvSpec) -> Actor:
    """tanh of the network that `net` describes, scaled to the box; its `policy` is the actions.

    While it learns it adds N(0, (hypers.noise x half the box)^2), or, with probability eps, acts uniformly.
    """
    agent = make_agent_net(net, spec, outputs=spec.action_dim)

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers: Hypers):
        noise_key, random_key, choice_key = jax.random.split(key, 3)
        hidden, out = agent.step(learner.params["actor"], carry, step)
        noisy = to_box(jnp.tanh(out) + hypers.noise * jax.random.normal(noise_key, out.shape), spec)
        explores = jax.random.uniform(choice_key, (*out.shape[:-1], 1)) < exploration_rate(
            hypers, env_steps
        )
        action = jnp.where(explores, uniform(random_key, out.shape[:-1], spec), noisy)
        return (hidden, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        hidden, out = agent.step(learner.params["actor"], carry, step)
        action = to_box(jnp.tanh(out), spec)
        return (hidden, action), action

    def policy(params: Params, batch: Batch):
        return to_box(jnp.tanh(agent.unroll(params, batch)), spec)

    return Actor(agent.init, agent.carry, act, greedy, policy)


def exploration_rate(hypers: Hypers, env_steps) -> jax.Array:
    """eps at this point of its schedule."""
    return linear_schedule(hypers.eps_start, hypers.eps_end, hypers.eps_steps, env_steps)
