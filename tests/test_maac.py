"""One gradient step of MAAC for continuous actions against a float64 NumPy oracle."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import B, N, T, assert_slopes, first_adam_gradients, lambda_return, linear, random_learner
from test_fop_continuous import (
    BOX,
    HALF,
    HIGH,
    KEY,
    LOW,
    MIDDLE,
    D,
    continuous_batch,
    gaussian,
    outputs,
    standard_normal,
    unit,
)

from me_igm_jax import ConfigError
from me_igm_jax.algos import make_algorithm
from me_igm_jax.algos.maac import Critic
from me_igm_jax.envs import make
from me_igm_jax.presets import load
from me_igm_jax.types import Batch

SMALL = {
    "net.hidden": 6, "net.recurrent": True, "net.last_action": True, "maac.hidden": 6, "maac.heads": 3,
    "hypers.alpha": 0.5, "algo.temperature": "sgd", "hypers.alpha_lr": 0.1, "hypers.target_entropy": 0.7,
    "hypers.max_grad_norm": 1e6, "hypers.critic_lr": 2e-3, "hypers.td_lambda": 0.6,
}  # fmt: skip
GROUPS = {"actor": "actor", "features": "critic", "critic": "critic"}


@pytest.fixture(scope="module")
def c() -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    config = load("maac", env="probe/clock", **SMALL)
    algo, hypers, batch = make_algorithm(config, BOX), config.hypers, continuous_batch()
    learner, params, target = random_learner(algo, hypers)
    given = learner, jax.tree.map(jnp.asarray, batch)
    update = jax.jit(algo.update)
    after, metrics = update(*given, KEY, 0, hypers)
    seen = jax.jit(algo.inspect)(*given)
    next_noise, noise = map(standard_normal, jax.random.split(KEY))
    now = evaluate(config, params, batch, noise)
    g = make_goal(config, target, batch, next_noise)
    return SimpleNamespace(**locals())


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def values(config, params, h, action, others=None):
    """(Q_i, e_i), agent by agent; `others` replaces the e_j that agent i attends to."""
    p, heads = params["params"], config.maac.heads
    e = leaky(linear(p["Linear_0"], np.maximum(h, 0)) + linear(p["Linear_1"], action))
    others, width, q = e if others is None else others, config.maac.hidden // heads, []
    query, key = (x @ p[f"Dense_{k}"]["kernel"] for k, x in enumerate((e, others)))
    value = leaky(linear(p["Linear_2"], others))
    for i in range(N):
        rest, x = [j for j in range(N) if j != i], []
        for k in range(heads):
            part = slice(k * width, (k + 1) * width)
            score = np.exp((query[..., [i], part] * key[..., rest, part]).sum(-1) / np.sqrt(width))
            weight = score / score.sum(-1, keepdims=True)
            x.append((weight[..., None] * value[..., rest, part]).sum(-2))
        both = np.concatenate([e[..., i, :], *x], -1)
        q.append(linear(p["Linear_4"], leaky(linear(p["Linear_3"], both)))[..., 0])
    return np.stack(q, -1), e


def evaluate(config, params, batch, noise, held=None):
    """All that the losses are made of; `held` replaces what lies behind a stop-gradient."""
    action, log_pi, best = gaussian(params["actor"], batch, noise)
    h = outputs(params["features"], batch)
    q = values(config, params["critic"], h[:T], unit(batch.action))[0]
    frozen = held.frozen if held else jax.tree.map(np.copy, {"critic": params["critic"], "h": h})
    drawn, e = values(config, frozen["critic"], frozen["h"], action, held.e if held else None)
    return SimpleNamespace(**locals())


def make_goal(config, target, batch, noise):
    hypers, g = config.hypers, np.zeros((T, B, N))
    action, log_pi, _ = gaussian(target["actor"], batch, noise)
    value = values(config, target["critic"], outputs(target["features"], batch), action)[0]
    for t, b in np.argwhere(batch.mask):
        for i in range(N):
            bonus = -hypers.alpha * log_pi[..., i]
            g[t, b, i] = lambda_return(batch, value[..., i], bonus, t, b, hypers.gamma, hypers.td_lambda)
    return g


def losses(now, g, batch, alpha):
    alive = batch.steps.alive[:T] * batch.mask[..., None]
    return {
        "loss_critic": np.average(((now.q - g) ** 2).mean(-1), weights=batch.mask),
        "loss_actor": np.average((alpha * now.log_pi - now.drawn)[:T], weights=alive),
    }


def test_forward(c):
    best = c.now.best[:T]
    greedy = values(c.config, c.params["critic"], c.now.h[:T], best)[0].mean(-1)
    expected = {"q_tot": c.now.q.mean(-1), "q_tot_greedy": greedy, "greedy": MIDDLE + HALF * best}
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(c.seen, key), value, atol=1e-5, err_msg=key)


def test_losses_and_targets(c):
    mask, entropy = c.batch.mask, -c.now.log_pi[:T].sum(-1)
    expected = losses(c.now, c.g, c.batch, c.hypers.alpha)
    means = {"target": c.g.mean(-1), "q_tot": c.now.q.mean(-1), "entropy": entropy / N}
    expected |= {key: np.average(x, weights=mask) for key, x in means.items()}
    for key, value in expected.items():
        np.testing.assert_allclose(c.metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    excess = np.average(entropy, weights=mask) - N * c.hypers.target_entropy
    log_alpha = np.log(c.hypers.alpha) - c.hypers.alpha_lr * c.hypers.alpha * excess
    np.testing.assert_allclose(c.after.log_alpha, log_alpha, atol=1e-5)


def test_gradient_and_step(c):
    gradients = first_adam_gradients(c.after.opt_state, c.params, GROUPS)

    def total():
        now = evaluate(c.config, c.params, c.batch, c.noise, c.now)
        return sum(losses(now, c.g, c.batch, c.hypers.alpha).values())

    assert_slopes(c.params, gradients, total)
    squares = sum((g**2).sum() for g in jax.tree.leaves(gradients))
    np.testing.assert_allclose(c.metrics["grad_norm"] ** 2, squares, rtol=1e-5)
    for name, group in GROUPS.items():
        assert any(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradients[name]))
        rate = c.hypers.lr if group == "actor" else c.hypers.critic_lr
        trees = (c.params[name], gradients[name], c.after.params[name])
        for old, g, new in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(new, old - rate * g / (np.abs(g) + 1e-8), atol=1e-6)


def test_what_is_masked_changes_nothing(c):
    batch = c.given[1]  # sequence 0 is over after transition 2; transition 2 of sequence 2 leads nowhere
    obs = batch.steps.obs.at[3:, 0].set(55.0)
    action = batch.action.at[3:, 0].set(2.9).at[2, 2].set(-0.9)
    reward = batch.reward.at[3:, 0].set(99.0).at[2, 2].set(99.0)
    noisy = batch._replace(steps=batch.steps._replace(obs=obs), action=action, reward=reward)
    after, _ = c.update(c.learner, noisy, KEY, 0, c.hypers)
    jax.tree.map(np.testing.assert_array_equal, after.params, c.after.params)


def test_acting(c):
    """Inside the box, whatever the weights; nothing reads the state."""
    step = jax.tree.map(lambda x: x[0], c.given[1].steps)
    blind = step._replace(state=jnp.full_like(step.state, jnp.nan))
    greedy = jax.jit(c.algo.greedy)(c.learner, c.algo.carry(B), blind)[1]
    np.testing.assert_allclose(greedy, c.seen.greedy[0], atol=1e-5)
    wild = c.learner._replace(params=jax.tree.map(lambda x: 1e3 * x, c.learner.params))
    action = jax.jit(c.algo.act)(wild, c.algo.carry(B), blind, KEY, 0, c.hypers)[1]
    assert action.shape == (B, N, D) and action.min() >= LOW and action.max() <= HIGH


def test_refresh(c):
    assert set(c.learner.target) == {"actor", "features", "critic"}
    tau = c.hypers.tau
    kept, moved = (c.algo.refresh_target(c.learner, jnp.asarray(due), c.hypers) for due in (False, True))
    jax.tree.map(np.testing.assert_array_equal, kept.target, c.learner.target)
    for name in moved.target:
        trees = (moved.target[name], c.learner.target[name], c.learner.params[name])
        for new, old, online in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(new, old + tau * (online - old), atol=1e-6)


def test_attention_is_to_the_others():
    """An agent's value follows the others' actions, but `own` gradients its own alone; one can be alone."""
    critic, keys = Critic(8, 2), jax.random.split(KEY, 3)
    h, action = jax.random.normal(keys[0], (3, 8)), jax.random.normal(keys[1], (3, 2))
    params = jax.jit(critic.init)(keys[2], h, action)
    slopes = jax.jit(jax.jacobian(critic.apply, argnums=2), static_argnums=3)
    both, own = (slopes(params, h, action, own) for own in (False, True))
    reached, reached_alone = (np.abs(x).max(-1) > 0 for x in (both, own))
    assert reached.all() and (reached_alone == np.eye(3, dtype=bool)).all()
    alone = np.asarray(critic.apply(params, h[:1], action[:1]))
    assert np.isfinite(alone).all()


def test_one_shot_games_are_regression():
    """The batch shares one instant; every sample draws for itself, and the target is the reward."""
    config = load("maac", env="differential/mtq", **{"net.hidden": 8, "maac.hidden": 8})
    env = make(config)
    algo, keys, rows = make_algorithm(config, env.spec), jax.random.split(KEY), 9
    start = env.observe(env.reset(KEY))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, rows, *x.shape)), start)
    action = jax.random.uniform(keys[0], (1, rows, 2, 1), minval=-10.0, maxval=10.0)
    reward, one = jax.random.normal(keys[1], (1, rows)), jnp.ones((1, rows))
    batch = Batch(steps, jnp.zeros((2, rows), bool).at[0].set(True), action, reward, 0 * one, one)
    assert config.net.output_scale == 0  # policies start at the centre
    learner, *_ = random_learner(algo, config.hypers)
    _, metrics = jax.jit(algo.update)(learner, batch, KEY, 0.0, config.hypers)
    np.testing.assert_allclose(metrics["target"], reward.mean(), rtol=1e-5)
    seen = jax.jit(algo.inspect)(learner, batch)
    np.testing.assert_allclose(metrics["q_tot"], seen.q_tot.mean(), rtol=1e-5)
    assert seen.greedy.shape == action.shape and seen.q_tot_greedy.shape == (1, rows)
    assert algo.refresh_target(learner, jnp.asarray(True), config.hypers) is learner


def test_heads_must_divide_the_width():
    config = load("maac", env="differential/mtq", **{"maac.hidden": 10, "maac.heads": 4})
    with pytest.raises(ConfigError, match=r"maac\.hidden=10: "):
        make_algorithm(config, BOX)
