"""Learners, a file each, and `make_algorithm`, which builds the one that a configuration names.

Here stand the names of the built-in learners; the module of a learner is imported when it is used.
"""

from ..config import Config, ConfigError
from ..config.registry import LEARNERS, learner_entry
from ..ops.gradient_share import ALONE, GradientShare
from ..types import Algorithm, EnvSpec

for _name in (
    "value", "value_continuous", "fop", "fop_continuous", "hasac", "msac", "ppo", "dop", "pac", "ddpg",
    "maac",
):  # fmt: skip
    LEARNERS.lazy(_name, f"{__name__}.{_name}")


def make_algorithm(config: Config, spec: EnvSpec, share: GradientShare = ALONE) -> Algorithm:
    """The learner that `config.learner` names, for environments of shape `spec`.

    share   the devices that share each gradient step: `update` is then given a part of each batch

    Raises ConfigError when the learner cannot act in such environments, or when its gradient steps cannot
    be shared.
    """
    entry = learner_entry(config.learner)
    kind = "continuous" if spec.continuous else "discrete"
    if entry.actions not in (kind, "both"):
        raise ConfigError(f"env '{spec.name}': its actions are {kind}, {config.preset}'s are not")
    if share == ALONE:
        algorithm = entry.make(config, spec)
    elif entry.shareable(config.algo):
        algorithm = entry.make(config, spec, share)
    else:
        raise ConfigError(f"run.devices_per_seed={share.parts}: not for {config.preset} on {spec.name}")
    return algorithm._replace(data=entry.data)
