"""Environments by name, family/name. The built-in families are listed here; using one imports its module.

A family is one file or one folder: a frozen dataclass of options, `make(name, options) -> Env` under
`@register_env`, and a drawer when there is something to see. No other file names it.
"""

from typing import Any

from ..config.registry import ENVS, env_names, family_of
from ..types import Env
from .jaxmarl_adapter import from_jaxmarl

__all__ = ["env_names", "from_jaxmarl", "make_env"]

_BUILT_IN = {
    "matrix": "matrix",
    "differential": "differential",
    "smax": "smax",
    "mpe": "mpe",
    "overcooked": "overcooked",
    "jaxmarl": "jaxmarl_registry",
    "probe": "probes",
}
for _family, _module in _BUILT_IN.items():
    ENVS.lazy(_family, f"{__name__}.{_module}")


def make_env(config: Any) -> Env:
    """The environment that `config.env` names, made with the options in `config.env_options`.

    Raises ConfigError when there is no such environment or when its options cannot work.
    """
    family, name = family_of(config.env)
    return family.make(name, config.env_options)
