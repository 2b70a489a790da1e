"""HASAC: one gradient step against an independent NumPy oracle in float64, its returns, and probes."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from me_igm_jax import ConfigError
from me_igm_jax.algos import hasac, make_algorithm
from me_igm_jax.config import load
from me_igm_jax.ops.returns import n_step_return
from me_igm_jax.training.train import make_program, make_train
from one_step import (
    KEY,
    assert_adam,
    assert_metrics,
    assert_only_the_real_counts,
    assert_read_once,
    assert_seen,
    assert_slopes,
    decentralised_greedy,
    first_gradients,
    one_step,
    random_learner,
)
from oracle import SPEC, A, B, N, T, chosen, draw, huber, linear, make_batch, masked_means, member, mlp

SMALL = {
    "net.hidden": 8, "algo.critic_hidden": 7, "algo.n_step": 2, "hypers.alpha": 0.5,
    "hypers.max_grad_norm": 1e3, "hypers.tau": 0.25, "net.layer_norm": True,
    "hypers.lr": 0.1,  # new policies that choose other actions
}  # fmt: skip
CASES = {
    "hasac": {},
    "hasac huber": {"algo.huber": True, "hypers.huber_delta": 0.5, "algo.target_entropy": "all"},
    "hasac_released": {"algo.n_step": 20},
}


def returns(batch, value, gamma, n):
    """R^(n) + gamma^n V, each sum on its own; it ends at a terminal or before what is not real."""
    g = np.zeros((T, B))
    for t, b in np.argwhere(batch.mask):
        end = t + 1
        while end < min(t + n, T) and batch.discount[end - 1, b] and batch.mask[end, b]:
            end += 1
        steps = end - t
        g[t, b] = gamma ** np.arange(steps) @ batch.reward[t:end, b]
        g[t, b] += gamma**steps * batch.discount[end - 1, b] * value[end, b]
    return g


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_n_step_return(n):
    batch, value = make_batch(), np.random.default_rng(1).normal(size=(T + 1, B))
    given = (batch.reward, batch.discount, batch.mask, value[:-1], value, np.ones((T, B)))
    got = jax.jit(n_step_return, static_argnums=7)(*given, 0.9, n)
    np.testing.assert_allclose(got * batch.mask, returns(batch, value, 0.9, n), rtol=1e-5)


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return p["scale"] * centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + p["bias"]


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def log_policy(params, steps, i):
    """Agent i's log pi, [.., A]; minus infinity where unavailable."""
    p = member(params["params"]["agent"], i)
    h = norm(p["LayerNorm_0"], steps.obs[:, :, i])
    for k in range(2):
        h = norm(p[f"LayerNorm_{k + 1}"], np.maximum(linear(p[f"Linear_{k}"], h), 0))
    return log_softmax(np.where(steps.avail[:, :, i], linear(p["Linear_2"], h), -np.inf))


def log_policies(params, steps):
    return np.stack([log_policy(params, steps, i) for i in range(N)], 2)


def values(params, state, joint):
    """Q_k of one-hot joint actions [.., N, A], a row for each critic."""
    x = np.concatenate([state, joint.reshape(*joint.shape[:2], -1)], -1)
    return np.stack([mlp(member(params["params"], k), x)[..., 0] for k in range(2)])


def mean(x, mask):
    return (x * mask).sum() / mask.sum()


def times(p, x):
    """p x, where 0 times infinity is 0."""
    return np.where(p == 0, 0, p * np.where(p == 0, 0, x))


@pytest.fixture(scope="module", params=CASES)
def c(request) -> SimpleNamespace:
    """Our code's step on the batch, and what the oracle makes of the same learner."""
    name = request.param
    config = load(name.split()[0], env="probe/clock", **(SMALL | CASES[name]))
    alpha, batch = np.linspace(0.2, 0.8, N + 1), make_batch()
    c = one_step(config, SPEC, batch, log_alpha=jnp.log(jnp.float32(alpha)))
    target_key, c.actors_key = jax.random.split(KEY)
    c.alpha, c.log_pi = alpha, log_policies(c.params["actor"], batch.steps)
    action = np.asarray(draw(target_key, np.exp(c.log_pi)))
    value = values(c.target["critic"], batch.steps.state, np.eye(A)[action]).min(0)
    value -= alpha[N] * chosen(c.log_pi, action).sum(-1)
    c.targets = returns(batch, value, c.hypers.gamma, config.algo.n_step)
    return c


