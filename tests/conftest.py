"""Shared settings and small random batches."""

import os
from functools import cache
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What tests compile they hardly run: a fifth of the compile time (docs/notes/compilation.md,
# "Without fusion emitters"). XLA dies of flags that it does not know, so the second is for one release.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0" + (
    " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)

import jax
import jax.numpy as jnp
import pytest

from me_igm_jax.algos import make_algorithm
from me_igm_jax.config import load
from me_igm_jax.config.options import is_read, section_fields
from me_igm_jax.runner.devices import compiler_options
from me_igm_jax.types import Batch, EnvSpec, TimeStep

jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/me_igm_jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Each file compiles its own programs; kept for ever, a process would grow to gigabytes."""
    yield
    jax.clear_caches()


def as_users_compile() -> dict[str, str | bool]:
    """Compiler options for tests of what holds to the last bit: the driver's, and the emitters."""
    emitters = "--xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]
    return (compiler_options() or {}) | ({"xla_cpu_use_fusion_emitters": True} if emitters else {})


SPEC = EnvSpec("test", 3, 4, (5,), 6, horizon=5, limit_is_terminal=False)
TINY = {"net.hidden": 8, "algo.hyper_embed": 8, "algo.mixing_embed": 4, "algo.central_embed": 8,
        "algo.critic_hidden": 8}  # fmt: skip


def readable(settings: dict, preset: str, env: str = "probe/clock", **overrides) -> dict:
    """Those of the dotted `settings` that a run of this preset, with these overrides, reads."""
    config = load(preset, env=env, **overrides)
    keys = {
        f"{section}.{field.name}" for section, _, field in section_fields(config) if is_read(config, field)
    }
    return {key: value for key, value in settings.items() if key in keys}


def random_batch(key, spec: EnvSpec = SPEC, T: int = 5, B: int = 4) -> Batch:
    """Dead agents, unavailable actions, a terminal in the middle and padding at the end."""
    keys = jax.random.split(key, 6)
    n, a = spec.n_agents, spec.n_actions
    alive = jax.random.bernoulli(keys[0], 0.8, (T + 1, B, n))
    avail = jax.random.bernoulli(keys[1], 0.6, (T + 1, B, n, a)) & alive[..., None]
    avail = avail.at[..., 0].set(True)  # the no-op, all that the dead can do
    obs = jax.random.normal(keys[2], (T + 1, B, n, *spec.obs_shape)) * alive[..., None]
    state = jax.random.normal(keys[3], (T + 1, B, spec.state_dim))
    action = jax.random.categorical(keys[4], jnp.where(avail[:T], 0.0, -1e9))
    reward = jax.random.normal(keys[5], (T, B))
    mask = jnp.ones((T, B)).at[3:, 0].set(0.0)
    discount = jnp.ones((T, B)).at[1, 1].set(0.0).at[2, 0].set(0.0)
    first = jnp.zeros((T + 1, B), bool).at[0].set(True).at[2, 1].set(True)
    return Batch(TimeStep(obs, state, avail, alive), first, action, reward, discount, mask)


@pytest.fixture
def batch():
    return random_batch(jax.random.key(7))


@cache
def tiny(preset: str, env: str = "probe/clock", **overrides):
    """A small configuration of `preset` and its algorithm for SPEC, compiled; made once."""
    if preset.startswith("dop"):  # of a batch of 4 sequences the first half is fresh
        overrides = {"collect.envs": 2, "collect.episodes_per_update": 2} | overrides
    config = load(preset, env=env, **(readable(TINY, preset, env, **overrides) | overrides))
    algo = make_algorithm(config, SPEC)
    pure = ("init", "act", "greedy", "update", "inspect")
    return config, algo._replace(**{name: jax.jit(getattr(algo, name)) for name in pure})
