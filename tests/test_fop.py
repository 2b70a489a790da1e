"""One gradient step of FOP, in the paper's form and the released code's, against a NumPy oracle."""

from operator import itemgetter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
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
    first_adam_gradients,
    lambda_return,
    linear,
    make_batch,
    mlp,
    random_learner,
    sigmoid,
    utilities,
)

from me_igm_jax.algos import make_algorithm
from me_igm_jax.devices import compiler_options
from me_igm_jax.presets import load
from me_igm_jax.train import make_train

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
GROUPS = {"actor": "actor", "critic": "critic", "mixer": "critic", "value": "value"}


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
    now = evaluate(config, params, batch)
    goal = make_goal(config, now, params, target, batch, jax.random.key(3))
    return SimpleNamespace(**locals())


def critic(params, k):
    return jax.tree.map(itemgetter(k), params)


def weights(fop, p, state, joint):
    """lambda_i(s, u), QPLEX's positive weights."""
    total = 0
    for k in range(fop.heads):
        key, agent, act = (critic(p[f"VmapMLP_{i}"], k) for i in range(3))
        total += (np.abs(mlp(key, state)) + 1e-10) * sigmoid(mlp(agent, state)) * sigmoid(mlp(act, joint))
    return total


def q_joint(fop, params, q, v, action, state, advantage=None):
    """Q_jt, lambda, the attention logits' penalty and the advantage that no gradient passes."""
    p, q, onehot = params["params"], chosen(q, action), np.eye(A)[action]
    lam = weights(fop, p, state, np.concatenate([state, onehot.reshape(*state.shape[:-1], -1)], -1))
    value = mlp(p["MLP_0"], state)[..., 0]
    if fop.form == "paper":
        return (lam * (q - v)).sum(-1) + value, lam, 0, None
    w, penalty = 1, 0
    if fop.attention:
        w, keys = 1e-10, linear(p["Linear_0"], state).reshape(*state.shape[:-1], fop.heads, N, -1)
        for h in range(fop.heads):
            query = mlp(critic(p["VmapMLP_3"], h), state)
            logits = np.einsum("tbe,tbne->tbn", query, keys[..., h, :, :]) / np.sqrt(query.shape[-1])
            penalty = penalty + (logits**2).sum(-1)
            w = w + np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    if advantage is None:
        advantage = w * (q - v)
    return (w * q).sum(-1) + value + ((lam - 1) * advantage).sum(-1), lam, penalty, advantage


def soft_value(config, q, v):
    return v if v is not None else config.hypers.alpha * np.log(np.exp(q / config.hypers.alpha).sum(-1))


def evaluate(config, params, batch, held=None):
    """Values of the batch's actions; `held` replaces what lies behind a stop-gradient."""
    fop, state = config.fop, batch.steps.state[:T]
    logits = np.where(batch.steps.avail, utilities(params["actor"], batch), -np.inf)
    pi = np.exp(logits - logits.max(-1, keepdims=True))
    pi /= pi.sum(-1, keepdims=True)
    log_pi = np.log(np.where(pi > 0, pi, 1))
    count = 2 if fop.twin else 1
    q = [utilities(critic(params["critic"], k), batch) for k in range(count)]
    v = utilities(params["value"], batch)[..., 0] if fop.value == "network" else None
    mixed = []
    for k in range(count):
        held_v = held.vs[k] if held else soft_value(config, q[k], v)
        held_advantage = held.mixed[k][3] if held else None
        p = critic(params["mixer"], k)
        mixed.append(q_joint(fop, p, q[k], held_v[:T], batch.action, state, held_advantage))
    vs = [soft_value(config, x, v) for x in q]
    return SimpleNamespace(**locals())


def make_goal(config, now, params, target, batch, key):
    """The lambda-return, V_i's target, alpha_i and the policy's joint entropy."""
    fop, hypers, mask = config.fop, config.hypers, batch.mask
    action, state = np.array(draw(key, now.pi)), batch.steps.state
    alphas = np.full(N, hypers.alpha)
    if fop.temperatures == "ratio":
        lam = q_joint(fop, critic(params["mixer"], 0), now.q[0], now.vs[0], action, state)[1]
        for i in range(N):
            gain = now.q[0][:T, :, i] - now.vs[0][:T, :, i, None]
            above = ((now.pi[:T, :, i] * gain).sum(-1) * mask).sum()
            below = (
                lam[:T, :, i] * np.take_along_axis(gain, action[:T, :, i, None], -1)[..., 0] * mask
            ).sum()
            alphas[i] *= np.clip(above / below, 0.1, 10) if above * below > 0 else 1
    q_min, entropy = np.minimum.reduce(now.q), -(now.pi * now.log_pi).sum(-1)
    soft_v = ((now.pi * q_min).sum(-1) + alphas * entropy)[:T]
    log_taken = chosen(now.log_pi, action)
    values = []
    for k in range(now.count):
        q = utilities(critic(target["critic"], k), batch)
        v = soft_value(config, q, now.v)
        values.append(q_joint(fop, critic(target["mixer"], k), q, v, action, state)[0])
    value, inside = np.minimum.reduce(values), -hypers.alpha * log_taken.sum(-1)
    released = fop.entropy == "mean"
    g = np.zeros((T, B))
    for t, b in np.argwhere(mask):
        bonus = inside * (not released)
        g[t, b] = lambda_return(batch, value, bonus, t, b, hypers.gamma, hypers.td_lambda)
        g[t, b] -= released * hypers.alpha * log_taken[t + 1, b].mean() * batch.discount[t, b]
    return SimpleNamespace(g=g, v=soft_v, alphas=alphas, entropy=entropy[:T].sum(-1))


