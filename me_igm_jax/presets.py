"""Presets: configs/<name>.yaml merged into a `Config`.

Merge order: class defaults < `extends` preset < `default` < the environment's family section
< its `family/name` section < keyword arguments. Keys are checked against the dataclasses and
values are coerced to the field's type (PyYAML reads 1e-3 as a string).
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import yaml

from .config import Config, ConfigError, Hypers
from .validation import validate

_HERE = Path(__file__).parent
CONFIG_DIR = next(d for d in (_HERE / "configs", _HERE.parent / "configs") if d.is_dir())


def preset_names() -> list[str]:
    """Names of all presets that ship with the package."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load(preset: str = "me_qmix", env: str = "smax/3m", **overrides: Any) -> Config:
    """Build a checked `Config`, e.g. `load("qmix", env="smax/3m", **{"hypers.lr": 1e-4})`.

    Raises ConfigError on an unknown preset, key or environment section, or an impossible value.
    """
    config = Config(preset=preset, env=env)
    for section in _sections(preset, env):
        config = _merge(config, section)
    return override(config, overrides)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Set dotted keys, e.g. {"run.seeds": 4}; a double underscore may stand for the dot."""
    for key, value in values.items():
        *sections, field = key.replace("__", ".").split(".")
        nested: dict = {field: value}
        for section in reversed(sections):
            nested = {section: nested}
        config = _merge(config, nested)
    return validate(config)


def to_dict(config: Config) -> dict:
    """`config` as plain nested data that YAML and JSON can hold."""
    return yaml.safe_load(yaml.safe_dump(_plain(dataclasses.asdict(config))))


def from_dict(data: Mapping) -> Config:
    """The inverse of `to_dict`."""
    return validate(_merge(Config(), data))


def sweep(hypers: Hypers, **grid: Iterable[float]) -> Hypers:
    """The cartesian product of `grid` over `hypers`: leaves [P], the last key varying fastest."""
    names = {field.name for field in dataclasses.fields(Hypers)}
    for key in grid:
        if key not in names:
            raise ConfigError(f"hypers.{key}: unknown key{nearest(key, names)}")
    axes = {k: [_coerce(f"hypers.{k}", x, float) for x in v] for k, v in grid.items()}
    if any(not values for values in axes.values()):
        raise ConfigError("grid: every swept key needs at least one value")
    points = np.meshgrid(*axes.values(), indexing="ij")
    size = points[0].size if points else 1
    columns = {k: p.reshape(-1) for k, p in zip(axes, points, strict=True)}
    values = {n: columns.get(n, np.full(size, getattr(hypers, n))) for n in names}
    leaves: dict[str, Any] = {n: jnp.asarray(v, jnp.float32) for n, v in values.items()}
    return Hypers(**leaves)  # a pytree: the floats may be arrays


def nearest(name: str, names: Iterable[str]) -> str:
    """The tail of an error message: the nearest name, or all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"


def _sections(preset: str, env: str) -> list[dict]:
    path = CONFIG_DIR / f"{preset}.yaml"
    if preset not in preset_names():
        raise ConfigError(f"preset '{preset}': unknown{nearest(preset, preset_names())}")
    data = yaml.safe_load(path.read_text())
    family = env.split("/")[0]
    parents = _sections(data["extends"], env) if "extends" in data else []
    return parents + [data[name] for name in ("default", family, env) if data.get(name)]


def _merge(config: Any, values: Mapping, path: str = "") -> Any:
    hints = typing.get_type_hints(type(config))
    changes = {}
    for raw, value in values.items():
        key = str(raw).replace("-", "_")
        if key not in hints:
            raise ConfigError(f"{path}{raw}: unknown key{nearest(str(raw), hints)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{path}{raw}={value}: is a section, set one of its keys")
            changes[key] = _merge(getattr(config, key), value, f"{path}{key}.")
        else:
            changes[key] = _coerce(f"{path}{key}", value, hints[key])
    return dataclasses.replace(config, **changes)


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, or a ConfigError that says what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _coerce(key, value, args[0])
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(map(str, args))}")
        return value
    if hint is tuple or origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key}={value}: must be a list")
        return tuple(_coerce(key, v, args[0]) if args else _freeze(v) for v in value)
    if hint is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if np.isfinite(number) and (hint is float or number == int(number)):
            return hint(number)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise ConfigError(f"{key}={value}: must be of type {hint.__name__}")


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