def critic_loss(c, params):
    error = values(params, c.batch.steps.state[:T], np.eye(A)[c.batch.action]) - c.targets
    loss = huber(error, c.hypers.huber_delta) if c.config.algo.huber else error**2 / 2
    return mean(loss.sum(0), c.batch.mask)


def turns(c):
    """(agent, the loss as a function of the actors' parameters) in the order of their turns.

    Behind a stop-gradient, and so constant: the others' actions, noise, and hard minus soft actions.
    """
    steps = jax.tree.map(lambda x: x[:T], c.batch.steps)
    order_key, joint_key, turns_key = jax.random.split(c.actors_key, 3)
    joint = np.eye(A)[draw(joint_key, np.exp(c.log_pi[:T]))]
    critics = jax.tree.map(np.float64, c.after.params["critic"])
    improved = jax.tree.map(np.float64, c.after.params["actor"])
    keys = jax.random.split(turns_key, N)
    for key, i in zip(keys, np.asarray(jax.random.permutation(order_key, N)), strict=True):
        noise_key, action_key = jax.random.split(key)
        noise = np.float64(jax.random.gumbel(noise_key, (T, B, 1, A)))[:, :, 0]
        soft = np.exp(log_softmax(c.log_pi[:T, :, i] + noise))
        rest, others = np.eye(A)[soft.argmax(-1)] - soft, joint.copy()
        mask = c.batch.mask * steps.alive[:, :, i]

        def loss(params, i=i, noise=noise, rest=rest, others=others, mask=mask):
            log_pi = log_policy(params, steps, i)
            actions = others.copy()
            actions[:, :, i] = np.exp(log_softmax(log_pi + noise)) + rest
            q = values(critics, steps.state, actions).min(0)
            return mean(c.alpha[i] * times(actions[:, :, i], log_pi).sum(-1) - q, mask)

        yield i, loss
        fresh = draw(action_key, np.exp(log_policy(improved, steps, i))[:, :, None])
        joint[:, :, i] = np.eye(A)[np.asarray(fresh)[:, :, 0]]


def test_forward(c):
    best = c.log_pi[:T].argmax(-1)
    np.testing.assert_array_equal(c.seen.greedy, best)
    q_tot, q_tot_greedy = (
        values(c.params["critic"], c.batch.steps.state[:T], np.eye(A)[action]).min(0)
        for action in (c.batch.action, best)
    )
    assert_seen(c.seen, {"probs": np.exp(c.log_pi[:T]), "q_tot": q_tot, "q_tot_greedy": q_tot_greedy})


def test_losses_and_target(c):
    entropy = -times(np.exp(c.log_pi), c.log_pi).sum((-2, -1))[:T]
    expected = masked_means(c.batch, q_tot=c.seen.q_tot, target=c.targets, entropy=entropy / N) | {
        "loss_critic": critic_loss(c, c.params["critic"]),
        "loss_actor": np.mean([loss(c.params["actor"]) for _, loss in turns(c)]),
        "alpha": c.alpha[:N].mean(),
        "alpha_critic": c.alpha[N],
    }
    assert_metrics(c.metrics, expected)


def test_critics_step(c):
    old, gradient = c.params["critic"], first_gradients(c.after.opt_state["critic"])
    assert_slopes(old, gradient, lambda: critic_loss(c, old))
    assert_adam(old, gradient, c.after.params["critic"], c.hypers.critic_lr)


