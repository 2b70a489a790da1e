"""MAPPO's and IPPO's update against an independent NumPy oracle in float64, and what they must learn.

The oracle follows the papers' equations, not our code, of which it shares only the names of the
parameters and the draw of the minibatches.
"""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from me_igm_jax import ConfigError, load, make_train
from me_igm_jax.algos import make_algorithm
from me_igm_jax.algos.ppo import clipped_gain, normalised
from me_igm_jax.ops.running_statistics import Statistics, moments, no_statistics, tracked
from one_step import (
    KEY,
    adam_moments,
    assert_metrics,
    assert_read_once,
    assert_slopes,
    decentralised_greedy,
    first_gradients,
    random_learner,
    unseeing,
)
from oracle import SPEC, B, T, chosen, entropy, huber, make_batch, policy, unroll, utilities

# Steps so large, and clips so small, that these are seen both at rest and at work.
SMALL = {
    "net.hidden": 8, "net.layer_norm": False, "net.last_action": True, "net.agent_id": True,
    "net.recurrent": True, "algo.epochs": 1, "algo.minibatches": 1, "hypers.clip": 0.15,
    "hypers.entropy_weight": 0.05, "hypers.max_grad_norm": 1e6,
    "hypers.lr": 0.05, "hypers.critic_lr": 0.03,
}  # fmt: skip
HUBER = {"hypers.huber_delta": 0.4}
CASES = {
    "mappo": HUBER,
    "ippo": HUBER,
    "mappo_jaxmarl": {},
    "ippo unclipped": HUBER | {"algo.clip_values": False},
}
MEAN, DEVIATION, WEIGHT = 0.7, 1.5, 0.3  # of the running statistics before the update


def make_learner(case, **overrides):
    config = load(case.split()[0], env="probe/clock", **(SMALL | CASES[case] | overrides))
    algo = make_algorithm(config, SPEC)
    learner, params, _ = random_learner(algo, config.hypers)
    if config.algo.normalise_values:
        stats = (WEIGHT * x for x in (MEAN, MEAN**2 + DEVIATION**2, 1.0))
        learner = learner._replace(statistics=Statistics(*map(jnp.float32, stats)))
    return config, algo, learner, params


@cache
def updated(case, **overrides):
    """Our code's update on the batch: (learner, metrics)."""
    config, algo, learner, _ = make_learner(case, **overrides)
    return jax.jit(algo.update)(learner, jax.tree.map(jnp.asarray, make_batch()), KEY, 0, config.hypers)


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's first step, and the oracle's view of the learner before it."""
    case, batch = request.param, make_batch()
    config, _, _, params = make_learner(case)
    after, metrics = updated(case)
    return SimpleNamespace(
        case=case, batch=batch, config=config, params=params, after=after, metrics=metrics,
        old=look_back(config, params, batch),
    )  # fmt: skip


# -- the oracle -----------------------------------------------------------------------------------


def critic(config, params, batch):
    """The critic's outputs, [T+1, B, M]."""
    if config.algo.critic == "state":
        return unroll(params["critic"], batch.steps.state, batch.first)
    return utilities(params["critic"], batch)[..., 0]


def act(params, batch):
    """log pi of the actions and the entropies of the policies, [T, B, N]."""
    pi = policy(params["actor"], batch)
    return np.log(chosen(pi, batch.action)), entropy(pi)[:T]


def gae(batch, value, t, b, gamma, lam):
    """sum_k (gamma lambda)^k delta_{t+k} until the episode, or what was seen of it, ends."""
    total, weight = 0, 1
    while True:
        bootstrap = gamma * batch.discount[t, b] * value[t + 1, b]
        total += weight * (batch.reward[t, b] + bootstrap - value[t, b])
        t, weight = t + 1, weight * gamma * lam
        if t == T or not batch.discount[t - 1, b] or not batch.mask[t, b]:
            return total


def average(x, mask):
    """Over all that is real; the mask of the teams' transitions counts for each of their values."""
    mask = mask if mask.ndim == x.ndim else mask[..., None]
    return np.average(x, weights=np.broadcast_to(mask, x.shape))


def look_back(config, params, batch):
    """What stays fixed during the update."""
    hypers, mask = config.hypers, batch.mask
    live = batch.steps.alive[:T] * mask[..., None]
    output = critic(config, params, batch)
    normalise = config.algo.normalise_values
    value = MEAN + DEVIATION * output if normalise else output
    advantage = np.zeros(value[:T].shape)
    for t, b in np.argwhere(mask):
        advantage[t, b] = gae(batch, value, t, b, hypers.gamma, hypers.td_lambda)
    g = advantage + value[:T]
    mean, deviation, stats = 0, 1, ()
    if normalise:
        keep, rest = 0.99999, 1 - 0.99999
        square = keep * WEIGHT * (MEAN**2 + DEVIATION**2) + rest * average(g**2, mask)
        stats = keep * WEIGHT * MEAN + rest * average(g, mask), square, keep * WEIGHT + rest
        mean = stats[0] / stats[2]
        deviation = np.sqrt(stats[1] / stats[2] - mean**2)
    advantage = np.broadcast_to(advantage, live.shape)
    advantage = advantage - average(advantage, live)
    advantage = advantage / (np.sqrt(average(advantage**2, live)) + 1e-5)
    means = {"target": average(g, mask), "q_tot": average(value[:T], mask)}
    return SimpleNamespace(
        live=live, advantage=advantage, log_prob=act(params, batch)[0], value=output[:T],
        target=(g - mean) / deviation, stats=stats, means=means,
    )  # fmt: skip


