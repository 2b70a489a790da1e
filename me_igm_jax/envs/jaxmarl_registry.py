"""jaxmarl/*: the cooperative environments with discrete actions that JaxMARL registers, as they are.

`jaxmarl_adapter.py` says how each becomes an Env. `FACTS` holds what the interface of JaxMARL does not
tell; `UNFIT` says of the other registered environments why they are not possible here. By default an
episode is as long as an episode of JaxMARL. Of the time limits, only those of switch_riddle and hanabi
are terminal, because there they are rules of the game; with `max_steps` a limit is always a truncation.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..config import option, register_env
from ..types import Env
from .jaxmarl_adapter import RIVALS, from_jaxmarl, silent


class Facts(NamedTuple):
    """What the interface of JaxMARL does not tell about an environment. See `from_jaxmarl`."""

    limit: int  # steps of its longest episode
    done_is_terminal: bool = True
    limit_is_terminal: bool = False
    arguments: Mapping[str, Any] = {}  # of its constructor
    max_return: float | None = None


# JaxMARL tests the limit of 25 before it counts the step.
_MPE = Facts(limit=26, done_is_terminal=False)

FACTS = {
    "MPE_simple_v3": _MPE,
    "MPE_simple_spread_v3": _MPE,
    "MPE_simple_speaker_listener_v4": _MPE,
    "MPE_simple_reference_v3": _MPE,
    # Foerster et al. 2016: the prisoners have 4 N - 6 days.
    "switch_riddle": Facts(limit=6, limit_is_terminal=True, max_return=1.0),
    "HeuristicEnemySMAX": Facts(limit=101),  # it counts as MPE does
    # Two players draw 40 cards. Before each card but the last a hint can be paid for, besides the first 8
    # hints. After the last card both move once more.
    "hanabi": Facts(limit=89, limit_is_terminal=True, max_return=25.0),
    "overcooked": Facts(limit=400, done_is_terminal=False),
    "overcooked_v2": Facts(limit=400, done_is_terminal=False),
    # 10 rounds of 10 steps
    "coin_game": Facts(limit=100, done_is_terminal=False, arguments={"shared_rewards": True}),
    "jaxnav": Facts(limit=500, arguments={"act_type": "Discrete"}),
}
SHAPED = ("overcooked", "overcooked_v2")

_UNFIT: dict[str, tuple[str, ...]] = {
    RIVALS: (
        "MPE_simple_tag_v3", "MPE_simple_world_comm_v3", "MPE_simple_crypto_v3", "MPE_simple_push_v3",
        "MPE_simple_adversary_v3",
    ),
    f"{RIVALS}; smax/* and jaxmarl/HeuristicEnemySMAX have one team": ("SMAX",),
    "it needs the weights of a trained enemy; smax/* has the heuristic one": ("LearnedPolicyEnemySMAX",),
    "its actions are continuous": (
        "MPE_simple_facmac_v1", "MPE_simple_facmac_3a_v1", "MPE_simple_facmac_6a_v1",
        "MPE_simple_facmac_9a_v1", "ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8",
        "walker2d_2x3",
    ),
    "it is a general-sum game that gives no observations and rewards by agent": (
        "storm", "storm_2p", "storm_np",
    ),
    "it needs the package jaxrobotarium, which is not part of JaxMARL's release": (
        "JaxRobotarium_navigation", "JaxRobotarium_discovery", "JaxRobotarium_material_transport",
        "JaxRobotarium_warehouse", "JaxRobotarium_arctic_transport", "JaxRobotarium_foraging",
        "JaxRobotarium_rware", "JaxRobotarium_predator_prey",
    ),
}  # fmt: skip
UNFIT = {name: why for why, names in _UNFIT.items() for name in names}


@dataclasses.dataclass(frozen=True)
class JaxmarlOptions:
    """Options of the jaxmarl/* environments."""

    max_steps: int | None = option(
        None,
        "Steps after which an episode is cut off, a truncation; by default at the environment's own limit.",
        low=1,
    )


def names() -> Sequence[str]:
    """The registered names that are possible here. A test compares them with JaxMARL's."""
    return [*FACTS]


@register_env(
    "jaxmarl", options=JaxmarlOptions, names=names, shaped=lambda name: name in SHAPED, unfit=UNFIT
)
@silent()
def make(name: str, options: JaxmarlOptions) -> Env:
    """The environment that JaxMARL registers as `name`, cut off after `options.max_steps` when given."""
    import jaxmarl

    facts, cut = FACTS[name], options.max_steps
    return from_jaxmarl(
        jaxmarl.make(name, **facts.arguments),
        name=f"jaxmarl/{name}",
        limit=cut or facts.limit,
        limit_is_terminal=facts.limit_is_terminal and cut is None,
        done_is_terminal=facts.done_is_terminal,
        max_return=facts.max_return,
    )
