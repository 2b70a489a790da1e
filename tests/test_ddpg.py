"""One gradient step of the deterministic policy gradients, with each critic, against a NumPy oracle."""

import copy
import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from oracle import (
    B,
    N,
    T,
    assert_slopes,
    elu,
    first_adam_gradients,
    lambda_return,
    linear,
    make_batch,
    mlp,
    random_learner,
    utilities,
)

from me_igm_jax import ConfigError
from me_igm_jax.algos import make_algorithm
from me_igm_jax.devices import compiler_options
from me_igm_jax.envs import make
from me_igm_jax.presets import load
from me_igm_jax.train import make_train
from me_igm_jax.types import Batch

D, LOW, HIGH = 2, -3.0, 1.0
SPEC = oracle.SPEC._replace(n_actions=0, action_dim=D, action_bounds=(LOW, HIGH))
SMALL = {
    "net.hidden": 8, "net.recurrent": True, "net.last_action": True, "net.output_scale": 1.0,
    "ddpg.hidden": 7, "algo.hyper_embed": 6, "algo.mixing_embed": 5, "hypers.max_grad_norm": 1e6,
    "hypers.critic_lr": 1e-2, "hypers.td_lambda": 0.6,
}  # fmt: skip
CASES = {
    "maddpg": {"hypers.action_penalty": 0.3},
    "facmaddpg": {"hypers.td_lambda": 0.0},
    "dop": {},
}
PRESETS = sorted(CASES)
GROUPS = {"actor": "actor", "critic": "critic"}


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    config = load(request.param, env="differential/mtq", **(SMALL | CASES[request.param]))
    algo, hypers, batch = make_algorithm(config, SPEC), config.hypers, make_batch()
    action = np.random.default_rng(2).uniform(LOW, HIGH, (T, B, N, D))
    avail = np.ones((T + 1, B, N, 0), bool)
    batch = batch._replace(action=np.float64(np.float32(action)), steps=batch.steps._replace(avail=avail))
    learner, params, target = random_learner(algo, hypers)
    given, update = (learner, jax.tree.map(jnp.asarray, batch)), jax.jit(algo.update)
    after, metrics = update(*given, jax.random.key(3), 0, hypers)
    seen = jax.jit(algo.inspect)(*given)
    kind, held = config.ddpg.critic, copy.deepcopy(params)
    goal = make_goal(kind, target, batch, hypers)
    return SimpleNamespace(**locals())


def unit(action):
    return (action - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2)


def policy(params, batch):
    return np.tanh(utilities(params["actor"], batch, unit(batch.action)))


def q_joint(kind, params, batch, u):
    """Q_tot of u [t, B, N, D] at the first t instants."""
    p, state = params["critic"], batch.steps.state[: len(u)]
    if kind == "joint":
        return mlp(p["params"], np.concatenate([state, u.reshape(*u.shape[:2], -1)], -1))[..., 0]
    v, m = p["value"]["params"], p["mixer"]["params"]
    h = utilities(p["agent"], batch, unit(batch.action))[: len(u)]
    x = linear(v["Linear_0"], np.maximum(h, 0)) + linear(v["Linear_1"], u)
    q = linear(v["Linear_2"], np.maximum(x, 0))[..., 0]
    if kind == "linear":
        first, second = np.abs(linear(m["Linear_0"], state)), np.abs(linear(m["Linear_1"], state))
        k = np.einsum("tbne,tbe->tbn", first.reshape(*q.shape, -1), second)
        return (k * q).sum(-1) + mlp(m["MLP_0"], state)[..., 0]
    w1 = np.abs(mlp(m["MLP_0"], state)).reshape(*q.shape, -1)
    hidden = elu(np.einsum("tbn,tbne->tbe", q, w1) + linear(m["Linear_0"], state))
    return (hidden * np.abs(mlp(m["MLP_1"], state))).sum(-1) + mlp(m["MLP_2"], state)[..., 0]


