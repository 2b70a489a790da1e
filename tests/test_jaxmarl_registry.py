"""The environments of JaxMARL: equal to the originals, with exact limits and ends; others are refused."""

from functools import cache

import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import pytest
from jaxmarl.environments.mpe.simple_spread import SimpleSpreadMPE
from jaxmarl.wrappers.baselines import LogWrapper

from me_igm_jax import ConfigError, from_jaxmarl, load, make_env, make_train
from me_igm_jax.envs import jaxmarl_registry as registry

FAST = {"MPE_simple_spread_v3", "MPE_simple_speaker_listener_v4", "switch_riddle", "hanabi"}
EVERY = [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in registry.names()]


@cache
def environment(name, **options):
    return make_env(load("vdn", env=f"jaxmarl/{name}", **options))


def preferring(step, liking, key):
    """The available actions [N] that are liked most; chance decides between equals."""
    noise = jax.random.uniform(key, step.avail.shape)
    return jnp.argmax(jnp.where(step.avail, liking + noise, -1.0), axis=-1)


@cache
def player(name):
    """play(keys [B], liking [A]) -> first instants, what was seen, outcomes [B, T] of whole horizons, and
    how far they are from JaxMARL's own step_env until its first `done`."""
    env, facts = environment(name), registry.FACTS[name]
    game = jaxmarl.make(name, **facts.arguments)

    def gap(obs, seen):
        pairs = zip(game.agents, seen.obs, strict=True)
        return jnp.stack([jnp.abs(obs[a].ravel() - x.ravel()[: obs[a].size]).max() for a, x in pairs]).max()

    def play(key, liking):
        reset_key, key = jax.random.split(key)
        obs, theirs = game.reset(reset_key)
        ours = env.reset(reset_key)
        start = gap(obs, env.observe(ours))

        def step(carry, key):
            theirs, ours, running = carry
            act_key, key = jax.random.split(key)
            action = preferring(env.observe(ours), liking, act_key)
            moves = {agent: action[i] for i, agent in enumerate(game.agents)}
            obs, theirs, reward, done, _ = game.step_env(key, theirs, moves)
            ours, outcome = env.step(key, ours, action)
            seen = env.observe(ours)
            shared = sum(reward[a] for a in game.agents) / len(game.agents)
            end = outcome.terminal | outcome.truncated
            wrong = jnp.stack([start, gap(obs, seen), abs(shared - outcome.reward), done["__all__"] != end])
            after = (theirs, ours, running & ~done["__all__"])
            return after, (seen, outcome, jnp.where(running, wrong, 0.0), running)

        keys = jax.random.split(key, env.spec.horizon)
        return env.observe(ours), *jax.lax.scan(step, (theirs, ours, jnp.asarray(True)), keys)[1]

    return jax.jit(jax.vmap(play, (0, None)))


def play(name, liking=None):
    liking = jnp.zeros(environment(name).spec.n_actions) if liking is None else liking
    return player(name)(jax.random.split(jax.random.key(0), 8), liking)


def test_every_registered_id_is_offered_or_refused():
    offered, refused = set(registry.names()), set(registry.UNFIT)
    assert offered | refused == set(jaxmarl.registered_envs) and not offered & refused


def test_refusals_say_why():
    for name in registry.UNFIT:
        with pytest.raises(ConfigError) as error:
            make_env(load("vdn", env=f"jaxmarl/{name}"))
        message = str(error.value)
        assert message.startswith(f"env 'jaxmarl/{name}': not possible here: it") and "\n" not in message


@pytest.mark.parametrize("name", EVERY)
def test_episodes_equal_jaxmarls(name):
    """Observations, rewards and ends of random play, up to the end that both must reach."""
    spec = environment(name).spec
    first, seen, outcome, wrong, running = play(name)
    assert np.asarray(wrong).max() < 1e-5
    last = running & ~np.append(running[:, 1:], np.zeros((8, 1), bool), axis=1)
    assert (outcome.terminal ^ outcome.truncated)[last].all() and last.sum() == 8
    for step, lead in ((first, (8,)), (seen, (8, spec.horizon))):
        assert step.obs.shape == (*lead, spec.n_agents, *spec.obs_shape) and step.obs.dtype == jnp.float32
        assert step.state.shape == (*lead, spec.state_dim) and step.state.dtype == jnp.float32
        assert step.avail.shape == (*lead, spec.n_agents, spec.n_actions)
        assert step.alive.shape == (*lead, spec.n_agents)
        assert all(jnp.isfinite(x).all() for x in (step.obs, step.state))
    assert first.avail.any(-1).all() and seen.avail.any(-1)[running].all() and spec.n_actions <= 255


def test_longest_hanabi_game():
    """Hint while possible, then discard, never play: 89 moves, each by one player, the other waiting."""
    first, seen, outcome, *_ = play("hanabi", jnp.array([2.0] * 5 + [0.0] * 5 + [4.0] * 11))
    assert outcome.terminal.sum() == 8 and outcome.terminal[:, -1].all() and not outcome.truncated.any()
    assert not outcome.reward.any() and seen.obs.shape[1] == 89
    waiting = jnp.zeros(21, bool).at[-1].set(True)
    for avail in (first.avail, seen.avail):
        assert ((avail == waiting).all(-1).sum(-1) == 1).all()


