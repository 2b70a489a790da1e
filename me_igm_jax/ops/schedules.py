"""Schedules: numbers that change with the environment steps taken."""

from typing import Any

import jax
import jax.numpy as jnp

Scalar = jax.Array | float


def linear_schedule(start: Scalar, end: Scalar, steps: Scalar, now: Scalar) -> jax.Array:
    """From `start` to `end` along a line over `steps` environment steps, then constant."""
    return start + (end - start) * jnp.clip(now / steps, 0.0, 1.0)


def geometric_schedule(start: Scalar, end: Scalar, steps: Scalar, now: Scalar) -> jax.Array:
    """As `linear_schedule`, but by a constant factor per step; both ends are positive."""
    return start * (end / start) ** jnp.clip(now / steps, 0.0, 1.0)


def exploration_rate(hypers: Any, env_steps: Scalar) -> jax.Array:
    """epsilon now: hypers.eps_start falls to hypers.eps_end over hypers.eps_steps."""
    return linear_schedule(hypers.eps_start, hypers.eps_end, hypers.eps_steps, env_steps)
