"""What all learners share of learning: optimisers, the temperature's rules, the targets' refresh."""

from collections.abc import Callable, Hashable, Iterable, Mapping

import jax
import jax.numpy as jnp
import optax

from ..config import Algo, Hypers
from ..policies import geometric_schedule, linear_schedule
from ..types import EnvSpec, Learner, Metrics, Params


def optimiser(
    rule: str, rate: jax.Array | float, hypers: Hypers, env_steps: jax.Array | float = 0.0
) -> optax.GradientTransformation:
    """Clip by the global norm, then Adam or PyTorch's RMSprop; the rate falls as hypers.lr_decay says."""
    rate = linear_schedule(rate, rate * hypers.lr_decay, hypers.lr_steps, env_steps)
    steps = {
        "adam": lambda: optax.adam(rate, eps=1e-8),
        "rmsprop": lambda: optax.rmsprop(rate, decay=0.99, eps=1e-5, eps_in_sqrt=False),
    }
    return optax.chain(optax.clip_by_global_norm(hypers.max_grad_norm), steps[rule]())


def actor_critic_optimiser(
    rule: str, groups: Mapping[str, str], hypers: Hypers, env_steps: jax.Array | float = 0.0
) -> optax.GradientTransformation:
    """A clip and an optimiser of its own for each group of parameters.

    `groups` maps the top-level keys of the parameters to groups; the one called "actor" learns at
    hypers.lr, all others at hypers.critic_lr.
    """
    rates = {group: hypers.lr if group == "actor" else hypers.critic_lr for group in groups.values()}
    each: dict[Hashable, optax.GradientTransformation] = {
        group: optimiser(rule, rate, hypers, env_steps) for group, rate in rates.items()
    }
    return optax.partition(each, dict(groups))


def temperature_optimiser(algo: Algo, hypers: Hypers) -> optax.GradientTransformation:
    """SGD or Adam on log alpha."""
    return (optax.adam if algo.temperature == "adam" else optax.sgd)(hypers.alpha_lr)


def first_temperature(algo: Algo, hypers: Hypers):
    """(log alpha, its optimiser's state) at hypers.alpha."""
    log_alpha = jnp.log(jnp.asarray(hypers.alpha, jnp.float32))
    return log_alpha, temperature_optimiser(algo, hypers).init(log_alpha)


def next_temperature(
    algo: Algo, learner: Learner, entropy: jax.Array, target: jax.Array | float, env_steps, hypers: Hypers
):
    """(log alpha, its optimiser's state) after one step of the rule that `algo.temperature` names.

    Learned (ME-IGM Eq. 11): d/d log alpha of alpha (H - H_target), with H the entropy of the current
    policy in the units of `target`.
    """
    log_alpha, state = learner.log_alpha, learner.alpha_opt_state
    schedules = {"anneal": geometric_schedule, "linear": linear_schedule}
    if algo.temperature in schedules:
        schedule = schedules[algo.temperature]
        log_alpha = jnp.log(schedule(hypers.alpha, hypers.alpha_end, hypers.alpha_steps, env_steps))
        log_alpha = jnp.broadcast_to(log_alpha, learner.log_alpha.shape)
    elif algo.temperature != "fixed":
        grad = jnp.exp(log_alpha) * (entropy - target)
        step, state = temperature_optimiser(algo, hypers).update(grad, state)
        log_alpha = optax.apply_updates(log_alpha, step)
    return log_alpha, state


def new_learner(
    params: Params,
    targets: Iterable[str],
    tx: optax.GradientTransformation,
    temperature: tuple | None = None,
) -> Learner:
    """A learner before its first update, with target networks of the parts of `params` that `targets`
    names; `temperature` is what `first_temperature` gave, if it has one.
    """
    log_alpha, alpha_opt_state = temperature or (jnp.zeros(()), ())
    target = {name: params[name] for name in targets}
    return Learner(params, target, tx.init(params), log_alpha, alpha_opt_state, jnp.zeros((), jnp.int32))


def stepped(
    learner: Learner, grads: Params, tx: optax.GradientTransformation, temperature: tuple | None = None
) -> Learner:
    """`learner` after one gradient step; `temperature` is what `next_temperature` gave, if there is one."""
    step, opt_state = tx.update(grads, learner.opt_state, learner.params)
    log_alpha, alpha_opt_state = temperature or (learner.log_alpha, learner.alpha_opt_state)
    return Learner(
        params=optax.apply_updates(learner.params, step),
        target=learner.target,
        opt_state=opt_state,
        log_alpha=log_alpha,
        alpha_opt_state=alpha_opt_state,
        updates=learner.updates + 1,
    )


def soft_step(
    algo: Algo,
    spec: EnvSpec,
    learner: Learner,
    grads: Params,
    tx: optax.GradientTransformation,
    entropy: jax.Array,
    env_steps: jax.Array | float,
    hypers: Hypers,
) -> tuple[Learner, Metrics]:
    """One gradient step and one of the temperature, which aims at hypers.target_entropy per agent.

    `entropy` [] is the joint one of the current policy, in nats.
    """
    wanted = spec.n_agents * hypers.target_entropy
    temperature = next_temperature(algo, learner, entropy, wanted, env_steps, hypers)
    metrics = {
        "entropy": entropy / spec.n_agents,
        "alpha": jnp.exp(learner.log_alpha),
        "grad_norm": optax.global_norm(grads),
    }
    return stepped(learner, grads, tx, temperature), metrics


def refreshed(target: Params, params: Params, due: jax.Array, hypers: Hypers) -> Params:
    """The target networks moved towards `params` by the share hypers.tau where a refresh is due."""
    return jax.tree.map(
        lambda old, new: jnp.where(due, hypers.tau * new + (1 - hypers.tau) * old, old), target, params
    )


def target_refresher(spec: EnvSpec) -> Callable[[Learner, jax.Array, Hypers], Learner]:
    """`Algorithm.refresh_target` of a learner whose targets are networks, named as in its parameters."""

    def refresh_target(learner: Learner, due: jax.Array, hypers: Hypers) -> Learner:
        if spec.one_step:
            return learner  # nothing is bootstrapped
        online = {k: learner.params[k] for k in learner.target}
        return learner._replace(target=refreshed(learner.target, online, due, hypers))

    return refresh_target