def test_ends_by_rule_and_by_limit():
    """The riddle's last day is a rule; a limit of ours is not, and an answer on its day still ends."""
    silent, loud = jnp.array([2.0, 2.0, 0.0]), jnp.array([0.0, 0.0, 2.0])
    outcome = play("switch_riddle", silent)[2]
    assert outcome.terminal.sum(1).tolist() == [1] * 8 and outcome.terminal[:, 5].all()
    assert environment("switch_riddle").spec.limit_is_terminal

    env = environment("switch_riddle", **{"env_options.max_steps": 1})
    assert env.spec.horizon == 1 and not env.spec.limit_is_terminal
    for liking, terminal in ((silent, False), (loud, True)):
        state = env.reset(jax.random.key(0))
        action = preferring(env.observe(state), liking, jax.random.key(1))
        _, outcome = env.step(jax.random.key(2), state, action)
        assert outcome.terminal == terminal and outcome.truncated == (not terminal)


def test_sizes_are_padded():
    first = play("MPE_simple_speaker_listener_v4")[0]
    assert first.avail[0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert first.obs.shape == (8, 2, 11) and not first.obs[:, 0, 3:].any() and first.state.shape == (8, 22)


# -- objects --------------------------------------------------------------------------------------


OBJECTS = {
    "MPE_simple_spread_v3": {"limit": 26},
    "switch_riddle": {"limit_is_terminal": True, "max_return": 1.0},
    "hanabi": {"limit": 89, "limit_is_terminal": True, "max_return": 25.0},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_gives_the_steps_of_its_name(name):
    game = jaxmarl.make(name)
    before = dict(vars(game))
    named, ours = environment(name), from_jaxmarl(game, name=f"jaxmarl/{name}", **OBJECTS[name])
    assert ours.spec == named.spec
    assert {k: v for k, v in vars(game).items() if v is not before[k]} == {}  # it is not changed

    def play(env, key):
        def step(state, key):
            act_key, key = jax.random.split(key)
            seen = env.observe(state)
            action = preferring(seen, jnp.zeros(env.spec.n_actions), act_key)
            state, outcome = env.step(key, state, action)
            return state, (seen, action, outcome)

        return jax.lax.scan(step, env.reset(key), jax.random.split(key, env.spec.horizon))[1]

    keys = jax.random.split(jax.random.key(0), 4)
    a, b = (jax.jit(jax.vmap(lambda key, env=env: play(env, key)))(keys) for env in (named, ours))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_the_horizon_of_an_object_is_its_max_steps():
    game = jaxmarl.make("MPE_simple_spread_v3", max_steps=7, num_agents=2)
    env = from_jaxmarl(game)
    assert env.spec.name == "SimpleSpreadMPE" and env.spec.n_agents == 2
    assert env.spec.horizon == 7 and not env.spec.limit_is_terminal

    def step(state, key):
        return env.step(key, state, jnp.zeros(2, int))

    keys = jax.random.split(jax.random.key(0), 7)
    _, outcome = jax.jit(lambda keys: jax.lax.scan(step, env.reset(keys[0]), keys))(keys)
    assert outcome.truncated.tolist() == [False] * 6 + [True] and not outcome.terminal.any()
    assert outcome.shaping is None


def test_the_inner_limit_of_a_wrapped_game_moves_too():
    """HeuristicEnemySMAX keeps its limit in the game that it wraps."""
    game = jaxmarl.make("HeuristicEnemySMAX")
    env = from_jaxmarl(game, limit=150)
    assert env.spec.horizon == 150 and game.max_steps == 100
    assert env.observe(env.reset(jax.random.key(0))).avail[0].tolist() != [True] * env.spec.n_actions


class NoReward(SimpleSpreadMPE):
    def rewards(self, state):
        return {"agent_0": jnp.zeros(())}


@pytest.mark.parametrize("make_game, options, message", [
    (lambda: jaxmarl.make("MPE_simple_tag_v3"), {}, "SimpleTagMPE.: its agents are rivals"),
    (lambda: jaxmarl.make("SMAX"), {}, "SMAX.: its agents are rivals"),
    (lambda: jaxmarl.make("storm"), {}, "InTheGrid.: its agents are rivals"),
    (lambda: jaxmarl.make("MPE_simple_spread_v3", action_type="Continuous"), {},
     "actions of agent_0 are Box, only Discrete works"),
    (NoReward, {}, "it gives no reward to each agent"),
    (lambda: jaxmarl.make("coin_game"), {}, "limit=None: give the steps of its longest episode"),
    (lambda: jaxmarl.make("switch_riddle"), {"limit": 0}, "limit=0: give the steps"),
    (lambda: LogWrapper(jaxmarl.make("switch_riddle")), {}, "hand in the environment itself"),
])  # fmt: skip
def test_objects_that_are_no_team(make_game, options, message):
    with pytest.raises(ConfigError, match=f"from_jaxmarl.*{message}") as error:
        from_jaxmarl(make_game(), **options)
    assert "\n" not in str(error.value)


def test_a_limit_is_positive():
    with pytest.raises(ConfigError, match=r"env_options.max_steps=0: must be at least 1"):
        load("vdn", env="jaxmarl/hanabi", **{"env_options.max_steps": 0})


def test_training_runs():
    config = load("vdn", env="jaxmarl/switch_riddle", **{
        "run.total_steps": 600, "run.evals": 1, "run.eval_episodes": 4, "net.hidden": 8, "replay.batch": 8,
        "replay.capacity": 64,
    })  # fmt: skip
    state, metrics = jax.jit(make_train(config))(jax.random.key(0), config.hypers)
    assert metrics["updates"][-1] > 5 and -1 <= metrics["return"][-1] <= 1
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.learner.params))
