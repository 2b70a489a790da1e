"""One gradient step of FOP, in the paper's form and the released code's, against a NumPy oracle."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fop_oracle import clipped_ratio, fop_mixer
from me_igm_jax.algos import fop
from me_igm_jax.config import load
from me_igm_jax.networks.factorisation import Factorisation, soft_values, temperature_ratio
from me_igm_jax.ops.policies import categorical
from one_step import (
    KEY,
    actor_critic_rates,
    assert_both_seeds_win,
    assert_first_step,
    assert_metrics,
    assert_seen,
    one_step,
    temperature_step,
)
from oracle import (
    SPEC,
    A,
    B,
    N,
    T,
    chosen,
    draw,
    entropy,
    lambda_returns,
    log,
    make_batch,
    masked_means,
    member,
    policy,
    utilities,
)

SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.mixing_embed": 5, "algo.heads": 2,
    "algo.optimiser": "adam", "algo.temperature": "sgd",
    "hypers.alpha": 0.5, "hypers.alpha_lr": 0.3, "hypers.max_grad_norm": 1e3,
}  # fmt: skip
CASES = {
    "fop": {},
    "fop two layers": {
        "algo.layers": 2, "algo.hyper_embed": 6, "algo.twin": True, "algo.temperatures": "shared",
        "algo.value": "logsumexp",
    },
    "fop twin": {"algo.twin": True},
    "fop_released": {"algo.hyper_embed": 6, "hypers.attention_penalty": 0.1},
    "fop_released first release": {"algo.attention": False},
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    name = request.param
    c = one_step(load(name.split()[0], env="probe/clock", **(SMALL | CASES[name])), SPEC, make_batch())
    c.now = evaluate(c.config, c.params, c.batch)
    c.targets = make_targets(c.config, c.now, c.params, c.target, c.batch)
    return c


def q_joint(options, params, q, v, action, state, advantage=None):
    return fop_mixer(options, params, chosen(q, action), v, np.eye(A)[action], state, advantage)


def soft_value(config, q, v):
    return v if v is not None else config.hypers.alpha * np.log(np.exp(q / config.hypers.alpha).sum(-1))


def evaluate(config, params, batch, held=None):
    """Values of the batch's actions; `held` replaces what lies behind a stop-gradient."""
    options, state = config.algo, batch.steps.state[:T]
    pi = policy(params["actor"], batch)
    count = 2 if options.twin else 1
    q = [utilities(member(params["critic"], k), batch) for k in range(count)]
    v = utilities(params["value"], batch)[..., 0] if options.value == "network" else None
    mixed = []
    for k in range(count):
        held_v = held.vs[k] if held else soft_value(config, q[k], v)
        held_advantage = held.mixed[k][3] if held else None
        p = member(params["mixer"], k)
        mixed.append(q_joint(options, p, q[k], held_v[:T], batch.action, state, held_advantage))
    vs = [soft_value(config, x, v) for x in q]
    return SimpleNamespace(pi=pi, count=count, q=q, v=v, vs=vs, mixed=mixed)


def make_targets(config, now, params, target, batch):
    """The lambda-return, V_i's target, alpha_i and the policy's joint entropy."""
    options, hypers, mask = config.algo, config.hypers, batch.mask
    action, state = np.array(draw(KEY, now.pi)), batch.steps.state
    alphas = np.full(N, hypers.alpha)
    if options.temperatures == "ratio":
        lam = q_joint(options, member(params["mixer"], 0), now.q[0], now.vs[0], action, state)[1]
        gain = now.q[0] - now.vs[0][..., None]
        above, below = (now.pi * gain).sum(-1)[:T], lam[:T] * chosen(gain, action[:T])
        for i in range(N):
            alphas[i] *= clipped_ratio((above[..., i] * mask).sum(), (below[..., i] * mask).sum())
    soft_v = (now.pi * np.minimum.reduce(now.q)).sum(-1) + alphas * entropy(now.pi)
    log_taken = chosen(log(now.pi), action)
    values = []
    for k in range(now.count):
        q = utilities(member(target["critic"], k), batch)
        v = soft_value(config, q, now.v)
        values.append(q_joint(options, member(target["mixer"], k), q, v, action, state)[0])
    value, inside = np.minimum.reduce(values), -hypers.alpha * log_taken.sum(-1)
    released = options.entropy == "mean"
    g = lambda_returns(batch, value, inside * (not released), hypers)
    g -= released * mask * batch.discount * hypers.alpha * log_taken[1:].mean(-1)
    return SimpleNamespace(g=g, v=soft_v[:T], alphas=alphas, entropy=entropy(now.pi)[:T].sum(-1))


def losses(now, held, targets, mask):
    def mean(x):
        return np.average(x, weights=mask)

    gain = (now.pi * np.minimum.reduce(held.q)).sum(-1) - targets.alphas * (now.pi * log(now.pi)).sum(-1)
    out = {
        "loss_critic": sum(mean((m[0] - targets.g) ** 2) for m in now.mixed),
        "loss_actor": -mean(gain[:T].mean(-1)),
    }
    if now.v is not None:
        out["loss_value"] = mean(((targets.v - now.v[:T]) ** 2).mean(-1))
    return out


