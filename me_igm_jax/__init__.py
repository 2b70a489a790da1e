"""Maximum-entropy value decomposition for cooperative multi-agent reinforcement learning, in JAX.

config = load("me_qmix", env="smax/3m", **{"run.seeds": 4})
result = run(config)                                    # all seeds in one program, a run directory

train = make_train(config)                              # or: one traceable function of your own
state, metrics = jax.jit(jax.vmap(train, (0, None)))(keys, config.hypers)

Parts from outside: register_env, register_learner, register_mixer, register_agent,
register_transform, or objects: run(config, env=..., algo=...). See docs/extending.md.
"""

import importlib

from . import algos, envs, networks  # the names of the built-in parts  # noqa: F401
from .config import (
    Config,
    ConfigError,
    CriticRate,
    Epsilon,
    Gamma,
    Hypers,
    LearningRate,
    TargetRate,
    TdLambda,
    Temperature,
    hypers,
    load,
    option,
    override,
    register_agent,
    register_env,
    register_learner,
    register_mixer,
    register_transform,
    sweep,
)
from .types import (
    Algorithm,
    Batch,
    Env,
    EnvSpec,
    Frame,
    Inspection,
    Learner,
    Metrics,
    Outcome,
    TimeStep,
)

__version__ = "0.2.0"

# Loaded on first use, so that importing the package imports no checkpointing and no plotting.
_LAZY = {
    "evaluate_run": "runner.loading",
    "from_jaxmarl": "envs",
    "load_run": "runner.loading",
    "make_env": "envs",
    "make_program": "training.train",
    "make_train": "training.train",
    "plot": "report.plots",
    "run": "runner.experiment",
}

__all__ = [
    "Algorithm", "Batch", "Config", "ConfigError", "CriticRate", "Env", "EnvSpec", "Epsilon", "Frame",
    "Gamma", "Hypers", "Inspection", "Learner", "LearningRate", "Metrics", "Outcome", "TargetRate",
    "TdLambda", "Temperature", "TimeStep", "evaluate_run", "from_jaxmarl", "hypers", "load", "load_run",
    "make_env", "make_program", "make_train", "option", "override", "plot", "register_agent",
    "register_env", "register_learner", "register_mixer", "register_transform", "run", "sweep",
]  # fmt: skip


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
