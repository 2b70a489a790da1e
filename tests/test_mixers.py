"""Every mixer: shapes at the smallest sizes, monotonicity, and IGM by enumerating joint actions."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax.config.registry import MIXERS
from me_igm_jax.networks.critics import CentralMixer
from me_igm_jax.networks.mixers import make_mixer

N, A, G = 3, 4, 5


def build(name, key, **options):
    mixer = make_mixer(name, SimpleNamespace(**options))
    q, state, action = jnp.zeros((1, 1, N)), jnp.zeros((1, 1, G)), jnp.zeros((1, 1, N, A))
    params = jax.eval_shape(lambda k: mixer.init(k, q, state, q_max=q, action=action), key)
    # Large random weights: a property of the architecture must not need small ones.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), max(1, len(leaves)))
    leaves = [2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
    return mixer, jax.tree.unflatten(tree, leaves)


@pytest.mark.parametrize("name", MIXERS.names())
@pytest.mark.parametrize("lead", [(1, 1), (2, 3), (4,)])
def test_shapes(name, lead):
    mixer, params = build(name, jax.random.key(0))
    q = jnp.ones((*lead, N))
    out = mixer.apply(params, q, jnp.ones((*lead, G)), q_max=q, action=jnp.ones((*lead, N, A)))
    assert out.shape == lead


@pytest.mark.parametrize("name", MIXERS.names())
def test_leading_axes_broadcast(name):
    """Samples may share one state, as those of one-shot games do."""
    mixer, params = build(name, jax.random.key(0))
    q, state = jax.random.normal(jax.random.key(3), (4, 3, N)), jnp.ones((1, 1, G))
    action = jax.nn.one_hot(jnp.zeros((4, 3, N), int), A)

    def q_tot(state):
        return mixer.apply(params, q, state, q_max=q + 1, action=action)

    each = q_tot(jnp.broadcast_to(state, (4, 3, G)))
    np.testing.assert_allclose(q_tot(state), each, rtol=1e-4, atol=1e-4)


def test_options_reach_the_fields_by_name():
    options = SimpleNamespace(mixing_embed=5, hyper_embed=7, unread=1)
    mixer = make_mixer("qmix", options, "bfloat16")
    assert (mixer.mixing_embed, mixer.hyper_embed, mixer.operands) == (5, 7, "bfloat16")


def test_only_qplex_needs_more_than_utilities_and_state():
    q, state = jnp.ones((1, N)), jnp.ones((1, G))
    for name in set(MIXERS.names()) - {"qplex"}:
        mixer, params = build(name, jax.random.key(0))
        assert mixer.apply(params, q, state).shape == (1,)
    mixer, params = build("qplex", jax.random.key(0))
    with pytest.raises(ValueError, match="needs q_max and action"):
        mixer.apply(params, q, state)


@pytest.mark.parametrize("name", ["vdn", "vdn_s", "qmix", "qatten"])
def test_monotone_in_every_utility(name):
    mixer, params = build(name, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    q, state = 5 * jax.random.normal(keys[0], (50, N)), jax.random.normal(keys[1], (50, G))
    slopes = jax.grad(lambda q: mixer.apply(params, q, state).sum())(q)
    assert slopes.min() >= 0 and slopes.max() > 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name, options", [
    ("vdn", {}), ("qmix", {}), ("qplex", {}), ("qplex", {"qplex_heads": 10, "qplex_layers": 3}),
    ("qplex", {"qplex_heads": 1, "qplex_layers": 1}), ("vdn_s", {}), ("qatten", {}),
    ("qatten", {"qatten_heads": 1}),
])  # fmt: skip
def test_igm_by_enumeration(name, options, seed):
    """argmax over all available joint actions of Q_tot is the tuple of individual argmaxes."""
    mixer, params = build(name, jax.random.key(0), **options)
    keys = jax.random.split(jax.random.key(100 + seed), 3)
    q, state = jax.random.normal(keys[0], (N, A)), jax.random.normal(keys[1], (G,))
    avail = jax.random.bernoulli(keys[2], 0.7, (N, A)).at[:, 0].set(True)
    joint = np.array([u for u in itertools.product(range(A), repeat=N)
                      if all(avail[i, a] for i, a in enumerate(u))])  # fmt: skip
    onehot = jax.nn.one_hot(joint, A)
    taken = (q * onehot).sum(-1)
    best = jnp.broadcast_to(jnp.where(avail, q, -jnp.inf).max(-1), taken.shape)
    states = jnp.broadcast_to(state, (len(joint), G))
    q_tot = mixer.apply(params, taken, states, q_max=best, action=onehot)
    greedy = jnp.where(avail, q, -jnp.inf).argmax(-1)
    at_greedy = q_tot[np.flatnonzero((joint == np.asarray(greedy)).all(1))[0]]
    scale = float(jnp.abs(q_tot).max()) + 1
    assert at_greedy >= q_tot.max() - 1e-6 * scale


def test_qplex_advantage_is_stopped():
    mixer, params = build("qplex", jax.random.key(0))
    state, action = jnp.ones((1, G)), jax.nn.one_hot(jnp.zeros((1, N), int), A)
    q = jnp.ones((1, N))
    slope = jax.grad(lambda m: mixer.apply(params, q, state, q_max=m, action=action).sum())
    assert jnp.all(slope(jnp.full((1, N), 2.0)) == 0)


def test_central_mixer_is_not_monotone():
    mixer, state = CentralMixer(16), jnp.ones((200, G))
    q = jax.random.normal(jax.random.key(2), (200, N))
    params = mixer.init(jax.random.key(1), q, state)
    slopes = jax.grad(lambda q: mixer.apply(params, q, state).sum())(q)
    assert slopes.min() < 0
