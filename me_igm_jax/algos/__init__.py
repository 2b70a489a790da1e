"""Algorithms as tuples of pure functions. One file and one line here per learner."""

from ..config import Config, ConfigError
from ..types import Algorithm, EnvSpec
from .value import make_value


def make_algorithm(config: Config, spec: EnvSpec) -> Algorithm:
    """The algorithm that `config` describes, for environments of shape `spec`."""
    if spec.continuous:
        raise ConfigError(f"env '{spec.name}': its actions are continuous, {config.preset}'s are not")
    return make_value(config, spec)
