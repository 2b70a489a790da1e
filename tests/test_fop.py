"""One gradient step of FOP, in the paper's form and the released code's, against a NumPy oracle."""

from types import SimpleNamespace

import numpy as np
import pytest
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
    clipped_ratio,
    draw,
    entropy,
    fop_mixer,
    lambda_returns,
    log,
    make_batch,
    masked_means,
    member,
    policy,
    utilities,
)

from me_igm_jax.presets import load

SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.hyper_embed": 6, "algo.mixing_embed": 5, "fop.heads": 2,
    "hypers.alpha": 0.5, "algo.optimiser": "adam", "algo.temperature": "sgd", "hypers.alpha_lr": 0.3,
    "hypers.attention_penalty": 0.1, "hypers.max_grad_norm": 1e3,
}  # fmt: skip
CASES = {
    "fop": {},
    "fop 2": {"fop.layers": 2, "fop.twin": True, "fop.temperatures": "shared", "fop.value": "logsumexp"},
    "fop_released": {},
    "fop_released 1": {"fop.attention": False},
}


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    name = request.param
    c = one_step(load(name.split()[0], env="probe/clock", **(SMALL | CASES[name])), SPEC, make_batch())
    c.now = evaluate(c.config, c.params, c.batch)
    c.goal = make_goal(c.config, c.now, c.params, c.target, c.batch)
    return c


def q_joint(fop, params, q, v, action, state, advantage=None):
    return fop_mixer(fop, params, chosen(q, action), v, np.eye(A)[action], state, advantage)


def soft_value(config, q, v):
    return v if v is not None else config.hypers.alpha * np.log(np.exp(q / config.hypers.alpha).sum(-1))


def evaluate(config, params, batch, held=None):
    """Values of the batch's actions; `held` replaces what lies behind a stop-gradient."""
    fop, state = config.fop, batch.steps.state[:T]
    pi = policy(params["actor"], batch)
    count = 2 if fop.twin else 1
    q = [utilities(member(params["critic"], k), batch) for k in range(count)]
    v = utilities(params["value"], batch)[..., 0] if fop.value == "network" else None
    mixed = []
    for k in range(count):
        held_v = held.vs[k] if held else soft_value(config, q[k], v)
        held_advantage = held.mixed[k][3] if held else None
        p = member(params["mixer"], k)
        mixed.append(q_joint(fop, p, q[k], held_v[:T], batch.action, state, held_advantage))
    vs = [soft_value(config, x, v) for x in q]
    return SimpleNamespace(**locals())


def make_goal(config, now, params, target, batch):
    """The lambda-return, V_i's target, alpha_i and the policy's joint entropy."""
    fop, hypers, mask = config.fop, config.hypers, batch.mask
    action, state = np.array(draw(KEY, now.pi)), batch.steps.state
    alphas = np.full(N, hypers.alpha)
    if fop.temperatures == "ratio":
        lam = q_joint(fop, member(params["mixer"], 0), now.q[0], now.vs[0], action, state)[1]
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
        values.append(q_joint(fop, member(target["mixer"], k), q, v, action, state)[0])
    value, inside = np.minimum.reduce(values), -hypers.alpha * log_taken.sum(-1)
    released = fop.entropy == "mean"
    g = lambda_returns(batch, value, inside * (not released), hypers)
    g -= released * mask * batch.discount * hypers.alpha * log_taken[1:].mean(-1)
    return SimpleNamespace(g=g, v=soft_v[:T], alphas=alphas, entropy=entropy(now.pi)[:T].sum(-1))


def losses(config, now, held, goal, mask):
    def mean(x):
        return np.average(x, weights=mask)

    gain = (now.pi * np.minimum.reduce(held.q)).sum(-1) - goal.alphas * (now.pi * log(now.pi)).sum(-1)
    out = {
        "loss_critic": sum(mean((m[0] - goal.g) ** 2) for m in now.mixed),
        "loss_actor": -mean(gain[:T].mean(-1)),
    }
    if now.v is not None:
        out["loss_value"] = mean(((goal.v - now.v[:T]) ** 2).mean(-1))
    return out


def test_forward(c):
    q_tot = np.minimum.reduce([m[0] for m in c.now.mixed])
    assert_seen(c.seen, {"q": np.minimum.reduce(c.now.q)[:T], "q_tot": q_tot, "probs": c.now.pi[:T]})
    np.testing.assert_array_equal(c.seen.greedy, c.now.pi[:T].argmax(-1))


def test_losses_and_targets(c):
    means = masked_means(c.batch, target=c.goal.g, q_tot=c.now.mixed[0][0], entropy=c.goal.entropy / N)
    expected = losses(c.config, c.now, c.now, c.goal, c.batch.mask)
    assert_metrics(c.metrics, expected | means | {"alpha_i": c.goal.alphas.mean()})
    assert ("loss_value" in c.metrics) == (c.config.fop.value == "network")
    if c.config.fop.temperatures == "ratio":  # inside its limits, or the test would show nothing
        assert len(np.unique(c.goal.alphas)) > 1


def test_gradient_and_step(c):
    def total_loss():
        now = evaluate(c.config, c.params, c.batch, c.now)
        penalty = sum(np.average(m[2] * np.ones((T, B)), weights=c.batch.mask) for m in now.mixed)
        each = losses(c.config, now, c.now, c.goal, c.batch.mask)
        return sum(each.values()) + c.hypers.attention_penalty * penalty

    assert_first_step(c, total_loss, actor_critic_rates(c))


def test_temperature(c):
    step = temperature_step(c, c.goal.entropy)
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)


@pytest.mark.parametrize("preset", ["fop", pytest.param("fop_released", marks=pytest.mark.slow)])
def test_learns_to_match(preset):
    config = load(preset, env="probe/match")
    assert_both_seeds_win(config)
