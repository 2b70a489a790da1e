"""Maximum-entropy value decomposition for cooperative multi-agent reinforcement learning, in JAX.

config = load("me_qmix", env="smax/3m", **{"run.seeds": 4})
result = run(config)                                    # all seeds in one program, a run directory

train = make_train(config)                              # or: one traceable function of your own
state, metrics = jax.jit(jax.vmap(train, (0, None)))(keys, config.hypers)
"""

import importlib

from .config import Config, ConfigError, Hypers
from .presets import load, sweep

__version__ = "0.1.0"
__all__ = [
    "Config", "ConfigError", "Hypers", "evaluate_run", "load", "load_run", "make_program",
    "make_train", "plot", "run", "sweep",
]  # fmt: skip

# Loaded on first use, so that importing the package imports no checkpointing and no plotting.
_LAZY = {
    "make_program": "train", "make_train": "train", "run": "experiment", "plot": "plots",
    "load_run": "play", "evaluate_run": "play",
}  # fmt: skip


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
