"""One gradient step of DOP, in its paper's form and its released code's, against a float64 NumPy oracle."""

import dataclasses
from itertools import product
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from me_igm_jax import load, make_train
from me_igm_jax.ops.batches import take_sequences
from one_step import (
    KEY,
    actor_critic_rates,
    assert_first_step,
    assert_metrics,
    assert_only_the_real_counts,
    assert_seen,
    assert_targets_follow,
    decentralised_greedy,
    first_gradients,
    one_shot_step,
    one_step,
    sum_of_squares,
)
from oracle import (
    SPEC,
    A,
    B,
    N,
    T,
    chosen,
    entropy,
    lambda_returns,
    linear,
    linear_weights,
    make_batch,
    masked_means,
    mlp,
    policy,
)

ENVS = 2  # fresh sequences; the others are replayed
SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.mixing_embed": 5, "algo.optimiser": "adam",
    "algo.critic_hidden": 7, "collect.envs": ENVS, "collect.episodes_per_update": ENVS,
    "hypers.eps_start": 0.5, "hypers.eps_end": 0.1, "hypers.eps_steps": 1000.0,
    "hypers.max_grad_norm": 1e6, "hypers.critic_lr": 1e-2,
}  # fmt: skip
STEPS, EPS = 250.0, 0.4
# Fresh are the first two sequences of the oracle's batch or, swapped, the last two.
CASES = {
    "dop": {},
    "dop swapped": {
        "algo.tree_steps": 3, "hypers.off_policy": 0.3, "hypers.trace": 1.0,
        "hypers.eps_start": 0.0, "hypers.eps_end": 0.0,
    },
    "dop_released": {"algo.tree_steps": 1, "hypers.td_lambda": 0.3},
}  # fmt: skip
GROUPS = {"actor": ("actor",), "critic": ("critic", "mixer")}  # clipped together


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    name = request.param
    config = load(name.split()[0], env="probe/clock", **(SMALL | CASES[name]))
    turn = ENVS if name.endswith("swapped") else 0
    batch = jax.tree.map(lambda x: np.roll(x, turn, axis=1), make_batch())
    c = one_step(config, SPEC, batch, STEPS)
    c.turn, c.eps = turn, EPS if c.hypers.eps_start else 0.0
    c.now = evaluate(config, c.params, batch, c.eps)
    c.targets = make_targets(config, c.now, c.target, batch)
    return c


def critic(config, params, batch):
    """(Q_i, k, b) of every instant."""
    p, m, state = params["critic"]["params"], params["mixer"]["params"], batch.steps.state
    each = np.repeat(state[:, :, None], N, axis=2)
    x = np.concatenate([each, batch.steps.obs, np.tile(np.eye(N), (T + 1, B, 1, 1))], -1)
    for layer in ("Linear_0", "Linear_1"):
        x = np.maximum(linear(p[layer], x), 0)
    q = linear(p["Linear_2"], x) + linear(p["Linear_3"], x)
    k = linear_weights(m, state)
    if config.algo.form == "released":
        return q, k / k.sum(-1, keepdims=True), np.zeros((T + 1, B))
    return q, k, mlp(m["MLP_0"], state)[..., 0]


def q_joint(q, k, b, action):
    return (k[: len(action)] * chosen(q, action)).sum(-1) + b[: len(action)]


def evaluate(config, params, batch, eps):
    """The policies, with and without their floor, and the critic."""
    avail = batch.steps.avail
    plain = policy(params["actor"], batch)
    pi = (1 - eps) * plain + eps * avail / avail.sum(-1, keepdims=True)
    q, k, b = critic(config, params, batch)
    q_tot = q_joint(q, k, b, batch.action)
    return SimpleNamespace(plain=plain, pi=pi, q=q, k=k, b=b, q_tot=q_tot)


def make_targets(config, now, target, batch):
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

    targets = lambda_returns(batch, value, np.zeros((T + 1, B)), hypers)
    for t, b in np.argwhere(batch.mask):
        if b >= ENVS:
            targets[t, b] = tree(t, b, config.algo.tree_steps)
    return targets


