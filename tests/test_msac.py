"""One gradient step of mSAC, in the paper's form and the released code's, against a NumPy oracle."""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax.algos import msac
from me_igm_jax.config import ConfigError, load
from one_step import (
    actor_critic_rates,
    assert_both_seeds_win,
    assert_first_step,
    assert_metrics,
    assert_only_the_real_counts,
    assert_read_once,
    assert_seen,
    decentralised_greedy,
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
    entropy,
    lambda_returns,
    linear,
    log,
    make_batch,
    masked_means,
    member,
    qmix,
    softmax,
    utilities,
)

SMALL = {
    "net.hidden": 8, "net.last_action": True,
    "hypers.alpha": 0.5, "algo.optimiser": "adam", "algo.temperature": "sgd", "hypers.alpha_lr": 0.3,
    "hypers.critic_lr": 2e-3, "hypers.max_grad_norm": 1e3, "hypers.tau": 0.25,
}  # fmt: skip
CASES = {
    "msac": {"hypers.td_lambda": 0.6, "algo.hyper_embed": 6, "algo.mixing_embed": 5},
    "msac_released": {"net.hidden": 64},
}


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and the oracle's view of the same learner."""
    config = load(request.param, env="probe/clock", **(SMALL | CASES[request.param]))
    c = one_step(config, SPEC, make_batch())
    c.now = evaluate(config, c.params, c.batch)
    c.targets = make_targets(config, c.now.pi, c.target, c.batch)
    return c


def mix(config, params, q, state):
    """The joint value that one critic's mixer makes of q [t, B, N]."""
    p, state = params["params"], state[: len(q)]
    if config.algo.mixer == "qmix":
        return qmix(p, q, state)
    return (np.abs(linear(p["Linear_0"], state)) * q).sum(-1) + linear(p["Linear_1"], state)[..., 0]


def evaluate(config, params, batch):
    """The policy, both critics' values, and their joint values of the batch's actions."""
    logits = utilities(params["actor"], batch)
    if config.algo.clamp:
        assert logits.max() > 2 and logits.min() < -5  # or the test would show nothing
        logits = np.clip(logits, -5, 2)
    pi = softmax(np.where(batch.steps.avail, logits, -np.inf))
    q = [utilities(member(params["critic"], k), batch) for k in (0, 1)]
    mixers = copy.deepcopy([member(params["mixer"], k) for k in (0, 1)])  # `params` will be shaken
    q_tot = [mix(config, mixers[k], chosen(q[k], batch.action), batch.steps.state) for k in (0, 1)]
    return SimpleNamespace(pi=pi, q=q, q_tot=q_tot, mixers=mixers)


def soft_values(config, pi, held, batch):
    """V_k of a policy, by critics and mixers that may be others' than its own."""
    gains = [(pi * (q[: len(pi)] - config.hypers.alpha * log(pi))).sum(-1) for q in held.q]
    return [mix(config, m, x, batch.steps.state) for m, x in zip(held.mixers, gains, strict=True)]


def make_targets(config, pi, target, batch):
    """What the critics are fitted to, [T, B]."""
    held = SimpleNamespace(
        q=[utilities(member(target["critic"], k), batch) for k in (0, 1)],
        mixers=[member(target["mixer"], k) for k in (0, 1)],
    )
    if config.algo.standardise:
        real = batch.reward[batch.mask == 1]
        batch = batch._replace(reward=10 * (batch.reward - real.mean()) / real.std())
    value = np.minimum(*soft_values(config, pi, held, batch))
    return lambda_returns(batch, value, 0 * value, config.hypers)


def losses(c, now):
    """Of networks `now`; the actor's, with the critics held as they were."""
    v = soft_values(c.config, now.pi[:T], c.now, c.batch)
    gain = v[0] if c.config.algo.actor_value == "first" else np.minimum(*v)
    squares = sum((q - c.targets) ** 2 for q in now.q_tot)
    return masked_means(c.batch, loss_critic=squares, loss_actor=-gain)


def test_forward(c):
    greedy = c.now.pi[:T].argmax(-1)
    best = [
        mix(c.config, m, chosen(q, greedy), c.batch.steps.state)
        for m, q in zip(c.now.mixers, c.now.q, strict=True)
    ]
    values = {"q": np.minimum(*c.now.q)[:T], "q_tot": np.minimum(*c.now.q_tot)}
    assert_seen(c.seen, values | {"q_tot_greedy": np.minimum(*best), "probs": c.now.pi[:T]})
    np.testing.assert_array_equal(c.seen.greedy, greedy)


