"""One update of our code from random weights, and what a NumPy oracle can say of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from me_igm_jax.algos import make_algorithm
from me_igm_jax.config import Config
from me_igm_jax.config.registry import learner_entry
from me_igm_jax.envs import make_env
from me_igm_jax.runner.devices import compiler_options
from me_igm_jax.training.shared_instants import share_instants
from me_igm_jax.training.train import make_train
from me_igm_jax.types import Algorithm, Batch, Env, EnvSpec, Inspection, Learner
from oracle import B, N

KEY = jax.random.key(3)


def algorithm(config, spec) -> Algorithm:
    """The algorithm as the training loop uses it: with shared instants when the learner allows them."""
    algo = make_algorithm(config, spec)
    return share_instants(algo, spec) if learner_entry(config.learner).shared_instants else algo


def random_learner(algo, hypers):
    """(learner, params, target) with random weights in place of initial ones, rounded to float32.

    Less to compile, and policies that are not all but uniform. log_alpha is that of hypers.alpha.
    """
    rng, shapes = np.random.default_rng(0), jax.eval_shape(algo.init, jax.random.key(0), hypers)
    learner = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    params, target = (
        jax.tree.map(lambda x: np.float32(rng.uniform(-0.7, 0.7, x.shape)), tree)
        for tree in (shapes.params, shapes.target)
    )
    log_alpha = jax.tree.map(lambda x: jnp.full_like(x, np.log(hypers.alpha)), learner.log_alpha)
    learner = learner._replace(params=params, target=target, log_alpha=log_alpha)
    return learner, *jax.tree.map(np.float64, (params, target))


@dataclass
class OneStep:
    """One update of our code, with all that went into it. A fixture may add what its oracle says of it."""

    config: Config
    hypers: Any
    spec: EnvSpec
    algo: Algorithm
    batch: Batch  # NumPy arrays, float64
    given: Batch  # the same as our code was given it
    env_steps: float
    learner: Learner  # before the update
    params: Any  # the weights of `learner`, float64: the oracle may change them
    target: Any  # the weights of its target networks, float64
    update: Callable  # algo.update, compiled
    after: Learner
    metrics: dict
    seen: Inspection  # of `learner` on the batch


def one_step(config, spec, batch, env_steps=0.0, **replaced) -> OneStep:
    """Our code's step on the batch; `replaced` are parts of the random learner."""
    algo, hypers = algorithm(config, spec), config.hypers
    learner, params, target = random_learner(algo, hypers)
    learner = learner._replace(**replaced)
    given, update = jax.tree.map(jnp.asarray, batch), jax.jit(algo.update)
    after, metrics = update(learner, given, KEY, env_steps, hypers)
    return OneStep(
        config=config, hypers=hypers, spec=spec, algo=algo, batch=batch, given=given, env_steps=env_steps,
        learner=learner, params=params, target=target, update=update, after=after, metrics=metrics,
        seen=jax.jit(algo.inspect)(learner, given),
    )  # fmt: skip


# -- losses, gradients, steps ---------------------------------------------------------------------


def assert_metrics(metrics, expected):
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


def assert_seen(view, expected):
    """Of an Inspection."""
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(view, key), value, atol=1e-5, err_msg=key)


def assert_slopes(params, gradients, loss, each=4):
    """`gradients` are the slopes of loss(), which reads `params`: central differences at random entries.

    What lies behind a stop-gradient must not move with `params` in loss().
    """
    rng, eps = np.random.default_rng(1), 1e-5
    for old, gradient in zip(*map(jax.tree.leaves, (params, gradients)), strict=True):
        for i in rng.integers(old.size, size=each):
            value, ends = old.flat[i], []
            for old.flat[i] in (value + eps, value - eps):
                ends.append(loss())
            old.flat[i] = value
            slope = (ends[0] - ends[1]) / (2 * eps)
            np.testing.assert_allclose(gradient.flat[i], slope, rtol=1e-4, atol=1e-6)


def adam_moments(opt_state):
    """Adam's first moments of all parameters, which groups of them may keep apart."""
    merged = {}
    for _, mu in optax.tree_utils.tree_get_all_with_path(opt_state, "mu"):
        merged |= {k: v for k, v in mu.items() if jax.tree.leaves(v)}
    return jax.tree.map(np.float64, merged)


def first_gradients(opt_state):
    """The clipped gradients that Adam's first step saw."""
    return jax.tree.map(lambda mu: mu / (1 - 0.9), adam_moments(opt_state))


def sum_of_squares(tree):
    return sum((x**2).sum() for x in jax.tree.leaves(tree))


def assert_adam(old, gradients, new, rate):
    """Adam's first step."""
    for p, g, q in zip(*map(jax.tree.leaves, (old, gradients, new)), strict=True):
        np.testing.assert_allclose(q, p - rate * g / (np.abs(g) + 1e-8), atol=1e-6)


def actor_critic_rates(c):
    return dict.fromkeys(c.params, c.hypers.critic_lr) | {"actor": c.hypers.lr}


def assert_first_step(c, loss, rates):
    """Every part of c.params follows the slopes of loss(), clipped together, by Adam at its own rate."""
    gradients, limit = first_gradients(c.after.opt_state), c.hypers.max_grad_norm
    norm = float(c.metrics["grad_norm"])
    np.testing.assert_allclose(sum_of_squares(gradients), min(norm, limit) ** 2, rtol=1e-5)
    scale = min(1, limit / norm)
    assert_slopes(c.params, gradients, lambda: scale * loss())
    for name, gradient in gradients.items():
        assert any(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradient)), name
        assert_adam(c.params[name], gradient, c.after.params[name], rates[name])


