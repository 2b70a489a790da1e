"""One gradient step of DOP, in its paper's form and its released code's, against a float64 NumPy oracle."""

import dataclasses
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import (
    SPEC,
    A,
    B,
    N,
    T,
    assert_slopes,
    chosen,
    first_adam_gradients,
    lambda_return,
    linear,
    make_batch,
    mlp,
    random_learner,
    utilities,
)

from me_igm_jax.algos import make_algorithm
from me_igm_jax.envs import make
from me_igm_jax.presets import load
from me_igm_jax.train import make_train
from me_igm_jax.types import Batch

ENVS = 2  # fresh sequences; the others are replayed
SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.mixing_embed": 5, "algo.optimiser": "adam",
    "dop.critic_hidden": 7, "collect.envs": ENVS, "collect.episodes_per_update": ENVS,
    "hypers.eps_start": 0.5, "hypers.eps_end": 0.1, "hypers.eps_steps": 1000.0,
    "hypers.max_grad_norm": 1e6, "hypers.critic_lr": 1e-2,
}  # fmt: skip
STEPS, EPS = 250.0, 0.4
# Fresh are the first two sequences of the oracle's batch or, swapped, the last two.
CASES = {
    "dop": {},
    "dop swapped": {
        "dop.tree_steps": 3, "hypers.off_policy": 0.3, "hypers.trace": 1.0,
        "hypers.eps_start": 0.0, "hypers.eps_end": 0.0,
    },
    "dop_released": {"dop.tree_steps": 1, "hypers.td_lambda": 0.3},
}  # fmt: skip
GROUPS = {"actor": "actor", "critic": "critic", "mixer": "critic"}


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    name = request.param
    config = load(name.split()[0], env="probe/clock", **(SMALL | CASES[name]))
    algo, hypers, batch = make_algorithm(config, SPEC), config.hypers, make_batch()
    if name.endswith("swapped"):
        batch = jax.tree.map(lambda x: np.roll(x, ENVS, axis=1), batch)
    learner, params, target = random_learner(algo, hypers)
    given = learner, jax.tree.map(jnp.asarray, batch)
    update = jax.jit(algo.update)
    after, metrics = update(*given, jax.random.key(3), STEPS, hypers)
    low = dataclasses.replace(hypers, max_grad_norm=0.01)
    after_clipped, _ = update(*given, jax.random.key(3), STEPS, low)
    seen = jax.jit(algo.inspect)(*given)
    eps = EPS if hypers.eps_start else 0.0
    now = evaluate(config, params, batch, eps)
    goal = make_goal(config, now, target, batch)
    return SimpleNamespace(**locals())


def critic(config, params, batch):
    """(Q_i, k, b) of every instant."""
    p, m, state = params["critic"]["params"], params["mixer"]["params"], batch.steps.state
    each = np.repeat(state[:, :, None], N, axis=2)
    x = np.concatenate([each, batch.steps.obs, np.tile(np.eye(N), (T + 1, B, 1, 1))], -1)
    for layer in ("Linear_0", "Linear_1"):
        x = np.maximum(linear(p[layer], x), 0)
    q = linear(p["Linear_2"], x) + linear(p["Linear_3"], x)
    first, second = np.abs(linear(m["Linear_0"], state)), np.abs(linear(m["Linear_1"], state))
    k = np.einsum("tbne,tbe->tbn", first.reshape(T + 1, B, N, -1), second)
    if config.dop.form == "released":
        return q, k / k.sum(-1, keepdims=True), np.zeros((T + 1, B))
    return q, k, mlp(m["MLP_0"], state)[..., 0]


def q_joint(q, k, b, action):
    return (k[: len(action)] * chosen(q, action)).sum(-1) + b[: len(action)]


def evaluate(config, params, batch, eps):
    """The policies, with and without their floor, and the critic."""
    avail = batch.steps.avail
    logits = np.where(avail, utilities(params["actor"], batch), -np.inf)
    plain = np.exp(logits - logits.max(-1, keepdims=True))
    plain /= plain.sum(-1, keepdims=True)
    pi = (1 - eps) * plain + eps * avail / avail.sum(-1, keepdims=True)
    q, k, b = critic(config, params, batch)
    q_tot = q_joint(q, k, b, batch.action)
    return SimpleNamespace(**locals())