def test_losses_and_targets(c):
    means = masked_means(
        c.batch, target=c.targets, q_tot=c.now.q_tot[0], entropy=entropy(c.now.pi)[:T].mean(-1)
    )
    assert_metrics(c.metrics, losses(c, c.now) | means)


def test_gradient_and_step(c):
    def total_loss():
        return sum(losses(c, evaluate(c.config, c.params, c.batch)).values())

    assert_first_step(c, total_loss, actor_critic_rates(c))


def test_temperature(c):
    wanted = -A if c.config.algo.target_entropy == "actions" else c.hypers.target_entropy
    hypers = SimpleNamespace(alpha=c.hypers.alpha, alpha_lr=c.hypers.alpha_lr, target_entropy=wanted)
    aim = SimpleNamespace(batch=c.batch, hypers=hypers)
    step = temperature_step(aim, entropy(c.now.pi)[:T].sum(-1))
    np.testing.assert_allclose(c.after.log_alpha, np.log(c.hypers.alpha) + step, atol=1e-6)


def test_targets_follow_every_step(c):
    assert set(c.target) == {"critic", "mixer"}
    online = {k: c.after.params[k] for k in c.target}
    jax.tree.map(
        lambda new, online, old: np.testing.assert_allclose(new, 0.25 * online + 0.75 * old, atol=1e-6),
        c.after.target, online, c.target,
    )  # fmt: skip
    assert c.algo.refresh_target is None


def test_nothing_leaks_from_padding(c):
    assert_only_the_real_counts(c)


def test_greedy_is_decentralised(c):
    np.testing.assert_array_equal(decentralised_greedy(c.algo, c.learner, c.given), c.now.pi[0].argmax(-1))


def test_acts_by_its_policy(c):
    """At the first instants, 3,000 draws each: their frequencies are pi's."""
    many, key = 3000, jax.random.key(0)
    step = jax.tree.map(lambda x: jnp.repeat(x[0], many, axis=0), c.given.steps)
    _, action = jax.jit(c.algo.act)(c.learner, c.algo.carry(B * many), step, key, 0.0, c.hypers)
    share = np.eye(A)[action].reshape(B, many, N, A).mean(1)
    np.testing.assert_allclose(share, c.now.pi[0], atol=0.04)  # four standard deviations


@pytest.mark.parametrize("preset", CASES)
def test_one_shot_games_are_read_once(preset):
    game = assert_read_once(load(preset, env="matrix/qtran", **SMALL))
    reward = game.batch.reward
    wanted = 0 if game.config.algo.standardise else reward.mean()
    np.testing.assert_allclose(game.metrics["target"], wanted, rtol=1e-5, atol=1e-5)
    assert game.view.probs.shape == (1, 9, 2, 3) and game.view.q_tot_greedy.shape == reward.shape


# -- the functions one by one ---------------------------------------------------------------------


def test_standardised_rewards():
    """Mean 0 and deviation 10 over what is real; equal rewards become 0."""
    batch = make_batch()
    real = np.asarray(msac.standardised(jnp.asarray(batch.reward), jnp.asarray(batch.mask)))[
        batch.mask == 1
    ]
    np.testing.assert_allclose([real.mean(), real.std()], [0, 10], atol=1e-4)
    np.testing.assert_array_equal(msac.standardised(jnp.ones((T, B)), jnp.ones((T, B))), 0)


def test_the_actor_follows_the_smaller_value_or_the_first():
    v = jnp.stack([jnp.full((T, B), 2.0), jnp.full((T, B), 1.0)])
    assert msac.actor_loss(v, "min", jnp.ones((T, B))) == -1
    assert msac.actor_loss(v, "first", jnp.ones((T, B))) == -2


def test_losses_of_both_critics_add_up():
    mask = jnp.ones((T, B)).at[0].set(0.0)
    targets = jnp.zeros((T, B)).at[0].set(99.0)
    assert msac.critic_loss(jnp.stack([targets + 1, targets + 2]), targets, mask) == 1 + 4


@pytest.mark.parametrize("key, value", [("hypers.target_entropy", 0.1), ("algo.hyper_embed", 8)])
def test_what_the_released_form_does_not_read(key, value):
    with pytest.raises(ConfigError, match=f"{key}: "):
        load("msac_released", env="probe/clock", **{key: value})


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["msac", "msac_released"])
def test_learns_to_match(preset):
    config = load(preset, env="probe/match")
    assert_both_seeds_win(config)
