"""What the tests of continuous actions share: a box, a batch inside it, Gaussian policies, Q_i(u)."""

import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from me_igm_jax.types import Batch
from one_step import KEY, decentralised_greedy, first_instant, unseeing
from oracle import SPEC, B, N, T, linear, make_batch, utilities

D, LOW, HIGH = 2, -1.0, 3.0
HALF, MIDDLE = (HIGH - LOW) / 2, (HIGH + LOW) / 2
BOX = SPEC._replace(n_actions=0, action_dim=D, action_bounds=(LOW, HIGH))


def continuous_batch() -> Batch:
    """The oracle's batch with actions inside the box."""
    rng, batch = np.random.default_rng(2), make_batch()
    action = np.float64(np.float32(rng.uniform(LOW, HIGH, (T, B, N, D))))
    steps = batch.steps._replace(avail=np.ones((T + 1, B, N, 1), bool))
    return batch._replace(steps=steps, action=action)


def unit(action):
    """From the box to [-1, 1]."""
    return (action - MIDDLE) / HALF


def outputs(params, batch):
    """Of the agents' network."""
    return utilities(params, batch, unit(batch.action))


def action_value(params, h, action):
    """Q_i of actions in [-1, 1], given what the agent remembers; the leading axes broadcast."""
    p = params["params"]
    hidden = linear(p["Linear_0"], np.maximum(h, 0)) + linear(p["Linear_1"], action)
    return linear(p["Linear_2"], np.maximum(hidden, 0))[..., 0]


def standard_normal(key) -> np.ndarray:
    """The Gaussian numbers behind the actions that an update draws."""
    zero = jnp.zeros((T + 1, B, N, D))
    draw = distrax.MultivariateNormalDiag(zero, zero + 1).sample(seed=key, sample_shape=1)
    return np.asarray(draw[0], float)


def gaussian(params, batch, noise):
    """Actions in [-1, 1], the log densities of those in the box (the dead: 0), and what is greedy."""
    mean, log_std = np.split(outputs(params, batch), 2, -1)
    log_std = np.clip(log_std, -5, 2)
    x = mean + np.exp(log_std) * noise
    log_pi = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    log_pi = (log_pi - np.log(HALF * (1 - np.tanh(x) ** 2))).sum(-1)
    return np.tanh(x), log_pi * batch.steps.alive, np.tanh(mean)


def assert_acts_inside_the_box(c):
    """Whatever the weights; greedy teams do what `inspect` says; nothing reads the state."""
    np.testing.assert_allclose(
        decentralised_greedy(c.algo, c.learner, c.given), c.seen.greedy[0], atol=1e-5
    )
    wild = c.learner._replace(params=jax.tree.map(lambda x: 1e3 * x, c.learner.params))
    act, step = jax.jit(c.algo.act), first_instant(unseeing(c.given))
    for learner in (c.learner, wild):
        action = act(learner, c.algo.carry(B), step, KEY, 0, c.hypers)[1]
        assert action.shape == (B, N, D) and action.min() >= LOW and action.max() <= HIGH
