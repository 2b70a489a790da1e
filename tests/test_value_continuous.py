"""ME-IGM with continuous actions: order and IGM on fine grids, the greedy search, one update by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import TINY, readable
from continuous_oracle import BOX, HALF, HIGH, LOW, D, action_value, continuous_batch, outputs, unit
from me_igm_jax import ConfigError, load
from me_igm_jax.algos import value_continuous
from me_igm_jax.algos.value_family import make_parts
from me_igm_jax.ops.action_box import uniform
from me_igm_jax.types import Batch, TimeStep
from one_step import (
    KEY,
    algorithm,
    assert_first_step,
    assert_metrics,
    one_step,
    random_learner,
)
from oracle import (
    B,
    N,
    T,
    central_mixer,
    draw,
    entropy,
    lambda_returns,
    masked_means,
    opt,
    qmix,
    softmax,
)

K = 6
LINE = BOX._replace(action_dim=1)
SMALL = TINY | {"algo.proposals": K, "net.last_action": True, "net.recurrent": True}
WARM = {"algo.temperature": "sgd", "hypers.alpha": 0.5}


def small(preset="me_qmix", **options):
    """The preset's continuous learner, small; a softmax policy has the temperature 0.5."""
    env = "differential/mtq"
    if load(preset, env=env).algo.policy == "softmax":
        options = WARM | options
    return load(preset, env=env, **(readable(SMALL, preset, env, **options) | options))


def build(spec, **options):
    """A configuration, its algorithm and random weights."""
    config = small(**options)
    algo = algorithm(config, spec)
    return config, algo, random_learner(algo, config.hypers)[0]


def library_values(config, spec, learner, step):
    """Q_i of actions [B, ..., N, d] or [B, N, P, d], with the library's own networks."""
    parts = make_parts(config, spec)
    h = parts.agent.step(learner.params["agent"], parts.agent.carry(len(step.obs)), step)[1]
    return jax.jit(lambda u: value_continuous.action_values(parts, learner.params, h, u))


def constant_instant(action):
    """A batch of joint actions [P, N] at one random instant: T = 1."""
    P, one = len(action), jnp.ones((1, len(action)))
    rng = np.random.default_rng(3)
    obs, state = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((N, 5), (6,)))
    step = TimeStep(obs, state, jnp.ones((N, 1), bool), jnp.ones((N,), bool))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, P, *x.shape)), step)
    first = jnp.zeros((2, P), bool).at[0].set(True)
    return Batch(steps, first, action[None, ..., None], one, 0 * one, one)


@pytest.mark.parametrize("mixer", ["vdn", "qmix", "qplex", "qatten"])
def test_igm_on_a_grid(mixer):
    """The greedy actions, sought agent by agent, maximise Q_tot over a fine grid of joint actions."""
    _, algo, learner = build(LINE, **{"algo.mixer": mixer, "algo.proposals": 32})
    axis = jnp.linspace(LOW, HIGH, 25)
    joint = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, N)
    view = jax.jit(algo.inspect)(learner, constant_instant(joint))
    assert view.q_tot.max() <= view.q_tot_greedy[0, 0] + 1e-5
    if mixer != "qplex":  # there a grid's own maximum is only known through the agents' maxima
        best = joint[view.q_tot.argmax()]
        spread = np.abs(np.asarray(best - view.greedy[0, 0, :, 0]))
        assert view.q_tot.max() > view.q_tot.mean() and (spread <= 2 * HALF / 24 + 1e-5).all()


def test_order_is_kept():
    """The density of the action, over many draws, rises with Q_i, with few proposals too: equal-probability
    bins of Q_i hold ever more of the draws."""
    config, algo, learner = build(LINE, **{"algo.transform": "opt_two_layers", "algo.proposals": 3})
    learner = learner._replace(log_alpha=jnp.log(0.1))
    batch, P = constant_instant(jnp.zeros((1, N))), 40_000
    step = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (P, *x.shape[2:])), batch.steps)
    _, action = jax.jit(algo.act)(learner, algo.carry(P), step, jax.random.key(0), 0.0, config.hypers)
    assert action.shape == (P, N, 1) and action.min() >= LOW and action.max() <= HIGH
    at_random = jax.random.uniform(jax.random.key(1), action.shape, minval=LOW, maxval=HIGH)
    q_of = library_values(config, LINE, learner, step)
    q, q_at_random = (np.asarray(q_of(u[..., None, :]))[..., 0] for u in (action, at_random))
    for i in range(N):
        edges = np.quantile(q_at_random[:, i], np.linspace(0, 1, 6)[1:-1])
        counts = np.bincount(np.searchsorted(edges, q[:, i]), minlength=5)
        assert (np.diff(counts) > 3 * np.sqrt(2 * P / 5)).all(), counts


