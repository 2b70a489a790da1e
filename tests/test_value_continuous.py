"""ME-IGM with continuous actions: order and IGM on fine grids, the greedy search, one update by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from conftest import TINY
from oracle import elu, linear, mlp

from me_igm_jax import ConfigError, load
from me_igm_jax.algos import make_algorithm
from me_igm_jax.boxes import to_unit, uniform
from me_igm_jax.types import Batch, TimeStep

N, D, T, B, K = 3, 1, 5, 4, 6
SPEC = oracle.SPEC._replace(n_actions=0, action_dim=D, action_bounds=(-2.0, 6.0))
SMALL = TINY | {"algo.proposals": K, "net.last_action": True}


def build(preset="me_qmix", spec=SPEC, **options):
    config = load(preset, env="probe/clock", **(SMALL | options))
    return config, make_algorithm(config, spec)


def make_batch(seed=0) -> Batch:
    """The oracle's batch, its actions uniform over the box."""
    batch, rng = oracle.make_batch(), np.random.default_rng(seed)
    steps = batch.steps._replace(avail=np.ones((T + 1, B, N, 0), bool))
    return batch._replace(steps=steps, action=np.float32(rng.uniform(-2, 6, (T, B, N, D))).astype(float))


def as_jax(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype == float else x.dtype), batch)


def constant_instant(action):
    """A batch of joint actions [P, N] at one random instant: T = 1."""
    P, one = len(action), jnp.ones((1, len(action)))
    rng = np.random.default_rng(3)
    obs, state = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((N, 5), (6,)))
    step = TimeStep(obs, state, jnp.ones((N, 0), bool), jnp.ones((N,), bool))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, P, *x.shape)), step)
    first = jnp.zeros((2, P), bool).at[0].set(True)
    return Batch(steps, first, action[None, ..., None], one, 0 * one, one)


@pytest.mark.parametrize("mixer", ["vdn", "qmix", "qplex", "qatten"])
def test_igm_on_a_grid(mixer):
    """The greedy actions, sought agent by agent, maximise Q_tot over a fine grid of joint actions."""
    config, algo = build(**{"algo.mixer": mixer, "algo.proposals": 32})
    learner, *_ = oracle.random_learner(algo, config.hypers)
    axis = jnp.linspace(-2, 6, 25)
    joint = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, N)
    view = jax.jit(algo.inspect)(learner, constant_instant(joint))
    assert view.q_tot.max() <= view.q_tot_greedy[0, 0] + 1e-5
    if mixer != "qplex":  # there a grid's own maximum is only known through the agents' maxima
        best = joint[view.q_tot.argmax()]
        spread = np.abs(np.asarray(best - view.greedy[0, 0, :, 0]))
        assert view.q_tot.max() > view.q_tot.mean() and (spread <= 8 / 24 + 1e-5).all()


def test_order_is_kept():
    """The density of the action, over many draws, rises with Q_i, with few proposals too: equal-probability
    bins of Q_i hold ever more of the draws."""
    config, algo = build(**{"algo.opt_layers": 2, "algo.proposals": 3})
    learner, *_ = oracle.random_learner(algo, config.hypers)
    learner = learner._replace(log_alpha=jnp.log(0.1))
    batch, P = constant_instant(jnp.zeros((1, N))), 40_000
    step = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (P, *x.shape[2:])), batch.steps)
    _, action = jax.jit(algo.act)(learner, algo.carry(P), step, jax.random.key(0), 0.0, config.hypers)
    assert action.shape == (P, N, D) and action.min() >= -2 and action.max() <= 6
    q_of = jax.jit(lambda u: utilities(config, learner, step, u))
    uniform = jax.random.uniform(jax.random.key(1), action.shape, minval=-2, maxval=6)
    q, q_uniform = (np.asarray(q_of(u)) for u in (action, uniform))
    for i in range(N):
        edges = np.quantile(q_uniform[:, i], np.linspace(0, 1, 6)[1:-1])
        counts = np.bincount(np.searchsorted(edges, q[:, i]), minlength=5)
        assert (np.diff(counts) > 3 * np.sqrt(2 * P / 5)).all(), counts


