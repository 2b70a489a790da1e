"""Algorithms as tuples of pure functions. One file and one line here per learner."""

from ..config import Config, ConfigError
from ..precision import with_operands
from ..split import ALONE, Split
from ..types import Algorithm, EnvSpec
from .ddpg import make_ddpg
from .dop import make_dop
from .fop import make_fop
from .fop_continuous import make_fop_continuous
from .hasac import make_hasac
from .maac import make_maac
from .msac import make_msac
from .pac import make_pac
from .ppo import make_ppo
from .value import make_value
from .value_continuous import make_value_continuous


def make_algorithm(config: Config, spec: EnvSpec, split: Split = ALONE) -> Algorithm:
    """The algorithm that `config` describes, for environments of shape `spec`; its updates see a part of
    each batch where devices `split` them.
    """
    kind, learners = ("continuous", CONTINUOUS) if spec.continuous else ("discrete", DISCRETE)
    if config.algo.learner not in learners:
        raise ConfigError(f"env '{spec.name}': its actions are {kind}, {config.preset}'s are not")
    make = learners[config.algo.learner]
    if split == ALONE:
        algorithm = make(config, spec)
    elif make is make_value and config.algo.weighting != "soft_qmix":
        algorithm = make_value(config, spec, split)
    else:  # a mean of theirs is not one over the parts' real transitions
        raise ConfigError(f"run.devices_per_seed={split.parts}: not for {config.preset} on {spec.name}")
    functions = {k: f for k, f in algorithm._asdict().items() if callable(f)}
    return algorithm._replace(**{k: with_operands(config.net.operands, f) for k, f in functions.items()})


DISCRETE = {
    "value": make_value,
    "fop": make_fop,
    "hasac": make_hasac,
    "msac": make_msac,
    "ppo": make_ppo,
    "dop": make_dop,
    "pac": make_pac,
}
CONTINUOUS = {
    "value": make_value_continuous,
    "ddpg": make_ddpg,
    "fop": make_fop_continuous,
    "maac": make_maac,
}
