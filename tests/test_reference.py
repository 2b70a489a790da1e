"""One gradient step of the value family against an independent NumPy oracle in float64.

The oracle follows the equations of the papers (QMIX, VDN, QPLEX, Qatten, Weighted QMIX, QTRAN,
Soft-QMIX, ME-IGM), not our code, of which it shares only the names of the parameters and the draw of
random actions.
"""

from operator import itemgetter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import (
    SPEC,
    A,
    B,
    N,
    T,
    assert_slopes,
    chosen,
    draw,
    elu,
    lambda_return,
    linear,
    make_batch,
    mlp,
    random_learner,
    sigmoid,
    utilities,
)

from me_igm_jax.algos import make_algorithm
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
    algo, hypers, batch = make_algorithm(config, SPEC), config.hypers, make_batch()
    learner, params, target = random_learner(algo, hypers)
    given = learner, jax.tree.map(jnp.asarray, batch)
    after, metrics = jax.jit(algo.update)(*given, jax.random.key(3), 0, hypers)
    seen = jax.jit(algo.inspect)(*given)
    now = evaluate(config.algo, params, batch)
    goal, pi, entropy = make_goal(config, now, target, batch, jax.random.key(3))
    return SimpleNamespace(**locals())


def opt(params, q, state, layers):
    """ME-IGM's order-preserving transformation, Eq. 2, with weights made non-negative."""
    p, shape = params["params"], (*state.shape[:-1], N, 1, -1)
    if layers == 1:
        return np.abs(mlp(p["MLP_0"], state))[..., None] * q + mlp(p["MLP_1"], state)[..., None]
    w1, w2 = (np.abs(mlp(p[k], state)).reshape(shape) for k in ("MLP_0", "MLP_1"))
    b1 = linear(p["Linear_0"], state).reshape(shape)
    return (w2 * elu(w1 * q[..., None] + b1)).sum(-1) + mlp(p["MLP_2"], state)[..., None]


def mix(algo, params, values, steps, action, advantage=None):
    """Q_tot at the first instants and, for QPLEX, the advantage that no gradient passes."""
    n = len(action)
    q, state, avail = chosen(values, action), steps.state[:n], steps.avail[:n]
    if algo.mixer == "vdn":
        return q.sum(-1), None
    p = params["mixer"]["params"]
    if algo.mixer == "vdn_s":
        return q.sum(-1) + mlp(p["MLP_0"], state)[..., 0], None
    first, second = np.abs(mlp(p["MLP_0"], state)), mlp(p["MLP_1"], state)
    if algo.mixer == "qatten":
        keys = linear(p["Linear_0"], state).reshape(*state.shape[:-1], algo.qatten_heads, N, -1)
        q_tot = second[..., 0]
        for h in range(algo.qatten_heads):
            query = mlp(jax.tree.map(itemgetter(h), p["VmapMLP_0"]), state)
            similarity = np.einsum("tbe,tbne->tbn", query, keys[..., h, :, :]) / np.sqrt(query.shape[-1])
            attention = np.exp(similarity) / np.exp(similarity).sum(-1, keepdims=True)
            q_tot = q_tot + first[..., h] * (attention * q).sum(-1)
        return q_tot, None
    if algo.mixer == "qmix":
        w1 = first.reshape(*q.shape, -1)
        hidden = elu(np.einsum("tbn,tbne->tbe", q, w1) + linear(p["Linear_0"], state))
        return (hidden * np.abs(second)).sum(-1) + mlp(p["MLP_2"], state)[..., 0], None
    w, v = first + 1e-10, second
    if advantage is None:
        advantage = w * (q - np.where(avail, values[:n], -np.inf).max(-1))
    joint = np.concatenate([state, np.eye(A)[action].reshape(*state.shape[:-1], -1)], -1)
    importance = 0
    for k in range(algo.qplex_heads):
        key, agent, act = (jax.tree.map(itemgetter(k), p[f"VmapMLP_{i}"]) for i in range(3))
        gates = sigmoid(mlp(agent, state)) * sigmoid(mlp(act, joint))
        importance += (np.abs(mlp(key, state)) + 1e-10) * gates
    return (w * q + v + advantage * (importance - 1)).sum(-1), advantage


