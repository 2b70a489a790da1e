"""Target networks: slow copies of the online networks."""

from typing import Any

import jax
import jax.numpy as jnp

from ..types import Learner, Params


def moved_towards(target: Params, params: Params, due: jax.Array | bool, tau: jax.Array | float) -> Params:
    """`target` moved towards `params` by the share tau when `due` [] bool is set: tau = 1 is a copy."""
    return jax.tree.map(lambda old, new: jnp.where(due, tau * new + (1 - tau) * old, old), target, params)


def refresh_targets(learner: Learner, due: jax.Array | bool, hypers: Any) -> Learner:
    """`learner` with all its target networks moved by hypers.tau; `Algorithm.refresh_target`.

    Its targets must be named as in its parameters.
    """
    online = {name: learner.params[name] for name in learner.target}
    return learner._replace(target=moved_towards(learner.target, online, due, hypers.tau))
