"""Which settings can work: ranges at the fields, and what a section's options say of each other."""

import dataclasses

from .errors import ConfigError
from .options import SECTIONS, check_range, is_read, section_fields
from .registry import learner_entry
from .schedule import schedule
from .settings import Config


def validate(config: Config) -> Config:
    """Return `config`, or raise a ConfigError that names the first setting that cannot work.

    What depends on the environment's sizes is checked when the environment is made.
    """
    for section, options, field in section_fields(config):
        if is_read(config, field):
            check_range(f"{section}.{field.name}", getattr(options, field.name), field)
    for section in SECTIONS:
        check = getattr(getattr(config, section), "check", None)
        if check is not None:
            check(config)
    schedule(config, learner_entry(config.learner).data)
    return config


def refuse_unread(config: Config, keys: list[str]) -> None:
    """Raise ConfigError when one of the dotted `keys` is a setting that this run does not read."""
    unread = {f"{s}.{f.name}" for s, _, f in section_fields(config) if not is_read(config, f)}
    for key in keys:
        if key in unread:
            raise ConfigError(f"{key}: {config.preset} on {config.env} does not read it")


def normalised(config: Config) -> Config:
    """`config` with what it does not read at its default, so that equal runs have equal settings."""
    changes: dict[str, dict] = {}
    for section, _, field in section_fields(config):
        if not is_read(config, field):
            changes.setdefault(section, {})[field.name] = field.default
    replaced = {s: dataclasses.replace(getattr(config, s), **c) for s, c in changes.items()}
    return dataclasses.replace(config, **replaced)
