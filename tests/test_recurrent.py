"""The backward pass of the GRU against differentiation of the plain scan, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax.networks.gru import GRUWeights, _cell, gru


def plain(weights, h, x, first):
    def step(h, inputs):
        h, _ = _cell(weights, "float32", h, *inputs)
        return h, h

    return jax.lax.scan(step, h, (x, first))[1]


def arguments(key, T=6, R=5, D=3, H=4):
    keys = jax.random.split(key, 6)
    shapes = ((D, 3 * H), (3 * H,), (H, 3 * H), (3 * H,))
    weights = GRUWeights(*(jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)))
    first = jnp.zeros((T, R), bool).at[0, :3].set(True).at[3, 1].set(True).at[5, 0].set(True)
    return weights, jax.random.normal(keys[4], (R, H)), jax.random.normal(keys[5], (T, R, D)), first


@pytest.mark.parametrize("batched", [False, True], ids=["one seed", "three seeds"])
def test_gradient_is_that_of_the_scan(batched):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        weights, h, x, first = jax.vmap(arguments)(keys) if batched else arguments(keys[0])

        def gradient(f):
            def pull(weights, h, x, first):
                out, back = jax.vjp(lambda *a: f(*a, first), weights, h, x)
                return out, back(jnp.cos(jnp.arange(out.size)).reshape(out.shape))

            return jax.jit(jax.vmap(pull) if batched else pull)(weights, h, x, first)

        own, derived = gradient(gru), gradient(plain)
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(derived), strict=True):
            assert np.abs(b).max() > 0.01
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_nothing_flows_over_a_reset():
    """Not even NaN: the state before an episode is no part of it."""
    weights, h, x, first = arguments(jax.random.key(1))
    out, back = jax.vjp(lambda h, x: gru(weights, h, x, first), h.at[0].set(jnp.nan), x)
    d_h, d_x = back(jnp.zeros_like(out).at[4].set(1.0))
    assert jnp.isfinite(out).all() and jnp.isfinite(d_h).all()
    assert (d_h[:3] == 0).all() and (d_h[3:] != 0).any()
    assert (d_x[:3, 1] == 0).all() and (d_x[3:5, 1] != 0).any()
