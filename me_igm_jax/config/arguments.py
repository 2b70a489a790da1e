"""The options of the command line, made from the fields that a run reads."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, get_type_hints

from .errors import ConfigError, nearest
from .options import SECTIONS, is_read, section_fields
from .presets import draft, override, with_learner
from .registry import allow
from .settings import Config


class Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are ConfigErrors, one line each."""

    def __init__(self, prog: str, **kwargs: Any):
        super().__init__(prog=prog, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def parse_config(prog: str, args: Sequence[str]) -> Config:
    """The Config of a preset and an environment, with every given option set.

    `--help` prints what this run reads and exits. Raises ConfigError on anything that cannot work.
    """
    chosen, rest = _first_choices(prog).parse_known_args(args)
    wants_help = any(arg in ("-h", "--help") for arg in rest)
    rest = [arg for arg in rest if arg not in ("-h", "--help")]
    config = draft(chosen.preset, chosen.env, chosen.plugin)
    if chosen.learner:
        allow(chosen.learner)
        config = with_learner(config, chosen.learner)
    parser = options_parser(prog, config, everything=True)
    given, unknown = parser.parse_known_args(rest)
    if unknown:
        known = [f"--{s}.{f.name.replace('_', '-')}" for s, _, f in section_fields(config)]
        raise ConfigError(f"{unknown[0]}: unknown option{nearest(unknown[0].partition('=')[0], known, 0)}")
    fields = {key: value for key, value in vars(given).items() if "." in key and value is not None}
    config = override(config, fields)
    if wants_help:
        print(options_parser(prog, config).format_help())
        raise SystemExit(0)
    return config


def _first_choices(prog: str) -> Parser:
    """What decides which other options there are."""
    parser = Parser(prog, add_help=False, argument_default=None)
    parser.add_argument("--preset", default=Config.preset, help="a name (me-igm list), or a YAML file")
    parser.add_argument("--env", default=Config.env, help="family/name, or package.module:make")
    parser.add_argument("--plugin", action="append", default=[], help="a module that registers parts")
    parser.add_argument(
        "--learner", help="a name, or package.module:make; by default what the preset names"
    )
    return parser


def options_parser(prog: str, config: Config, everything: bool = False) -> Parser:
    """Options with `config` as their defaults: those that the run reads, or every one."""
    parser = Parser(
        prog,
        parents=[_first_choices(prog)],
        add_help=False,
        usage="%(prog)s --preset P --env E [--section.key VALUE ...]",
        description=f"The options that {config.preset} on {config.env} reads, with their values there.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=42, width=110),
    )
    groups = {section: parser.add_argument_group(_title(section, config)) for section in SECTIONS}
    for section, options, field in section_fields(config):
        if everything or is_read(config, field):
            value, hint = getattr(options, field.name), get_type_hints(type(options))[field.name]
            _add_option(groups[section], f"{section}.{field.name}", field, hint, value)
    return parser


def _title(section: str, config: Config) -> str:
    owners = {
        "algo": f"algo: options of the learner {config.learner}",
        "hypers": f"hypers: hyperparameters of the learner {config.learner}; any can be swept (--grid)",
        "env_options": f"env_options: options of {config.env}",
    }
    return owners.get(section, section)


def _add_option(group: Any, key: str, field: dataclasses.Field, hint: Any, value: Any) -> None:
    flag, name = "--" + key.replace("_", "-"), key.partition(".")[2].replace("_", "-")
    text = f"{field.metadata.get('help', '')} [{_shown(value)}]".strip().replace("%", "%%")
    if hint is bool:
        group.add_argument(flag, nargs="?", const="True", dest=key, metavar="BOOL", help=text)
        off = flag.replace(f".{name}", f".no-{name}")
        group.add_argument(off, action="store_const", const="False", dest=key, help=argparse.SUPPRESS)
    elif _is_tuple(hint):
        group.add_argument(flag, nargs="*", dest=key, metavar=_metavar(field, hint), help=text)
    else:
        group.add_argument(flag, dest=key, metavar=_metavar(field, hint), help=text)


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _metavar(field: dataclasses.Field, hint: Any) -> str:
    """What stands for the value in the help: its type, or the values that are allowed."""
    registry = field.metadata.get("registry")
    if registry is not None:
        return "{" + ",".join(registry.names()) + ",MODULE:NAME}"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, args)) + "}"
    if origin in (typing.Union, types.UnionType, tuple):
        inner = [arg for arg in args if arg not in (type(None), Ellipsis)]
        return _metavar(field, inner[0]) if inner else "LIST"
    return "LIST" if hint is tuple else getattr(hint, "__name__", str(hint)).upper()


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
