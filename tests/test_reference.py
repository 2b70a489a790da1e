"""One gradient step of the value family against an independent NumPy oracle in float64.

The oracle follows the equations of the papers (QMIX, VDN, QPLEX, Qatten, Weighted QMIX, QTRAN,
Soft-QMIX, ME-IGM), not our code, of which it shares only the names of the parameters and the draw of
random actions.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from one_step import KEY, assert_first_step, assert_metrics, assert_seen, one_step, temperature_step
from oracle import (
    SPEC,
    A,
    B,
    N,
    T,
    central_mixer,
    chosen,
    draw,
    entropy,
    lambda_returns,
    make_batch,
    masked_means,
    mlp,
    opt,
    qmix,
    qplex_weights,
    similarities,
    softmax,
    utilities,
)

from me_igm_jax.presets import load

SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.hyper_embed": 6, "algo.mixing_embed": 5,
    "algo.opt_embed": 3, "algo.central_embed": 7, "algo.qplex_heads": 2, "hypers.alpha": 0.5,
    "algo.qatten_heads": 2,
}  # fmt: skip
CASES = {
    "qmix": {}, "vdn": {}, "qplex": {}, "me_qmix": {}, "me_qmix 2": {"algo.opt_layers": 2},
    "me_qplex": {}, "soft_qmix": {}, "soft_qmix_released": {}, "me_ow_qmix": {},
    "ow_qmix": {}, "cw_qmix": {}, "qatten": {}, "qtran": {},
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    name = request.param
    config = load(name.split()[0], env="probe/clock", **(SMALL | CASES[name]))
    c = one_step(config, SPEC, make_batch())
    c.name, c.now = name, evaluate(config.algo, c.params, c.batch)
    c.goal, c.pi, c.entropy = make_goal(config, c.now, c.target, c.batch)
    return c


def mix(algo, params, values, steps, action, advantage=None):
    """Q_tot at the first instants and, for QPLEX, the advantage that no gradient passes."""
    n = len(action)
    q, state, avail = chosen(values, action), steps.state[:n], steps.avail[:n]
    if algo.mixer == "vdn":
        return q.sum(-1), None
    p = params["mixer"]["params"]
    if algo.mixer == "vdn_s":
        return q.sum(-1) + mlp(p["MLP_0"], state)[..., 0], None
    if algo.mixer == "qmix":
        return qmix(p, q, state), None
    w, v = np.abs(mlp(p["MLP_0"], state)), mlp(p["MLP_1"], state)
    if algo.mixer == "qatten":
        logits = similarities(p["VmapMLP_0"], p["Linear_0"], algo.qatten_heads, state)
        heads = [(softmax(x) * q).sum(-1) for x in logits]
        return (w * np.stack(heads, -1)).sum(-1) + v[..., 0], None
    w = w + 1e-10
    if advantage is None:
        advantage = w * (q - np.where(avail, values[:n], -np.inf).max(-1))
    importance = qplex_weights(p, algo.qplex_heads, state, np.eye(A)[action])
    return (w * q + v + advantage * (importance - 1)).sum(-1), advantage


def central(params, batch, *actions):
    """Weighted QMIX's unrestricted critic."""
    p, q = params["central_mixer"]["params"], utilities(params["central_agent"], batch)
    for action in actions:
        yield central_mixer(p, chosen(q, action), batch.steps.state[: len(action)])


def evaluate(algo, params, batch, held=None):
    """Values of the batch's actions; `held` replaces what lies behind a stop-gradient."""
    state, raw = batch.steps.state, utilities(params["agent"], batch)
    residual = algo.local == "residual"  # Soft-QMIX's g_i
    q = raw + opt(params["local"], raw, state, 2) if residual else raw
    held_q, held_advantage = (held.q, held.advantage) if held else (q, None)
    q_tot, advantage = mix(algo, params, q, batch.steps, batch.action, held_advantage)
    mapped = algo.transform == "opt"
    logits = opt(params["transform"], held_q, state, algo.opt_layers) if mapped else held_q
    opt_sum = chosen(logits, batch.action).sum(-1)
    best = held.best if held else np.where(batch.steps.avail, raw, -np.inf).argmax(-1)[:T]
    if algo.fit == "qtran":
        q_tot_best, _ = mix(algo, params, q, batch.steps, best)
    if algo.central_critic:
        q_hat, q_hat_best = central(params, batch, batch.action, best)
    return SimpleNamespace(**locals())


