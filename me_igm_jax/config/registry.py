"""Names of parts: a thin layer over the objects. Learners, environments, mixers, transforms, agents.

A part is known by a registered name, or by an import path "package.module:Name". A module that a run
directory names is code: it is imported only when the user named it too (`allow`, `--plugin`, or the
environment variable ME_IGM_PLUGINS), or when this process has imported it already.
"""

import dataclasses
import importlib
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from .errors import ConfigError, nearest

CUSTOM = "custom"  # the name of an environment that the caller hands in as an object


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For a learner or an environment that has nothing to set."""


class Registry:
    """Parts of one kind by name. A lazy name is known before its module is imported."""

    def __init__(self, kind: str):
        self.kind = kind
        self._parts: dict[str, Any] = {}
        self._modules: dict[str, str] = {}

    def add(self, name: str, part: Any) -> None:
        """Make `part` known as `name`. A name stands for one part; the same module may say it again."""
        if ":" in name or not name:
            raise ValueError(f"{self.kind} '{name}': a name is not empty and holds no colon")
        owner = self._modules.get(name)
        if owner and not _home(part).startswith("me_igm_jax."):
            raise ValueError(
                f"{self.kind} '{name}': is the name of one of the library's own; choose another"
            )
        if name in self._parts and _home(self._parts[name]) != _home(part):
            raise ValueError(f"{self.kind} '{name}': is registered already, by {_home(self._parts[name])}")
        self._parts[name] = part

    def lazy(self, names: str | Sequence[str], module: str) -> None:
        """Importing `module` will register `names`."""
        self._modules |= dict.fromkeys([names] if isinstance(names, str) else names, module)

    def names(self) -> list[str]:
        """All registered names."""
        return list(dict.fromkeys([*self._modules, *self._parts]))

    def get(self, name: str) -> Any:
        """The part called `name`, or found at that import path. ConfigError when there is none."""
        if ":" in name:
            return resolve(name)
        if name not in self._parts and name in self._modules:
            importlib.import_module(self._modules[name])
        if name not in self._parts:
            raise ConfigError(f"{self.kind} '{name}': unknown{nearest(name, self.names())}")
        return self._parts[name]


LEARNERS, ENVS = Registry("learner"), Registry("env")
MIXERS, TRANSFORMS, AGENTS = Registry("mixer"), Registry("transform"), Registry("agent")


class LearnerEntry(NamedTuple):
    """A learner as it was registered."""

    name: str
    make: Callable[..., Any]  # config, spec -> Algorithm
    options: type  # frozen dataclass
    hypers: type  # made by @hypers
    actions: Literal["discrete", "continuous", "both"]
    data: Literal["replay", "fresh", "both"]
    shareable: Callable[[Any], bool]  # options -> several devices can share a gradient step
    shared_instants: bool  # update and inspect accept batches that training/shared_instants.py trimmed


class Family(NamedTuple):
    """A family of environments as it was registered."""

    name: str
    make: Callable[[str, Any], Any]  # name, options -> Env
    options: type  # frozen dataclass
    names: Callable[[], Sequence[str]]  # of its environments; empty when there is only one, without a name
    shaped: Callable[[str], bool]  # name -> it gives a shaped reward
    unfit: Mapping[str, str]  # names that cannot be made, and why


def register_learner(
    name: str,
    *,
    options: type | None = None,
    hypers: type,
    actions: Literal["discrete", "continuous", "both"] = "discrete",
    data: Literal["replay", "fresh", "both"] = "replay",
    shareable: bool | Callable[[Any], bool] = False,
    shared_instants: bool = False,
) -> Callable:
    """Decorator of make(config, spec) -> Algorithm. See `docs/extending.md`."""

    def decorate(make: Callable) -> Callable:
        entry = LearnerEntry(
            name=name,
            make=make,
            options=options or NoOptions,
            hypers=hypers,
            actions=actions,
            data=data,
            shareable=shareable if callable(shareable) else lambda options: bool(shareable),
            shared_instants=shared_instants,
        )
        LEARNERS.add(name, entry)
        return make

    return decorate


def register_env(
    name: str,
    *,
    options: type | None = None,
    names: Sequence[str] | Callable[[], Sequence[str]] = (),
    shaped: bool | Callable[[str], bool] = False,
    unfit: Mapping[str, str] | None = None,
) -> Callable:
    """Decorator of make(name, options) -> Env, a family of environments. See `docs/extending.md`."""

    def decorate(make: Callable) -> Callable:
        family = Family(
            name=name,
            make=make,
            options=options or NoOptions,
            names=names if callable(names) else partial(tuple, names),
            shaped=shaped if callable(shaped) else lambda name: bool(shaped),
            unfit=unfit or {},
        )
        ENVS.add(name, family)
        return make

    return decorate


def _registrar(registry: Registry) -> Callable[..., Any]:
    def register(name: str, part: Any = None) -> Any:
        """register(name, part), or the decorator @register(name)."""
        if part is None:
            return lambda part: register(name, part)
        registry.add(name, part)
        return part

    return register


register_mixer = _registrar(MIXERS)
register_transform = _registrar(TRANSFORMS)
register_agent = _registrar(AGENTS)


def build(part: Any, **available: Any) -> Any:
    """Call `part` with those of its dataclass fields that `available` offers by name.

    A flax module class is a dataclass. A part that is no class is called without arguments.
    """
    return part(**{name: available[name] for name in part_fields(part) if name in available})


def part_fields(part: Any) -> set[str]:
    """The names of the fields that a part can be built with."""
    if not dataclasses.is_dataclass(part):
        return set()
    return {f.name for f in dataclasses.fields(part) if f.init and f.name not in ("parent", "name")}


# -- import paths ---------------------------------------------------------------------------------

_allowed: set[str] = set()


def allow(path: str) -> None:
    """The user named this module (or "module:Name"): it may be imported."""
    _allowed.add(path.partition(":")[0])


def plugins_of_environment() -> list[str]:
    """The modules that the environment variable ME_IGM_PLUGINS names, separated by commas."""
    return [name.strip() for name in os.environ.get("ME_IGM_PLUGINS", "").split(",") if name.strip()]


def is_allowed(module: str) -> bool:
    """The user named `module`, or a package that holds it; or it is imported already."""
    named = _allowed | set(plugins_of_environment())
    parts = module.split(".")
    return module in sys.modules or any(".".join(parts[: i + 1]) in named for i in range(len(parts)))


def import_plugin(module: str) -> Any:
    """Import a module that the user named; what it registers is known from then on."""
    if not is_allowed(module):
        raise ConfigError(
            f"plugin '{module}': the run directory names this code; allow it with --plugin {module} "
            f"or ME_IGM_PLUGINS={module}"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not look into the current directory
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"plugin '{module}': {error}") from None


def import_plugins(modules: Iterable[str]) -> None:
    """Import each of them."""
    for module in modules:
        import_plugin(module)


def resolve(path: str) -> Any:
    """The object at "package.module:Name". ConfigError when there is none."""
    module, _, name = path.partition(":")
    found = import_plugin(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"'{path}': {module} has no '{name}'")
        found = getattr(found, part)
    return found


# -- learners and environments by name or path ----------------------------------------------------


def learner_entry(name: str) -> LearnerEntry:
    """The learner called `name`, or the one whose make function stands at that import path."""
    part = LEARNERS.get(name)
    if isinstance(part, LearnerEntry):
        return part
    known = (LEARNERS.get(other) for other in LEARNERS.names() if other in LEARNERS._parts)
    entry = next((entry for entry in known if entry.make is part), None)
    if entry is None:
        raise ConfigError(f"learner '{name}': decorate it with @register_learner(...)")
    return entry


def family_of(env: str) -> tuple[Family, str]:
    """(family, name in it) of an environment; ConfigError, with the nearest name, when there is none."""
    if env == CUSTOM or ":" in env:
        return _lone_family(env), ""
    family_name, _, name = env.partition("/")
    if family_name not in ENVS.names():
        raise ConfigError(f"env '{env}': unknown{nearest(env, env_names())}")
    family = ENVS.get(family_name)
    if name in family.unfit:
        raise ConfigError(f"env '{env}': not possible here: {family.unfit[name]}")
    if name not in (family.names() or [""]):
        raise ConfigError(f"env '{env}': unknown{nearest(env, env_names())}")
    return family, name


def env_names() -> list[str]:
    """Every environment's full name."""
    families = [ENVS.get(name) for name in ENVS.names()]
    return [f"{f.name}/{name}" if name else f.name for f in families for name in f.names() or [""]]


def _lone_family(path: str) -> Family:
    """An environment at an import path: an Env, or a function that makes one (from its options)."""
    if path == CUSTOM:
        return Family(path, _not_here, NoOptions, tuple, lambda name: True, {})
    found = resolve(path)
    if not callable(found):  # an Env is a tuple, which nothing can call
        return Family(path, lambda name, options: found, NoOptions, tuple, lambda name: True, {})
    parameters = list(inspect.signature(found).parameters.values())
    if not parameters:
        return Family(path, lambda name, options: found(), NoOptions, tuple, lambda name: True, {})
    hint = typing.get_type_hints(found).get(parameters[0].name)
    if len(parameters) > 1 or not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        raise ConfigError(f"env '{path}': must take nothing, or one argument, annotated with its class")
    return Family(path, lambda name, options: found(options), hint, tuple, lambda name: True, {})


def _not_here(name: str, options: Any) -> Any:
    raise ConfigError("env 'custom': is an object that you hand in: run(config, env=...)")


def _home(part: Any) -> str:
    """The module that a part comes from, and its name there."""
    made = getattr(part, "make", part)
    return f"{getattr(made, '__module__', type(made).__module__)}.{getattr(made, '__qualname__', '')}"