def make_goal(kind, target, batch, hypers):
    value, goal = q_joint(kind, target, batch, policy(target, batch)), np.zeros((T, B))
    for t, b in np.argwhere(batch.mask):
        goal[t, b] = lambda_return(batch, value, 0 * value, t, b, hypers.gamma, hypers.td_lambda)
    return goal


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
    error = (q_joint(c.kind, params, c.batch, done) - c.goal) ** 2
    each = {"loss_actor": penalty - gain, "loss_critic": error}
    return {k: np.average(x, weights=c.batch.mask) for k, x in each.items()}


def test_forward(c):
    mu = policy(c.params, c.batch)[:T]
    expected = {
        "q_tot": q_joint(c.kind, c.params, c.batch, unit(c.batch.action)),
        "q_tot_greedy": q_joint(c.kind, c.params, c.batch, mu),
        "greedy": mu * (HIGH - LOW) / 2 + (LOW + HIGH) / 2,
    }
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(c.seen, key), value, atol=1e-5, err_msg=key)
    assert c.seen.q is None and c.seen.logits is None and c.seen.probs is None


def test_losses_and_targets(c):
    q = q_joint(c.kind, c.params, c.batch, unit(c.batch.action))
    expected = losses(c, c.params) | {
        "q_tot": np.average(q, weights=c.batch.mask),
        "target": np.average(c.goal, weights=c.batch.mask),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(c.metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


def test_gradient_and_step(c):
    gradients = first_adam_gradients(c.after.opt_state, c.params, GROUPS)
    assert_slopes(c.params, gradients, lambda: sum(losses(c, c.params).values()))
    squares = {k: sum((g**2).sum() for g in jax.tree.leaves(gradients[k])) for k in GROUPS}
    np.testing.assert_allclose(c.metrics["grad_norm"] ** 2, sum(squares.values()), rtol=1e-5)
    for name, rate in {"actor": c.hypers.lr, "critic": c.hypers.critic_lr}.items():
        assert squares[name] > 0
        trees = (c.params[name], gradients[name], c.after.params[name])
        for old, g, new in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(new, old - rate * g / (np.abs(g) + 1e-8), atol=1e-6)


def test_nothing_leaks_from_behind_the_end(c):
    """Neither padding (sequence 0, from instant 3 on) nor the transition after a truncation (2, 2)."""
    batch = c.given[1]
    obs, state = (x.at[3:, 0].set(55.0) for x in (batch.steps.obs, batch.steps.state))
    noisy = batch._replace(
        steps=batch.steps._replace(obs=obs, state=state),
        action=batch.action.at[3:, 0].set(LOW).at[2, 2].set(HIGH),
        reward=batch.reward.at[3:, 0].set(99.0).at[2, 2].set(99.0),
    )
    after, _ = c.update(c.learner, noisy, jax.random.key(3), 0, c.hypers)
    jax.tree.map(np.testing.assert_array_equal, after.params, c.after.params)


def test_greedy_is_decentralised(c):
    step = jax.tree.map(lambda x: x[0], c.given[1].steps)
    blind = step._replace(state=jnp.full_like(step.state, jnp.nan))
    one, two = (c.algo.greedy(c.learner, c.algo.carry(B), s)[1] for s in (step, blind))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, c.seen.greedy[0], atol=1e-5)


def test_acting_stays_inside_the_box(c):
    """Also with huge weights and noise as wide as the box; and what is done then can be learned from."""
    step, carry = jax.tree.map(lambda x: x[0], c.given[1].steps), c.algo.carry(B)

    @jax.jit
    def act(learner, noise, eps):
        hypers = dataclasses.replace(c.hypers, noise=noise, eps_start=eps, eps_end=eps)
        keys = jax.random.split(jax.random.key(0), 200)
        return jax.vmap(lambda key: c.algo.act(learner, carry, step, key, 0.0, hypers)[1])(keys)

    wild = c.learner._replace(params=jax.tree.map(lambda x: 100 * x, c.learner.params))
    for learner, noise, eps in ((wild, 2.0, 0.0), (c.learner, 2.0, 0.0), (wild, 0.0, 1.0)):
        actions = act(learner, noise, eps)
        assert actions.min() >= LOW and actions.max() <= HIGH
    np.testing.assert_allclose(actions.mean(0), (LOW + HIGH) / 2, atol=0.4)  # the last of them is uniform
    np.testing.assert_allclose(act(c.learner, 0.0, 0.0)[7], c.seen.greedy[0], atol=1e-5)
    batch = c.given[1]._replace(action=jnp.full_like(c.given[1].action, HIGH))
    after, metrics = c.update(wild, batch, jax.random.key(0), 0, c.hypers)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((after.params, metrics)))


