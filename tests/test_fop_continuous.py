"""One gradient step of FOP for continuous actions against a float64 NumPy oracle."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from continuous_oracle import (
    BOX,
    HALF,
    MIDDLE,
    action_value,
    assert_acts_inside_the_box,
    continuous_batch,
    gaussian,
    outputs,
    standard_normal,
    unit,
)
from fop_oracle import clipped_ratio, fop_mixer
from me_igm_jax.algos import fop_continuous, make_algorithm
from me_igm_jax.config import ConfigError, load
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
from oracle import B, N, T, lambda_returns, masked_means

SMALL = {
    "learner": "fop_continuous", "net.hidden": 6, "net.last_action": True, "algo.mixing_embed": 5,
    "algo.optimiser": "adam", "algo.temperature": "sgd",
    "hypers.alpha": 0.5, "hypers.alpha_lr": 0.1, "hypers.target_entropy": 0.7, "hypers.max_grad_norm": 1e6,
}  # fmt: skip
CASES = {
    "ratio": {"algo.heads": 2},
    "shared": {
        "algo.temperatures": "shared", "algo.heads": 2, "algo.layers": 2, "algo.hyper_embed": 5,
        "hypers.td_lambda": 0.3, "net.recurrent": False,
    },
    "linear": {"algo.form": "linear", "net.recurrent": False},
    "released": {
        "algo.form": "released", "algo.attention": True, "algo.heads": 2, "algo.hyper_embed": 5,
        "hypers.attention_penalty": 0.1, "net.recurrent": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    c = one_step(load("fop", env="probe/clock", **(SMALL | CASES[request.param])), BOX, continuous_batch())
    c.noise = standard_normal(KEY)
    c.now = evaluate(c.config, c.params, c.batch, c.noise)
    c.targets = make_targets(c.config, c.now, c.target, c.batch)
    return c


def evaluate(config, params, batch, noise, held=None):
    """All that the losses are made of; `held` replaces what lies behind a stop-gradient."""
    state, taken = batch.steps.state, unit(batch.action)
    action, log_pi, best = gaussian(params["actor"], batch, noise)
    h, v = outputs(params["critic"], batch), outputs(params["value"], batch)[..., 0]
    frozen = held or SimpleNamespace(head=jax.tree.map(np.copy, params["head"]), h=h, v=v)
    head, held_v = frozen.head, frozen.v
    q = action_value(params["head"], h[:T], taken)
    drawn = action_value(head, frozen.h, action)
    stopped = held.advantage if held else None
    mixed = fop_mixer(config.algo, params["mixer"], q, held_v[:T], taken, state[:T], stopped)
    q_jt, _, penalty, advantage = mixed
    weight = fop_mixer(config.algo, params["mixer"], drawn, held_v, action, state)[1]
    return SimpleNamespace(
        action=action, log_pi=log_pi, best=best, h=h, v=v, head=head, drawn=drawn, q_jt=q_jt, weight=weight,
        penalty=penalty, advantage=advantage,
    )  # fmt: skip


def make_targets(config, now, target, batch):
    """The lambda-return, alpha_i and V_i's target."""
    hypers, mask = config.hypers, batch.mask
    alphas = np.full(N, hypers.alpha)
    if config.algo.temperatures == "ratio":
        gain = (now.drawn - now.v)[:T]
        for i in range(N):
            above, below = ((x * gain[..., i] * mask).sum() for x in (1, now.weight[:T, :, i]))
            alphas[i] *= clipped_ratio(above, below)
    q = action_value(target["head"], outputs(target["critic"], batch), now.action)
    value = fop_mixer(config.algo, target["mixer"], q, now.v, now.action, batch.steps.state)[0]
    g = lambda_returns(batch, value, -hypers.alpha * now.log_pi.sum(-1), hypers)
    return SimpleNamespace(g=g, alphas=alphas, v=(now.drawn - alphas * now.log_pi)[:T])


def losses(now, targets, batch):
    mask, alive = batch.mask, batch.steps.alive[:T] * batch.mask[..., None]
    soft = (now.drawn - targets.alphas * now.log_pi)[:T]
    return {
        "loss_critic": np.average((now.q_jt - targets.g) ** 2, weights=mask),
        "loss_value": np.average(((targets.v - now.v[:T]) ** 2).mean(-1), weights=mask),
        "loss_actor": -np.average(soft, weights=alive),
    }


