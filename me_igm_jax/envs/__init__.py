"""Environments by name: family/name. One file and one line here per family."""

from collections.abc import Callable, Sequence

from ..config import Config, ConfigError
from ..presets import nearest
from ..types import Env
from . import differential, matrix, mpe, overcooked, probes, registered, smax

FAMILIES: dict[str, tuple[Callable[[str, Config], Env], Callable[[], Sequence[str]]]] = {
    "matrix": (matrix.make, matrix.names),
    "differential": (differential.make, differential.names),
    "smax": (smax.make, smax.names),
    "mpe": (mpe.make, mpe.names),
    "overcooked": (overcooked.make, overcooked.names),
    "jaxmarl": (registered.make, registered.names),
    "probe": (probes.make, probes.names),
}


def make(config: Config) -> Env:
    """The environment that `config.env` names, with its family's options from `config`."""
    family, name = parse_name(config.env)
    return FAMILIES[family][0](name, config)


def parse_name(env: str) -> tuple[str, str]:
    """(family, name); ConfigError, with the nearest known environment, where there is none such."""
    family, _, name = env.partition("/")
    if family == "jaxmarl" and name in registered.UNFIT:
        raise ConfigError(f"env '{env}': not possible here: {registered.UNFIT[name]}")
    if family not in FAMILIES or name not in FAMILIES[family][1]():
        raise ConfigError(f"env '{env}': unknown{nearest(env, env_names())}")
    return family, name


def env_names() -> list[str]:
    """Every environment's full name."""
    return [f"{family}/{name}" for family, (_, names) in FAMILIES.items() for name in names()]
