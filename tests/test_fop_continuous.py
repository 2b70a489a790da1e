"""One gradient step of FOP for continuous actions against a float64 NumPy oracle."""

import math
from operator import itemgetter
from types import SimpleNamespace

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import (
    SPEC,
    B,
    N,
    T,
    assert_slopes,
    first_adam_gradients,
    lambda_return,
    linear,
    make_batch,
    mlp,
    random_learner,
    sigmoid,
)

from me_igm_jax import ConfigError
from me_igm_jax.algos import make_algorithm
from me_igm_jax.envs import make
from me_igm_jax.presets import load
from me_igm_jax.types import Batch

D, LOW, HIGH = 2, -1.0, 3.0
HALF, MIDDLE = (HIGH - LOW) / 2, (HIGH + LOW) / 2
BOX = SPEC._replace(n_actions=0, action_dim=D, action_bounds=(LOW, HIGH))
SMALL = {
    "net.hidden": 6, "net.last_action": True, "algo.hyper_embed": 5, "algo.mixing_embed": 5, "fop.heads": 2,
    "hypers.alpha": 0.5, "algo.optimiser": "adam", "algo.temperature": "sgd", "hypers.alpha_lr": 0.1,
    "hypers.target_entropy": 0.7, "hypers.max_grad_norm": 1e6,
}  # fmt: skip
CASES = {
    "ratio": {},
    "shared": {
        "fop.temperatures": "shared", "fop.layers": 2, "hypers.td_lambda": 0.3, "net.recurrent": False,
    },
    "linear": {"fop.form": "linear", "net.recurrent": False},
    "released": {
        "fop.form": "released", "fop.attention": True, "hypers.attention_penalty": 0.1,
        "net.recurrent": False,
    },
}  # fmt: skip
GROUPS = {"actor": "actor", "critic": "critic", "head": "critic", "mixer": "critic", "value": "value"}
KEY = jax.random.key(3)


def continuous_batch() -> Batch:
    """The oracle's batch (a terminal, a truncation, two episodes, padding) with actions inside the box."""
    rng, batch = np.random.default_rng(2), make_batch()
    action = np.float64(np.float32(rng.uniform(LOW, HIGH, (T, B, N, D))))
    steps = batch.steps._replace(avail=np.ones((T + 1, B, N, 0), bool))
    return batch._replace(steps=steps, action=action)


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    config = load("fop", env="probe/clock", **(SMALL | CASES[request.param]))
    algo, hypers, batch = make_algorithm(config, BOX), config.hypers, continuous_batch()
    learner, params, target = random_learner(algo, hypers)
    given = learner, jax.tree.map(jnp.asarray, batch)
    update = jax.jit(algo.update)
    after, metrics = update(*given, KEY, 0, hypers)
    seen = jax.jit(algo.inspect)(*given)
    noise = standard_normal(KEY)
    now = evaluate(config, params, batch, noise)
    goal = make_goal(config, now, target, batch)
    return SimpleNamespace(**locals())


def standard_normal(key) -> np.ndarray:
    """The Gaussian numbers behind the actions that the update draws."""
    zero = jnp.zeros((T + 1, B, N, D))
    draw = distrax.MultivariateNormalDiag(zero, zero + 1).sample(seed=key, sample_shape=1)
    return np.asarray(draw[0], float)


def unit(action):
    return (action - MIDDLE) / HALF


def outputs(params, batch):
    """The agents' network on [obs, last action in [-1, 1], agent], with or without PyTorch's GRU."""
    p, out = params["params"], []
    h, last = 0, np.zeros((B, N, D))
    for t in range(T + 1):
        begins = batch.first[t][:, None, None]
        last, h = np.where(begins, 0, last), np.where(begins, 0, h)
        x = np.concatenate([batch.steps.obs[t], last, np.tile(np.eye(N), (B, 1, 1))], -1)
        x = np.maximum(linear(p["Linear_0"], x), 0)
        if "GRU_0" in p:
            gru = p["GRU_0"]
            h = h + np.zeros((B, N, len(gru["w_h"])))
            x_r, x_z, x_n = np.split(x @ gru["w_i"] + gru["b_i"], 3, -1)
            h_r, h_z, h_n = np.split(h @ gru["w_h"] + gru["b_h"], 3, -1)
            z = sigmoid(x_z + h_z)
            x = h = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
        out.append(linear(p["Linear_1"], x))
        last = unit(batch.action[min(t, T - 1)])
    return np.stack(out)


