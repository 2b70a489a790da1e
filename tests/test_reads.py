"""What a preset offers is what its program reads: no hyperparameter is offered and then ignored."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from conftest import SPEC, TINY, readable
from me_igm_jax import EnvSpec, load, make_program
from me_igm_jax.algos import make_algorithm
from me_igm_jax.config.presets import preset_names, readable_hypers
from me_igm_jax.types import Batch, TimeStep

CONTINUOUS = {"maddpg", "facmaddpg", "maac"}
LOOP = {"reward_scale", "shaping", "shaping_steps"}  # the training loop's
BOX = SPEC._replace(n_actions=0, action_dim=2, action_bounds=(-1.0, 1.0))


def shapes(spec: EnvSpec, T=5, B=4) -> Batch:
    def like(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    N, columns = spec.n_agents, spec.n_actions or 1
    steps = TimeStep(
        obs=like(T + 1, B, N, *spec.obs_shape),
        state=like(T + 1, B, spec.state_dim),
        avail=like(T + 1, B, N, columns, dtype=bool),
        alive=like(T + 1, B, N, dtype=bool),
    )
    act = like(T, B, N, spec.action_dim) if spec.continuous else like(T, B, N, dtype=jnp.int32)
    outcome = {name: like(T, B) for name in ("reward", "discount", "mask")}
    return Batch(steps=steps, first=like(T + 1, B, dtype=bool), action=act, **outcome)


def read_by(f, hypers, *rest) -> set[str]:
    """The hyperparameters that f(hypers, *rest) needs for any of its results."""
    jaxpr = jax.make_jaxpr(f)(hypers, *rest).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    names = [field.name for field in fields(hypers)]
    return {name for name, is_used in zip(names, used, strict=False) if is_used}


def small(preset, env):
    more = {"collect.envs": 2, "collect.episodes_per_update": 2} if preset.startswith("dop") else {}
    return load(preset, env=env, **readable(TINY, preset, env, **more), **more)


@pytest.mark.parametrize("preset", preset_names())
def test_every_hyperparameter_that_is_offered_is_read(preset):
    continuous = preset in CONTINUOUS
    config = small(preset, "differential/mtq" if continuous else "probe/clock")
    spec = BOX if continuous else SPEC
    algo, batch, key = make_algorithm(config, spec), shapes(spec), jax.random.key(0)
    learner = jax.eval_shape(algo.init, key, config.hypers)
    now = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch.steps)
    carry = jax.eval_shape(lambda: algo.carry(4))

    def act(hypers, learner, carry, step):
        return algo.act(learner, carry, step, key, 50.0, hypers)

    def update(hypers, learner, batch):
        return algo.update(learner, batch, key, 50.0, hypers)

    read = read_by(lambda hypers: algo.init(key, hypers), config.hypers)
    read |= read_by(act, config.hypers, learner, carry, now)
    read |= read_by(update, config.hypers, learner, batch)
    if algo.refresh_target is not None:
        read |= read_by(lambda h, x: algo.refresh_target(x, jnp.asarray(True), h), config.hypers, learner)
    offered = set(readable_hypers(config)) - LOOP
    assert offered == read - LOOP, f"ignored: {offered - read}; hidden: {read - offered}"


@pytest.mark.parametrize("env, shaped", [("overcooked/cramped_room", True), ("probe/clock", False)])
def test_shaping_is_offered_when_the_environment_shapes(env, shaped):
    config = load("qmix", env=env, **{"net.hidden": 8, "net.layers": 1})
    program = make_program(config)
    learner = jax.eval_shape(program.algo.init, jax.random.key(0), config.hypers)

    def collect(hypers, learner):
        return program.collect(learner, jax.random.key(0), jnp.zeros(()), hypers)

    read = read_by(collect, config.hypers, learner) & LOOP
    assert read == (LOOP if shaped else {"reward_scale"})
    assert read == set(readable_hypers(config)) & LOOP
