"""One gradient step of the value family against an independent NumPy oracle in float64.

The oracle follows the equations of the papers (QMIX, VDN, QPLEX, Qatten, Weighted QMIX, QTRAN,
Soft-QMIX, ME-IGM), not our code, of which it shares only the names of the parameters and the draw of
random actions.
"""

from typing import NamedTuple

import numpy as np
import pytest

from conftest import readable
from me_igm_jax import Batch, load
from one_step import (
    KEY,
    OneStep,
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

SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.hyper_embed": 6, "algo.mixing_embed": 5,
    "algo.opt_embed": 3, "algo.central_embed": 7, "algo.qplex_heads": 2, "hypers.alpha": 0.5,
    "algo.qatten_heads": 2,
}  # fmt: skip
OPT_LAYERS = {"opt": 1, "opt_two_layers": 2}
CASES = {
    "qmix": {}, "vdn": {}, "qplex": {}, "me_qmix": {}, "me_qmix 2": {"algo.transform": "opt_two_layers"},
    "me_qplex": {}, "soft_qmix": {}, "soft_qmix_released": {}, "me_ow_qmix": {},
    "ow_qmix": {}, "cw_qmix": {}, "qatten": {}, "qtran": {},
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def c(request) -> OneStep:
    """Our code's step on the batch, and what the oracle says of the same learner:

    name  the case
    now   an Evaluation before the step
    goal  the TD(lambda) target [T, B]
    pi    the policy [T + 1, B, N, A]; None without a softmax policy
    """
    name = request.param
    preset, options = name.split()[0], CASES[name]
    config = load(preset, env="probe/clock", **(readable(SMALL, preset, **options) | options))
    c = one_step(config, SPEC, make_batch())
    c.name, c.now = name, evaluate(config.algo, c.params, c.batch)
    c.goal, c.pi = make_goal(config, c.now, c.target, c.batch)
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


class Evaluation(NamedTuple):
    """What the oracle computes from a batch and the weights; [T, B] unless said otherwise."""

    batch: Batch
    raw: np.ndarray  # [T + 1, B, N, A] outputs of the agents' network
    q: np.ndarray  # [T + 1, B, N, A] what is mixed
    q_tot: np.ndarray
    advantage: np.ndarray | None  # QPLEX's, [T, B, N]
    logits: np.ndarray | None  # [T + 1, B, N, A]
    opt_sum: np.ndarray | None
    best: np.ndarray  # [T, B, N] the greedy joint action
    q_tot_best: np.ndarray | None = None
    q_hat: np.ndarray | None = None  # the central critic's
    q_hat_best: np.ndarray | None = None


def evaluate(algo, params, batch, held=None) -> Evaluation:
    """Values of the batch's actions; `held` replaces what lies behind a stop-gradient."""
    state, (raw, q) = batch.steps.state, mixed_utilities(algo, params, batch)
    held_q, held_advantage = (held.q, held.advantage) if held else (q, None)
    q_tot, advantage = mix(algo, params, q, batch.steps, batch.action, held_advantage)
    logits = opt_sum = None
    if algo.policy == "softmax":
        logits = opt(params["transform"], held_q, state, OPT_LAYERS[algo.transform])
        opt_sum = chosen(logits, batch.action).sum(-1)
    best = held.best if held else np.where(batch.steps.avail, raw, -np.inf).argmax(-1)[:T]
    now = Evaluation(
        batch=batch,
        raw=raw,
        q=q,
        q_tot=q_tot,
        advantage=advantage,
        logits=logits,
        opt_sum=opt_sum,
        best=best,
    )
    if algo.fit == "qtran":
        now = now._replace(q_tot_best=mix(algo, params, q, batch.steps, best)[0])
    if algo.central_critic:
        q_hat, q_hat_best = central(params, batch, batch.action, best)
        now = now._replace(q_hat=q_hat, q_hat_best=q_hat_best)
    return now


def mixed_utilities(algo, params, batch):
    """The agents' utilities and, after Soft-QMIX's g_i, what is mixed, [T + 1, B, N, A] each."""
    raw = utilities(params["agent"], batch)
    if algo.utility_transform == "identity":
        return raw, raw
    return raw, raw + opt(params["utility_transform"], raw, batch.steps.state, 2)


def make_goal(config, now, target, batch):
    """The TD(lambda) target and the policy."""
    algo, hypers, avail = config.algo, config.hypers, batch.steps.avail
    pi = None
    if algo.policy == "softmax":
        pi = softmax(np.where(avail, now.logits / hypers.alpha, -np.inf))
        action = np.array(draw(KEY, pi))
        bonus = -hypers.alpha * np.log(chosen(pi, action)).sum(-1)
    else:  # double Q-learning
        action, bonus = np.where(avail, now.raw, -np.inf).argmax(-1), np.zeros((T + 1, B))
    if algo.central_critic:
        (value,) = central(target, batch, action)
    else:
        value, _ = mix(algo, target, mixed_utilities(algo, target, batch)[1], batch.steps, action)
    return lambda_returns(batch, value, bonus, hypers), pi


def losses(config, now, held, target, mask):
    """L(theta) and, where there are a policy and a central critic, L(phi) and L(psi)."""
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
    }
    if config.algo.policy == "softmax":
        out["loss_opt"] = (mask * (held.q_tot - now.opt_sum) ** 2).sum() / mask.sum() / 2
    if config.algo.fit == "qtran":
        del out["loss_td"]
        opt = (now.q_tot_best - held.q_hat_best) ** 2
        nopt = np.minimum(now.q_tot - held.q_hat, 0) ** 2
        out["loss_qtran"] = (mask * (opt + config.hypers.nopt_weight * nopt)).sum() / mask.sum() / 2
    if config.algo.central_critic:
        out["loss_central"] = (mask * (now.q_hat - target) ** 2).sum() / mask.sum() / 2
    return out


