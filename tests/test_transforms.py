"""Order-preserving transformations preserve order, whatever the weights and the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from me_igm_jax.config import Algo
from me_igm_jax.transforms import LOCALS, TRANSFORMS, make_local, make_transform

N, A, G = 3, 5, 4
PRESERVING = [
    make_transform(Algo(transform="opt", opt_layers=1)),
    make_transform(Algo(transform="opt", opt_layers=2)),
    make_transform(Algo(transform="identity")),
    make_local(Algo(local="residual")),
]


def random_params(module, seed, scale):
    params = module.init(jax.random.key(0), jnp.zeros((1, N, A)), jnp.zeros((1, G)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), max(1, len(leaves)))
    draw = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(tree, draw)


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
    module = make_transform(Algo(transform="mlp"))
    q, state = jax.random.normal(jax.random.key(0), (50, N, A)), jnp.zeros((50, G))
    logits = module.apply(random_params(module, 1, 1.0), q, state)
    assert (logits.argmax(-1) != q.argmax(-1)).any()


@pytest.mark.parametrize("module", PRESERVING[:2])
def test_weights_are_shared_by_actions_and_differ_by_agent(module):
    params = random_params(module, 3, 1.0)
    q = jnp.ones((1, N, A))
    logits = module.apply(params, q, jnp.ones((1, G)))[0]
    assert jnp.allclose(logits, logits[:, :1]) and not jnp.allclose(logits[0], logits[1])


def test_registries_have_only_what_the_config_allows():
    from typing import get_args, get_type_hints

    hints = get_type_hints(Algo)
    assert set(get_args(hints["transform"])) == set(TRANSFORMS)
    assert set(get_args(hints["local"])) == set(LOCALS)