def gaussian(params, batch, noise):
    """Actions in [-1, 1], the log densities of those in the box (the dead: 0), and what is greedy."""
    mean, log_std = np.split(outputs(params, batch), 2, -1)
    log_std = np.clip(log_std, -5, 2)
    x = mean + np.exp(log_std) * noise
    log_pi = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    log_pi = (log_pi - np.log(HALF * (1 - np.tanh(x) ** 2))).sum(-1)
    return np.tanh(x), log_pi * batch.steps.alive, np.tanh(mean)


def utility(params, h, action):
    p = params["params"]
    hidden = linear(p["Linear_0"], np.maximum(h, 0)) + linear(p["Linear_1"], action)
    return linear(p["Linear_2"], np.maximum(hidden, 0))[..., 0]


def q_joint(config, params, q, v, action, state, advantage=None):
    """Q_jt, lambda, the attention's penalty and what the released form never differentiates."""
    fop, p, lead = config.fop, params["params"], state.shape[:-1]
    value = mlp(p["MLP_0"], state)[..., 0]
    if fop.form == "linear":
        first, second = np.abs(linear(p["Linear_0"], state)), np.abs(linear(p["Linear_1"], state))
        k = np.einsum("tbne,tbe->tbn", first.reshape(*lead, N, -1), second)
        return (k * q).sum(-1) + value, k, 0, None
    joint, lam, w, penalty = np.concatenate([state, action.reshape(*lead, -1)], -1), 0, 1, 0
    for head in range(fop.heads):
        key, agent, act = (stacked(p[f"VmapMLP_{i}"], head) for i in range(3))
        kernel = np.abs(mlp(key, state)) + 1e-10
        lam = lam + kernel * sigmoid(mlp(agent, state)) * sigmoid(mlp(act, joint))
    if fop.form == "paper":
        return (lam * (q - v)).sum(-1) + value, lam, 0, None
    if fop.attention:
        w, keys = 1e-10, linear(p["Linear_0"], state).reshape(*lead, fop.heads, N, -1)
        for head in range(fop.heads):
            query = mlp(stacked(p["VmapMLP_3"], head), state)
            logits = np.einsum("tbe,tbne->tbn", query, keys[..., head, :, :]) / np.sqrt(query.shape[-1])
            penalty = penalty + (logits**2).sum(-1)
            w = w + np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    advantage = w * (q - v) if advantage is None else advantage
    return (w * q).sum(-1) + value + ((lam - 1) * advantage).sum(-1), lam, penalty, advantage


def stacked(p, head):
    return jax.tree.map(itemgetter(head), p)


def evaluate(config, params, batch, noise, held=None):
    """All that the losses are made of; `held` replaces what lies behind a stop-gradient."""
    state, taken = batch.steps.state, unit(batch.action)
    action, log_pi, best = gaussian(params["actor"], batch, noise)
    h, v = outputs(params["critic"], batch), outputs(params["value"], batch)[..., 0]
    frozen = held or SimpleNamespace(head=jax.tree.map(np.copy, params["head"]), h=h, v=v)
    head, held_v = frozen.head, frozen.v
    q = utility(params["head"], h[:T], taken)
    drawn = utility(head, frozen.h, action)
    stopped = held.advantage if held else None
    mixed = q_joint(config, params["mixer"], q, held_v[:T], taken, state[:T], stopped)
    q_jt, _, penalty, advantage = mixed
    weight = q_joint(config, params["mixer"], drawn, held_v, action, state)[1]
    return SimpleNamespace(**locals())


