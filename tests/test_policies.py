"""Unavailable actions are never taken; policies and schedules do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax.ops import policies, schedules

AVAIL = jnp.array([[True, False, True, False], [False, False, False, True]])


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 1e6])
def test_softmax_policy_never_takes_the_unavailable(alpha):
    logits = jnp.array([[1.0, 50.0, 2.0, 99.0], [5.0, 4.0, 3.0, -8.0]]) / alpha
    policy = policies.softmax_policy(logits, AVAIL)
    draws = jax.vmap(lambda k: policies.sample(k, policy))(jax.random.split(jax.random.key(0), 500))
    assert set(np.unique(draws[:, 0])) <= {0, 2} and set(np.unique(draws[:, 1])) == {3}
    entropy = policy.entropy()
    assert jnp.all(entropy <= jnp.log(AVAIL.sum(-1)) + 1e-6) and entropy[1] == 0
    assert policy.log_prob(jnp.array([0, 3]))[1] == 0


def test_sample_matches_the_distribution():
    probs = jnp.array([0.5, 0.0, 0.2, 0.3])
    policy = policies.categorical(jnp.log(probs))
    draws = jax.vmap(lambda k: policies.sample(k, policy))(jax.random.split(jax.random.key(1), 20000))
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / 20000, probs, atol=0.015)


@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0])
def test_epsilon_greedy(eps):
    q = jnp.array([[1.0, 9.0, 2.0, 9.0], [0.0, 0.0, 0.0, -1.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    actions = jax.vmap(lambda k: policies.epsilon_greedy(k, q, AVAIL, eps))(keys)
    assert set(np.unique(actions[:, 0])) <= {0, 2} and jnp.all(actions[:, 1] == 3)
    assert abs(float((actions[:, 0] == 2).mean()) - (1 - eps / 2)) < 0.03


def test_all_unavailable_is_finite():
    policy = policies.softmax_policy(jnp.zeros((4,)), jnp.zeros((4,), bool))
    assert jnp.isfinite(policy.entropy()) and jnp.isfinite(policy.log_prob(0))


@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0])
def test_floored(eps):
    logits = jnp.array([[1.0, 50.0, 2.0, 99.0], [5.0, 4.0, 3.0, -8.0]])
    policy = policies.softmax_policy(logits, AVAIL)
    want = (1 - eps) * policy.probs + eps * AVAIL / AVAIL.sum(-1, keepdims=True)
    np.testing.assert_allclose(policies.floored(policy, AVAIL, eps).probs, want, atol=1e-6)


def test_chosen():
    values = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(policies.chosen(values, jnp.array([0, 3, 1])), [0.0, 7.0, 9.0])
    # One row of values for two actions.
    np.testing.assert_array_equal(policies.chosen(values[:1], jnp.array([2, 1])), [2.0, 1.0])


def test_schedules():
    assert schedules.linear_schedule(1.0, 0.1, 100.0, 50.0) == pytest.approx(0.55)
    assert schedules.linear_schedule(1.0, 0.1, 100.0, 1e9) == pytest.approx(0.1)
    assert schedules.geometric_schedule(1.0, 0.01, 100.0, 50.0) == pytest.approx(0.1)
