"""Config: all that a user can set of one experiment.

`Config` holds shapes, sizes and choices: frozen and hashable; a change compiles a new program.
`Config.hypers` holds floats: a pytree that is traced, so any of them can be swept in one program.
The learner owns `algo` and `hypers`, the environment's family owns `env_options`: both are
dataclasses of the owner's. This module knows no learner and no family by name.
"""

import dataclasses
from typing import Any

from .registry import NoOptions
from .sections import Collect, Net, Replay, Run


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything about an experiment. `load` fills it from a preset."""

    preset: str = "me_qmix"
    """A name (see `me-igm list`), or the path of a YAML file."""
    env: str = "smax/3m"
    """family/name (see `me-igm list`), an import path package.module:make, or "custom" (an object)."""
    learner: str = "value"
    """The learner that the preset names, or an import path."""
    plugins: tuple[str, ...] = ()
    """Modules that register parts when they are imported."""
    algo: Any = NoOptions()
    """The learner's options."""
    hypers: Any = None
    """The learner's hyperparameters."""
    net: Net = Net()
    collect: Collect = Collect()
    replay: Replay = Replay()
    run: Run = Run()
    env_options: Any = NoOptions()
    """The environment family's options."""