def make_goal(config, now, target, batch):
    """The lambda-return, alpha_i and V_i's target."""
    hypers, mask = config.hypers, batch.mask
    alphas = np.full(N, hypers.alpha)
    if config.fop.temperatures == "ratio":
        gain = (now.drawn - now.v)[:T]
        for i in range(N):
            above, below = ((x * gain[..., i] * mask).sum() for x in (1, now.weight[:T, :, i]))
            alphas[i] *= np.clip(above / below, 0.1, 10) if above * below > 0 else 1
    q = utility(target["head"], outputs(target["critic"], batch), now.action)
    value = q_joint(config, target["mixer"], q, now.v, now.action, batch.steps.state)[0]
    bonus, g = -hypers.alpha * now.log_pi.sum(-1), np.zeros((T, B))
    for t, b in np.argwhere(mask):
        g[t, b] = lambda_return(batch, value, bonus, t, b, hypers.gamma, hypers.td_lambda)
    return SimpleNamespace(g=g, alphas=alphas, v=(now.drawn - alphas * now.log_pi)[:T])


def losses(now, goal, batch):
    mask, alive = batch.mask, batch.steps.alive[:T] * batch.mask[..., None]
    soft = (now.drawn - goal.alphas * now.log_pi)[:T]
    return {
        "loss_critic": np.average((now.q_jt - goal.g) ** 2, weights=mask),
        "loss_value": np.average(((goal.v - now.v[:T]) ** 2).mean(-1), weights=mask),
        "loss_actor": -np.average(soft, weights=alive),
    }


def test_forward(c):
    state, best = c.batch.steps.state[:T], c.now.best[:T]
    q = utility(c.params["head"], c.now.h[:T], best)
    greedy = q_joint(c.config, c.params["mixer"], q, c.now.v[:T], best, state)[0]
    expected = {"q_tot": c.now.q_jt, "q_tot_greedy": greedy, "greedy": MIDDLE + HALF * best}
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(c.seen, key), value, atol=1e-5, err_msg=key)
    assert c.seen.q is c.seen.logits is c.seen.probs is None