def make_goal(config, now, target, batch):
    """The TD(lambda) target, the policy and its joint entropy."""
    algo, hypers, avail = config.algo, config.hypers, batch.steps.avail
    pi = softmax(np.where(avail, now.logits / hypers.alpha, -np.inf))
    if algo.policy == "softmax":
        action = np.array(draw(KEY, pi))
        bonus = -hypers.alpha * np.log(chosen(pi, action)).sum(-1)
    else:  # double Q-learning
        action, bonus = np.where(avail, now.raw, -np.inf).argmax(-1), np.zeros((T + 1, B))
    if algo.central_critic:
        (value,) = central(target, batch, action)
    else:
        value, _ = mix(algo, target, evaluate(algo, target, batch).q, batch.steps, action)
    return lambda_returns(batch, value, bonus, hypers), pi, entropy(pi).sum(-1)[:T]


def losses(config, now, held, target, mask):
    """L(theta), L(phi) and, where there is one, the central critic's loss."""
    w = norm = np.ones((T, B))
    if config.algo.weighting == "optimistic":
        w = np.where(held.q_tot < target, 1, config.hypers.optimistic_weight)
    if config.algo.weighting == "centrally":
        promising = (held.batch.action == held.best).all(-1) | (target > held.q_hat_best)
        w = np.where(promising, 1, config.hypers.optimistic_weight)
    if config.algo.weighting == "soft_qmix":
        w = norm = np.where((held.q_tot > held.opt_sum) == (held.q_tot < target), 0.5, 1)
    out = {
        "loss_td": (mask * w * (now.q_tot - target) ** 2).sum() / (mask * norm).sum() / 2,
        "loss_opt": (mask * (held.q_tot - now.opt_sum) ** 2).sum() / mask.sum() / 2,
    }
    if config.algo.fit == "qtran":
        del out["loss_td"]
        opt = (now.q_tot_best - held.q_hat_best) ** 2
        nopt = np.minimum(now.q_tot - held.q_hat, 0) ** 2
        out["loss_qtran"] = (mask * (opt + config.hypers.nopt_weight * nopt)).sum() / mask.sum() / 2
    if config.algo.central_critic:
        out["loss_central"] = (mask * (now.q_hat - target) ** 2).sum() / mask.sum() / 2
    return out


def test_forward(c):
    assert_seen(
        c.seen, {"q": c.now.q[:T], "q_tot": c.now.q_tot, "logits": c.now.logits[:T], "probs": c.pi[:T]}
    )


def test_losses_and_targets(c):
    means = masked_means(c.batch, target=c.goal, q_tot=c.now.q_tot, entropy=c.entropy / N)
    assert_metrics(c.metrics, losses(c.config, c.now, c.now, c.goal, c.batch.mask) | means)


def test_gradient_clip_and_adam(c):
    # The clip is seen both at rest and at work.
    at_rest = ("vdn", "me_qplex", "me_qmix 2", "ow_qmix", "cw_qmix", "qatten", "qtran")
    assert c.hypers.max_grad_norm == 10 and (c.metrics["grad_norm"] < 10) == (c.name in at_rest)

    def total_loss():
        now = evaluate(c.config.algo, c.params, c.batch, held=c.now)
        return sum(losses(c.config, now, c.now, c.goal, c.batch.mask).values())

    assert_first_step(c, total_loss, dict.fromkeys(c.params, c.hypers.lr))


def test_temperature(c):
    step = temperature_step(c, c.entropy) * (c.config.algo.temperature == "sgd")
    assert (abs(step) > 0.01) == c.name.startswith("me_")
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)
