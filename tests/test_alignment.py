"""Alignment of (o, a, r, discount, o') and of every recurrent reset, on an environment that tells the time.

The named regressions are what users of the field ran into: JaxMARL #119 (the wrong step's done in the
recurrent reset and in the bootstrap), Mava #951 (termination mixed up with truncation), Mava #1006.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax.envs.probes import clock
from me_igm_jax.networks.agents import last_actions
from me_igm_jax.networks.gru import GRU
from me_igm_jax.ops.returns import lambda_return
from me_igm_jax.training.evaluate import evaluate
from me_igm_jax.training.pieces import finished_episodes
from me_igm_jax.training.rollout import collect_episodes, collect_stream

B, T = 5, 23


def random_act(carry, step, key):
    """Carries how many instants it has seen, so that a missed reset shows."""
    action = jax.random.bernoulli(key, 0.6, (*step.alive.shape,)).astype(int)
    return carry + 1, action


def stream(limit_is_terminal, horizon=4, fresh_starts=2):
    env = clock(horizon, limit_is_terminal)
    carry = jnp.zeros((B,), int)
    return jax.jit(
        lambda key: collect_stream(env, carry, random_act, key, B, T, fresh_starts)
    )(jax.random.key(0)), horizon  # fmt: skip


@pytest.mark.parametrize("limit_is_terminal", [True, False])
def test_stream_tuples(limit_is_terminal):
    batch, horizon = stream(limit_is_terminal)
    time = np.asarray(batch.steps.obs[..., 0, 0])  # [T+1, B]: the clock at every instant
    first, mask = np.asarray(batch.first), np.asarray(batch.mask)
    ended_by_action = np.asarray((batch.action == 1).all(-1)) & (mask == 1)
    assert first[0].all() and (time[first] == 0).all()
    assert ended_by_action.any() and (time[:T].max() == horizon) == (not limit_is_terminal)
    for t in range(T):
        for b in range(B):
            if not mask[t, b]:  # the bridge: the true final instant of a truncated episode
                assert time[t, b] == horizon and (first[t + 1, b] or t + 1 == T)
                continue
            assert batch.reward[t, b] == 10 + time[t, b]
            at_limit = time[t, b] == horizon - 1
            terminal = ended_by_action[t, b] or (at_limit and limit_is_terminal)
            assert batch.discount[t, b] == (0.0 if terminal else 1.0)
            if terminal and t + 1 < T:
                assert first[t + 1, b]
            else:
                assert time[t + 1, b] == time[t, b] + 1 and not first[t + 1, b]


def test_jaxmarl_119_no_bootstrap_across_episodes():
    """G of a terminal step is its reward; the step before an episode's start never sees its value."""
    batch, _ = stream(True)
    value = 1000.0 * batch.first  # a value that only episode starts have
    g = lambda_return(batch.reward, batch.discount, batch.mask, value, 1.0, 0.5)
    assert g.max() < 10 * 4 + 6 + 1e-3  # at most one whole episode: 10 + 11 + 12 + 13
    terminal = np.asarray(batch.discount == 0)
    np.testing.assert_array_equal(np.asarray(g)[terminal], np.asarray(batch.reward)[terminal])


def test_mava_951_truncation_bootstraps_from_the_true_final_instant():
    batch, horizon = stream(False)
    value = batch.steps.obs[..., 0, 0]  # V = the clock; only the true final instant has V = horizon
    g = lambda_return(batch.reward, batch.discount, batch.mask, value, 1.0, 0.0)
    cut = np.asarray(batch.mask[:-1] * batch.discount[:-1] * (1 - batch.mask[1:])) == 1
    assert cut.any()
    np.testing.assert_array_equal(np.asarray(g[:-1])[cut], 10 + (horizon - 1) + horizon)


