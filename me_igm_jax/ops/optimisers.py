"""Optimisers, and learners before and after a gradient step.

The optimisers are built again at every update, because their learning rates are traced numbers:
hyperparameters are axes of a sweep. Nothing is lost by it, since all state is in `opt_state`.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..types import Learner, Params
from .schedules import linear_schedule

Rate = jax.Array | float


def optimiser(rule: str, rate: Rate, hypers: Any, env_steps: Rate = 0.0) -> optax.GradientTransformation:
    """Clip by the global norm hypers.max_grad_norm, then one step of `rule`.

    adam     Adam with epsilon 1e-8
    rmsprop  PyTorch's RMSprop with decay 0.99 and epsilon 1e-5, as PyMARL uses it

    The rate falls from `rate` to `rate` hypers.lr_decay over hypers.lr_steps environment steps.
    """
    rate = linear_schedule(rate, rate * hypers.lr_decay, hypers.lr_steps, env_steps)
    rules = {
        "adam": lambda: optax.adam(rate, eps=1e-8),
        "rmsprop": lambda: optax.rmsprop(rate, decay=0.99, eps=1e-5, eps_in_sqrt=False),
    }
    return optax.chain(optax.clip_by_global_norm(hypers.max_grad_norm), rules[rule]())


def actor_critic_optimiser(
    rule: str, groups: Mapping[str, str], hypers: Any, env_steps: Rate = 0.0
) -> optax.GradientTransformation:
    """An `optimiser`, with a gradient clip, for each group of parameters.

    `groups` maps the top-level keys of the parameters to groups. The group "actor" learns at hypers.lr,
    every other group at hypers.critic_lr.
    """
    rates = {group: hypers.lr if group == "actor" else hypers.critic_lr for group in groups.values()}
    each: dict[Hashable, optax.GradientTransformation] = {
        group: optimiser(rule, rate, hypers, env_steps) for group, rate in rates.items()
    }
    return optax.partition(each, dict(groups))


def new_learner(
    params: Params,
    target_names: Iterable[str],
    tx: optax.GradientTransformation,
    temperature: tuple[jax.Array, Any] | None = None,
) -> Learner:
    """A learner before its first update.

    Args:
      params: a dictionary of parameters.
      target_names: those of its keys that have target networks.
      temperature: the result of `temperature.first_temperature`, if the learner has a temperature.
    """
    log_alpha, alpha_opt_state = temperature or ((), ())
    return Learner(
        params=params,
        target={name: params[name] for name in target_names},
        opt_state=tx.init(params),
        log_alpha=log_alpha,
        alpha_opt_state=alpha_opt_state,
        updates=jnp.zeros((), jnp.int32),
    )


def stepped(
    learner: Learner,
    grads: Params,
    tx: optax.GradientTransformation,
    temperature: tuple[jax.Array, Any] | None = None,
) -> Learner:
    """`learner` after one gradient step.

    `temperature` is the result of `temperature.next_temperature`; without it the temperature stays.
    """
    step, opt_state = tx.update(grads, learner.opt_state, learner.params)
    log_alpha, alpha_opt_state = temperature or (learner.log_alpha, learner.alpha_opt_state)
    return learner._replace(
        params=optax.apply_updates(learner.params, step),
        opt_state=opt_state,
        log_alpha=log_alpha,
        alpha_opt_state=alpha_opt_state,
        updates=learner.updates + 1,
    )


def gradients_through(
    unroll: Callable[[Params], Any],
    nets: Params,
    heads: Params,
    targets: Callable[[Any], Any],
    losses: Callable[[Any, Params, Any], tuple[jax.Array, Any]],
) -> tuple[Params, Any, Any]:
    """Gradients of a loss when one unroll over time serves both the targets and the gradient.

    Args:
      unroll: nets -> outputs over time.
      nets, heads: dictionaries of parameters without common keys: what is unrolled, and what is applied
        to the outputs.
      targets: outputs -> whatever the losses are measured against; no gradient passes through it.
      losses: outputs, heads, targets -> (loss [], auxiliary data).

    Returns: (gradients of nets and heads in one dictionary, targets, auxiliary data).
    """
    outputs, pull_back = jax.vjp(unroll, nets)
    fixed = targets(outputs)
    gradient = jax.grad(losses, argnums=(0, 1), has_aux=True)
    (d_outputs, d_heads), auxiliary = gradient(outputs, heads, fixed)
    return {**pull_back(d_outputs)[0], **d_heads}, fixed, auxiliary