def test_targets_follow_slowly(c):
    tau = 0.25
    hypers = dataclasses.replace(c.hypers, tau=tau)
    kept, moved = (
        c.algo.refresh_target(c.learner, jnp.asarray(due), hypers).target for due in (False, True)
    )
    assert set(c.learner.target) == {"actor", "critic"}
    jax.tree.map(np.testing.assert_array_equal, kept, c.learner.target)
    expected = jax.tree.map(lambda old, new: (1 - tau) * old + tau * new, c.target, c.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), moved, expected)


@pytest.fixture(scope="module", params=PRESETS)
def game(request) -> SimpleNamespace:
    """A fresh learner's step on nine plays of MTQ."""
    config = load(request.param, env="differential/mtq", **{"net.hidden": 8, "ddpg.hidden": 8})
    env, key = make(config), jax.random.key(0)
    start = env.observe(env.reset(key))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 9, *x.shape)), start)
    action, reward = jax.random.uniform(key, (1, 9, 2, 1)), jax.random.normal(key, (1, 9))
    first, one = jnp.zeros((2, 9), bool).at[0].set(True), jnp.ones((1, 9))
    batch = Batch(steps, first, action, reward, 0 * one, one)
    algo = make_algorithm(config, env.spec)
    learner = jax.jit(algo.init)(key, config.hypers)
    after, metrics = jax.jit(algo.update)(learner, batch, key, 0.0, config.hypers)
    inspect = jax.jit(algo.inspect)
    return SimpleNamespace(**locals())


def test_one_shot_games_are_regression(game):
    """The target is the reward; that all plays share their instant changes nothing."""
    batch, view = game.batch, game.inspect(game.learner, game.batch)
    assert view.q_tot.shape == view.q_tot_greedy.shape == (1, 9) and view.greedy.shape == (1, 9, 2, 1)
    error = jnp.square(view.q_tot - batch.reward).mean()
    np.testing.assert_allclose(game.metrics["loss_critic"], error, rtol=1e-5)
    np.testing.assert_allclose(game.metrics["target"], batch.reward.mean(), rtol=1e-5)
    apart = make_algorithm(game.config, game.env.spec._replace(one_start=False))
    after, _ = jax.jit(apart.update)(game.learner, batch, game.key, 0.0, game.config.hypers)
    moments = (optax.tree_utils.tree_get_all_with_path(x.opt_state, "mu") for x in (game.after, after))
    for (_, ours), (_, theirs) in zip(*moments, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7), ours, theirs)
    assert game.algo.refresh_target(game.learner, jnp.asarray(True), game.config.hypers) is game.learner


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
        make_algorithm(config, make(config).spec)
    config = load("dop_released", env="differential/mtq")
    with pytest.raises(ConfigError, match=r"dop\.form=released: only paper has"):
        make_algorithm(config, make(config).spec)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_climbs_a_hill(preset):
    """One of the two of MTQ, to its top."""
    config = load(preset, env="differential/mtq")
    keys = jax.random.split(jax.random.key(0), 4)
    train = jax.jit(jax.vmap(make_train(config), (0, None)), compiler_options=compiler_options())
    _, metrics = train(keys, config.hypers)
    u1, u2 = metrics["u1"][:, -1], metrics["u2"][:, -1]
    np.testing.assert_allclose(abs(u1), 5.0, atol=1.0)
    np.testing.assert_allclose(u1, u2, atol=1.0)
