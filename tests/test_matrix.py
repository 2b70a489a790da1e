"""Matrix games: one-shot as the reference plays them, repeated, and for many players from YAML."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax import ConfigError, load, make_env, run


def play(env, actions):
    """What `env` shows and gives for joint actions [T, N] from its start."""

    def step(state, action):
        after, outcome = env.step(jax.random.key(0), state, action)
        return after, (env.observe(after), outcome)

    start = env.reset(jax.random.key(0))
    return env.observe(start), *jax.lax.scan(step, start, jnp.asarray(actions))[1]


def test_one_shot_games_show_a_one_hot_step():
    env = make_env(load("qmix", env="matrix/qtran"))
    first, seen, outcome = play(env, [[0, 0]])
    assert first.obs.tolist() == [[1, 0]] * 2 and first.state.tolist() == [1, 0]
    assert seen.obs[0].tolist() == [[0, 1]] * 2 and seen.state.tolist() == [[0, 1]]
    assert outcome.reward.tolist() == [8] and outcome.terminal.tolist() == [True]
    assert env.spec.one_shot and env.spec.max_return == 8


def test_repeated_games():
    env = make_env(load("qmix", env="matrix/climbing", **{"env_options.steps": 3}))
    spec = env.spec
    assert (spec.horizon, spec.max_return, spec.obs_shape, spec.state_dim) == (3, 33.0, (4,), 4)
    assert spec.limit_is_terminal and spec.one_start and not spec.one_step and not spec.one_shot
    first, seen, outcome = play(env, [[0, 0], [1, 0], [2, 2]])
    instants = np.concatenate([first.state[None], seen.state])
    np.testing.assert_array_equal(instants, np.eye(4))
    np.testing.assert_array_equal(seen.obs, np.stack([instants[1:]] * 2, axis=1))
    assert outcome.reward.tolist() == [11, -30, 5] and outcome.terminal.tolist() == [False, False, True]
    assert not outcome.truncated.any()
    with pytest.raises(ConfigError, match=r"env_options.steps=0: must be at least 1"):
        load("qmix", env="matrix/climbing", **{"env_options.steps": 0})


def test_three_players_from_yaml_find_the_optimum(tmp_path):
    """A repeated game written in a preset, through to the run's summary."""
    (tmp_path / "trio.yaml").write_text(
        "default: {algo: {mixer: vdn}, collect: {envs: 8, episodes_per_update: 8}, hypers: {gamma: 0.5}}\n"
        "matrix/custom:\n"
        "  env_options: {steps: 2, payoff: [[[0, 1], [1, 2]], [[1, 2], [2, 3.1]]]}\n"
        "  net: {hidden: 16, recurrent: false, last_action: false}\n"
        "  replay: {capacity: 512, batch: 32}\n"
        "  run: {total_steps: 6000, evals: 1, eval_episodes: 1, final_eval_episodes: 1, progress: false}\n"
        "  hypers: {lr: 5e-3, eps_end: 1.0, td_lambda: 0}\n"
    )
    preset, directory = str(tmp_path / "trio.yaml"), str(tmp_path / "run")
    config = load(preset, env="matrix/custom", **{"run.dir": directory})
    spec = make_env(config).spec
    assert (spec.n_agents, spec.n_actions, spec.horizon) == (3, 2, 2)
    assert spec.max_return == pytest.approx(6.2)
    point = run(config).summary["points"][0]
    assert point["return"]["mean"] == pytest.approx(6.2) and point["optimal_rate"] == 1.0
    q = np.array(point["q_table"])  # [2, 2, 2] at the first step: payoff + gamma * the best payoff
    payoff = np.array(config.env_options.payoff)
    np.testing.assert_allclose(q, payoff + 0.5 * payoff.max(), atol=0.2)


def test_a_payoff_from_the_command_line():
    config = load("qmix", env="matrix/custom", **{"env_options.payoff": "[[1, 2], [3, 4.5]]"})
    assert config.env_options.payoff == ((1, 2), (3, 4.5))
    assert play(make_env(config), [[1, 1]])[2].reward.tolist() == [4.5]


@pytest.mark.parametrize("payoff, message", [
    (None, "payoff=None: matrix/custom needs a payoff tensor"),
    ("[[1, 2], [3]]", "payoff: must be numbers in a regular tensor"),
    ("[[1, a], [3, 4]]", "payoff: must be numbers in a regular tensor"),
    ("[[1, 2, 3], [3, 4, 5]]", r"payoff: shape \(2, 3\); needs one axis per player"),
    ("[]", r"payoff: shape \(0,\); needs one axis"),
    ("[[1, .inf], [3, 4]]", "payoff: must be finite numbers"),
])  # fmt: skip
def test_payoffs_that_are_none(payoff, message):
    with pytest.raises(ConfigError, match=f"env_options.{message}"):
        load("qmix", env="matrix/custom", **{"env_options.payoff": payoff})


def test_a_named_game_reads_no_payoff():
    with pytest.raises(ConfigError, match=r"env_options\.payoff"):
        load("qmix", env="matrix/qtran", **{"env_options.payoff": [[1, 2], [3, 4]]})