def test_mava_1006_two_episodes_in_one_sequence_equal_each_alone():
    gru, key = GRU(6), jax.random.key(0)
    x = jax.random.normal(key, (7, 2, 3, 4))
    first = jnp.zeros((7, 2), bool).at[0].set(True).at[3, 0].set(True)
    zero = jnp.zeros((2, 3, 6))
    params = gru.init(key, zero, x, first)
    packed = gru.apply(params, zero, x, first)[1]
    alone = gru.apply(params, zero, x[3:], first[3:].at[0].set(True))[1]
    np.testing.assert_allclose(packed[3:, 0], alone[:, 0], rtol=1e-6)
    assert not np.allclose(packed[3:, 1], alone[:, 1])


def test_last_action_is_cut_at_the_start_of_an_episode():
    batch, _ = stream(False)
    last = np.asarray(last_actions(batch.first, batch.action, clock(4, False).spec))
    first = np.asarray(batch.first)
    assert (last[first] == -1).all()
    shifted = np.concatenate([-np.ones((1, B, 2)), np.asarray(batch.action)])
    np.testing.assert_array_equal(last[~first], shifted[~first])


def test_acting_carry_is_reset_with_the_episode():
    def act(carry, step, key):
        return carry + 1, jnp.where(carry[:, None] == step.obs[..., 0], 0, 1)

    env = clock(4, True)
    batch = collect_stream(env, jnp.zeros((B,), int), act, jax.random.key(1), B, T, 2)
    # The agent's own count of instants equals the clock at every instant, so action 1 is never taken.
    assert jnp.all(batch.action == 0)


@pytest.mark.parametrize("limit_is_terminal", [True, False])
def test_episodes_are_whole_and_padded(limit_is_terminal):
    env = clock(6, limit_is_terminal)
    batch, stats = collect_episodes(env, jnp.zeros((B,), int), random_act, jax.random.key(2), B)
    mask = np.asarray(batch.mask)
    length = mask.sum(0).astype(int)
    assert (batch.reward.shape == (6, B) and set(length) > {6}) or len(set(length)) > 1
    for b in range(B):
        assert (mask[: length[b], b] == 1).all() and (mask[length[b] :, b] == 0).all()
        np.testing.assert_array_equal(batch.steps.obs[: length[b] + 1, b, 0, 0], np.arange(length[b] + 1))
        assert stats["last"][b] == length[b] - 1
        cut = length[b] == 6 and not limit_is_terminal and not (batch.action[5, b] == 1).all()
        assert batch.discount[length[b] - 1, b] == (1.0 if cut else 0.0)
    assert (np.asarray(batch.reward)[mask == 0] == 0).all()


@pytest.mark.parametrize("limit_is_terminal", [True, False])
def test_finished_episodes_are_counted(limit_is_terminal):
    batch, _ = stream(limit_is_terminal)
    assert finished_episodes(batch) == batch.first[1:T].sum() + ended_at_the_very_end(batch)


def ended_at_the_very_end(batch):
    """Terminal in the last transition: its successor's start lies outside the sequence."""
    return ((batch.discount[-1] == 0) & (batch.mask[-1] == 1)).sum()


def test_swapping_environments_swaps_everything(batch):
    """JaxMARL #169: no B x N reshuffle anywhere."""
    gru = GRU(6)
    x, first = batch.steps.obs, batch.first
    zero = jnp.zeros((x.shape[1], x.shape[2], 6))
    params = gru.init(jax.random.key(0), zero, x, first)
    order = jnp.array([2, 0, 3, 1])
    one = gru.apply(params, zero, x, first)[1][:, order]
    two = gru.apply(params, zero, x[:, order], first[:, order])[1]
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_evaluation_counts_exactly_the_asked_episodes():
    env = clock(6, True)

    class Lazy:
        @staticmethod
        def carry(B):
            return jnp.zeros((B,))

        @staticmethod
        def greedy(learner, carry, step):
            return carry, jnp.zeros(step.alive.shape, int)

    result = evaluate(env, Lazy, None, jax.random.key(0), 7)
    assert result["return"].tolist() == [75.0] * 7 and result["length"].tolist() == [6.0] * 7
