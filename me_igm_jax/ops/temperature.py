"""The temperature alpha of maximum-entropy learners: fixed, scheduled or learned.

Rules, by name (`config.algo.temperature`):
  fixed           hypers.alpha for ever
  anneal, linear  from hypers.alpha to hypers.alpha_end over hypers.alpha_steps environment steps,
                  by a constant factor or along a line
  sgd, adam       learned on log alpha at the rate hypers.alpha_lr, from hypers.alpha on
A rule reads no other hyperparameter than its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..types import Learner, Metrics, Params
from .optimisers import stepped
from .schedules import geometric_schedule, linear_schedule

SCHEDULES = {"anneal": geometric_schedule, "linear": linear_schedule}
LEARNED = {"sgd": optax.sgd, "adam": optax.adam}
Temperature = tuple[jax.Array, Any]  # log alpha, and the state of its optimiser


def first_temperature(rule: str, hypers: Any, shape: tuple[int, ...] = ()) -> Temperature:
    """(log alpha, the state of its optimiser) at hypers.alpha; `shape` is that of log alpha."""
    log_alpha = jnp.broadcast_to(jnp.log(jnp.asarray(hypers.alpha, jnp.float32)), shape)
    return log_alpha, LEARNED[rule](hypers.alpha_lr).init(log_alpha) if rule in LEARNED else ()


def next_temperature(
    rule: str,
    learner: Learner,
    entropy: jax.Array,
    target: jax.Array | float,
    env_steps: jax.Array | float,
    hypers: Any,
) -> Temperature:
    """(log alpha, the state of its optimiser) after one step of `rule`.

    Learned (ME-IGM Eq. 11): one step down the slope d/d log alpha of alpha (H - H_target).

    Args:
      entropy: H of the current policy, with the shape of log alpha.
      target: H_target in the same units; only a learned temperature reads it.
    """
    log_alpha, state = learner.log_alpha, learner.alpha_opt_state
    if rule in SCHEDULES:
        alpha = SCHEDULES[rule](hypers.alpha, hypers.alpha_end, hypers.alpha_steps, env_steps)
        return jnp.broadcast_to(jnp.log(alpha), log_alpha.shape), state
    if rule in LEARNED:
        slope = jnp.exp(log_alpha) * (entropy - target)
        step, state = LEARNED[rule](hypers.alpha_lr).update(slope, state)
        return jnp.asarray(optax.apply_updates(log_alpha, step)), state
    return log_alpha, state


def step_with_temperature(
    rule: str,
    n_agents: int,
    learner: Learner,
    grads: Params,
    tx: optax.GradientTransformation,
    entropy: jax.Array,
    env_steps: jax.Array | float,
    hypers: Any,
    target_entropy: jax.Array | float | None = None,
) -> tuple[Learner, Metrics]:
    """One gradient step of the parameters and one of the temperature.

    Args:
      entropy: joint entropy of the current policy, nats, [].
      target_entropy: what a learned temperature aims at, nats per agent; by default
        hypers.target_entropy.

    Returns: (learner, metrics: entropy per agent, alpha before the step, grad_norm).
    """
    per_agent = target_entropy
    if per_agent is None:
        per_agent = hypers.target_entropy if rule in LEARNED else 0.0
    target = n_agents * jnp.asarray(per_agent)
    temperature = next_temperature(rule, learner, entropy, target, env_steps, hypers)
    metrics = {
        "entropy": entropy / n_agents,
        "alpha": jnp.exp(learner.log_alpha),
        "grad_norm": optax.global_norm(grads),
    }
    return stepped(learner, grads, tx, temperature), metrics
