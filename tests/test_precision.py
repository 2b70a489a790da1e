"""Mixed precision: what is rounded, in both directions, and that nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from me_igm_jax import Batch, TimeStep, load, make_env
from me_igm_jax.config.registry import learner_entry
from me_igm_jax.networks.gru import gru
from me_igm_jax.networks.precision import product
from test_recurrent import arguments


def rounded(x):
    """To bfloat16, in float64."""
    return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16)).astype(float)


def test_products_and_their_derivatives_are_of_rounded_operands():
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = jax.random.normal(keys[0], (2, 3, 5)), jax.random.normal(keys[1], (5, 4))
    d = jax.random.normal(keys[2], (2, 3, 4))
    out, back = jax.vjp(lambda x, w: product(x, w, "bfloat16"), x, w)
    d_x, d_w = back(d)
    close = dict(rtol=1e-6, atol=1e-6)  # of float32 sums
    np.testing.assert_allclose(out, rounded(x) @ rounded(w), **close)
    np.testing.assert_allclose(d_x, rounded(d) @ rounded(w).T, **close)
    np.testing.assert_allclose(d_w, np.einsum("abi,abo->io", rounded(x), rounded(d)), **close)
    assert np.abs(out - x @ w).max() > 1e-3
    assert out.dtype == d_x.dtype == d_w.dtype == jnp.float32


@pytest.mark.parametrize("operands", ["float32", "bfloat16"])
def test_recurrent_gradient_rounds_what_the_products_round(operands):
    """The backward pass of the GRU against differentiation through its rounded products."""
    weights, h, x, first = arguments(jax.random.key(1))

    def plain(weights, h, x):
        out = []
        for x_t, begins in zip(x, first, strict=True):
            h = jnp.where(begins[:, None], 0.0, h)
            i_r, i_z, i_n = jnp.split(product(x_t, weights.w_i, operands) + weights.b_i, 3, -1)
            h_r, h_z, h_n = jnp.split(product(h, weights.w_h, operands) + weights.b_h, 3, -1)
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


def batch_shapes(spec, T, B):
    """The shapes of a batch of T transitions in B sequences."""

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    N, lead = spec.n_agents, (T + 1, B)
    steps = TimeStep(
        obs=array(*lead, N, *spec.obs_shape),
        state=array(*lead, spec.state_dim),
        avail=array(*lead, N, spec.n_actions or 1, dtype=jnp.bool),
        alive=array(*lead, N, dtype=jnp.bool),
    )
    return Batch(
        steps=steps,
        first=array(*lead, dtype=jnp.bool),
        action=array(T, B, N, spec.action_dim) if spec.continuous else array(T, B, N, dtype=jnp.int32),
        reward=array(T, B),
        discount=array(T, B),
        mask=array(T, B),
    )


DISCRETE = [
    "me_qmix", "me_qplex", "ow_qmix", "qatten", "soft_qmix", "fop_released", "hasac", "msac_released",
    "pac", "mappo", "dop",
]  # fmt: skip
CONTINUOUS = ["me_qmix", "fop", "maac", "maddpg", "facmaddpg"]


@pytest.mark.parametrize(
    "preset, env",
    [(preset, "probe/clock") for preset in DISCRETE]
    + [(preset, "differential/mtq") for preset in CONTINUOUS],
)
def test_every_product_of_an_update_is_rounded(preset, env):
    """Of the learner alone, as its make function returns it: nothing around it need know of precision."""
    seen = {}
    for operands in ("float32", "bfloat16"):
        config = load(preset, env=env, **{"net.operands": operands})
        spec = make_env(config).spec
        algo = learner_entry(config.learner).make(config, spec)
        key, batch = jax.random.key(0), batch_shapes(spec, T=3, B=config.collect.envs + 2)
        learner = jax.eval_shape(algo.init, key, config.hypers)
        jaxpr = jax.make_jaxpr(algo.update)(learner, batch, key, jnp.zeros(()), config.hypers)
        seen[operands] = set(products(jaxpr.jaxpr))
        assert {str(x.dtype) for x in jax.tree.leaves(learner)} == {"float32", "int32"}
    assert seen["bfloat16"] == {("bfloat16", "bfloat16", "float32")}
    assert seen["float32"] == {("float32", "float32", "float32")}
