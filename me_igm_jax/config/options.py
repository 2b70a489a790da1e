"""Fields of options and hyperparameters: a default, a help text, a range, and when a run reads them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from .errors import ConfigError
from .registry import Registry

SECTIONS = ("algo", "hypers", "net", "collect", "replay", "run", "env_options")
"""The parts of a Config that hold fields."""


def option(
    default: Any,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    when: Callable[[Any], bool] | None = None,
    registry: Registry | None = None,
) -> Any:
    """A dataclass field that a user can set.

    low, high   the smallest and the largest value, both allowed
    above       a bound that is not allowed itself
    when        config -> bool: a run reads the field only then; else it is hidden and refused
    registry    the value is a name in it, or an import path "package.module:Name"
    """
    facts = {"help": help, "low": low, "high": high, "above": above, "when": when, "registry": registry}
    return dataclasses.field(default=default, metadata=facts)


def hypers(cls: type) -> type:
    """Class decorator: a frozen dataclass of floats that is a pytree, so that a program can trace it.

    Any of its fields can be swept inside one program.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def section_fields(config: Any) -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """(section name, its options object, field) of every field of every section of a Config."""
    for section in SECTIONS:
        options = getattr(config, section)
        if dataclasses.is_dataclass(options):
            for field in dataclasses.fields(options):
                yield section, options, field


def is_read(config: Any, field: dataclasses.Field) -> bool:
    """A run with these settings reads the field."""
    when = field.metadata.get("when")
    return when is None or bool(when(config))


def check_range(key: str, value: Any, field: dataclasses.Field) -> None:
    """Raise ConfigError when a number lies outside the range that stands at its field."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high, above = (field.metadata.get(name) for name in ("low", "high", "above"))
    if low is not None and high is not None and not low <= value <= high:
        raise ConfigError(f"{key}={value}: must lie in [{low:g}, {high:g}]")
    if low is not None and value < low:
        raise ConfigError(f"{key}={value}: must be at least {low:g}")
    if high is not None and value > high:
        raise ConfigError(f"{key}={value}: must be at most {high:g}")
    if above is not None and value <= above:
        raise ConfigError(f"{key}={value}: must be {'positive' if above == 0 else f'above {above:g}'}")