def central(params, batch, *actions):
    """Weighted QMIX's unrestricted critic: a feed-forward mixer and a state value."""
    p, q = params["central_mixer"]["params"], utilities(params["central_agent"], batch)
    for action in actions:
        state = batch.steps.state[: len(action)]
        joint = np.concatenate([chosen(q, action), state], -1)
        yield (mlp(p["MLP_0"], joint) + mlp(p["MLP_1"], state))[..., 0]


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


def make_goal(config, now, target, batch, key):
    """The TD(lambda) target, the policy and its joint entropy."""
    algo, hypers, avail = config.algo, config.hypers, batch.steps.avail
    logits = np.where(avail, now.logits / hypers.alpha, -np.inf)
    pi = np.exp(logits - logits.max(-1, keepdims=True))
    pi /= pi.sum(-1, keepdims=True)
    entropy = -(pi * np.log(np.where(pi > 0, pi, 1))).sum((-1, -2))
    if algo.policy == "softmax":
        action = np.array(draw(key, pi))
        bonus = -hypers.alpha * np.log(chosen(pi, action)).sum(-1)
    else:  # double Q-learning
        action, bonus = np.where(avail, now.raw, -np.inf).argmax(-1), np.zeros((T + 1, B))
    if algo.central_critic:
        (value,) = central(target, batch, action)
    else:
        value, _ = mix(algo, target, evaluate(algo, target, batch).q, batch.steps, action)
    q_tot = np.zeros((T, B))
    for t, b in np.argwhere(batch.mask):
        q_tot[t, b] = lambda_return(batch, value, bonus, t, b, hypers.gamma, hypers.td_lambda)
    return q_tot, pi, entropy[:T]


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
    expected = {"q": c.now.q, "q_tot": c.now.q_tot, "logits": c.now.logits, "probs": c.pi}
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(c.seen, key), value[:T], atol=1e-5, err_msg=key)


def test_losses_and_targets(c):
    expected = losses(c.config, c.now, c.now, c.goal, c.batch.mask)
    means = {"target": c.goal, "q_tot": c.now.q_tot, "entropy": c.entropy / N}
    expected |= {key: np.average(x, weights=c.batch.mask) for key, x in means.items()}
    for key, value in expected.items():
        np.testing.assert_allclose(c.metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


def test_gradient_clip_and_adam(c):
    norm = c.metrics["grad_norm"]
    # The clip is seen both at rest and at work.
    at_rest = ("vdn", "me_qplex", "me_qmix 2", "ow_qmix", "cw_qmix", "qatten", "qtran")
    assert (norm < 10) == (c.name in at_rest)
    moments = optax.tree_utils.tree_get(c.after.opt_state, "mu")
    clipped = jax.tree.map(lambda mu: np.float64(mu) / (1 - 0.9), moments)
    size = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(clipped)))
    np.testing.assert_allclose(size, min(norm, 10), rtol=1e-5)

    def total_loss():
        now = evaluate(c.config.algo, c.params, c.batch, held=c.now)
        return sum(losses(c.config, now, c.now, c.goal, c.batch.mask).values())

    scale = min(1, 10 / float(norm))
    assert_slopes(c.params, clipped, lambda: scale * total_loss())
    trees = (c.params, clipped, c.after.params)
    for old, gradient, new in zip(*map(jax.tree.leaves, trees), strict=True):
        step = -c.hypers.lr * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose(new, old + step, atol=1e-6)


def test_temperature(c):
    excess = np.average(c.entropy, weights=c.batch.mask) - N * c.hypers.target_entropy
    step = -c.hypers.alpha_lr * c.hypers.alpha * excess * (c.config.algo.temperature == "sgd")
    assert (abs(step) > 0.01) == c.name.startswith("me_")
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)
