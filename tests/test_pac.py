"""One gradient step of PAC against a NumPy oracle, who reads what, and a probe."""

from copy import deepcopy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from me_igm_jax import ConfigError, load
from me_igm_jax.networks.messages import exchanged
from one_step import (
    KEY,
    actor_critic_rates,
    assert_both_seeds_win,
    assert_first_step,
    assert_metrics,
    assert_only_the_real_counts,
    assert_read_once,
    assert_seen,
    assert_targets_follow,
    decentralised_greedy,
    first_instant,
    one_step,
)
from oracle import (
    SPEC,
    A,
    B,
    N,
    T,
    agent_inputs,
    central_mixer,
    chosen,
    entropy,
    lambda_returns,
    log,
    make_batch,
    masked_means,
    mlp,
    policy,
    qmix,
    softmax,
    utilities,
)

D = 2  # numbers from each agent to each
SMALL = {
    "net.hidden": 8, "net.last_action": True, "algo.central_embed": 7, "algo.message": D,
    "hypers.alpha": 0.5, "hypers.max_grad_norm": 1e3, "hypers.message_weight": 0.7,
    "hypers.message_beta": 0.3, "hypers.lr": 2e-3,
}  # fmt: skip
QMIX = {"algo.hyper_embed": 6, "algo.mixing_embed": 5}
CASES = {
    "pac": QMIX,
    "vdn": {"algo.mixer": "vdn", "algo.weighting": "centrally", "algo.target_entropy": "given",
            "hypers.alpha_end": 0.8, "net.recurrent": False},
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    c = one_step(load("pac", env="probe/clock", **(SMALL | CASES[request.param])), SPEC, make_batch())
    c.noise = np.float64(jax.random.normal(KEY, (T + 1, B, N, N * D)))
    c.alpha = max(c.hypers.alpha, c.hypers.alpha_end)
    c.now = evaluate(c.config, c.params, c.batch, c.noise, c.alpha)
    c.targets, c.label = make_targets(c.config, c.now, c.params, c.target, c.batch)
    return c


def exchange(sent):
    """What agent i is told by j is the i-th part of what j sends."""
    told = np.zeros_like(sent)
    for i, j in np.ndindex(N, N):
        told[:, :, i, j * D : (j + 1) * D] = sent[:, :, j, i * D : (i + 1) * D]
    return told


def mix(config, params, q, state):
    return q.sum(-1) if config.algo.mixer == "vdn" else qmix(params["params"], q, state)


def q_hat(params, q, action, state):
    """The central critic's value of a joint action."""
    return central_mixer(params["central_mixer"]["params"], chosen(q, action), state[: len(action)])


def evaluate(config, params, batch, noise, alpha, held=None):
    """Values of the batch's actions; `held` replaces what lies behind a stop-gradient."""
    state, avail = batch.steps.state, batch.steps.avail
    sent = mlp(params["encoder"]["params"], agent_inputs(batch))
    obs = np.concatenate([batch.steps.obs, exchange(sent + noise)], -1)
    heard = batch._replace(steps=batch.steps._replace(obs=obs))
    q, pi = utilities(params["agent"], heard), policy(params["actor"], batch)
    guess = mlp(params["predictor"]["params"], agent_inputs(heard))
    guess = softmax(np.where(avail, guess, -np.inf))
    central = utilities(params["central_agent"], batch)
    best = held.best if held else pi.argmax(-1)
    q_tot = mix(config, params["mixer"], chosen(q, batch.action), state[:T])
    q_best = mix(config, params["mixer"], chosen(q, best[:T]), state[:T])
    hat, hat_best = (q_hat(params, central, action, state) for action in (batch.action, best[:T]))
    held_q, held_mixer = (held.held_q, held.held_mixer) if held else (q, deepcopy(params["mixer"]))
    cost = (pi * (alpha * log(pi) - held_q)).sum(-1)
    actor = mix(config, held_mixer, cost[:T], state[:T])
    return SimpleNamespace(
        sent=sent, q=q, pi=pi, guess=guess, central=central, best=best, q_tot=q_tot, q_best=q_best, hat=hat,
        hat_best=hat_best, held_q=held_q, held_mixer=held_mixer, actor=actor,
    )  # fmt: skip


def make_targets(config, now, params, target, batch):
    """The TD(lambda) target, and every agent's best action beside the others' most probable ones."""
    central = utilities(target["central_agent"], batch)
    value = q_hat(target, central, now.best, batch.steps.state)
    label = np.zeros((T, B, N), int)
    for i in range(N):
        values = []
        for a in range(A):
            joint = now.best[:T].copy()
            joint[..., i] = a
            values.append(q_hat(params, now.central, joint, batch.steps.state))
        label[..., i] = np.where(batch.steps.avail[:T, :, i], np.stack(values, -1), -np.inf).argmax(-1)
    return lambda_returns(batch, value, np.zeros((T + 1, B)), config.hypers), label


def losses(c, now):
    if c.config.algo.weighting == "optimistic":
        full = c.now.q_tot < c.targets
    else:
        full = (c.batch.action == c.now.best[:T]).all(-1) | (c.targets > c.now.hat_best)
    w = np.where(full, 1, c.hypers.optimistic_weight)
    return masked_means(
        c.batch,
        loss_critic=w * (now.q_tot - c.targets) ** 2 / 2,
        loss_central=(now.hat - c.targets) ** 2 / 2,
        loss_actor=now.actor,
        loss_label=-np.log(chosen(now.guess, c.label)).sum(-1),
        message_nats=(now.sent[:T] ** 2 / 2).sum((-2, -1)),
    )


def test_forward(c):
    quiet = evaluate(c.config, c.params, c.batch, 0, c.alpha)
    assert np.abs(quiet.q - c.now.q)[:T].max() > 1e-2  # the messages are heard
    expected = {"q": quiet.q[:T], "q_tot": quiet.q_tot, "q_tot_greedy": quiet.q_best}
    assert_seen(c.seen, expected | {"probs": quiet.pi[:T], "greedy": quiet.best[:T]})


def test_losses_and_targets(c):
    h = entropy(c.now.pi)[:T].sum(-1) / N
    means = masked_means(c.batch, target=c.targets, q_tot=c.now.q_tot, entropy=h)
    assert_metrics(c.metrics, losses(c, c.now) | means | {"alpha": c.alpha})
    free = c.batch.steps.avail[:T].sum(-1) > 1  # or the labels would show nothing
    assert (c.label != c.now.best[:T])[free].any() and (c.label == c.now.best[:T])[free].any()


def test_gradient_and_step(c):
    def total_loss():
        each = losses(c, evaluate(c.config, c.params, c.batch, c.noise, c.alpha, c.now))
        bottleneck = each.pop("loss_label") + c.hypers.message_beta * each.pop("message_nats")
        return sum(each.values()) + c.hypers.message_weight * bottleneck

    assert_first_step(c, total_loss, actor_critic_rates(c))


def test_temperature(c):
    """It is learned below its floor too."""
    wanted = -A if c.config.algo.target_entropy == "actions" else c.hypers.target_entropy
    excess = np.average(entropy(c.now.pi)[:T].sum(-1), weights=c.batch.mask) - N * wanted
    gradient = optax.tree_utils.tree_get(c.after.alpha_opt_state, "mu") / (1 - 0.9)
    np.testing.assert_allclose(gradient, c.hypers.alpha * excess, rtol=1e-4)
    wanted = np.log(c.hypers.alpha) - c.hypers.alpha_lr * np.sign(excess)
    np.testing.assert_allclose(c.after.log_alpha, wanted, atol=1e-6)


def test_the_central_critic_has_targets(c):
    assert_targets_follow(c, "central_agent", "central_mixer")


def test_nothing_leaks_from_padding(c):
    assert_only_the_real_counts(c)


def test_execution_needs_neither_state_nor_messages(c):
    """Nor others' observations: greedy actions follow from the actor and what each agent sees."""
    wanted = decentralised_greedy(c.algo, c.learner, c.given)
    others = {k: jax.tree.map(lambda x: x * jnp.nan, v) for k, v in c.params.items() if k != "actor"}
    learner = c.learner._replace(params={**others, "actor": c.learner.params["actor"]})
    step = first_instant(c.given)
    for i in range(N):
        alone = step._replace(obs=jnp.full_like(step.obs, 9.0).at[:, i].set(step.obs[:, i]))
        got = c.algo.greedy(learner, c.algo.carry(B), alone)[1]
        np.testing.assert_array_equal(got[:, i], wanted[:, i])


@pytest.mark.parametrize("eps, share", [(0.0, 1.0), (1.0, 0.5)])
def test_exploration_is_epsilon_greedy(c, eps, share):
    """Around the policy's most probable action."""
    hypers = load("pac", **{"hypers.eps_start": eps, "hypers.eps_end": eps}).hypers
    step = first_instant(c.given)._replace(avail=jnp.ones((B, N, A), bool).at[..., 2:].set(False))
    given, keys = (c.learner, c.algo.carry(B), step), jax.random.split(KEY, 200)
    best = c.algo.greedy(*given)[1]
    (_, last), action = jax.vmap(lambda key: c.algo.act(*given, key, 0.0, hypers))(keys)
    np.testing.assert_array_equal(action, last)
    assert np.mean(action == best) == pytest.approx(share, abs=0.05)


def test_one_shot_games_are_read_once():
    game = assert_read_once(load("pac", env="matrix/qtran", **SMALL, **QMIX))
    np.testing.assert_allclose(game.metrics["target"], game.batch.reward.mean(), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, game.after.target, game.learner.target)
    assert game.view.q.shape == game.view.probs.shape == (1, 9, 2, 3)


def test_messages_reach_their_agents():
    """Part i of what j sends is part j of what i is told."""
    sent = jnp.arange(N * N * D).reshape(N, N * D)
    told = exchanged(sent).reshape(N, N, D)
    np.testing.assert_array_equal(told, sent.reshape(N, N, D).swapaxes(0, 1))


def test_qplex_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.mixer=qplex: .* use algo\.mixer=qmix"):
        load("pac", env="probe/clock", **{"algo.mixer": "qplex"})


@pytest.mark.slow
def test_learns_to_match():
    config = load("pac", env="probe/match", **{"net.recurrent": False})
    assert_both_seeds_win(config)
