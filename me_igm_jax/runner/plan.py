"""The plan of a run: all that is decided before anything is compiled or written."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from ..config import Config, ConfigError
from ..config.registry import import_plugins
from ..training.train import Program, make_program
from ..types import Algorithm, Env
from . import collector_tuning, devices, records
from .members import Grid, Members, make_members, member_count
from .memory import Estimate, estimate_memory, states_held
from .sinks import check_sinks


class Plan(NamedTuple):
    """All that is decided before anything is compiled or written."""

    directory: Path
    program: Program
    members: Members
    mesh: Mesh
    memory: Estimate
    grid: Grid
    objects: list[str]  # the parts that the user handed in: "env", "algo"

    @property
    def config(self) -> Config:
        return self.program.config


def prepare(config: Config, resume: bool, env: Env | None, algo: Algorithm | None) -> Config:
    """Check what can be checked at once, and settle the run directory and this process's part."""
    import_plugins(config.plugins)
    config = config if config.run.dir else records.default_directory(config)
    directory = Path(str(config.run.dir))
    if resume:
        records.check_objects(directory, "run", records.handed_in(env=env, algo=algo))
    else:
        require_empty(directory)
    check_sinks(config)
    if algo is not None:  # whether an object can share its gradient steps is not known
        if config.run.devices_per_seed not in (None, 1):
            raise ConfigError(
                f"run.devices_per_seed={config.run.devices_per_seed}: must be 1 with an Algorithm object"
            )
        config = replace(config, run=replace(config.run, devices_per_seed=1))
    devices.join(config.run)
    return config


def require_empty(directory: Path) -> None:
    """Raise ConfigError when `directory` holds anything, or cannot be a directory."""
    try:
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"run.dir={directory}: is not empty; give another or --resume it")
    except OSError as error:
        raise ConfigError(f"run.dir={directory}: {error.strerror}") from None


def make_plan(config: Config, grid: Grid, env: Env | None, algo: Algorithm | None) -> Plan:
    """Devices, members, the program and its memory. Raises ConfigError when it cannot fit."""
    count = member_count(config, grid)
    devices.prepare(config, count)
    members, mesh = make_members(config, grid), devices.member_mesh(config, count)
    if config.collect.tune:
        config = collector_tuning.fit_environments(config, members, mesh, env=env, algo=algo)
    held, share = states_held(config, count, mesh), devices.gradient_share(mesh)
    program = make_program(config, env=env, algo=algo, members=held, share=share)
    memory = estimate_memory(program, members, mesh)
    keys, hypers = devices.put((members.keys, members.hypers), mesh)
    return Plan(
        directory=Path(str(config.run.dir)),
        program=program,
        members=members._replace(keys=keys, hypers=hypers),
        mesh=mesh,
        memory=memory,
        grid=grid,
        objects=records.handed_in(env=env, algo=algo),
    )