@pytest.mark.parametrize("dims", [1, 2])
def test_greedy_search(dims):
    """As good as the best of a fine grid."""
    spec = BOX._replace(action_dim=dims)
    config, algo, learner = build(spec, **{"algo.proposals": 16 ** (1 + dims) // 8})
    axis = jnp.linspace(LOW, HIGH, 161 if dims == 1 else 41)
    grid = jnp.stack(jnp.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    step = jax.tree.map(lambda x: x[0], constant_instant(jnp.zeros((1, N))).steps)
    _, action = algo.greedy(learner, algo.carry(1), step)
    assert action.shape == (1, N, dims)
    q_of = library_values(config, spec, learner, step)
    over_grid, found = q_of(jnp.broadcast_to(grid, (1, N, *grid.shape))), q_of(action[..., None, :])
    assert (found[..., 0] >= over_grid.max(-1) - 1e-5).all()


@pytest.mark.parametrize("preset", ["mlp_qmix", "cw_qmix", "qtran", "soft_qmix_released"])
def test_members_that_enumerate_actions_refuse(preset):
    with pytest.raises(ConfigError, match=r"algo\.(transform|weighting|fit)"):
        load(preset, env="differential/mtq")


@pytest.mark.parametrize("preset", ["qmix", "me_qplex", "soft_qmix", "me_ow_qmix"])
def test_members_step(preset):
    """Every part runs, with finite metrics, and what is masked or padded changes nothing."""
    soft = {"loss_opt", "delta_q", "entropy", "alpha"}
    c = one_step(small(preset), BOX, continuous_batch())
    assert all(np.isfinite(x) for x in c.metrics.values())
    assert soft & set(c.metrics) == (set() if preset == "qmix" else soft)
    dirty = c.given._replace(reward=jnp.where(c.given.mask > 0, c.given.reward, -7.0))
    same, _ = c.update(c.learner, dirty, KEY, 0.0, c.hypers)
    jax.tree.map(np.testing.assert_array_equal, c.after.params, same.params)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), c.after.params, c.learner.params)
    assert any(jax.tree.leaves(moved))


# -- one step of ME-OW-QMIX by hand ------------------------------------------------------------------


def critic_value(params, batch, action):
    """The unrestricted critic's."""
    h = outputs(params["central_agent"], batch)[: len(action)]
    q = action_value(params["central_head"], h, unit(action))
    return central_mixer(params["central_mixer"]["params"], q, batch.steps.state[: len(action)])


class Evaluation(NamedTuple):
    """What the oracle computes from the batch's actions and the weights."""

    q: np.ndarray  # [T, B, N] utilities
    q_tot: np.ndarray  # [T, B]
    opt_sum: np.ndarray  # [T, B] sum_i OPT_i(sg Q_i)
    q_hat: np.ndarray  # [T, B] the central critic's


def evaluated(params, batch, held_q=None) -> Evaluation:
    """Values at `params`; `held_q` replaces the utilities behind the stop-gradient."""
    state = batch.steps.state[:T]
    q = action_value(params["head"], outputs(params["agent"], batch)[:T], unit(batch.action))
    logits = opt(params["transform"], (q if held_q is None else held_q)[..., None], state, layers=1)
    return Evaluation(
        q=q, q_tot=qmix(params["mixer"]["params"], q, state), opt_sum=logits.sum((-2, -1)),
        q_hat=critic_value(params, batch, batch.action),
    )  # fmt: skip


def test_one_step_by_hand():
    config = small("me_ow_qmix", **{"algo.central_critic": True, "algo.central_embed": 8})
    c = one_step(config, BOX, continuous_batch())
    hypers, batch, params = c.hypers, c.batch, c.params

    menu_key, draw_key = jax.random.split(KEY)
    menu, volume = np.float64(uniform(menu_key, (T + 1, B, N, K), BOX)), (2 * HALF) ** D
    h = outputs(params["agent"], batch)[..., None, :]
    q = action_value(params["head"], h, unit(menu))
    pi = softmax(opt(params["transform"], q, batch.steps.state, layers=1) / hypers.alpha)
    index = np.array(draw(draw_key, pi))[..., None]
    taken = np.take_along_axis(pi, index, -1)[..., 0]
    bonus = -hypers.alpha * np.log(taken * K / volume).sum(-1)
    action = np.take_along_axis(menu, index[..., None], -2)[..., 0, :]
    goal = lambda_returns(batch, critic_value(c.target, batch, action), bonus, hypers)
    held = evaluated(params, batch)
    weight = np.where(held.q_tot < goal, 1, hypers.optimistic_weight)

    def losses():
        now = evaluated(params, batch, held.q)
        return {
            "loss_td": np.average(weight * (now.q_tot - goal) ** 2, weights=batch.mask) / 2,
            "loss_opt": np.average((held.q_tot - now.opt_sum) ** 2, weights=batch.mask) / 2,
            "loss_central": np.average((now.q_hat - goal) ** 2, weights=batch.mask) / 2,
        }

    joint_entropy = (entropy(pi) - np.log(K / volume)).sum(-1)[:T]
    assert_metrics(c.metrics, losses() | masked_means(batch, target=goal, entropy=joint_entropy / N))
    assert_first_step(c, lambda: sum(losses().values()), dict.fromkeys(params, hypers.lr))