def test_actors_steps(c):
    """One after the other: the losses of later ones hold actions of the earlier ones' new policies."""
    old, gradient = c.params["actor"], first_gradients(c.after.opt_state["actor"])
    for i, loss in turns(c):
        mine, slope = member(old, i), member(gradient, i)
        assert max(np.abs(x).max() for x in jax.tree.leaves(slope)) > 1e-3
        assert_slopes(mine, slope, lambda loss=loss: loss(old), each=6)  # `mine` are views of `old`
    assert_adam(old, gradient, c.after.params["actor"], c.hypers.lr)
    everything = (gradient, first_gradients(c.after.opt_state["critic"]))
    np.testing.assert_allclose(c.metrics["grad_norm"], optax.global_norm(everything), rtol=1e-5)


def test_temperatures(c):
    """Of each agent over its life, of the critics by the living's sum; the dead ask for nothing."""
    avail, living = c.batch.steps.avail[:T], c.batch.steps.alive[:T] * c.batch.mask[..., None]
    entropy = -times(np.exp(c.log_pi), c.log_pi).sum(-1)[:T]
    wanted = {
        "available": 0.98 * np.log(avail.sum(-1)), "all": 0.98 * np.log(A), "zero": 0.0,
    }[c.config.algo.target_entropy]  # fmt: skip
    excess = (entropy - wanted) * living
    mean_excess = np.append(excess.sum((0, 1)) / living.sum((0, 1)), excess.sum() / c.batch.mask.sum())
    gradient = np.float64(optax.tree_utils.tree_get(c.after.alpha_opt_state, "mu")) / (1 - 0.9)
    np.testing.assert_allclose(gradient, c.alpha * mean_excess, rtol=1e-4, atol=1e-6)
    assert_adam(np.log(c.alpha), gradient, c.after.log_alpha, c.hypers.alpha_lr)


def test_target_critics_follow_every_step(c):
    jax.tree.map(
        lambda new, online, old: np.testing.assert_allclose(new, 0.25 * online + 0.75 * old, atol=1e-6),
        c.after.target["critic"], c.after.params["critic"], c.target["critic"],
    )  # fmt: skip
    assert c.algo.refresh_target is None


def start(**overrides):
    config = load("hasac", env="probe/clock", **(SMALL | overrides))
    algo = make_algorithm(config, SPEC)
    return config, algo, random_learner(algo, config.hypers)[0], jax.tree.map(jnp.asarray, make_batch())


def test_gradients_are_clipped_agent_by_agent():
    _, algo, learner, batch = start()
    update, norms = jax.jit(algo.update), {}
    for limit in (1e3, 0.05):
        hypers = load("hasac", env="probe/clock", **(SMALL | {"hypers.max_grad_norm": limit})).hypers
        state = update(learner, batch, KEY, 0, hypers)[0].opt_state
        each = jax.vmap(optax.global_norm)(first_gradients(state["actor"]))
        norms[limit] = [*each, optax.global_norm(first_gradients(state["critic"]))]
    np.testing.assert_allclose(norms[0.05], np.minimum(norms[1e3], 0.05), rtol=1e-4)
    assert min(norms[1e3][:N]) != max(norms[1e3][:N]) and max(norms[1e3]) > 0.05


def test_nothing_leaks_from_padding(c):
    assert_only_the_real_counts(c)


def test_greedy_is_decentralised(c):
    decentralised_greedy(c.algo, c.learner, c.given)


def test_a_recurrent_actor_on_last_actions_fits_in():
    config, algo, learner, batch = start(**{"net.recurrent": True, "net.last_action": True})
    after, _ = jax.eval_shape(algo.update, learner, batch, KEY, 0, config.hypers)
    jax.tree.map(lambda new, old: np.testing.assert_equal(new.shape, old.shape), after, learner)


@pytest.mark.parametrize("key", ["shared", "agent_id"])
def test_shared_networks_are_refused(key):
    with pytest.raises(ConfigError, match=f"net.{key}=true"):
        load("hasac", env="probe/clock", **{f"net.{key}": True})


