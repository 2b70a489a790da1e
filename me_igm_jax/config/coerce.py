"""Turning what YAML, a command line or Python gives into the type of a field, or one clear line."""

import types
import typing
from typing import Any, Literal

import numpy as np
import yaml

from .errors import ConfigError


def coerce(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, or a ConfigError that says what was expected.

    (PyYAML reads 1e-3 as text; a command line gives text for everything.)
    """
    if hasattr(value, "tolist"):
        value = value.tolist()  # NumPy and JAX arrays and scalars
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        if value is None or value == "None":
            return None
        return coerce(key, value, inner[0])
    if origin is Literal:
        if not any(value == arg and type(value) is type(arg) for arg in args):
            raise ConfigError(f"{key}={value}: must be one of {', '.join(map(str, args))}")
        return value
    if hint is tuple or origin is tuple:
        return _tuple(key, value, args)
    if hint is bool:
        return _bool(key, value)
    if hint in (int, float):
        return _number(key, value, hint)
    if hint is Any or isinstance(value, hint):
        return value
    raise ConfigError(f"{key}={value}: must be of type {getattr(hint, '__name__', hint)}")


def _tuple(key: str, value: Any, args: tuple) -> tuple:
    if isinstance(value, str):  # a list as JSON or YAML text: "[[1, 2], [3, 4]]"
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{key}={value}: must be a list") from None
        value = [value] if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key}={value}: must be a list")
    return tuple(coerce(key, v, args[0]) if args else _frozen(v) for v in value)


def _bool(key: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{key}={value}: must be of type bool")


def _number(key: str, value: Any, kind: type) -> Any:
    if not isinstance(value, bool):
        try:
            if kind is int and isinstance(value, int):
                return value
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if np.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    raise ConfigError(f"{key}={value}: must be of type {kind.__name__}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """`value` as data that YAML and JSON can hold."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
