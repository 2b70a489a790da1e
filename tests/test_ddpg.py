"""One gradient step of the deterministic policy gradients, with each critic, against a NumPy oracle."""

import copy
import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from continuous_oracle import (
    BOX,
    HALF,
    HIGH,
    LOW,
    MIDDLE,
    action_value,
    continuous_batch,
    outputs,
    unit,
)
from me_igm_jax import ConfigError, load, make_env, make_train
from me_igm_jax.algos import make_algorithm
from me_igm_jax.runner.devices import compiler_options
from one_step import (
    KEY,
    actor_critic_rates,
    algorithm,
    assert_first_step,
    assert_metrics,
    assert_only_the_real_counts,
    assert_seen,
    assert_targets_follow,
    decentralised_greedy,
    first_instant,
    one_shot_batch,
    one_step,
)
from oracle import B, N, T, lambda_returns, linear_weights, masked_means, mlp, qmix

SMALL = {
    "net.hidden": 8, "net.recurrent": True, "net.last_action": True, "net.output_scale": 1.0,
    "algo.hidden": 7, "hypers.max_grad_norm": 1e6, "hypers.critic_lr": 1e-2,
    "hypers.td_lambda": 0.6, "hypers.tau": 0.25,
}  # fmt: skip
CASES = {
    "maddpg": {"hypers.action_penalty": 0.3},
    "facmaddpg": {"hypers.td_lambda": 0.0, "algo.hyper_embed": 6, "algo.mixing_embed": 5},
    "dop": {"algo.mixing_embed": 5},
}


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    config = load(request.param, env="differential/mtq", **(SMALL | CASES[request.param]))
    c = one_step(config, BOX, continuous_batch())
    c.kind, c.held = config.algo.critic, copy.deepcopy(c.params)
    value = q_joint(c.kind, c.target, c.batch, policy(c.target, c.batch))
    c.targets = lambda_returns(c.batch, value, 0 * value, c.hypers)
    return c


def policy(params, batch):
    return np.tanh(outputs(params["actor"], batch))


def q_joint(kind, params, batch, u):
    """Q_tot of u [t, B, N, D] at the first t instants."""
    p, state = params["critic"], batch.steps.state[: len(u)]
    if kind == "joint":
        return mlp(p["params"], np.concatenate([state, u.reshape(*u.shape[:2], -1)], -1))[..., 0]
    m, q = p["mixer"]["params"], action_value(p["value"], outputs(p["agent"], batch)[: len(u)], u)
    if kind == "linear":
        return (linear_weights(m, state) * q).sum(-1) + mlp(m["MLP_0"], state)[..., 0]
    return qmix(m, q, state)


def losses(c, params):
    """The critic's reads `params`; the actor's too, but for the critic it climbs."""
    mu, done = policy(params, c.batch)[:T], unit(c.batch.action)
    if c.kind == "joint":  # each agent deviates alone from what was done
        gain = 0
        for i in range(N):
            u = done.copy()
            u[:, :, i] = mu[:, :, i]
            gain = gain + q_joint(c.kind, c.held, c.batch, u) / N
    else:
        gain = q_joint(c.kind, c.held, c.batch, mu)
    penalty = c.hypers.action_penalty * (mu**2).mean((-2, -1))
    error = (q_joint(c.kind, params, c.batch, done) - c.targets) ** 2
    each = {"loss_actor": penalty - gain, "loss_critic": error}
    return {k: np.average(x, weights=c.batch.mask) for k, x in each.items()}


def test_forward(c):
    mu = policy(c.params, c.batch)[:T]
    expected = {
        "q_tot": q_joint(c.kind, c.params, c.batch, unit(c.batch.action)),
        "q_tot_greedy": q_joint(c.kind, c.params, c.batch, mu),
        "greedy": MIDDLE + HALF * mu,
    }
    assert_seen(c.seen, expected)
    assert c.seen.q is None and c.seen.logits is None and c.seen.probs is None


def test_losses_and_targets(c):
    q_tot = q_joint(c.kind, c.params, c.batch, unit(c.batch.action))
    assert_metrics(c.metrics, losses(c, c.params) | masked_means(c.batch, q_tot=q_tot, target=c.targets))


def test_gradient_and_step(c):
    assert_first_step(c, lambda: sum(losses(c, c.params).values()), actor_critic_rates(c))


def test_nothing_leaks_from_behind_the_end(c):
    assert_only_the_real_counts(c, action=HIGH)


def test_greedy_is_decentralised(c):
    np.testing.assert_allclose(
        decentralised_greedy(c.algo, c.learner, c.given), c.seen.greedy[0], atol=1e-5
    )