def make_goal(config, now, target, batch):
    """TD(lambda) for the fresh sequences, tree backups for the replayed; expectations by enumeration."""
    hypers, pi = config.hypers, now.pi
    q, k, b = critic(config, target, batch)
    value = 0
    for joint in product(range(A), repeat=N):
        action = np.tile(joint, (T + 1, B, 1))
        value = value + chosen(pi, action).prod(-1) * q_joint(q, k, b, action)
    taken, played = q_joint(q, k, b, batch.action), chosen(pi, batch.action).prod(-1)

    def tree(t, b, steps):
        d, end = hypers.gamma * batch.discount[t, b], t + 1 == T or not batch.mask[t + 1, b]
        inner = 0
        if steps > 1 and d and not end:
            inner = hypers.trace * played[t + 1, b] * (tree(t + 1, b, steps - 1) - taken[t + 1, b])
        return batch.reward[t, b] + d * (value[t + 1, b] + inner)

    goal, none = np.zeros((T, B)), np.zeros((T + 1, B))
    for t, b in np.argwhere(batch.mask):
        if b < ENVS:
            goal[t, b] = lambda_return(batch, value, none, t, b, hypers.gamma, hypers.td_lambda)
        else:
            goal[t, b] = tree(t, b, config.dop.tree_steps)
    return goal


def losses(now, held, goal, batch):
    mask, fresh, replayed = batch.mask, slice(ENVS), slice(ENVS, None)
    error = (now.q_tot - goal) ** 2
    alive = (batch.steps.alive[:T] * mask[..., None])[:, fresh]
    advantage = held.k[:T] * (chosen(held.q, batch.action) - (held.pi * held.q).sum(-1)[:T])
    gain = (advantage * np.log(chosen(now.pi, batch.action)))[:, fresh]
    return {
        "loss_td": np.average(error[:, fresh], weights=mask[:, fresh]),
        "loss_tree": np.average(error[:, replayed], weights=mask[:, replayed]),
        "loss_actor": -np.average(gain, weights=alive),
    }


def total_loss(c, now):
    each, share = losses(now, c.now, c.goal, c.batch), c.hypers.off_policy
    critic_loss = share * each["loss_tree"] + (1 - share) * each["loss_td"]
    return critic_loss, critic_loss + each["loss_actor"]


def test_forward(c):
    best = c.now.plain.argmax(-1)[:T]
    q_tot_greedy = q_joint(c.now.q, c.now.k, c.now.b, best)
    expected = {"q": c.now.q, "q_tot": c.now.q_tot, "q_tot_greedy": q_tot_greedy, "probs": c.now.plain}
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(c.seen, key), value[:T], atol=1e-5, err_msg=key)
    np.testing.assert_array_equal(c.seen.greedy, best)
    if c.config.dop.form == "released":
        assert "MLP_0" not in c.params["mixer"]["params"]
        np.testing.assert_allclose(c.now.k.sum(-1), 1)


