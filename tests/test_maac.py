"""One gradient step of MAAC for continuous actions against a float64 NumPy oracle."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from continuous_oracle import (
    BOX,
    HALF,
    MIDDLE,
    assert_acts_inside_the_box,
    continuous_batch,
    gaussian,
    outputs,
    standard_normal,
    unit,
)
from me_igm_jax import ConfigError, load
from me_igm_jax.networks.critics import AttentionCritic
from one_step import (
    KEY,
    actor_critic_rates,
    assert_first_step,
    assert_metrics,
    assert_only_the_real_counts,
    assert_seen,
    assert_targets_follow,
    one_shot_step,
    one_step,
    temperature_step,
)
from oracle import N, T, lambda_returns, linear, masked_means

SMALL = {
    "net.hidden": 6, "net.recurrent": True, "net.last_action": True, "algo.hidden": 6, "algo.heads": 3,
    "hypers.alpha": 0.5, "algo.temperature": "sgd", "hypers.alpha_lr": 0.1, "hypers.target_entropy": 0.7,
    "hypers.max_grad_norm": 1e6, "hypers.critic_lr": 2e-3, "hypers.td_lambda": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def c() -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    c = one_step(load("maac", env="probe/clock", **SMALL), BOX, continuous_batch())
    next_noise, c.noise = map(standard_normal, jax.random.split(KEY))
    c.now = evaluate(c.config, c.params, c.batch, c.noise)
    c.targets = make_targets(c.config, c.target, c.batch, next_noise)
    return c


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def values(config, params, h, action, others=None):
    """(Q_i, e_i), agent by agent; `others` replaces the e_j that agent i attends to."""
    p, heads = params["params"], config.algo.heads
    e = leaky(linear(p["Linear_0"], np.maximum(h, 0)) + linear(p["Linear_1"], action))
    others, width, q = e if others is None else others, config.algo.hidden // heads, []
    query, key = (x @ p[k]["Dense_0"]["kernel"] for k, x in (("query", e), ("key", others)))
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
    return SimpleNamespace(log_pi=log_pi, best=best, h=h, q=q, frozen=frozen, drawn=drawn, e=e)


def make_targets(config, target, batch, noise):
    action, log_pi, _ = gaussian(target["actor"], batch, noise)
    value = values(config, target["critic"], outputs(target["features"], batch), action)[0]
    bonus = -config.hypers.alpha * log_pi
    each = [lambda_returns(batch, value[..., i], bonus[..., i], config.hypers) for i in range(N)]
    return np.stack(each, -1)


def losses(now, g, batch, alpha):
    alive = batch.steps.alive[:T] * batch.mask[..., None]
    return {
        "loss_critic": np.average(((now.q - g) ** 2).mean(-1), weights=batch.mask),
        "loss_actor": np.average((alpha * now.log_pi - now.drawn)[:T], weights=alive),
    }


def test_forward(c):
    best = c.now.best[:T]
    greedy = values(c.config, c.params["critic"], c.now.h[:T], best)[0].mean(-1)
    q_tot = c.now.q.mean(-1)
    assert_seen(c.seen, {"q_tot": q_tot, "q_tot_greedy": greedy, "greedy": MIDDLE + HALF * best})


def test_losses_and_targets(c):
    entropy = -c.now.log_pi[:T].sum(-1)
    means = masked_means(c.batch, target=c.targets.mean(-1), q_tot=c.now.q.mean(-1), entropy=entropy / N)
    assert_metrics(c.metrics, losses(c.now, c.targets, c.batch, c.hypers.alpha) | means)
    log_alpha = np.log(c.hypers.alpha) + temperature_step(c, entropy)
    np.testing.assert_allclose(c.after.log_alpha, log_alpha, atol=1e-5)


def test_gradient_and_step(c):
    def total_loss():
        now = evaluate(c.config, c.params, c.batch, c.noise, c.now)
        return sum(losses(now, c.targets, c.batch, c.hypers.alpha).values())

    assert_first_step(c, total_loss, actor_critic_rates(c))


def test_what_is_masked_changes_nothing(c):
    assert_only_the_real_counts(c, action=2.9)


def test_acting(c):
    assert_acts_inside_the_box(c)


def test_refresh(c):
    assert 0 < c.hypers.tau < 1
    assert_targets_follow(c, "actor", "features", "critic")


def test_attention_is_to_the_others():
    """An agent's value follows the others' actions, but `own` gradients its own alone; one can be alone."""
    critic, keys = AttentionCritic(8, 2), jax.random.split(KEY, 3)
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
    config = load("maac", env="differential/mtq", **{"net.hidden": 8, "algo.hidden": 8})
    assert config.net.output_scale == 0  # policies start at the centre
    c = one_shot_step(config)
    np.testing.assert_allclose(c.metrics["q_tot"], c.seen.q_tot.mean(), rtol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"algo\.hidden=10: "):
        load("maac", env="differential/mtq", **{"algo.hidden": 10, "algo.heads": 4})