def losses(config, params, old, batch, part=slice(None)):
    """The metrics of one gradient step on some of the sequences."""
    hypers, clip = config.hypers, config.hypers.clip
    log_prob, entropies = act(params, batch)
    ratio = np.exp(log_prob - old.log_prob)
    gain = np.minimum(ratio * old.advantage, np.clip(ratio, 1 - clip, 1 + clip) * old.advantage)
    value = critic(config, params, batch)[:T]
    errors = [value - old.target]
    if config.algo.clip_values:
        errors.append(np.clip(value, old.value - clip, old.value + clip) - old.target)
    errors = [huber(e, hypers.huber_delta) if config.algo.huber else e**2 / 2 for e in errors]
    actors = {
        "loss_actor": -gain, "entropy": entropies, "approx_kl": ratio - 1 - np.log(ratio),
        "clip_fraction": np.abs(ratio - 1) > clip,
    }  # fmt: skip
    out = {key: average(x[:, part], old.live[:, part]) for key, x in actors.items()}
    out["loss_critic"] = average(np.max(errors, 0)[:, part], batch.mask[:, part])
    return out


def total(config, *given):
    out = losses(config, *given)
    return out["loss_actor"] - config.hypers.entropy_weight * out["entropy"] + out["loss_critic"]


# -- one gradient step, and more ------------------------------------------------------------------


def test_losses_targets_and_statistics(c):
    expected = losses(c.config, c.params, c.old, c.batch) | c.old.means
    assert_metrics(c.metrics, expected)
    assert expected["approx_kl"] == expected["clip_fraction"] == 0 and c.after.updates == 1
    np.testing.assert_allclose(c.after.statistics, c.old.stats, rtol=1e-5)


def test_the_first_step(c):
    """Adam's first step from the gradients, which are the slopes of the oracle's losses."""
    grads = first_gradients(c.after.opt_state)
    np.testing.assert_allclose(c.metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5)
    assert_slopes(c.params, grads, lambda: total(c.config, c.params, c.old, c.batch))
    for group, rate in (("actor", c.config.hypers.lr), ("critic", c.config.hypers.critic_lr)):
        trees = c.params[group], grads[group], c.after.params[group]
        for old, gradient, new in zip(*map(jax.tree.leaves, trees), strict=True):
            # A slope of Adam's step from 0, of 1e8, is more than rounding allows.
            sure = np.abs(gradient) > 1e-6
            step = -rate * gradient / (np.abs(gradient) + 1e-8)
            np.testing.assert_allclose(new[sure], (old + step)[sure], atol=1e-5)


def test_the_second_step(c):
    """Away from the old policy and values all clips are at work; what is old stays as it was."""
    after, metrics = updated(c.case, **{"algo.epochs": 2})
    params = jax.tree.map(np.float64, c.after.params)
    value = critic(c.config, params, c.batch)[:T]
    assert (np.abs(value - c.old.value) > c.config.hypers.clip).any()
    first, second = (losses(c.config, p, c.old, c.batch) for p in (c.params, params))
    assert second["clip_fraction"] > 0.1
    assert_metrics(metrics, {key: (first[key] + second[key]) / 2 for key in first} | c.old.means)
    pairs = (adam_moments(x.opt_state) for x in (after, c.after))
    grads = jax.tree.map(lambda now, before: (now - 0.9 * before) / (1 - 0.9), *pairs)
    assert_slopes(params, grads, lambda: total(c.config, params, c.old, c.batch))
    assert after.updates == 2
    np.testing.assert_allclose(after.statistics, c.old.stats, rtol=1e-5)


@pytest.mark.parametrize("case", ["mappo", "ippo"])
def test_minibatches(case):
    """Every pass cuts all sequences into parts anew; the moments add up the parts' slopes."""
    still = {"algo.epochs": 2, "algo.minibatches": 2, "hypers.lr": 1e-9, "hypers.critic_lr": 1e-9}
    after, metrics = updated(case, **still)
    config, _, _, params = make_learner(case)
    batch = make_batch()
    old = look_back(config, params, batch)
    every = jnp.tile(jnp.arange(B), (2, 1))
    passes = jax.random.permutation(KEY, every, axis=1, independent=True)
    np.testing.assert_array_equal(jnp.sort(passes, 1), every)
    parts = np.array(passes).reshape(4, 2)
    each = [losses(config, params, old, batch, part) for part in parts]
    assert_metrics(metrics, {key: np.mean([x[key] for x in each]) for key in each[0]})

    def weighted():
        weights = 0.1 * 0.9 ** np.arange(4)[::-1]
        return weights @ [total(config, params, old, batch, part) for part in parts]

    assert_slopes(params, adam_moments(after.opt_state), weighted, each=2)
    assert after.updates == 4


