"""Settings: what a user can set, where it comes from, and how parts are known by name."""

from .errors import ConfigError, nearest
from .hypers import CriticRate, Epsilon, Gamma, Hypers, LearningRate, TargetRate, TdLambda, Temperature
from .options import hypers, option
from .presets import from_dict, load, override, preset_names, sweep, to_dict
from .registry import (
    register_agent,
    register_env,
    register_learner,
    register_mixer,
    register_transform,
)
from .sections import Collect, Net, Replay, Run
from .settings import Config

__all__ = [
    "Collect", "Config", "ConfigError", "CriticRate", "Epsilon", "Gamma", "Hypers", "LearningRate", "Net",
    "Replay", "Run", "TargetRate", "TdLambda", "Temperature", "from_dict", "hypers", "load", "nearest",
    "option", "override", "preset_names", "register_agent", "register_env", "register_learner",
    "register_mixer", "register_transform", "sweep", "to_dict",
]  # fmt: skip