def test_one_shot_games_are_read_once():
    game = assert_read_once(load("hasac", env="matrix/qtran", **SMALL))
    assert game.view.probs.shape == (1, 9, 2, 3) and game.view.q_tot_greedy.shape == (1, 9)


@pytest.mark.parametrize("probe", [
    "match", pytest.param("action", marks=pytest.mark.slow), pytest.param("delay", marks=pytest.mark.slow),
])  # fmt: skip
def test_probes(probe):
    """Trained a little: the greedy joint action is right and the critics know the value."""
    config = load("hasac", env=f"probe/{probe}")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(3))
    state, metrics = jax.jit(jax.vmap(make_train(config), (0, None)))(keys, config.hypers)
    np.testing.assert_allclose(metrics["return"][:, -1], 1.0)
    program = make_program(config)
    for s in range(3):
        learner, ring = jax.tree.map(lambda x, s=s: x[s], (state.learner, state.ring))
        batch = program.replay.sample(ring, 7, jax.random.key(0), 64)
        q, want = program.algo.inspect(learner, batch).q_tot, batch.reward
        if probe == "delay":
            want = jnp.where(batch.steps.obs[:2, :, 0, 0] == 1, 1.0, config.hypers.gamma)
        np.testing.assert_allclose(q, want, atol=0.1)


def test_no_key_is_used_twice():
    config, algo, learner, batch = start()
    with jax.debug_key_reuse(True):
        jax.block_until_ready(jax.jit(algo.update)(learner, batch, KEY, 0, config.hypers))


# -- the functions one by one ---------------------------------------------------------------------


def test_straight_through_actions_are_one_hot_and_carry_the_gradient_of_the_soft_ones():
    key, weights = jax.random.key(0), jnp.arange(1.0, 1 + A)
    logits = jax.random.normal(jax.random.key(1), (B, A))

    def soft(x):
        return jax.nn.softmax(x + jax.random.gumbel(key, x.shape))

    action = hasac.straight_through(key, logits)
    np.testing.assert_allclose(action, np.eye(A)[soft(logits).argmax(-1)], atol=1e-6)
    both = (soft, partial(hasac.straight_through, key))
    slopes = [jax.grad(lambda x, f=f: (f(x) * weights).sum())(logits) for f in both]
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_one_agents_action_is_replaced():
    joint, new = jnp.zeros((T, B, N, A)), jnp.ones((T, B, 1, A))
    np.testing.assert_array_equal(hasac.with_action(joint, 1, new).sum((0, 1, 3)), [0, T * B * A, 0])


def test_only_one_agent():
    batch = jax.tree.map(jnp.asarray, make_batch())
    alone = hasac.only(batch, 2)
    np.testing.assert_array_equal(alone.steps.obs, batch.steps.obs[:, :, 2:])
    np.testing.assert_array_equal(alone.action, batch.action[:, :, 2:])
    np.testing.assert_array_equal(alone.steps.state, batch.steps.state)


def test_means_over_lives():
    """Agent 0 lives only in transition 0, of which one sequence is not real."""
    x = jnp.broadcast_to(jnp.arange(1.0, 1 + N), (T, B, N)).at[1:, :, 0].set(99.0).at[0, 0].set(99.0)
    alive = jnp.ones((T, B, N), bool).at[1:, :, 0].set(False)
    mask = jnp.ones((T, B)).at[0, 0].set(0.0)
    real, rest = T * B - 1, sum(range(2, 1 + N))
    wanted = [*range(1, 1 + N), rest + (B - 1) / real]
    np.testing.assert_allclose(hasac.means_over_lives(x, alive, mask), wanted, rtol=1e-6)


def test_a_fixed_temperature_reads_no_target():
    fixed = {"algo.temperature": "fixed"}
    for key, value in (
        ("algo.target_entropy", "all"),
        ("hypers.entropy_share", 0.5),
        ("hypers.alpha_lr", 0.1),
    ):
        with pytest.raises(ConfigError, match=rf"{key}: "):
            load("hasac", env="probe/clock", **fixed, **{key: value})
