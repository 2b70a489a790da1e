"""Mixed precision: what is rounded, in both directions, and that nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from test_recurrent import arguments

from me_igm_jax import load
from me_igm_jax.algos import make_algorithm
from me_igm_jax.envs import make
from me_igm_jax.precision import product, rounded_product, with_operands
from me_igm_jax.recurrent import gru
from me_igm_jax.train import make_program


def rounded(x):
    """To bfloat16, in float64."""
    return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16)).astype(float)


def test_products_and_their_derivatives_are_of_rounded_operands():
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = jax.random.normal(keys[0], (2, 3, 5)), jax.random.normal(keys[1], (5, 4))
    d = jax.random.normal(keys[2], (2, 3, 4))
    out, back = jax.vjp(with_operands("bfloat16", product), x, w)
    d_x, d_w = back(d)
    close = dict(rtol=1e-6, atol=1e-6)  # of float32 sums
    np.testing.assert_allclose(out, rounded(x) @ rounded(w), **close)
    np.testing.assert_allclose(d_x, rounded(d) @ rounded(w).T, **close)
    np.testing.assert_allclose(d_w, np.einsum("abi,abo->io", rounded(x), rounded(d)), **close)
    assert np.abs(out - x @ w).max() > 1e-3
    assert out.dtype == d_x.dtype == d_w.dtype == jnp.float32


def test_choice_ends_with_the_function():
    x, w = jnp.full((1, 1), 1.001), jnp.ones((1, 1))
    inner = with_operands("float32", product)
    assert with_operands("bfloat16", lambda: (inner(x, w), product(x, w)))() == (x, 1.0)
    assert product(x, w) == x


@pytest.mark.parametrize("operands", ["float32", "bfloat16"])
def test_recurrent_gradient_rounds_what_the_products_round(operands):
    """The GRU's own backward pass against differentiation through its rounded products."""
    weights, h, x, first = arguments(jax.random.key(1))

    def plain(weights, h, x):
        out = []
        for x_t, begins in zip(x, first, strict=True):
            h = jnp.where(begins[:, None], 0.0, h)
            i_r, i_z, i_n = jnp.split(rounded_product(x_t, weights.w_i, operands) + weights.b_i, 3, -1)
            h_r, h_z, h_n = jnp.split(rounded_product(h, weights.w_h, operands) + weights.b_h, 3, -1)
            z = jax.nn.sigmoid(i_z + h_z)
            h = (1 - z) * jnp.tanh(i_n + jax.nn.sigmoid(i_r + h_r) * h_n) + z * h
            out.append(h)
        return jnp.stack(out)

    both = []
    for f in (lambda *a: gru(*a, first, operands), plain):
        out, back = jax.vjp(f, weights, h, x)
        both.append((out, back(jnp.cos(jnp.arange(out.size)).reshape(out.shape))))
    limit = {"float32": 1e-5, "bfloat16": 2e-2}[operands]  # a float32 sum may round to either neighbour
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=limit, atol=limit), *both)


def products(jaxpr):
    """Types of the operands and the result of every matrix product, loops and branches included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


PRESETS = ["me_qmix", "me_qplex", "ow_qmix", "qatten", "fop_released", "hasac", "mappo", "dop"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_product_of_an_update_is_rounded(preset):
    seen = {}
    for operands in ("float32", "bfloat16"):
        config = load(preset, env="probe/clock", **{"net.operands": operands})
        program = make_program(config)
        state = jax.eval_shape(program.init, jax.random.key(0), config.hypers)
        batch = jax.eval_shape(lambda ring, p=program: p.draw(ring, 0, jax.random.key(0), 4), state.ring)
        arguments = (state.learner, batch, jax.random.key(0), jnp.zeros(()), config.hypers)
        seen[operands] = list(products(jax.make_jaxpr(program.algo.update)(*arguments).jaxpr))
    assert set(seen["bfloat16"]) == {("bfloat16", "bfloat16", "float32")}
    assert set(seen["float32"]) == {("float32", "float32", "float32")}


def test_what_is_kept_stays_float32():
    config = load("me_qmix", env="probe/clock", **{"net.operands": "bfloat16"})
    learner = jax.eval_shape(
        make_algorithm(config, make(config).spec).init, jax.random.key(0), config.hypers
    )
    kept = {str(x.dtype) for x in jax.tree.leaves(learner)}
    assert kept == {"float32", "int32"}
