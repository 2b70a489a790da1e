"""Over every preset: finite losses, gradients in every leaf, decentralised execution, stop-gradients."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import TINY, random_batch, readable, tiny
from me_igm_jax.config import load, preset_names
from me_igm_jax.envs import make_env
from one_step import assert_read_once, decentralised_greedy

VARIANTS = {
    "fop_released",
    "hasac_released",
    "msac_released",
    "dop_released",
    "mappo_jaxmarl",
}  # their oracles see them
CONTINUOUS = {"maddpg", "facmaddpg", "maac"}  # for continuous actions alone; files of their own
PRESETS = sorted(set(preset_names()) - VARIANTS - CONTINUOUS)
VALUE = [name for name in PRESETS if load(name, env="probe/clock").learner == "value"]
PPO = [name for name in PRESETS if load(name, env="probe/clock").learner == "ppo"]
METRICS = {"q_tot", "target", "grad_norm"}  # what every update must return, see types.Update


@cache
def learn(preset, steps=1, **overrides):
    config, algo = tiny(preset, **overrides)
    start = algo.init(jax.random.key(0), config.hypers)
    learner, metrics = start, {}
    for key in jax.random.split(jax.random.key(1), steps):
        learner, metrics = jax.jit(algo.update)(
            learner, random_batch(jax.random.key(7)), key, jnp.zeros(()), config.hypers
        )
    return algo, start, learner, metrics


@pytest.mark.parametrize("preset", PRESETS)
def test_update(preset):
    """One step: finite, the expected metrics, and every leaf that has a role moves."""
    _, start, learner, metrics = learn(preset)
    config, soft = load(preset, env="probe/clock"), {"loss_opt", "delta_q", "alpha", "entropy"}
    losses = {"loss_actor", "loss_critic", "entropy"}
    if preset in VALUE:
        losses = {f"loss_{config.algo.fit}"} | (soft if config.algo.policy == "softmax" else set())
    assert set(metrics) >= METRICS | losses and all(jnp.isfinite(v) for v in metrics.values())
    assert learner.updates == (config.algo.epochs * config.algo.minibatches if preset in PPO else 1)
    moved = jax.tree_util.tree_map(lambda a, b: bool((a != b).any()), start.params, learner.params)
    still = [jax.tree_util.keystr(k) for k, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
    assert still == [], f"no gradient reaches {still}"


@pytest.mark.parametrize("preset", PRESETS)
def test_greedy_is_decentralised(preset):
    """The greedy action does not change when the state is NaN."""
    algo, _, learner, _ = learn(preset)
    batch = random_batch(jax.random.key(3))
    action = decentralised_greedy(algo, learner, batch)
    assert jnp.take_along_axis(batch.steps.avail[0], action[..., None], -1).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_acting_never_takes_the_unavailable(preset):
    config, algo = tiny(preset)
    learner = algo.init(jax.random.key(0), config.hypers)
    step = jax.tree.map(lambda x: x[0], random_batch(jax.random.key(3)).steps)

    def act(key):
        return algo.act(learner, algo.carry(4), step, key, jnp.zeros(()), config.hypers)[1]

    actions = jax.jit(jax.vmap(act))(jax.random.split(jax.random.key(0), 200))
    avail = jnp.broadcast_to(step.avail, (200, *step.avail.shape))
    assert jnp.take_along_axis(avail, actions[..., None], -1).all()
    assert len(np.unique(actions)) > 1


@pytest.mark.parametrize("preset", [*VALUE, "fop"])  # the others' oracles have such a test
def test_padding_changes_nothing(preset):
    """What lies behind an episode's end must not touch the update."""
    config, algo = tiny(preset)
    learner = algo.init(jax.random.key(0), config.hypers)
    batch = random_batch(jax.random.key(7))  # sequence 0 ends, terminal, after transition 2
    noisy = batch._replace(
        reward=batch.reward.at[3:, 0].set(99.0),
        steps=batch.steps._replace(obs=batch.steps.obs.at[4:, 0].set(55.0)),
    )
    update = jax.jit(algo.update)
    one, two = (
        update(learner, b, jax.random.key(1), jnp.zeros(()), config.hypers)[0].params
        for b in (batch, noisy)
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), one, two)


