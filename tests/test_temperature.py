"""Temperature rules read what they need and nothing else; target networks and gradients of an unroll."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax.ops.optimisers import gradients_through, new_learner, optimiser, stepped
from me_igm_jax.ops.target_networks import refresh_targets
from me_igm_jax.ops.temperature import first_temperature, next_temperature, step_with_temperature

SCHEDULE = {"alpha_end": 0.02, "alpha_steps": 100.0}
LEARNED = {"alpha_lr": 0.1, "target_entropy": 0.3}
RULES = [("fixed", {}), ("anneal", SCHEDULE), ("linear", SCHEDULE), ("sgd", LEARNED), ("adam", LEARNED)]
RATES = {"lr": 0.1, "lr_decay": 1.0, "lr_steps": 1.0, "max_grad_norm": 10.0}


def begin(rule, shape=(), **read):
    hypers = SimpleNamespace(alpha=0.5, **RATES, **read)
    tx, params = optimiser("adam", hypers.lr, hypers), {"net": jnp.ones(2)}
    return new_learner(params, params, tx, first_temperature(rule, hypers, shape)), hypers, tx


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("rule, read", RULES)
def test_rules(rule, read, shape):
    """`hypers` has only what the rule reads: anything else would be an AttributeError."""
    learner, hypers, _ = begin(rule, shape, **read)
    np.testing.assert_allclose(jnp.exp(learner.log_alpha), np.full(shape, 0.5), rtol=1e-6)
    entropy = jnp.full(shape, 0.9)
    log_alpha, state = next_temperature(rule, learner, entropy, 0.6, 50.0, hypers)
    want = {
        "fixed": np.log(0.5),
        "anneal": np.log(0.1),  # the geometric mean of 0.5 and 0.02
        "linear": np.log(0.26),
        "sgd": np.log(0.5) - 0.1 * 0.5 * (0.9 - 0.6),
        "adam": np.log(0.5) - 0.1,  # Adam's first step has the length of its rate
    }[rule]
    assert log_alpha.shape == shape
    np.testing.assert_allclose(log_alpha, np.full(shape, want), rtol=1e-5)
    assert state == () or rule in ("sgd", "adam")


@pytest.mark.parametrize("rule, read", RULES)
def test_step_with_temperature(rule, read):
    """The target is hypers.target_entropy per agent, if no other is given."""
    learner, hypers, tx = begin(rule, **read)
    grads, entropy = {"net": jnp.array([3.0, -4.0])}, jnp.asarray(0.9)
    after, metrics = step_with_temperature(rule, 2, learner, grads, tx, entropy, 50.0, hypers)
    want = next_temperature(rule, learner, entropy, 0.6, 50.0, hypers)[0]
    np.testing.assert_allclose(after.log_alpha, want, rtol=1e-6)
    np.testing.assert_allclose(after.params["net"], [0.9, 1.1], rtol=1e-5)
    assert after.updates == 1 and set(metrics) == {"entropy", "alpha", "grad_norm"}
    assert (metrics["entropy"], metrics["alpha"], metrics["grad_norm"]) == (
        pytest.approx(0.45), pytest.approx(0.5), pytest.approx(5.0),
    )  # fmt: skip
    if rule in ("sgd", "adam"):
        after, _ = step_with_temperature(rule, 2, learner, grads, tx, entropy, 50.0, hypers, 0.45)
        np.testing.assert_allclose(after.log_alpha, learner.log_alpha, atol=1e-6)  # it is there already


def test_without_a_temperature_there_is_none():
    hypers = SimpleNamespace(**RATES)
    tx, params = optimiser("rmsprop", hypers.lr, hypers), {"actor": jnp.ones(1), "critic": jnp.ones(1)}
    learner = new_learner(params, ["critic"], tx)
    assert learner.log_alpha == () and learner.alpha_opt_state == () and set(learner.target) == {"critic"}
    after = stepped(learner, params, tx)
    assert after.log_alpha == () and after.params["critic"] < 1


@pytest.mark.parametrize("due", [True, False])
def test_targets_move_when_due(due):
    learner, _, _ = begin("fixed")
    learner = learner._replace(target={"net": jnp.zeros(2)})
    moved = refresh_targets(learner, jnp.asarray(due), SimpleNamespace(tau=0.25))
    np.testing.assert_array_equal(moved.target["net"], np.full(2, 0.25 * due))


def test_gradients_through_one_unroll():
    """They are those of the whole loss with its targets held."""
    nets, heads = {"net": jnp.array([1.0, 2.0])}, {"head": jnp.array(3.0)}

    def unroll(nets):
        return jnp.sin(nets["net"])

    def losses(out, heads, targets):
        loss = jnp.square(heads["head"] * out - targets).sum()
        return loss, {"loss": loss}

    grads, targets, metrics = gradients_through(unroll, nets, heads, lambda out: 2 * out, losses)
    held = 2 * unroll(nets)
    np.testing.assert_array_equal(targets, held)
    want = jax.grad(lambda p: losses(unroll(p), p, held)[0])(nets | heads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grads, want)
    np.testing.assert_allclose(metrics["loss"], losses(unroll(nets), heads, held)[0])