def test_losses_and_targets(c):
    mask, pi = c.batch.mask, c.now.pi
    entropy = -(pi * np.log(np.where(pi > 0, pi, 1))).sum(-1).mean(-1)[:T, :ENVS]
    expected = losses(c.now, c.now, c.goal, c.batch) | {
        "loss_critic": total_loss(c, c.now)[0],
        "q_tot": np.average(c.now.q_tot, weights=mask),
        "target": np.average(c.goal, weights=mask),
        "entropy": np.average(entropy, weights=mask[:, :ENVS]),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(c.metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


def test_gradient_and_step(c):
    gradients = first_adam_gradients(c.after.opt_state, c.params, GROUPS)
    assert_slopes(
        c.params, gradients, lambda: total_loss(c, evaluate(c.config, c.params, c.batch, c.eps))[1]
    )
    clipped = first_adam_gradients(c.after_clipped.opt_state, c.params, GROUPS)
    squares = {"actor": 0, "critic": 0}
    for name, group in GROUPS.items():
        squares[group] += sum((g**2).sum() for g in jax.tree.leaves(gradients[name]))
    np.testing.assert_allclose(c.metrics["grad_norm"] ** 2, sum(squares.values()), rtol=1e-5)
    for name, group in GROUPS.items():
        scale = 0.01 / np.sqrt(squares[group])
        assert scale < 1
        rate = c.hypers.lr if group == "actor" else c.hypers.critic_lr
        trees = (c.params, gradients, clipped, c.after.params)
        for old, g, low, new in zip(*(jax.tree.leaves(x[name]) for x in trees), strict=True):
            np.testing.assert_allclose(low, scale * g, rtol=1e-4, atol=1e-8)
            np.testing.assert_allclose(new, old - rate * g / (np.abs(g) + 1e-8), atol=1e-6)


def test_nothing_leaks_from_behind_the_end(c):
    batch, row = c.given[1], ENVS if c.name.endswith("swapped") else 0  # over after transition 2
    obs, state = (x.at[3:, row].set(55.0) for x in (batch.steps.obs, batch.steps.state))
    reward, steps = batch.reward.at[3:, row].set(99.0), batch.steps._replace(obs=obs, state=state)
    noisy = batch._replace(reward=reward, steps=steps)
    after, _ = c.update(c.learner, noisy, jax.random.key(3), STEPS, c.hypers)
    jax.tree.map(np.testing.assert_array_equal, after.params, c.after.params)


def test_greedy_is_decentralised(c):
    step = jax.tree.map(lambda x: x[0], c.given[1].steps)
    blind = step._replace(state=jnp.full_like(step.state, jnp.nan))
    one, two = (c.algo.greedy(c.learner, c.algo.carry(B), s)[1] for s in (step, blind))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, c.now.plain[0].argmax(-1))


def test_target_is_the_critic_alone(c):
    kept, copied = (c.algo.refresh_target(c.learner, jnp.asarray(due), c.hypers) for due in (False, True))
    assert set(c.learner.target) == {"critic", "mixer"}
    jax.tree.map(np.testing.assert_array_equal, kept.target, c.learner.target)
    for name in copied.target:
        jax.tree.map(np.testing.assert_array_equal, copied.target[name], c.learner.params[name])


def test_one_shot_games_are_regression():
    """Both parts of the batch share one instant; both targets are the reward."""
    options = {"collect.envs": 4, "dop.critic_hidden": 8}
    config = load("dop", env="matrix/qtran", **options)
    env, key = make(config), jax.random.key(0)
    algo = make_algorithm(config, env.spec)
    start = env.observe(env.reset(key))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 9, *x.shape)), start)
    action, reward = jax.random.randint(key, (1, 9, 2), 0, 3), jax.random.normal(key, (1, 9))
    first, one = jnp.zeros((2, 9), bool).at[0].set(True), jnp.ones((1, 9))
    batch = Batch(steps, first, action, reward, 0 * one, one)
    learner, *_ = random_learner(algo, config.hypers)
    _, metrics = jax.jit(algo.update)(learner, batch, key, 0.0, config.hypers)
    error = np.square(jax.jit(algo.inspect)(learner, batch).q_tot - reward)[0]
    np.testing.assert_allclose(metrics["loss_td"], error[:4].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_tree"], error[4:].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["target"], reward.mean(), rtol=1e-5)
    assert algo.refresh_target(learner, jnp.asarray(True), config.hypers) is learner


@pytest.mark.parametrize("preset, env", [
    ("dop_released", "probe/match"),
    pytest.param("dop", "probe/action", marks=pytest.mark.slow),
    pytest.param("dop", "probe/delay", marks=pytest.mark.slow),
])  # fmt: skip
def test_learns(preset, env):
    """Greedy teams get all there is, and the critic knows what the exploring one gets."""
    config = load(preset, env=env, **{"net.recurrent": False})
    keys = jax.random.split(jax.random.key(0), 2)
    _, metrics = jax.jit(jax.vmap(make_train(config), (0, None)))(keys, config.hypers)
    np.testing.assert_array_equal(metrics["return"][:, -1], 1.0)
    # delay: 0.99 and 1 at its two steps; the others: 1, lost when one of two agents explores the wrong way
    value = 0.995 if env == "probe/delay" else (1 - config.hypers.eps_end / 2) ** 2
    np.testing.assert_allclose(metrics["q_tot"][:, -1], value, atol=0.02)