def test_order_preserving_presets_are_aligned():
    """OPT never moves the mode of the policy off the greedy action; the MLP does."""
    regret = {}
    for preset in ("me_qmix", "me_qplex", "soft_qmix", "mlp_qmix"):
        algo, _, learner, _ = learn(preset, steps=3)
        view = jax.jit(algo.inspect)(learner, random_batch(jax.random.key(9)))
        mode = view.logits.argmax(-1)
        best, chosen = view.q.max(-1), jnp.take_along_axis(view.q, mode[..., None], -1)[..., 0]
        regret[preset] = float((best - chosen).max())
    assert regret.pop("mlp_qmix") > 1e-2
    assert max(regret.values()) < 1e-5


def test_opt_loss_trains_the_transform_alone():
    """L(phi) sends no gradient into the agent or the mixer: with TD error zero they stay."""
    config, algo = tiny("me_qmix", **{"hypers.gamma": 0.0})
    learner = algo.init(jax.random.key(0), config.hypers)
    batch = random_batch(jax.random.key(7))
    batch = batch._replace(reward=algo.inspect(learner, batch).q_tot)
    after, metrics = jax.jit(algo.update)(learner, batch, jax.random.key(1), jnp.zeros(()), config.hypers)
    assert metrics["loss_td"] < 1e-10 and metrics["loss_opt"] > 1e-3
    shift = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), learner.params, after.params)
    assert max(jax.tree.leaves(shift["transform"])) == pytest.approx(config.hypers.lr, rel=1e-2)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_learned_temperature_follows_the_entropy(rule):
    for target, sign in ((0.0, -1), (5.0, 1)):
        options = {"algo.temperature": rule, "hypers.target_entropy": target}
        _, start, learner, _ = learn("me_qmix", **options)
        assert np.sign(learner.log_alpha - start.log_alpha) == sign


def test_annealed_temperature():
    config, algo = tiny("me_ow_qmix", **{
        "algo.temperature": "anneal", "hypers.alpha": 4.0, "hypers.alpha_end": 0.25,
        "hypers.alpha_steps": 100.0,
    })  # fmt: skip
    learner = algo.init(jax.random.key(0), config.hypers)
    batch, key = random_batch(jax.random.key(7)), jax.random.key(1)
    after, _ = jax.jit(algo.update)(learner, batch, key, jnp.asarray(50.0), config.hypers)
    assert jnp.exp(after.log_alpha) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "preset", ["vdn", "qplex", "qatten", "me_qmix", "soft_qmix", "cw_qmix", "qtran", "fop"]
)
def test_one_shot_games_are_read_once(preset):
    game = "matrix/qtran"
    small = TINY | {"hypers.alpha_steps": 100.0}
    config = load(preset, env=game, **readable(small, preset, game))
    env = make_env(config)
    starts = jax.vmap(lambda k: env.observe(env.reset(k)))(jax.random.split(jax.random.key(0), 8))
    assert env.spec.one_shot and all((x == x[0]).all() for x in starts)
    view = assert_read_once(config).view
    assert view.q.shape == (1, 9, 2, 3) and view.q_tot.shape == (1, 9)
    has_policy = preset.startswith(("me_", "soft_", "fop"))
    assert (view.probs.shape == (1, 9, 2, 3)) if has_policy else (view.probs is None)


def test_learning_rate_falls_linearly():
    shifts = []
    for now in (0.0, 50.0, 100.0, 1000.0):
        config, algo = tiny("qmix", **{"hypers.lr_decay": 0.1, "hypers.lr_steps": 100.0})
        learner = algo.init(jax.random.key(0), config.hypers)
        given = (random_batch(jax.random.key(7)), jax.random.key(1), jnp.asarray(now), config.hypers)
        after, _ = jax.jit(algo.update)(learner, *given)
        leaves = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), learner.params, after.params)
        shifts.append(max(jax.tree.leaves(leaves)) / config.hypers.lr)
    np.testing.assert_allclose(shifts, [1.0, 0.55, 0.1, 0.1], rtol=1e-2)


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_target_refresh(tau):
    config, algo = tiny("qmix", **{"hypers.tau": tau})
    learner = algo.init(jax.random.key(0), config.hypers)
    moved = learner._replace(params=jax.tree.map(lambda x: x + 1, learner.params))
    kept = algo.refresh_target(moved, jnp.asarray(False), config.hypers)
    jax.tree.map(np.testing.assert_array_equal, kept.target, learner.target)
    fresh = algo.refresh_target(moved, jnp.asarray(True), config.hypers)
    jax.tree.map(
        lambda t, old: np.testing.assert_allclose(t, old + tau, rtol=1e-5),
        fresh.target,
        learner.target,
    )