def losses(now, held, targets, batch):
    mask, fresh, replayed = batch.mask, slice(ENVS), slice(ENVS, None)
    error = (now.q_tot - targets) ** 2
    alive = (batch.steps.alive[:T] * mask[..., None])[:, fresh]
    advantage = held.k[:T] * (chosen(held.q, batch.action) - (held.pi * held.q).sum(-1)[:T])
    gain = (advantage * np.log(chosen(now.pi, batch.action)))[:, fresh]
    return {
        "loss_td": np.average(error[:, fresh], weights=mask[:, fresh]),
        "loss_tree": np.average(error[:, replayed], weights=mask[:, replayed]),
        "loss_actor": -np.average(gain, weights=alive),
    }


def total_loss(c, now):
    each, share = losses(now, c.now, c.targets, c.batch), c.hypers.off_policy
    critic_loss = share * each["loss_tree"] + (1 - share) * each["loss_td"]
    return critic_loss, critic_loss + each["loss_actor"]


def test_forward(c):
    best = c.now.plain.argmax(-1)[:T]
    greedy = q_joint(c.now.q, c.now.k, c.now.b, best)
    expected = {"q": c.now.q[:T], "q_tot": c.now.q_tot, "q_tot_greedy": greedy, "probs": c.now.plain[:T]}
    assert_seen(c.seen, expected)
    np.testing.assert_array_equal(c.seen.greedy, best)
    if c.config.algo.form == "released":
        assert "MLP_0" not in c.params["mixer"]["params"]
        np.testing.assert_allclose(c.now.k.sum(-1), 1)


def test_losses_and_targets(c):
    of_fresh = entropy(c.now.pi).mean(-1)[:T, :ENVS]
    expected = losses(c.now, c.now, c.targets, c.batch) | {
        "loss_critic": total_loss(c, c.now)[0],
        "entropy": np.average(of_fresh, weights=c.batch.mask[:, :ENVS]),
    }
    assert_metrics(c.metrics, expected | masked_means(c.batch, q_tot=c.now.q_tot, target=c.targets))


def test_gradient_and_step(c):
    assert_first_step(
        c, lambda: total_loss(c, evaluate(c.config, c.params, c.batch, c.eps))[1], actor_critic_rates(c)
    )


def test_each_group_has_its_own_clip(c):
    low = dataclasses.replace(c.hypers, max_grad_norm=0.01)
    after, _ = c.update(c.learner, c.given, KEY, STEPS, low)
    free, clipped = (first_gradients(x.opt_state) for x in (c.after, after))
    for group in GROUPS.values():
        before, now = ([x[name] for name in group] for x in (free, clipped))
        scale = 0.01 / np.sqrt(sum_of_squares(before))
        assert scale < 1
        for g, x in zip(*map(jax.tree.leaves, (before, now)), strict=True):
            np.testing.assert_allclose(x, scale * g, rtol=1e-4, atol=1e-8)


def test_nothing_leaks_from_behind_the_end(c):
    assert_only_the_real_counts(c, turn=c.turn)


def test_greedy_is_decentralised(c):
    greedy = decentralised_greedy(c.algo, c.learner, c.given)
    np.testing.assert_array_equal(greedy, c.now.plain[0].argmax(-1))


def test_target_is_the_critic_alone(c):
    assert c.hypers.tau == 1
    assert_targets_follow(c, "critic", "mixer")


def test_one_shot_games_are_regression():
    """Both parts of the batch share one instant; both targets are the reward."""
    c = one_shot_step(load("dop", env="matrix/qtran", **{"collect.envs": 4, "algo.critic_hidden": 8}))
    error = np.square(c.seen.q_tot - c.batch.reward)[0]
    np.testing.assert_allclose(c.metrics["loss_td"], error[:4].mean(), rtol=1e-5)
    np.testing.assert_allclose(c.metrics["loss_tree"], error[4:].mean(), rtol=1e-5)


def test_sequences_with_shared_instants_stay_whole():
    """An array with one sequence stands for all of them."""
    parts = take_sequences((np.arange(6).reshape(1, 6), np.zeros((1, 1))), slice(4, None))
    np.testing.assert_array_equal(parts[0], [[4, 5]])
    assert parts[1].shape == (1, 1)


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
