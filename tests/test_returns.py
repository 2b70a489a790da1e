"""The lambda-return by hand, against a brute-force sum, and at its limits."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from me_igm_jax.returns import lambda_return, masked_mean


def test_by_hand():
    reward, value = jnp.array([1.0, 2.0, 3.0]), jnp.array([9.0, 10.0, 20.0, 30.0])
    bonus = jnp.array([9.0, 0.1, 0.2, 0.3])
    ones = jnp.ones(3)
    discount = ones.at[2].set(0.0)
    # G2 = 3;  G1 = 2 + .9(.5*20 + .5*3 + .2) = 12.53;  G0 = 1 + .9(.5*10 + .5*12.53 + .1) = 11.2285
    g = lambda_return(reward, discount, ones, value, bonus, 0.9, 0.5)
    np.testing.assert_allclose(g, [11.2285, 12.53, 3.0], rtol=1e-6)


def test_truncation_bootstraps_from_the_final_instant_alone():
    reward, value, bonus = (
        jnp.array([1.0, 7.0, 5.0]),
        jnp.array([0.0, 4.0, 50.0, 60.0]),
        jnp.zeros(4),
    )
    mask = jnp.array([1.0, 0.0, 1.0])  # step 0 is cut off; step 1 only carries the final instant
    g = lambda_return(reward, jnp.ones(3), mask, value, bonus, 0.5, 0.9)
    assert g[0] == 1.0 + 0.5 * 4.0


def test_end_of_sequence_bootstraps():
    g = lambda_return(jnp.ones(1), jnp.ones(1), jnp.ones(1), jnp.array([0.0, 8.0]), jnp.zeros(2), 0.5, 0.7)
    assert g[0] == 5.0


def brute_force(reward, discount, mask, value, bonus, gamma, lam):
    """sum over n of the weights of all n-step returns, each computed on its own."""
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
    arrays = [jnp.asarray(x, jnp.float32) for x in (reward, discount, mask, value, bonus)]
    got = jax.jit(lambda_return)(*arrays, gamma, lam)
    want = brute_force(reward, discount, mask, value, bonus, gamma, lam)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_lambda_zero_is_one_step_and_columns_do_not_mix():
    key = jax.random.key(0)
    r, v, b = (jax.random.normal(k, (6, 3)) for k in jax.random.split(key, 3))
    v, b = v, b
    reward, ones = r[:5], jnp.ones((5, 3))
    one_step = lambda_return(reward, ones, ones, v, b, 0.9, 0.0)
    np.testing.assert_allclose(one_step, reward + 0.9 * (v[1:] + b[1:]), rtol=1e-6)
    full = lambda_return(reward, ones, ones, v, b, 0.9, 0.8)
    alone = lambda_return(reward[:, 1], ones[:, 1], ones[:, 1], v[:, 1], b[:, 1], 0.9, 0.8)
    np.testing.assert_allclose(full[:, 1], alone, rtol=1e-6)


def test_masked_mean():
    assert masked_mean(jnp.array([1.0, 5.0]), jnp.array([1.0, 0.0])) == 1.0
    assert masked_mean(jnp.array([1.0, 5.0]), jnp.zeros(2)) == 0.0
