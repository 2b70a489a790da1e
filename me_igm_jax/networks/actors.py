"""Actors: policies that are networks by themselves, apart from any values, as actor-critics have them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..ops.action_box import SquashedGaussian, squashed_gaussian, to_box, uniform
from ..ops.policies import Categorical, floored, greedy_action, sample, softmax_policy
from ..ops.schedules import exploration_rate
from ..types import Act, Batch, Carry, EnvSpec, Greedy, Learner, Params, TimeStep
from .agents import bounded, make_agent_net


class Actor(NamedTuple):
    """A decentralised policy; its parameters are `learner.params["actor"]`."""

    init: Callable[[jax.Array], Params]
    carry: Callable[[int], Carry]
    act: Act
    greedy: Greedy
    policy: Callable[[Params, Batch], Any]
    # the actor's params, batch -> distributions [T or T + 1, B, N] (deterministic actors: actions)


def make_actor(
    net: Any,
    spec: EnvSpec,
    bounds: tuple[float, float] | None = None,
    explore: Callable[[Any, jax.Array], jax.Array] | None = None,
) -> Actor:
    """softmax of the network that `net` (config.net) describes, over the available actions.

    Args:
      bounds: (low, high) of the logits, if there are any.
      explore: hypers, env_steps -> epsilon. While the actor learns, it acts by `floored` with this epsilon;
        without it, it acts by the policy itself.
    """
    agent = make_agent_net(net, spec)
    agent = bounded(agent, *bounds) if bounds else agent

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers):
        memory, logits = agent.step(learner.params["actor"], carry, step)
        policy = softmax_policy(logits, step.avail)
        if explore is not None:
            policy = floored(policy, step.avail, explore(hypers, env_steps))
        action = sample(key, policy)
        return (memory, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        memory, logits = agent.step(learner.params["actor"], carry, step)
        action = greedy_action(logits, step.avail)
        return (memory, action), action

    def policy(params: Params, batch: Batch) -> Categorical:
        return softmax_policy(agent.unroll(params, batch), batch.steps.avail)

    return Actor(init=agent.init, carry=agent.carry, act=act, greedy=greedy, policy=policy)


def make_gaussian_actor(net: Any, spec: EnvSpec) -> Actor:
    """`action_box.squashed_gaussian` of the network that `net` describes; greedy agents take `mode`."""
    agent = make_agent_net(net, spec, outputs=2 * spec.action_dim)

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers):
        memory, out = agent.step(learner.params["actor"], carry, step)
        action = squashed_gaussian(out, spec).sample(seed=key)
        return (memory, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        memory, out = agent.step(learner.params["actor"], carry, step)
        action = mode(squashed_gaussian(out, spec))
        return (memory, action), action

    def policy(params: Params, batch: Batch) -> SquashedGaussian:
        return squashed_gaussian(agent.unroll(params, batch), spec)

    return Actor(init=agent.init, carry=agent.carry, act=act, greedy=greedy, policy=policy)


def make_deterministic_actor(net: Any, spec: EnvSpec) -> Actor:
    """tanh of the network that `net` describes, scaled to the box; its `policy` gives actions.

    While it learns it adds Gaussian noise with a deviation of hypers.noise times half the box. With
    probability epsilon (`exploration_rate`) it takes a uniform action instead.
    """
    agent = make_agent_net(net, spec, outputs=spec.action_dim)

    def act(learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers):
        noise_key, random_key, choice_key = jax.random.split(key, 3)
        memory, out = agent.step(learner.params["actor"], carry, step)
        noisy = to_box(jnp.tanh(out) + hypers.noise * jax.random.normal(noise_key, out.shape), spec)
        random = uniform(random_key, out.shape[:-1], spec)
        explores = jax.random.uniform(choice_key, (*out.shape[:-1], 1)) < exploration_rate(
            hypers, env_steps
        )
        action = jnp.where(explores, random, noisy)
        return (memory, action), action

    def greedy(learner: Learner, carry: Carry, step: TimeStep):
        memory, out = agent.step(learner.params["actor"], carry, step)
        action = to_box(jnp.tanh(out), spec)
        return (memory, action), action

    def policy(params: Params, batch: Batch) -> jax.Array:
        return to_box(jnp.tanh(agent.unroll(params, batch)), spec)

    return Actor(init=agent.init, carry=agent.carry, act=act, greedy=greedy, policy=policy)


def sample_actions(policy: SquashedGaussian, key: jax.Array, B: int) -> tuple[jax.Array, jax.Array]:
    """Reparameterised actions and their log densities, independent for each of B sequences.

    Args:
      policy: squashed Gaussians [I, B, N], or [I, 1, N] when all sequences share one policy.

    Returns: (actions [I, B, N, d], log densities [I, B, N]).
    """
    drawn = policy.sample_and_log_prob(seed=key, sample_shape=(B // policy.batch_shape[1],))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[1], B, *x.shape[3:]), drawn)


def mode(policy: SquashedGaussian) -> jax.Array:
    """What greedy agents do: the mean of the Gaussian, squashed, [..., N, d]."""
    return jnp.asarray(policy.bijector.forward(policy.distribution.mean()))
