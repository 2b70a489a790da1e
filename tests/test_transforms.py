"""Order-preserving transformations preserve order, whatever the weights and the state."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from me_igm_jax.config.registry import TRANSFORMS
from me_igm_jax.networks.transforms import TwoLayerOPT, make_transform

N, A, G = 3, 5, 4
OPTIONS = SimpleNamespace(hyper_embed=16, opt_embed=8, mlp_embed=16)  # what a learner's options offer
PRESERVING = [
    make_transform(name, OPTIONS) for name in ("opt", "opt_two_layers", "identity", "opt_residual")
]


def random_params(module, seed, scale):
    params = module.init(jax.random.key(0), jnp.zeros((1, N, A)), jnp.zeros((1, G)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), max(1, len(leaves)))
    random = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(tree, random)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PRESERVING), st.integers(0, 10**6), st.floats(0.1, 3.0))
def test_order_is_preserved(module, seed, scale):
    params = random_params(module, seed, scale)
    keys = jax.random.split(jax.random.key(seed + 1), 2)
    q = 10 * jax.random.normal(keys[0], (7, N, A))
    state = jax.random.normal(keys[1], (7, G))
    logits = np.asarray(module.apply(params, q, state))
    order = np.argsort(np.asarray(q), axis=-1)
    sorted_logits = np.take_along_axis(logits, order, axis=-1)
    slack = 1e-5 * (1 + np.abs(logits).max())  # float rounding of equal slopes
    assert (np.diff(sorted_logits, axis=-1) >= -slack).all()


def test_the_mlp_does_not_preserve_order():
    module = make_transform("mlp", OPTIONS)
    q, state = jax.random.normal(jax.random.key(0), (50, N, A)), jnp.zeros((50, G))
    logits = module.apply(random_params(module, 1, 1.0), q, state)
    assert (logits.argmax(-1) != q.argmax(-1)).any()


@pytest.mark.parametrize("module", PRESERVING[:2])
def test_weights_are_shared_by_actions_and_differ_by_agent(module):
    params = random_params(module, 3, 1.0)
    q = jnp.ones((1, N, A))
    logits = module.apply(params, q, jnp.ones((1, G)))[0]
    assert jnp.allclose(logits, logits[:, :1]) and not jnp.allclose(logits[0], logits[1])


def test_residual_adds_the_utilities():
    residual = make_transform("opt_residual", OPTIONS)
    plain = TwoLayerOPT(opt_embed=8, hyper_embed=16)
    params = random_params(plain, 4, 1.0)
    q, state = jax.random.normal(jax.random.key(0), (2, N, A)), jnp.ones((2, G))
    np.testing.assert_allclose(
        residual.apply(params, q, state), q + plain.apply(params, q, state), rtol=1e-5, atol=1e-5
    )


def test_options_reach_the_fields_by_name():
    module = make_transform("opt_two_layers", OPTIONS, "bfloat16")
    assert (module.opt_embed, module.hyper_embed, module.operands) == (8, 16, "bfloat16")


@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_leading_axes_broadcast(name):
    """Samples may share one state, as those of one-shot games do."""
    module = make_transform(name, OPTIONS)
    params = random_params(module, 5, 1.0)
    q, state = jax.random.normal(jax.random.key(1), (4, 3, N, A)), jnp.ones((1, 1, G))
    each = module.apply(params, q, jnp.broadcast_to(state, (4, 3, G)))
    np.testing.assert_allclose(module.apply(params, q, state), each, rtol=1e-5, atol=1e-5)