def test_forward(c):
    assert_seen(c.seen, {"q": c.now.q[:T], "q_tot": c.now.q_tot})
    if c.pi is None:
        assert c.seen.logits is None and c.seen.probs is None
    else:
        assert_seen(c.seen, {"logits": c.now.logits[:T], "probs": c.pi[:T]})


def test_losses_and_targets(c):
    means = masked_means(c.batch, target=c.goal, q_tot=c.now.q_tot)
    if c.pi is not None:
        means |= masked_means(c.batch, entropy=entropy(c.pi)[:T].mean(-1))
    expected = losses(c.config, c.now, c.now, c.goal, c.batch.mask) | means
    assert_metrics(c.metrics, expected)
    others = {"grad_norm"} if c.pi is None else {"grad_norm", "alpha", "delta_q"}
    assert set(c.metrics) == expected.keys() | others


def test_parts_of_the_learner(c):
    """A member has weights for its own parts only, and target networks for what a target reads."""
    algo, name = c.config.algo, c.name.split()[0]
    online = {"agent"} | ({"mixer"} if algo.mixer != "vdn" else set())
    online |= {"utility_transform"} if name.startswith("soft") else set()
    central = {"central_agent", "central_mixer"} if algo.central_critic else set()
    assert set(c.target) == (central or online)
    assert set(c.params) == online | central | ({"transform"} if c.pi is not None else set())


def test_gradient_clip_and_adam(c):
    # The clip is seen both at rest and at work.
    at_rest = ("vdn", "me_qplex", "me_qmix 2", "ow_qmix", "cw_qmix", "qatten", "qtran")
    assert c.hypers.max_grad_norm == 10 and (c.metrics["grad_norm"] < 10) == (c.name in at_rest)

    def total_loss():
        now = evaluate(c.config.algo, c.params, c.batch, held=c.now)
        return sum(losses(c.config, now, c.now, c.goal, c.batch.mask).values())

    assert_first_step(c, total_loss, dict.fromkeys(c.params, c.hypers.lr))


def test_temperature(c):
    if c.pi is None:
        assert c.after.log_alpha == () and c.after.alpha_opt_state == ()
        return
    step = temperature_step(c, entropy(c.pi)[:T].sum(-1)) if c.config.algo.temperature == "sgd" else 0
    assert (abs(step) > 0.01) == c.name.startswith("me_")
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)
