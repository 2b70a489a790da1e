"""Returns by hand, against a brute-force sum, and at their limits; means over what is real."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from me_igm_jax.ops.means import masked_mean
from me_igm_jax.ops.returns import batch_return, lambda_return, n_step_return
from me_igm_jax.types import Batch, TimeStep


class Rates:
    """The hyperparameters that a return reads."""

    gamma, td_lambda = 0.9, 0.5


def make_batch(reward, discount, mask):
    none = jnp.zeros(())
    steps = TimeStep(obs=none, state=none, avail=none, alive=none)
    return Batch(steps=steps, first=none, action=none, reward=reward, discount=discount, mask=mask)


def test_by_hand():
    reward, value = jnp.array([1.0, 2.0, 3.0]), jnp.array([9.0, 10.0, 20.0, 30.0])
    bonus = jnp.array([9.0, 0.1, 0.2, 0.3])
    ones = jnp.ones(3)
    discount = ones.at[2].set(0.0)
    # G2 = 3;  G1 = 2 + .9(.5*20 + .5*3 + .2) = 12.53;  G0 = 1 + .9(.5*10 + .5*12.53 + .1) = 11.2285
    g = lambda_return(reward, discount, ones, value, 0.9, 0.5, bonus)
    np.testing.assert_allclose(g, [11.2285, 12.53, 3.0], rtol=1e-6)
    without = lambda_return(reward, discount, ones, value, 0.9, 0.5)
    np.testing.assert_array_equal(
        without, lambda_return(reward, discount, ones, value, 0.9, 0.5, jnp.zeros(4))
    )


def test_truncation_bootstraps_from_the_final_instant_alone():
    reward, value = jnp.array([1.0, 7.0, 5.0]), jnp.array([0.0, 4.0, 50.0, 60.0])
    mask = jnp.array([1.0, 0.0, 1.0])  # step 0 is cut off; step 1 only carries the final instant
    g = lambda_return(reward, jnp.ones(3), mask, value, 0.5, 0.9)
    assert g[0] == 1.0 + 0.5 * 4.0


def test_end_of_sequence_bootstraps():
    g = lambda_return(jnp.ones(1), jnp.ones(1), jnp.ones(1), jnp.array([0.0, 8.0]), 0.5, 0.7)
    assert g[0] == 5.0


def brute_force(reward, discount, mask, value, bonus, gamma, lam):
    """sum over n of the weights of all n-step returns, each computed by itself."""
    T = len(reward)
    out = np.zeros(T)
    for t in range(T):
        total, weight, partial, scale = 0.0, 1.0, 0.0, 1.0
        for k in range(t, T):
            partial += scale * reward[k]
            scale *= gamma * discount[k]
            partial += scale * bonus[k + 1]
            mix = lam if k + 1 < T and mask[k + 1] else 0.0
            total += weight * (1 - mix) * (partial + scale * value[k + 1])
            weight *= mix
            if weight == 0.0:
                break
        out[t] = total
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_against_brute_force(seed, lam, gamma):
    rng = np.random.default_rng(seed)
    T = 9
    reward, value, bonus = rng.normal(size=T), rng.normal(size=T + 1), rng.normal(size=T + 1)
    discount, mask = (rng.random(T) > 0.2).astype(float), (rng.random(T) > 0.2).astype(float)
    arrays = [jnp.asarray(x, jnp.float32) for x in (reward, discount, mask, value)]
    got = jax.jit(lambda_return)(*arrays, gamma, lam, jnp.asarray(bonus, jnp.float32))
    want = brute_force(reward, discount, mask, value, bonus, gamma, lam)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def random_batch(T=5, B=3):
    keys = jax.random.split(jax.random.key(0), 5)
    reward, value, bonus = (
        jax.random.normal(k, (n, B)) for k, n in zip(keys[:3], (T, T + 1, T + 1), strict=True)
    )
    discount, mask = (jax.random.bernoulli(k, 0.8, (T, B)).astype(jnp.float32) for k in keys[3:])
    return reward, discount, mask, value, bonus


def test_lambda_zero_is_one_step_and_columns_do_not_mix():
    reward, _, _, v, b = random_batch()
    ones = jnp.ones_like(reward)
    one_step = lambda_return(reward, ones, ones, v, 0.9, 0.0, b)
    np.testing.assert_allclose(one_step, reward + 0.9 * (v[1:] + b[1:]), rtol=1e-6)
    full = lambda_return(reward, ones, ones, v, 0.9, 0.8, b)
    alone = lambda_return(reward[:, 1], ones[:, 1], ones[:, 1], v[:, 1], 0.9, 0.8, b[:, 1])
    np.testing.assert_allclose(full[:, 1], alone, rtol=1e-6)


def test_sequences_may_share_their_values():
    reward, discount, mask, v, b = random_batch()
    shared, each = (v[:, :1], b[:, :1]), (jnp.broadcast_to(x[:, :1], v.shape) for x in (v, b))
    outcome, q, trace = (reward, discount, mask), v[:-1, :1], jnp.full((5, 1), 0.5)
    got = lambda_return(*outcome, shared[0], 0.9, 0.7, shared[1])
    value, bonus = each
    np.testing.assert_array_equal(got, lambda_return(*outcome, value, 0.9, 0.7, bonus))
    got = n_step_return(*outcome, q, shared[0], trace, 0.9, 3)
    want = n_step_return(*outcome, value[:-1], value, jnp.full((5, 3), 0.5), 0.9, 3)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("B", [1, 3])
def test_without_a_final_instant_the_return_is_the_reward(B):
    reward, discount, mask, v, _ = random_batch()
    value = v[:-1, :B]
    np.testing.assert_array_equal(lambda_return(reward, discount, mask, value, 0.9, 0.7), reward)
    np.testing.assert_array_equal(n_step_return(reward, discount, mask, value, value, mask, 0.9, 3), reward)


def test_values_must_have_the_instants_of_the_transitions():
    reward, discount, mask, v, _ = random_batch()
    with pytest.raises(ValueError, match="5 transitions have 6 instants, not 4"):
        lambda_return(reward, discount, mask, v[:4], 0.9, 0.7)


def test_n_step_return_by_hand():
    reward, value, ones = jnp.array([1.0, 2.0, 3.0]), jnp.array([9.0, 10.0, 20.0, 30.0]), jnp.ones(3)
    # Traces of one, Q = V: G0 = 1 + .5*2 + .25*20 = 7;  G1 = 2 + .5*3 + .25*30 = 11;  G2 = 3 + .5*30 = 18
    g = n_step_return(reward, ones, ones, value, value, ones, 0.5, 2)
    np.testing.assert_allclose(g, [7.0, 11.0, 18.0], rtol=1e-6)
    # Traces of zero: one step, Q cancels.
    g = n_step_return(reward, ones, ones, value, value, 0 * ones, 0.5, 2)
    np.testing.assert_allclose(g, reward + 0.5 * value[1:], rtol=1e-6)


def test_batch_return():
    reward, discount, mask, v, b = random_batch()
    batch = make_batch(reward, discount, mask)
    want = lambda_return(reward, discount, mask, v, 0.9, 0.5, b)
    np.testing.assert_array_equal(batch_return(batch, v, Rates, b), want)
    # Every critic or agent receives the team's reward.
    each = batch_return(batch, jnp.stack([v, 2 * v], axis=-1), Rates, jnp.stack([b, b], axis=-1))
    np.testing.assert_allclose(each[..., 0], want, rtol=1e-6)
    double = lambda_return(reward, discount, mask, 2 * v, 0.9, 0.5, b)
    np.testing.assert_allclose(each[..., 1], double, rtol=1e-6)
    assert batch_return(batch, jnp.zeros((5, 1, 2)), Rates).shape == (5, 3, 2)


def test_masked_mean():
    assert masked_mean(jnp.array([1.0, 5.0]), jnp.array([1.0, 0.0])) == 1.0
    assert masked_mean(jnp.array([1.0, 5.0]), jnp.zeros(2)) == 0.0
    # x broadcasts to the mask: row 0 counts twice, row 1 once.
    assert masked_mean(jnp.array([[3.0], [9.0]]), jnp.array([[1.0, 1.0], [1.0, 0.0]])) == 5.0
