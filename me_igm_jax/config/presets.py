"""Presets: a YAML file merged into a `Config`.

Merge order: class defaults < `extends` preset < `default` < the environment's family section <
its `family/name` section < keyword arguments. A section that names another `learner` starts from
that learner's default options; hyperparameters that both learners have carry over. A section may
only set what the configuration that it leads to reads.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import jax.numpy as jnp
import numpy as np
import yaml

from .coerce import coerce, plain
from .errors import ConfigError, nearest
from .options import SECTIONS, is_read, section_fields
from .registry import allow, family_of, import_plugins, learner_entry
from .settings import Config
from .validation import normalised, refuse_unread, validate

_PACKAGE = Path(__file__).parent.parent
CONFIG_DIR = next(d for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir())
TOP = ("preset", "env", "learner", "plugins")  # what is set before the sections


def preset_names() -> list[str]:
    """Names of all presets that ship with the package."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load(
    preset: str = "me_qmix", env: str | None = "smax/3m", plugins: Iterable[str] = (), **overrides: Any
) -> Config:
    """Build a checked `Config`, e.g. `load("qmix", env="smax/3m", **{"hypers.lr": 1e-4})`.

    preset     a name, or the path of a YAML file
    env        family/name, an import path "package.module:make", or None for an Env object of your own
    plugins    modules that register parts when they are imported
    Raises ConfigError on an unknown preset, environment or key, a key that the run does not read, or
    an impossible value.
    """
    return override(draft(preset, env, plugins), overrides)


def draft(preset: str, env: str | None, plugins: Iterable[str]) -> Config:
    """What the preset says, before anything is overridden; `override` checks that it can work."""
    plugins = (plugins,) if isinstance(plugins, str) else tuple(plugins)
    for module in plugins:
        allow(module)
    import_plugins(plugins)
    env = "custom" if env is None else env
    allow(env)
    family = family_of(env)[0]
    config = Config(preset=str(preset), env=env, plugins=plugins, env_options=family.options())
    config = with_learner(config, config.learner)
    for section in _sections(Path(preset) if str(preset).endswith((".yaml", ".yml")) else preset, env):
        config = _apply(config, section)
    return config


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Set dotted keys, e.g. {"run.seeds": 4}; a double underscore may stand for the dot."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, field = key.replace("__", ".").partition(".")
        if field:
            inside = nested.setdefault(section, {})
            if not isinstance(inside, dict):
                raise ConfigError(f"{section}={inside}: is a section, set one of its keys")
            inside[field] = value
        else:
            nested[section] = value
    return validate(normalised(_apply(config, nested)))


def to_dict(config: Config) -> dict:
    """`config` as plain nested data that YAML and JSON can hold: all that the run reads."""
    data: dict[str, Any] = {key: plain(getattr(config, key)) for key in TOP}
    data |= {section: {} for section in SECTIONS}
    for section, options, field in section_fields(config):
        if is_read(config, field):
            data[section][field.name] = plain(getattr(options, field.name))
    return data


def from_dict(data: Mapping, trusted: bool = False) -> Config:
    """The inverse of `to_dict`.

    Unless `trusted`, code that `data` names is imported only when the user named it too; else a
    ConfigError says how to allow it.
    """
    rest = dict(data)
    top = {key: rest.pop(key, getattr(Config, key)) for key in TOP}
    plugins = coerce("plugins", top["plugins"], tuple[str, ...])
    if trusted:
        for path in (*plugins, top["env"], top["learner"]):
            allow(str(path))
    import_plugins(plugins)
    family = family_of(str(top["env"]))[0]
    config = Config(preset=str(top["preset"]), env=str(top["env"]), plugins=plugins)
    config = dataclasses.replace(config, env_options=family.options())
    config = with_learner(config, str(top["learner"]))
    return validate(normalised(_apply(config, rest, trusted)))


def with_learner(config: Config, name: str) -> Config:
    """`config` for another learner: its default options, and the hyperparameters that both have."""
    entry = learner_entry(name)
    shared = set() if config.hypers is None else _names(config.hypers)
    kept = {key: getattr(config.hypers, key) for key in _names(entry.hypers) & shared}
    return dataclasses.replace(config, learner=name, algo=entry.options(), hypers=entry.hypers(**kept))


def sweep(config: Config, **grid: Iterable[float]) -> Any:
    """The cartesian product of `grid` over config.hypers: leaves [P], the last key varying fastest.

    Raises ConfigError on a key that the run does not read and on a value out of its range.
    """
    axes = grid_axes(config, grid)
    points = np.meshgrid(*axes.values(), indexing="ij")
    size = points[0].size if points else 1
    columns = {k: p.reshape(-1) for k, p in zip(axes, points, strict=True)}
    values = {n: columns.get(n, np.full(size, getattr(config.hypers, n))) for n in _names(config.hypers)}
    leaves = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return type(config.hypers)(**leaves)  # a pytree: the floats may be arrays