def temperature_step(c, entropy):
    """One of SGD on log alpha, given joint entropies [T, B]."""
    excess = np.average(entropy, weights=c.batch.mask) - N * c.hypers.target_entropy
    return -c.hypers.alpha_lr * c.hypers.alpha * excess


def assert_targets_follow(c, *names):
    """The target networks are these, and move towards the online ones when they are due."""
    assert set(c.target) == set(names)
    kept, moved = (c.algo.refresh_target(c.learner, jnp.asarray(due), c.hypers) for due in (False, True))
    jax.tree.map(np.testing.assert_array_equal, kept.target, c.learner.target)
    tau = c.hypers.tau
    for name in names:
        trees = (moved.target[name], c.target[name], c.params[name])
        for new, old, online in zip(*map(jax.tree.leaves, trees), strict=True):
            wanted = tau * online + (1 - tau) * old
            np.testing.assert_allclose(new, wanted, rtol=0, atol=1e-6 * (tau < 1))


def assert_both_seeds_win(config):
    """Trained on a probe whose best return is 1, both of two seeds end there."""
    keys = jax.random.split(jax.random.key(0), 2)
    train = jax.jit(jax.vmap(make_train(config), (0, None)), compiler_options=compiler_options())
    _, metrics = train(keys, config.hypers)
    np.testing.assert_array_equal(metrics["return"][:, -1], 1.0)


# -- what may be read -----------------------------------------------------------------------------


def polluted(batch, action, turn=0):
    """`batch` with other numbers, and this action, where nothing is real.

    That is what follows transition 2 of sequence 0, which was terminal, and transition 2 of sequence 2,
    behind a truncation; `turn` says by how many places the sequences were rolled.
    """
    over, cut = turn, (2 + turn) % B
    obs, state = (x.at[3:, over].set(55.0) for x in (batch.steps.obs, batch.steps.state))
    return batch._replace(
        steps=batch.steps._replace(obs=obs, state=state),
        action=batch.action.at[3:, over].set(action).at[2, cut].set(action),
        reward=batch.reward.at[3:, over].set(99.0).at[2, cut].set(99.0),
    )


def assert_only_the_real_counts(c, action=0, turn=0):
    after, _ = c.update(c.learner, polluted(c.given, action, turn), KEY, c.env_steps, c.hypers)
    jax.tree.map(np.testing.assert_array_equal, after, c.after)


def unseeing(batch):
    """`batch` without states."""
    return batch._replace(steps=batch.steps._replace(state=jnp.full_like(batch.steps.state, jnp.nan)))


def first_instant(batch):
    return jax.tree.map(lambda x: x[0], batch.steps)


def decentralised_greedy(algo, learner, batch):
    """Greedy actions at the first instant, which must not change when nobody sees the state."""
    greedy, carry = jax.jit(algo.greedy), algo.carry(batch.first.shape[1])
    one, two = (greedy(learner, carry, first_instant(x))[1] for x in (batch, unseeing(batch)))
    np.testing.assert_array_equal(one, two)
    return one


# -- one-shot games -------------------------------------------------------------------------------


def one_shot_batch(env, plays=9) -> Batch:
    """Plays of a one-shot game at random, with random rewards."""
    spec, keys = env.spec, jax.random.split(KEY)
    start = env.observe(env.reset(KEY))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, plays, *x.shape)), start)
    first, one = jnp.zeros((2, plays), bool).at[0].set(True), jnp.ones((1, plays))
    if spec.continuous:
        low, high = spec.action_bounds
        lead = (1, plays, spec.n_agents, spec.action_dim)
        action = jax.random.uniform(keys[0], lead, minval=low, maxval=high)
    else:
        action = jax.random.randint(keys[0], (1, plays, spec.n_agents), 0, spec.n_actions)
    return Batch(steps, first, action, jax.random.normal(keys[1], (1, plays)), 0 * one, one)


def one_shot_step(config) -> OneStep:
    """A step on a one-shot game, where the target is the reward and no target network is needed."""
    env = make_env(config)
    batch = one_shot_batch(env)
    c = one_step(config, env.spec, batch)
    np.testing.assert_allclose(c.metrics["target"], batch.reward.mean(), rtol=1e-5)
    assert c.seen.greedy.shape == batch.action.shape and c.seen.q_tot_greedy.shape == batch.reward.shape
    assert c.algo.refresh_target is None
    return c


class ReadOnce(NamedTuple):
    """An update of a one-shot game, with all that went into it."""

    config: Config
    env: Env
    batch: Batch
    algo: Algorithm
    learner: Learner  # before the update
    after: Learner
    metrics: dict
    view: Inspection  # of `after` on the batch


def assert_read_once(config, plays=9) -> ReadOnce:
    """Reading the one instant of a one-shot game once changes neither the update nor what is believed."""
    env, games = make_env(config), []
    batch = one_shot_batch(env, plays)
    for one_start in (True, False):
        algo = algorithm(config, env.spec._replace(one_start=one_start))
        learner = jax.jit(algo.init)(KEY, config.hypers)
        after, metrics = jax.jit(algo.update)(learner, batch, KEY, jnp.asarray(50.0), config.hypers)
        view = jax.jit(algo.inspect)(after, batch)
        games.append(
            ReadOnce(
                config=config,
                env=env,
                batch=batch,
                algo=algo,
                learner=learner,
                after=after,
                metrics=metrics,
                view=view,
            )
        )
    both = [(g.after.opt_state, g.after.log_alpha, g.after.target, g.metrics, g.view) for g in games]
    jax.tree.map(lambda *x: np.testing.assert_allclose(*x, rtol=2e-4, atol=2e-5), *both)
    return games[-1]
