"""Independent NumPy oracles in float64: the batch, networks, mixers and returns that several tests share.

They follow the papers' equations, not our code, of which they share only the names of the parameters
and the draw of random actions.
"""

from operator import itemgetter

import distrax
import jax
import numpy as np

from me_igm_jax.ops.policies import sample
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


def linear(p, x):
    return x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]


def mlp(p, x):
    for i in range(len(p)):
        x = linear(p[f"Linear_{i}"], np.maximum(x, 0) if i else x)
    return x


def member(params, k):
    """The k-th of networks whose parameters are stacked."""
    return jax.tree.map(itemgetter(k), params)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log(pi):
    """Of probabilities, 0 where they are: what is never done weighs nothing."""
    return np.log(np.where(pi > 0, pi, 1))


def entropy(pi):
    return -(pi * log(pi)).sum(-1)


def chosen(values, action):
    return np.take_along_axis(values[: len(action)], action[..., None], -1)[..., 0]


def huber(error, delta):
    return np.where(np.abs(error) < delta, error**2 / 2, delta * (np.abs(error) - delta / 2))


# -- agents ---------------------------------------------------------------------------------------


def gru(p, x, first):
    """PyTorch's cell over x [T+1, B, ..., H], its memory reset where episodes begin."""
    h, out = np.zeros((*x.shape[1:-1], len(p["w_h"]))), []
    for x_t, begins in zip(x, first, strict=True):
        h = np.where(begins.reshape(B, *[1] * (x_t.ndim - 1)), 0, h)
        x_r, x_z, x_n = np.split(x_t @ p["w_i"] + p["b_i"], 3, -1)
        h_r, h_z, h_n = np.split(h @ p["w_h"] + p["b_h"], 3, -1)
        z = sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
        out.append(h)
    return np.stack(out)


def unroll(params, x, first):
    """Linear - ReLU - a GRU, where there is one - Linear on x [T+1, B, ..., D]."""
    p = params["params"]
    x = np.maximum(linear(p["Linear_0"], x), 0)
    return linear(p["Linear_1"], gru(p["GRU_0"], x, first) if "GRU_0" in p else x)


def agent_inputs(batch, encoded=None):
    """[obs, last action of this episode, agent], [T+1, B, N, D].

    Actions are one-hot unless `encoded` [T, B, N, D] says what the network is given.
    """
    encoded = np.eye(A)[batch.action] if encoded is None else encoded
    last = np.concatenate([np.zeros((1, *encoded.shape[1:])), encoded])
    last = np.where(batch.first[..., None, None], 0, last)
    agent = np.broadcast_to(np.eye(N), (T + 1, B, N, N))
    return np.concatenate([batch.steps.obs, last, agent], -1)


def utilities(params, batch, encoded=None):
    """The agents' network on their inputs."""
    return unroll(params, agent_inputs(batch, encoded), batch.first)


def policy(params, batch):
    """softmax over the available actions, [T+1, B, N, A]."""
    return softmax(np.where(batch.steps.avail, utilities(params, batch), -np.inf))


# -- mixers and transformations: of values q [t, B, N] and the state [t, B, G] ----------------------


def qmix(p, q, state):
    w1 = np.abs(mlp(p["MLP_0"], state)).reshape(*q.shape, -1)
    hidden = elu(np.einsum("tbn,tbne->tbe", q, w1) + linear(p["Linear_0"], state))
    return (hidden * np.abs(mlp(p["MLP_1"], state))).sum(-1) + mlp(p["MLP_2"], state)[..., 0]


def central_mixer(p, q, state):
    """Weighted QMIX's unrestricted one: feed-forward, and a state value."""
    return (mlp(p["MLP_0"], np.concatenate([q, state], -1)) + mlp(p["MLP_1"], state))[..., 0]


def linear_weights(p, state):
    """DOP's k_i(s) >= 0, [t, B, N]."""
    first, second = np.abs(linear(p["Linear_0"], state)), np.abs(linear(p["Linear_1"], state))
    return np.einsum("tbne,tbe->tbn", first.reshape(*state.shape[:-1], N, -1), second)


def similarities(queries, keys, heads, state):
    """Qatten's attention logits of the agents, head by head."""
    keys = linear(keys, state).reshape(*state.shape[:-1], heads, N, -1)
    for k in range(heads):
        query = mlp(member(queries, k), state)
        yield np.einsum("tbe,tbne->tbn", query, keys[..., k, :, :]) / np.sqrt(query.shape[-1])


def qplex_weights(p, heads, state, action):
    """QPLEX's lambda_i(s, u) > 0 of encoded joint actions [t, B, N, D]."""
    joint = np.concatenate([state, action.reshape(*state.shape[:-1], -1)], -1)
    total = 0
    for k in range(heads):
        key, agent, act = (member(p[f"VmapMLP_{i}"], k) for i in range(3))
        total += (np.abs(mlp(key, state)) + 1e-10) * sigmoid(mlp(agent, state)) * sigmoid(mlp(act, joint))
    return total


def opt(params, q, state, layers):
    """ME-IGM's order-preserving transformation, Eq. 2, with weights made non-negative: q [t, B, N, A]."""
    p, shape = params["params"], (*state.shape[:-1], N, 1, -1)
    if layers == 1:
        return np.abs(mlp(p["MLP_0"], state))[..., None] * q + mlp(p["MLP_1"], state)[..., None]
    w1, w2 = (np.abs(mlp(p[k], state)).reshape(shape) for k in ("MLP_0", "MLP_1"))
    b1 = linear(p["Linear_0"], state).reshape(shape)
    return (w2 * elu(w1 * q[..., None] + b1)).sum(-1) + mlp(p["MLP_2"], state)[..., None]


# -- returns --------------------------------------------------------------------------------------


def lambda_return(batch, value, bonus, t, b, gamma, lam):
    """(1 - l) sum_n l^(n-1) G^(n), the rest of the weight on the longest n-step soft return."""
    end = t + 1  # the last instant of this episode in the sequence
    while end < T and batch.discount[end - 1, b] and batch.mask[end, b]:
        end += 1
    total = 0
    for n in range(1, end - t + 1):
        d = batch.discount[t : t + n, b]  # all 1, but for the last of a terminal episode
        soft = batch.reward[t : t + n, b] + gamma * d * bonus[t + 1 : t + n + 1, b]
        n_step = (gamma ** np.arange(n) * soft).sum()
        n_step += gamma**n * d[-1] * value[t + n, b]
        total += lam ** (n - 1) * (1 if t + n == end else 1 - lam) * n_step
    return total


def lambda_returns(batch, value, bonus, hypers):
    """`lambda_return` wherever there is something real, [T, B]."""
    g = np.zeros((T, B))
    for t, b in np.argwhere(batch.mask):
        g[t, b] = lambda_return(batch, value, bonus, t, b, hypers.gamma, hypers.td_lambda)
    return g


def masked_means(batch, **values):
    """The averages over all real transitions."""
    return {name: np.average(x, weights=batch.mask) for name, x in values.items()}