def utilities(config, learner, step, action):
    """Q_i(u), [P, N], with the library's own networks (the oracle below has its own)."""
    from me_igm_jax.algos.agent import ActionValue, make_agent_net

    agent = make_agent_net(config.net, SPEC, outputs=config.net.hidden)
    h = agent.step(learner.params["agent"], agent.carry(len(action)), step)[1]
    return ActionValue(config.net.hidden).apply(learner.params["head"], h, to_unit(action, SPEC))


@pytest.mark.parametrize("dims", [1, 2])
def test_greedy_search(dims):
    """As good as the best of a fine grid; for one action dimension, the same action."""
    spec = SPEC._replace(action_dim=dims)
    config, algo = build(spec=spec, **{"algo.proposals": 16 ** (1 + dims) // 8})
    learner, *_ = oracle.random_learner(algo, config.hypers)
    axis = np.linspace(-2, 6, 161 if dims == 1 else 41)
    grid = np.stack(np.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    from me_igm_jax.algos.agent import ActionValue, make_agent_net

    agent = make_agent_net(config.net, spec, outputs=config.net.hidden)
    step = constant_instant(jnp.zeros((1, N))).steps
    step = jax.tree.map(lambda x: x[0], step)
    h = agent.step(learner.params["agent"], agent.carry(1), step)[1]

    def q(u):
        return ActionValue(config.net.hidden).apply(
            learner.params["head"], h[..., None, :], to_unit(u, spec)
        )

    over_grid = q(jnp.broadcast_to(jnp.asarray(grid, jnp.float32), (1, N, *grid.shape)))
    _, action = algo.greedy(learner, algo.carry(1), step)
    assert action.shape == (1, N, dims)
    found = q(action[..., None, :])[..., 0]
    assert (np.asarray(found) >= np.asarray(over_grid.max(-1)) - 1e-5).all()


@pytest.mark.parametrize("option", ["algo.transform=mlp", "algo.weighting=centrally", "algo.fit=qtran"])
def test_parts_that_enumerate_actions_refuse(option):
    key, value = option.split("=")
    options = {"algo.central_critic": True, key: value}
    with pytest.raises(ConfigError, match=f"{option}: needs discrete actions"):
        build(**options)


@pytest.mark.parametrize("preset", ["qmix", "me_qplex", "soft_qmix", "me_ow_qmix"])
def test_members_step(preset):
    """Every part runs, with finite metrics, and what is masked or padded changes nothing."""
    config, algo = build(preset)
    learner, *_ = oracle.random_learner(algo, config.hypers)
    update = jax.jit(lambda b: algo.update(learner, b, jax.random.key(2), 0.0, config.hypers))
    batch = as_jax(make_batch())
    dirty = batch._replace(reward=jnp.where(batch.mask > 0, batch.reward, -7.0))
    (after, metrics), (same, _) = update(batch), update(dirty)
    assert all(np.isfinite(x) for x in metrics.values())
    jax.tree.map(np.testing.assert_array_equal, after.params, same.params)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, learner.params)
    assert any(jax.tree.leaves(moved))


# -- one step of ME-OW-QMIX by hand ------------------------------------------------------------------


def action_values(head, h, action):
    """Q_i of actions [..., N, K, d], given what the agent remembers [..., N, H]."""
    p, unit = head["params"], (action - 2) / 4
    hidden = linear(p["Linear_0"], np.maximum(h, 0))[..., None, :] + linear(p["Linear_1"], unit)
    return linear(p["Linear_2"], np.maximum(hidden, 0))[..., 0]


def joint_value(params, q, state):
    """QMIX's mixer on the values q [..., N] of one joint action."""
    p = params["mixer"]["params"]
    w1 = np.abs(mlp(p["MLP_0"], state)).reshape(*q.shape, -1)
    hidden = elu(np.einsum("tbn,tbne->tbe", q, w1) + linear(p["Linear_0"], state))
    return (hidden * np.abs(mlp(p["MLP_1"], state))).sum(-1) + mlp(p["MLP_2"], state)[..., 0]


def critic_value(params, batch, action):
    """The unrestricted critic's."""
    n, p = len(action), params["central_mixer"]["params"]
    h = oracle.utilities(params["central_agent"], batch, (batch.action - 2) / 4)[:n]
    q = action_values(params["central_head"], h, action[..., None, :])[..., 0]
    return (mlp(p["MLP_0"], np.concatenate([q, batch.steps.state[:n]], -1)) + mlp(
        p["MLP_1"], batch.steps.state[:n]))[..., 0]  # fmt: skip


def opt_logits(params, q, state):
    """|u(s)| q + v(s) for q [..., N, K]."""
    p = params["transform"]["params"]
    return np.abs(mlp(p["MLP_0"], state))[..., None] * q + mlp(p["MLP_1"], state)[..., None]


def evaluated(params, batch, held=None):
    """(Q_tot, its utilities, sum_i OPT_i(sg Q_i), Q^) of the batch's actions."""
    state, taken = batch.steps.state[:T], batch.action[..., None, :]
    h = oracle.utilities(params["agent"], batch, (batch.action - 2) / 4)[:T]
    q = action_values(params["head"], h, taken)
    opt_sum = opt_logits(params, q if held is None else held, state)[..., 0].sum(-1)
    return joint_value(params, q[..., 0], state), q, opt_sum, critic_value(params, batch, batch.action)


def test_one_step_by_hand():
    config, algo = build("me_ow_qmix", **{"algo.central_embed": 8, "hypers.alpha": 0.5})
    hypers, batch, key = config.hypers, make_batch(), jax.random.key(5)
    learner, params, target = oracle.random_learner(algo, hypers)
    after, metrics = jax.jit(algo.update)(learner, as_jax(batch), key, 0.0, hypers)

    menu_key, draw_key = jax.random.split(key)
    menu = np.float64(uniform(menu_key, (T + 1, B, N, K), SPEC))
    h = oracle.utilities(params["agent"], batch, (batch.action - 2) / 4)
    x = opt_logits(params, action_values(params["head"], h, menu), batch.steps.state) / hypers.alpha
    pi = np.exp(x - x.max(-1, keepdims=True))
    pi /= pi.sum(-1, keepdims=True)
    index = np.array(oracle.draw(draw_key, pi))[..., None]
    density = np.take_along_axis(pi, index, -1)[..., 0] * K / 8  # of one of K draws from a box of volume 8
    bonus = -hypers.alpha * np.log(density).sum(-1)
    action = np.take_along_axis(menu, index[..., None], -2)[..., 0, :]
    value, goal = critic_value(target, batch, action), np.zeros((T, B))
    for t, b in np.argwhere(batch.mask):
        goal[t, b] = oracle.lambda_return(batch, value, bonus, t, b, hypers.gamma, hypers.td_lambda)
    held, held_q, *_ = evaluated(params, batch)
    weight = np.where(held < goal, 1, hypers.optimistic_weight)

    def losses():
        q_tot, _, opt_sum, q_hat = evaluated(params, batch, held_q)
        return {
            "loss_td": np.average(weight * (q_tot - goal) ** 2, weights=batch.mask) / 2,
            "loss_opt": np.average((held - opt_sum) ** 2, weights=batch.mask) / 2,
            "loss_central": np.average((q_hat - goal) ** 2, weights=batch.mask) / 2,
        }

    entropy = (-(pi * np.log(pi * K / 8)).sum(-1)).sum(-1)[:T]
    expected = losses() | {
        "target": np.average(goal, weights=batch.mask),
        "entropy": np.average(entropy, weights=batch.mask) / N,
    }
    for name, number in expected.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-5, atol=1e-6, err_msg=name)
    clipped = jax.tree.map(
        lambda mu: np.float64(mu) / (1 - 0.9), optax.tree_utils.tree_get(after.opt_state, "mu")
    )
    scale = min(1, hypers.max_grad_norm / float(metrics["grad_norm"]))
    oracle.assert_slopes(params, clipped, lambda: scale * sum(losses().values()))
    for old, gradient, new in zip(*map(jax.tree.leaves, (params, clipped, after.params)), strict=True):
        np.testing.assert_allclose(new, old - hypers.lr * gradient / (np.abs(gradient) + 1e-8), atol=1e-6)