def grid_axes(config: Config, grid: Mapping[str, Iterable[float]]) -> dict[str, list[float]]:
    """The values of each swept hyperparameter as floats, checked as `sweep` says. It touches no device."""
    names = readable_hypers(config)
    for key in grid:
        if key not in _names(config.hypers):
            raise ConfigError(f"hypers.{key}: unknown key{nearest(key, names)}")
    refuse_unread(config, [f"hypers.{key}" for key in grid])
    axes = {k: [coerce(f"hypers.{k}", x, float) for x in v] for k, v in grid.items()}
    for key, values in axes.items():
        if not values:
            raise ConfigError(f"grid: hypers.{key} needs at least one value")
        for value in values:
            validate(dataclasses.replace(config, hypers=dataclasses.replace(config.hypers, **{key: value})))
    return axes


def readable_hypers(config: Config) -> list[str]:
    """The hyperparameters that a run with these settings reads."""
    return [f.name for s, _, f in section_fields(config) if s == "hypers" and is_read(config, f)]


def _names(options: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(options)}


def _sections(preset: str | Path, env: str) -> list[dict]:
    """The sections of a preset that concern `env`, those of the preset that it extends first."""
    if isinstance(preset, str) and preset not in preset_names():
        raise ConfigError(f"preset '{preset}': unknown{nearest(preset, preset_names())}")
    path = preset if isinstance(preset, Path) else CONFIG_DIR / f"{preset}.yaml"
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"preset '{path}': {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset '{path}': {' '.join(str(error).split())}") from None
    if not isinstance(data, Mapping) or not all(
        v is None or isinstance(v, Mapping | str) for v in data.values()
    ):
        raise ConfigError(f"preset '{path}': must hold sections (default, a family, family/name)")
    parents = []
    if "extends" in data:
        parent = str(data["extends"])
        parents = _sections(path.parent / parent if parent.endswith((".yaml", ".yml")) else parent, env)
    family = env.split("/")[0]
    return parents + [data[name] for name in dict.fromkeys(("default", family, env)) if data.get(name)]


def _apply(config: Config, values: Mapping, trusted: bool = True) -> Config:
    """`config` with one section merged into it."""
    values = {str(k).replace("-", "_"): v for k, v in values.items()}
    if "learner" in values:
        name = str(values.pop("learner"))
        if trusted:
            allow(name)
        config = config if name == config.learner else with_learner(config, name)
    given = []
    for section, inside in values.items():
        if section not in SECTIONS:
            raise ConfigError(f"{section}: unknown key{nearest(section, (*SECTIONS, 'learner'))}")
        if not isinstance(inside, Mapping):
            raise ConfigError(f"{section}={inside}: is a section, set one of its keys")
        config, keys = _merge(config, section, inside, trusted)
        given += keys
    refuse_unread(config, given)
    return config


def _merge(config: Config, section: str, values: Mapping, trusted: bool) -> tuple[Config, list[str]]:
    """`config` with `values` set in one of its sections, and the dotted keys that were set."""
    options = getattr(config, section)
    fields, hints = {f.name: f for f in dataclasses.fields(options)}, get_type_hints(type(options))
    changes = {}
    for raw, value in values.items():
        name = str(raw).replace("-", "_")
        key = f"{section}.{name}"
        if name not in fields:
            raise ConfigError(f"{section}.{raw}: unknown key{_owner(config, section, name, fields)}")
        changes[name] = coerce(key, value, hints[name])
        registry = fields[name].metadata.get("registry")
        if registry is not None:
            if trusted:
                allow(changes[name])
            _check_part(key, changes[name], registry)
    changed = dataclasses.replace(options, **changes)
    return dataclasses.replace(config, **{section: changed}), [f"{section}.{name}" for name in changes]


def _owner(config: Config, section: str, name: str, fields: Iterable[str]) -> str:
    """The tail of the message about an unknown key: whose settings these are, and the nearest name."""
    owner = {"algo": f" of learner {config.learner}", "hypers": f" of learner {config.learner}"}
    owner["env_options"] = f" of {config.env}"
    if not list(fields):
        return f"{owner.get(section, '')}, which has no options"
    return owner.get(section, "") + nearest(name, fields)


def _check_part(key: str, name: str, registry: Any) -> None:
    """Raise ConfigError when a part has neither this name nor this import path."""
    if ":" not in name and name not in registry.names():
        raise ConfigError(f"{key}={name}: unknown {registry.kind}{nearest(name, registry.names())}")
    registry.get(name)
