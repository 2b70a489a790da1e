"""Independent NumPy oracles in float64: what the tests of one gradient step share.

They follow the papers' equations, not our code, of which they share only the names of the parameters
and the draw of random actions.
"""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from me_igm_jax.policies import sample
from me_igm_jax.types import Batch, EnvSpec, TimeStep

T, B, N, A, OBS, STATE = 5, 4, 3, 4, 5, 6
SPEC = EnvSpec("reference", N, A, (OBS,), STATE, horizon=T, limit_is_terminal=False)
draw = jax.jit(lambda key, pi: sample(key, distrax.Categorical(probs=pi)))


def make_batch() -> Batch:
    """Sequences: terminal then padding; two packed episodes; a truncation, then another; one whole.

    What is masked out holds large rewards, so that any leak shows.
    """
    rng = np.random.default_rng(0)
    alive = rng.random((T + 1, B, N)) < 0.8
    avail = (rng.random((T + 1, B, N, A)) < 0.6) & alive[..., None]
    avail[..., 0] = True  # all that the dead can do
    obs = rng.normal(size=(T + 1, B, N, OBS)) * alive[..., None]
    state = rng.normal(size=(T + 1, B, STATE))
    action = np.where(avail, rng.random(avail.shape), -1)[:T].argmax(-1)
    first, discount, mask = np.zeros((T + 1, B), bool), np.ones((T, B)), np.ones((T, B))
    first[0] = first[2, 1] = first[3, 2] = True
    discount[2, 0] = discount[1, 1] = discount[4, 3] = 0
    mask[3:, 0] = mask[2, 2] = 0  # padding; instant 2 is the last of a truncated episode
    reward = np.where(mask, rng.normal(size=(T, B)), 1e3)
    batch = Batch(TimeStep(obs, state, avail, alive), first, action, reward, discount, mask)
    # Rounded to float32, as our code sees it.
    return jax.tree.map(lambda x: np.float32(x).astype(float) if x.dtype == float else x, batch)


def random_learner(algo, hypers):
    """(learner, params, target) with random weights in place of initial ones, rounded to float32.

    Less to compile, and policies that are not all but uniform. log_alpha is that of hypers.alpha.
    """
    rng, shapes = np.random.default_rng(0), jax.eval_shape(algo.init, jax.random.key(0), hypers)
    learner = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    params, target = (
        jax.tree.map(lambda x: np.float32(rng.uniform(-0.7, 0.7, x.shape)), tree)
        for tree in (shapes.params, shapes.target)
    )
    log_alpha = jnp.full_like(learner.log_alpha, np.log(hypers.alpha))
    learner = learner._replace(params=params, target=target, log_alpha=log_alpha)
    return learner, *jax.tree.map(np.float64, (params, target))


def linear(p, x):
    return x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]


def mlp(p, x):
    for i in range(len(p)):
        x = linear(p[f"Linear_{i}"], np.maximum(x, 0) if i else x)
    return x


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def chosen(values, action):
    return np.take_along_axis(values[: len(action)], action[..., None], -1)[..., 0]


def utilities(params, batch, encoded=None):
    """PyTorch's GRU cell on [obs, last action, agent], both memories reset where episodes begin.

    Actions are one-hot unless `encoded` [T, B, N, D] says what the network is given.
    """
    p, q, encoded = params["params"], [], np.eye(A)[batch.action] if encoded is None else encoded
    gru, last = p["GRU_0"], np.zeros(encoded.shape[1:])
    h = np.zeros((B, N, len(gru["w_h"])))
    for t in range(T + 1):
        begins = batch.first[t][:, None, None]
        last, h = np.where(begins, 0, last), np.where(begins, 0, h)
        x = np.concatenate([batch.steps.obs[t], last, np.tile(np.eye(N), (B, 1, 1))], -1)
        x = np.maximum(linear(p["Linear_0"], x), 0)
        x_r, x_z, x_n = np.split(x @ gru["w_i"] + gru["b_i"], 3, -1)
        h_r, h_z, h_n = np.split(h @ gru["w_h"] + gru["b_h"], 3, -1)
        z = sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
        q.append(linear(p["Linear_1"], h))
        last = encoded[min(t, T - 1)]
    return np.stack(q)


def lambda_return(batch, value, bonus, t, b, gamma, lam):
    """(1 - l) sum_n l^(n-1) G^(n), the rest of the weight on the longest n-step soft return."""
    end = t + 1  # the last instant of this episode in the sequence
    while end < T and batch.discount[end - 1, b] and batch.mask[end, b]:
        end += 1
    total = 0
    for n in range(1, end - t + 1):
        d = batch.discount[t : t + n, b]  # all 1, but for the last of a terminal episode
        entropy = gamma * d * bonus[t + 1 : t + n + 1, b]
        n_step = (gamma ** np.arange(n) * (batch.reward[t : t + n, b] + entropy)).sum()
        n_step += gamma**n * d[-1] * value[t + n, b]
        total += lam ** (n - 1) * (1 if t + n == end else 1 - lam) * n_step
    return total


def assert_slopes(params, gradients, loss, each=4):
    """`gradients` are the slopes of loss(), which reads `params`: central differences at random entries.

    What lies behind a stop-gradient must not move with `params` in loss().
    """
    rng, eps = np.random.default_rng(1), 1e-5
    for old, gradient in zip(*map(jax.tree.leaves, (params, gradients)), strict=True):
        for i in rng.integers(old.size, size=each):
            value, ends = old.flat[i], []
            for old.flat[i] in (value + eps, value - eps):
                ends.append(loss())
            old.flat[i] = value
            slope = (ends[0] - ends[1]) / (2 * eps)
            np.testing.assert_allclose(gradient.flat[i], slope, rtol=1e-4, atol=1e-6)


def first_adam_gradients(opt_state, params, groups):
    """The clipped gradients that Adam's first step saw, from the first moments of every group."""
    moments = {}
    for group, state in opt_state.inner_states.items():
        mu = optax.tree_utils.tree_get(state, "mu")
        moments |= {k: mu[k] for k in params if groups[k] == group}
    return {k: jax.tree.map(lambda mu: np.float64(mu) / (1 - 0.9), moments[k]) for k in params}