def test_acting_stays_inside_the_box(c):
    """Also with huge weights and noise as wide as the box; and what is done then can be learned from."""
    step, carry = first_instant(c.given), c.algo.carry(B)

    @jax.jit
    def act(learner, noise, eps):
        hypers = dataclasses.replace(c.hypers, noise=noise, eps_start=eps, eps_end=eps)
        keys = jax.random.split(jax.random.key(0), 200)
        return jax.vmap(lambda key: c.algo.act(learner, carry, step, key, 0.0, hypers)[1])(keys)

    wild = c.learner._replace(params=jax.tree.map(lambda x: 100 * x, c.learner.params))
    for learner, noise, eps in ((wild, 2.0, 0.0), (c.learner, 2.0, 0.0), (wild, 0.0, 1.0)):
        actions = act(learner, noise, eps)
        assert actions.min() >= LOW and actions.max() <= HIGH
    np.testing.assert_allclose(actions.mean(0), MIDDLE, atol=0.4)  # the last of them is uniform
    np.testing.assert_allclose(act(c.learner, 0.0, 0.0)[7], c.seen.greedy[0], atol=1e-5)
    batch = c.given._replace(action=jnp.full_like(c.given.action, HIGH))
    after, metrics = c.update(wild, batch, jax.random.key(0), 0, c.hypers)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((after.params, metrics)))


def test_targets_follow_slowly(c):
    assert c.hypers.tau == 0.25
    assert_targets_follow(c, "actor", "critic")


@pytest.fixture(scope="module", params=CASES)
def game(request) -> SimpleNamespace:
    """A fresh learner's step on nine plays of MTQ."""
    config = load(request.param, env="differential/mtq", **{"net.hidden": 8, "algo.hidden": 8})
    env = make_env(config)
    algo, batch = algorithm(config, env.spec), one_shot_batch(env)
    learner = jax.jit(algo.init)(KEY, config.hypers)
    after, metrics = jax.jit(algo.update)(learner, batch, KEY, 0.0, config.hypers)
    return SimpleNamespace(
        config=config, env=env, algo=algo, batch=batch, learner=learner, after=after, metrics=metrics,
        inspect=jax.jit(algo.inspect),
    )  # fmt: skip


def test_one_shot_games_are_regression(game):
    """The target is the reward; that all plays share their instant changes nothing."""
    batch, view = game.batch, game.inspect(game.learner, game.batch)
    assert view.q_tot.shape == view.q_tot_greedy.shape == (1, 9) and view.greedy.shape == (1, 9, 2, 1)
    error = jnp.square(view.q_tot - batch.reward).mean()
    np.testing.assert_allclose(game.metrics["loss_critic"], error, rtol=1e-5)
    np.testing.assert_allclose(game.metrics["target"], batch.reward.mean(), rtol=1e-5)
    apart = algorithm(game.config, game.env.spec._replace(one_start=False))
    after, _ = jax.jit(apart.update)(game.learner, batch, KEY, 0.0, game.config.hypers)
    moments = (optax.tree_utils.tree_get_all_with_path(x.opt_state, "mu") for x in (game.after, after))
    for (_, ours), (_, theirs) in zip(*moments, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7), ours, theirs)
    assert game.algo.refresh_target is None


def test_starts_at_the_centre_and_can_leave_it(game):
    """Zero output weights are the policy's alone: every leaf of the critic learns at once."""
    np.testing.assert_array_equal(game.inspect(game.learner, game.batch).greedy, 0.0)
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), game.learner.params, game.after.params)
    still = [jax.tree_util.keystr(k) for k, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
    assert still and all("actor" in k for k in still), still  # what lies before zero weights
    assert (game.inspect(game.after, game.batch).greedy != 0).all()


def test_what_cannot_work_is_named():
    config = load("maddpg", env="matrix/qtran")
    with pytest.raises(ConfigError, match="its actions are discrete, maddpg's are not"):
        make_algorithm(config, make_env(config).spec)
    with pytest.raises(ConfigError, match=r"algo\.form: unknown key of learner ddpg"):
        load("dop_released", env="differential/mtq")


@pytest.mark.slow
@pytest.mark.parametrize("preset", CASES)
def test_climbs_a_hill(preset):
    """One of the two of MTQ, to its top."""
    config = load(preset, env="differential/mtq")
    keys = jax.random.split(jax.random.key(0), 4)
    train = jax.jit(jax.vmap(make_train(config), (0, None)), compiler_options=compiler_options())
    _, metrics = train(keys, config.hypers)
    u1, u2 = metrics["u1"][:, -1], metrics["u2"][:, -1]
    np.testing.assert_allclose(abs(u1), 5.0, atol=1.0)
    np.testing.assert_allclose(u1, u2, atol=1.0)
