"""What the tests of FOP share: its factorised joint value and its temperatures, in NumPy and float64."""

import numpy as np

from oracle import N, linear, linear_weights, member, mlp, qplex_weights, softmax


def attention_logits(p, heads, state):
    """query_h(s) . key_hi(s), head by head, [t, B, N]; only the queries' hidden layers have biases."""
    keys = (state @ p["Linear_0"]["Dense_0"]["kernel"]).reshape(*state.shape[:-1], heads, N, -1)
    assert "bias" not in p["Linear_0"]["Dense_0"] and "bias" not in p["VmapLinear_0"]["Dense_0"]
    for k in range(heads):
        hidden = np.maximum(linear(member(p["VmapMLP_3"]["Linear_0"], k), state), 0)
        query = hidden @ p["VmapLinear_0"]["Dense_0"]["kernel"][k]
        yield np.einsum("tbe,tbne->tbn", query, keys[..., k, :, :])


def fop_mixer(options, params, q, v, action, state, advantage=None):
    """Q_jt, lambda, the attention logits' penalty and the advantage that no gradient passes.

    Actions [t, B, N, D] are one-hot, or in [-1, 1]; `advantage` replaces what lies behind a stop-gradient.
    """
    p = params["params"]
    value = mlp(p["MLP_0"], state)[..., 0]
    if options.form == "linear":
        k = linear_weights(p, state)
        return (k * q).sum(-1) + value, k, 0, None
    lam = qplex_weights(p, options.heads, state, action)
    if options.form == "paper":
        return (lam * (q - v)).sum(-1) + value, lam, 0, None
    w, penalty = 1, 0
    if options.attention:
        w = 1e-10
        for logits in attention_logits(p, options.heads, state):
            penalty = penalty + (logits**2).mean(-1)
            w = w + softmax(logits / np.sqrt(options.mixing_embed))
    advantage = w * (q - v) if advantage is None else advantage
    return (w * q).sum(-1) + value + ((lam - 1) * advantage).sum(-1), lam, penalty, advantage


def clipped_ratio(above, below):
    """Of an agent's temperature to alpha."""
    return np.clip(above / below, 0.1, 10) if above * below > 0 else 1