def test_forward(c):
    state, best = c.batch.steps.state[:T], c.now.best[:T]
    q = action_value(c.params["head"], c.now.h[:T], best)
    greedy = fop_mixer(c.config.algo, c.params["mixer"], q, c.now.v[:T], best, state)[0]
    assert_seen(c.seen, {"q_tot": c.now.q_jt, "q_tot_greedy": greedy, "greedy": MIDDLE + HALF * best})
    assert c.seen.q is c.seen.logits is c.seen.probs is None


def test_losses_and_targets(c):
    entropy = -c.now.log_pi[:T].sum(-1)
    means = masked_means(c.batch, target=c.targets.g, q_tot=c.now.q_jt, entropy=entropy / N)
    expected = losses(c.now, c.targets, c.batch) | means | {"alpha_i": c.targets.alphas.mean()}
    assert_metrics(c.metrics, expected)
    ratios = c.targets.alphas / c.hypers.alpha
    if c.config.algo.temperatures == "ratio":  # within its limits, or the test would show nothing
        assert ((ratios != 1) & (ratios > 0.1) & (ratios < 10)).any()
    log_alpha = np.log(c.hypers.alpha) + temperature_step(c, entropy)
    np.testing.assert_allclose(c.after.log_alpha, log_alpha, atol=1e-5)


def test_gradient_and_step(c):
    def total_loss():
        now = evaluate(c.config, c.params, c.batch, c.noise, c.now)
        penalty = np.average(now.penalty + np.zeros((T, B)), weights=c.batch.mask)
        return sum(losses(now, c.targets, c.batch).values()) + c.hypers.attention_penalty * penalty

    assert_first_step(c, total_loss, actor_critic_rates(c))


def test_what_is_masked_changes_nothing(c):
    assert_only_the_real_counts(c, action=2.9)


def test_acting(c):
    assert_acts_inside_the_box(c)


def test_refresh(c):
    assert c.hypers.tau == 1
    assert_targets_follow(c, "critic", "head", "mixer")


def test_one_shot_games_are_regression():
    """The batch shares one instant; every sample draws for itself, and the target is the reward."""
    config = load("fop", env="differential/mtq", **{"net.hidden": 8})
    assert config.net.output_scale == 0  # policies start at the centre
    c = one_shot_step(config)
    error = np.square(c.seen.q_tot - c.batch.reward).mean()
    np.testing.assert_allclose(c.metrics["loss_critic"], error, rtol=1e-5)


@pytest.mark.parametrize("key, value", [("entropy", "mean"), ("value", "logsumexp"), ("twin", True)])
def test_the_released_codes_parts_are_discrete(key, value):
    with pytest.raises(ConfigError, match=rf"algo\.{key}: unknown key of learner fop_continuous"):
        load("fop", env="differential/mtq", **{f"algo.{key}": value})


def test_the_linear_form_is_continuous():
    with pytest.raises(ConfigError, match=r"algo\.form=linear"):
        load("fop", env="probe/clock", **{"algo.form": "linear"})


def test_the_released_preset_is_discrete():
    with pytest.raises(ConfigError, match="continuous"):
        make_algorithm(load("fop_released", env="differential/mtq"), BOX)


def test_the_dead_have_no_part_in_the_actors_loss():
    soft_q, alive = jnp.ones((T, B, N)).at[..., 0].set(99.0), jnp.ones((T, B, N)).at[..., 0].set(0.0)
    assert fop_continuous.actor_loss(soft_q, alive, jnp.ones((T, B))) == -1


def test_the_value_loss_reaches_values_alone():
    mask = jnp.ones((T, B)).at[0].set(0.0)
    v, soft_q = jnp.zeros((T, B, N)), jnp.full((T, B, N), 2.0)
    slopes = jax.grad(fop_continuous.value_loss, argnums=(0, 1))(v, soft_q, mask)
    np.testing.assert_allclose(slopes[0][1:], -4 / (N * (T - 1) * B), rtol=1e-6)
    assert (slopes[0][0] == 0).all() and (slopes[1] == 0).all()