def test_each_network_has_its_own_clip():
    free, small = updated("mappo"), updated("mappo", **{"hypers.max_grad_norm": 0.3})
    for group in ("actor", "critic"):
        norms = [optax.global_norm(first_gradients(x.opt_state)[group]) for x, _ in (free, small)]
        np.testing.assert_allclose(norms[1], min(norms[0], 0.3), rtol=1e-5)
    np.testing.assert_allclose(free[1]["grad_norm"], small[1]["grad_norm"])


# -- what may be read -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["mappo", "ippo"])
def test_who_reads_the_state(case):
    """Greedy actions never; values only MAPPO's."""
    config, algo, learner, _ = make_learner(case)
    batch = jax.tree.map(jnp.asarray, make_batch())
    greedy, values = decentralised_greedy(algo, learner, batch), []
    for given in (batch, unseeing(batch)):
        values.append(jax.jit(algo.update)(learner, given, KEY, 0, config.hypers)[1]["q_tot"])
    assert jnp.isnan(values[1]) == (case == "mappo")
    view = jax.jit(algo.inspect)(learner, batch)
    assert view.q is view.q_tot is None
    np.testing.assert_array_equal(view.greedy[0], greedy)


@pytest.mark.parametrize("case", ["mappo", "ippo"])
def test_what_is_not_real_changes_nothing(case):
    """Not even through probabilities that overflow."""
    config, algo, learner, _ = make_learner(case, **{"algo.epochs": 3, "algo.minibatches": 2})
    batch = jax.tree.map(jnp.asarray, make_batch())  # sequence 0 ends after transition 2
    steps = batch.steps._replace(
        obs=batch.steps.obs.at[4:, 0].set(1e4),
        state=batch.steps.state.at[4:, 0].set(1e4),
        alive=batch.steps.alive.at[4:, 0].set(True),
    )
    noisy = batch._replace(steps=steps, reward=batch.reward.at[3:, 0].set(-1e6))
    update = jax.jit(algo.update)
    one, two = (update(learner, given, KEY, 0, config.hypers) for given in (batch, noisy))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_one_shot_games_are_read_once():
    """Reading the one instant of a one-shot game once changes nothing."""
    game = assert_read_once(load("mappo", env="matrix/qtran", **{"net.hidden": 8}), plays=32)
    np.testing.assert_allclose(game.metrics["target"], game.batch.reward.mean(), rtol=1e-5)


def test_only_the_collection_has_a_size():
    """Replay, batch and updates follow from it; the policy explores by itself."""
    assert load("mappo", env="smax/2s3z", **{"collect.envs": 128}).collect.envs == 128
    for key, value, message in (
        ("replay.capacity", 64, ": mappo on smax/2s3z does not read it"),
        ("collect.transitions_per_update", 2048, ": mappo on smax/2s3z does not read it"),
        ("algo.minibatches", 5, "=5: must divide collect.envs=32"),
        ("hypers.eps_end", 0.1, ": unknown key of learner ppo"),
    ):
        with pytest.raises(ConfigError, match=f"{key}{message}"):
            load("mappo", env="smax/2s3z", **{key: value})


# -- the parts, one by one ------------------------------------------------------------------------


def test_nothing_is_gained_beyond_the_clip():
    ratio = jnp.array([0.5, 1.0, 1.5, 0.5, 1.0, 1.5])
    advantage = jnp.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    wanted = [1.0, 2.0, 2.4, -1.6, -2.0, -3.0]
    np.testing.assert_allclose(clipped_gain(ratio, advantage, 0.2), wanted, rtol=1e-6)


def test_normalised_over_what_is_real():
    x, mask = jnp.array([1.0, 3.0, 1e3]), jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(normalised(x, mask)[:2], [-1.0, 1.0], rtol=1e-4)


def test_statistics_have_no_bias_towards_their_start():
    """Averages that start at zero give the moments of the first batch."""
    x, mask = jnp.array([1.0, 3.0, 1e3]), jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(moments(tracked(no_statistics(), x, mask)), (2.0, 1.0), rtol=1e-2)
    np.testing.assert_allclose(moments(no_statistics()), (0.0, 0.1), rtol=1e-6)


@pytest.mark.parametrize(
    ("preset", "probe", "value", "within"),
    [("ippo", "action", 1.0, 0.1), ("mappo", "match", 1.0, 0.1), ("mappo", "delay", 0.995, 0.003)],
)
def test_probes_are_solved(preset, probe, value, within):
    """delay: the mean of gamma and 1, which takes a bootstrap that is right."""
    config = load(preset, env=f"probe/{probe}")
    keys = jax.random.split(jax.random.key(0), 3)
    _, metrics = jax.jit(jax.vmap(make_train(config), (0, None)))(keys, config.hypers)
    np.testing.assert_allclose(metrics["return"][:, -1], 1.0)
    np.testing.assert_allclose(metrics["q_tot"][:, -1], value, atol=within)