def test_forward(c):
    q_tot = np.minimum.reduce([m[0] for m in c.now.mixed])
    assert_seen(c.seen, {"q": np.minimum.reduce(c.now.q)[:T], "q_tot": q_tot, "probs": c.now.pi[:T]})
    np.testing.assert_array_equal(c.seen.greedy, c.now.pi[:T].argmax(-1))


def test_losses_and_targets(c):
    aims = c.targets
    means = masked_means(c.batch, target=aims.g, q_tot=c.now.mixed[0][0], entropy=aims.entropy / N)
    expected = losses(c.now, c.now, aims, c.batch.mask)
    assert_metrics(c.metrics, expected | means | {"alpha_i": aims.alphas.mean()})
    assert ("loss_value" in c.metrics) == (c.config.algo.value == "network")
    if c.config.algo.temperatures == "ratio":  # inside its limits, or the test would show nothing
        assert len(np.unique(aims.alphas)) > 1


def test_gradient_and_step(c):
    def total_loss():
        now = evaluate(c.config, c.params, c.batch, c.now)
        penalty = sum(np.average(m[2] * np.ones((T, B)), weights=c.batch.mask) for m in now.mixed)
        each = losses(now, c.now, c.targets, c.batch.mask)
        return sum(each.values()) + c.hypers.attention_penalty * penalty

    assert_first_step(c, total_loss, actor_critic_rates(c))


def test_temperature(c):
    step = temperature_step(c, c.targets.entropy)
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)


# -- the functions one by one ---------------------------------------------------------------------


def test_soft_values_are_the_networks_or_follow_from_the_utilities():
    q, v, alpha = jax.random.normal(jax.random.key(0), (2, T, B, N, A)), jnp.ones((T, B, N)), 0.3
    np.testing.assert_array_equal(soft_values(q, v, jnp.asarray(alpha)), np.ones((2, T, B, N)))
    wanted = alpha * np.log(np.exp(np.asarray(q) / alpha).sum(-1))
    np.testing.assert_allclose(soft_values(q, None, jnp.asarray(alpha)), wanted, rtol=1e-5)


def test_without_advantages_the_joint_value_is_the_states():
    """In the form of the paper: Q_i = V_i for all agents leaves V_jt(s), whatever the actions."""
    mixer = Factorisation(mixing_embed=4)
    q, action, state = jnp.ones((N,)), jnp.eye(A)[:N], jnp.arange(3.0)
    params = mixer.init(jax.random.key(0), q, q, action, state)
    one, two = (mixer.apply(params, q, q, x, state) for x in (action, action[::-1]))
    assert one.q == two.q and (one.weight != two.weight).any() and (one.weight > 0).all()


def test_temperature_ratio_is_bounded_and_1_between_signs():
    gain = jnp.broadcast_to(jnp.array([1.0, 1.0, 1.0, 3.0]), (T, B, 4))
    weighted = jnp.broadcast_to(jnp.array([2.0, -2.0, 1e-3, 1.0]), (T, B, 4))
    mask = jnp.ones((T, B)).at[0].set(0.0)
    np.testing.assert_allclose(
        temperature_ratio(gain.at[0].set(99.0), weighted, mask), [0.5, 1.0, 10.0, 3.0], rtol=1e-6
    )


def test_losses_are_masked_means():
    mask = jnp.ones((T, B)).at[:, 0].set(0.0)
    targets = jnp.zeros((T, B)).at[:, 0].set(99.0)
    q = jnp.stack([jnp.full((T, B), 2.0), jnp.full((T, B), 3.0)])
    assert fop.critic_loss(q, targets, mask) == 4.0 + 9.0
    assert fop.value_loss(jnp.full((T, B, N), 2.0), targets[..., None] * jnp.ones(N), mask) == 4.0


def test_the_actors_loss_falls_with_entropy_and_value():
    """Uniform policies over A actions of value 1: -(1 + alpha_i ln A), the mean over agents."""
    policy, alphas = categorical(jnp.zeros((T, B, N, A))), jnp.arange(1.0, 1 + N)

    def loss(q):
        return fop.actor_loss(policy, q, alphas, jnp.ones((T, B)))

    value, slope = jax.value_and_grad(loss)(jnp.ones((T, B, N, A)))
    np.testing.assert_allclose(value, -(1 + alphas.mean() * np.log(A)), rtol=1e-6)
    np.testing.assert_array_equal(slope, 0)  # the critics are held


@pytest.mark.parametrize("preset", ["fop", pytest.param("fop_released", marks=pytest.mark.slow)])
def test_learns_to_match(preset):
    config = load(preset, env="probe/match")
    assert_both_seeds_win(config)
