"""A gradient step that devices share is the one that a single device takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax import ConfigError, load
from me_igm_jax.algos import make_algorithm
from me_igm_jax.ops.gradient_share import GradientShare
from one_step import KEY, random_learner
from oracle import SPEC, make_batch


@pytest.mark.parametrize(
    "preset, parts", [("qmix", 2), ("me_qmix", 4), ("me_qplex", 2), ("cw_qmix", 2), ("qtran", 2)]
)
def test_shared_step(preset, parts):
    """With padding, so that the parts have different numbers of real transitions.

    A mapped axis stands in for devices: the collective operations are the same.
    """
    config, batch = load(preset, env="matrix/qtran"), jax.tree.map(jnp.asarray, make_batch())
    alone, share = make_algorithm(config, SPEC), GradientShare("batch", parts)
    shared, learner = make_algorithm(config, SPEC, share), random_learner(alone, config.hypers)[0]

    def update(_):
        own = jax.tree.map(lambda x: share.own(x, axis=1), batch)
        return shared.update(learner, own, KEY, 0.0, config.hypers)

    each, metrics = jax.jit(jax.vmap(update, axis_name="batch"))(jnp.arange(parts))
    whole, expected = jax.jit(alone.update)(learner, batch, KEY, 0.0, config.hypers)
    assert_each((each.opt_state, each.log_alpha, metrics), (whole.opt_state, whole.log_alpha, expected))
    # Adam divides by the gradient's size, so where that is all but zero rounding is a part of a step.
    assert_each(each.params, whole.params, atol=0.01 * config.hypers.lr)


def assert_each(parts, whole, atol=1e-6):
    """Every part has come to what the whole is."""
    for got, expected in zip(*map(jax.tree.leaves, (parts, whole)), strict=True):
        for one in got:
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=atol)


def test_parts_without_anything_real():
    x, mask = jnp.asarray([[3.0, 5.0], [1e3, 1e3]]), jnp.asarray([[1.0, 1.0], [0.0, 0.0]])
    share = GradientShare("batch", 2)

    def mean(x, mask):
        return share.merged((x * mask).sum() / jnp.maximum(mask.sum(), 1.0), mask)

    np.testing.assert_array_equal(jax.vmap(mean, axis_name="batch")(x, mask), [4.0, 4.0])


def test_a_batch_must_divide():
    with pytest.raises(ConfigError, match=r"run\.devices_per_seed=3: must divide replay\.batch=32"):
        load("qmix", env="smax/3m", **{"run.devices_per_seed": 3, "replay.batch": 32})