def losses(config, now, held, goal, mask):
    def mean(x):
        return np.average(x, weights=mask)

    gain = (now.pi * np.minimum.reduce(held.q)).sum(-1) - goal.alphas * (now.pi * now.log_pi).sum(-1)
    out = {
        "loss_critic": sum(mean((m[0] - goal.g) ** 2) for m in now.mixed),
        "loss_actor": -mean(gain[:T].mean(-1)),
    }
    if now.v is not None:
        out["loss_value"] = mean(((goal.v - now.v[:T]) ** 2).mean(-1))
    return out


def total_loss(c, now):
    penalty = sum(np.average(m[2] * np.ones((T, B)), weights=c.batch.mask) for m in now.mixed)
    each = losses(c.config, now, c.now, c.goal, c.batch.mask)
    return sum(each.values()) + c.hypers.attention_penalty * penalty


def test_forward(c):
    q_tot = np.minimum.reduce([m[0] for m in c.now.mixed])
    expected = {"q": np.minimum.reduce(c.now.q)[:T], "q_tot": q_tot, "probs": c.now.pi[:T]}
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(c.seen, key), value, atol=1e-5, err_msg=key)
    np.testing.assert_array_equal(c.seen.greedy, c.now.pi[:T].argmax(-1))


def test_losses_and_targets(c):
    expected = losses(c.config, c.now, c.now, c.goal, c.batch.mask)
    means = {"target": c.goal.g, "q_tot": c.now.mixed[0][0], "entropy": c.goal.entropy / N}
    expected |= {key: np.average(x, weights=c.batch.mask) for key, x in means.items()}
    expected["alpha_i"] = c.goal.alphas.mean()
    for key, value in expected.items():
        np.testing.assert_allclose(c.metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert ("loss_value" in c.metrics) == (c.config.fop.value == "network")
    if c.config.fop.temperatures == "ratio":  # inside its limits, or the test would show nothing
        assert len(np.unique(c.goal.alphas)) > 1


def test_gradient_and_step(c):
    clipped = first_adam_gradients(c.after.opt_state, c.params, GROUPS)
    for group in set(GROUPS.values()) & set(c.after.opt_state.inner_states):
        keys = [k for k in c.params if GROUPS[k] == group]
        trees = [{k: x[k] for k in keys} for x in (c.params, clipped)]
        assert_slopes(
            trees[0], trees[1], lambda: total_loss(c, evaluate(c.config, c.params, c.batch, c.now))
        )
        assert sum((g**2).sum() for g in jax.tree.leaves(trees[1])) > 0
    steps = jax.tree.map(lambda g: -g / (np.abs(g) + 1e-8), clipped)
    for name, rate in {
        "actor": c.hypers.lr,
        "critic": c.hypers.critic_lr,
        "value": c.hypers.critic_lr,
    }.items():
        if name in c.params:
            trees = (c.params[name], steps[name], c.after.params[name])
            for old, step, new in zip(*map(jax.tree.leaves, trees), strict=True):
                np.testing.assert_allclose(new, old + rate * step, atol=1e-6)


def test_temperature(c):
    excess = np.average(c.goal.entropy, weights=c.batch.mask) - N * c.hypers.target_entropy
    step = -c.hypers.alpha_lr * c.hypers.alpha * excess
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)


@pytest.mark.parametrize("preset", ["fop", pytest.param("fop_released", marks=pytest.mark.slow)])
def test_learns_to_match(preset):
    config = load(preset, env="probe/match")
    keys = jax.random.split(jax.random.key(0), 2)
    train = jax.jit(jax.vmap(make_train(config), (0, None)), compiler_options=compiler_options())
    _, metrics = train(keys, config.hypers)
    np.testing.assert_array_equal(metrics["return"][:, -1], 1.0)