def test_losses_and_targets(c):
    mask, entropy = c.batch.mask, -c.now.log_pi[:T].sum(-1)
    expected = losses(c.now, c.goal, c.batch)
    means = {"target": c.goal.g, "q_tot": c.now.q_jt, "entropy": entropy / N}
    expected |= {key: np.average(x, weights=mask) for key, x in means.items()}
    expected["alpha_i"] = c.goal.alphas.mean()
    for key, value in expected.items():
        np.testing.assert_allclose(c.metrics[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    ratios = c.goal.alphas / c.hypers.alpha
    if c.config.fop.temperatures == "ratio":  # within its limits, or the test would show nothing
        assert ((ratios != 1) & (ratios > 0.1) & (ratios < 10)).any()
    excess = np.average(entropy, weights=mask) - N * c.hypers.target_entropy
    log_alpha = np.log(c.hypers.alpha) - c.hypers.alpha_lr * c.hypers.alpha * excess
    np.testing.assert_allclose(c.after.log_alpha, log_alpha, atol=1e-5)


def test_gradient_and_step(c):
    gradients = first_adam_gradients(c.after.opt_state, c.params, GROUPS)

    def total():
        now = evaluate(c.config, c.params, c.batch, c.noise, c.now)
        penalty = np.average(now.penalty + np.zeros((T, B)), weights=c.batch.mask)
        return sum(losses(now, c.goal, c.batch).values()) + c.hypers.attention_penalty * penalty

    assert_slopes(c.params, gradients, total)
    squares = sum((g**2).sum() for g in jax.tree.leaves(gradients))
    np.testing.assert_allclose(c.metrics["grad_norm"] ** 2, squares, rtol=1e-5)
    for name, group in GROUPS.items():
        assert any(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradients[name]))
        rate = c.hypers.lr if group == "actor" else c.hypers.critic_lr
        trees = (c.params[name], gradients[name], c.after.params[name])
        for old, g, new in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(new, old - rate * g / (np.abs(g) + 1e-8), atol=1e-6)


def test_what_is_masked_changes_nothing(c):
    batch = c.given[1]  # sequence 0 is over after transition 2; transition 2 of sequence 2 leads nowhere
    obs, state = (x.at[3:, 0].set(55.0) for x in (batch.steps.obs, batch.steps.state))
    action = batch.action.at[3:, 0].set(2.9).at[2, 2].set(-0.9)
    reward = batch.reward.at[3:, 0].set(99.0).at[2, 2].set(99.0)
    steps = batch.steps._replace(obs=obs, state=state)
    noisy = batch._replace(steps=steps, action=action, reward=reward)
    after, _ = c.update(c.learner, noisy, KEY, 0, c.hypers)
    jax.tree.map(np.testing.assert_array_equal, after.params, c.after.params)


def test_acting(c):
    """Inside the box, whatever the weights; greedy teams read no state and do what `inspect` says."""
    step = jax.tree.map(lambda x: x[0], c.given[1].steps)
    blind = step._replace(state=jnp.full_like(step.state, jnp.nan))
    greedy = jax.jit(c.algo.greedy)(c.learner, c.algo.carry(B), blind)[1]
    np.testing.assert_allclose(greedy, c.seen.greedy[0], atol=1e-5)
    wild = c.learner._replace(params=jax.tree.map(lambda x: 1e3 * x, c.learner.params))
    act = jax.jit(c.algo.act)
    for learner in (c.learner, wild):
        action = act(learner, c.algo.carry(B), blind, KEY, 0, c.hypers)[1]
        assert action.shape == (B, N, D) and action.min() >= LOW and action.max() <= HIGH


def test_refresh(c):
    assert set(c.learner.target) == {"critic", "head", "mixer"}
    kept, copied = (c.algo.refresh_target(c.learner, jnp.asarray(due), c.hypers) for due in (False, True))
    jax.tree.map(np.testing.assert_array_equal, kept.target, c.learner.target)
    for name in copied.target:
        jax.tree.map(np.testing.assert_array_equal, copied.target[name], c.learner.params[name])


def test_one_shot_games_are_regression():
    """The batch shares one instant; every sample draws for itself, and the target is the reward."""
    config = load("fop", env="differential/mtq", **{"net.hidden": 8})
    env = make(config)
    algo, keys, rows = make_algorithm(config, env.spec), jax.random.split(KEY), 9
    start = env.observe(env.reset(KEY))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, rows, *x.shape)), start)
    action = jax.random.uniform(keys[0], (1, rows, 2, 1), minval=-10.0, maxval=10.0)
    reward, one = jax.random.normal(keys[1], (1, rows)), jnp.ones((1, rows))
    batch = Batch(steps, jnp.zeros((2, rows), bool).at[0].set(True), action, reward, 0 * one, one)
    assert config.net.output_scale == 0  # policies start at the centre
    learner, *_ = random_learner(algo, config.hypers)
    _, metrics = jax.jit(algo.update)(learner, batch, KEY, 0.0, config.hypers)
    seen = jax.jit(algo.inspect)(learner, batch)
    np.testing.assert_allclose(metrics["loss_critic"], np.square(seen.q_tot - reward).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["target"], reward.mean(), rtol=1e-5)
    assert seen.greedy.shape == action.shape and seen.q_tot_greedy.shape == (1, rows)
    assert algo.refresh_target(learner, jnp.asarray(True), config.hypers) is learner


@pytest.mark.parametrize("key, value", [("entropy", "mean"), ("value", "logsumexp"), ("twin", True)])
def test_the_released_codes_parts_are_discrete(key, value):
    config = load("fop", env="differential/mtq", **{f"fop.{key}": value})
    with pytest.raises(ConfigError, match=f"fop.{key}={value}: "):
        make_algorithm(config, BOX)


def test_the_linear_form_is_continuous():
    with pytest.raises(ConfigError, match=r"fop\.form=linear"):
        make_algorithm(load("fop", env="probe/clock", **{"fop.form": "linear"}), SPEC)
