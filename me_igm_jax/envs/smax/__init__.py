"""smax/*: battles of SMAX (JaxMARL's StarCraft-like game) against its heuristic enemy.

Scenarios:
  * all scenarios of JaxMARL;
  * four more maps of SMAC: 2c_vs_64zg, 3s_vs_3z, MMM, MMM2;
  * the fifteen of SMACv2, {protoss, terran, zerg}_{5_vs_5, 10_vs_10, 10_vs_11, 20_vs_20, 20_vs_23}, with
    the teams and start positions of SMACv2 (smacv2.py), 200 steps, harmless walls and hidden enemy actions.
The maps of SMAC and SMACv2 bring units that SMAX lacks (units.py): the colossus, whose attack splashes;
banelings, which die of their attack; and medivacs, which heal. The attack slots of a medivac mean its own
team, and it heals no other medivac.

What differs from using JaxMARL directly, and why:
  * No reset happens inside a step, so the final instant of an episode is the true one.
  * Who is alive decides who won. JaxMARL compares the reward with a threshold.
  * The step limit is exact. JaxMARL tests the limit before it counts the step, so its episodes are one step
    longer. A time-out is terminal, as in SMACv2.
  * The central state is normalised and holds the last actions. The world state of JaxMARL mixes raw
    positions and type numbers.
The observations equal those of JaxMARL (views.py).

Units of the reward: 20 for a perfect battle. With `reward: smax` it is the reward of JaxMARL (the share of
the enemy's health taken, plus 1 for a win) times `reward_scale`. With `reward: smacv2` it is the reward of
SMACv2 (health, kills, win). StarCraft's own AI plays differently: win rates do not compare with those
of SMACv2, the order of algorithms may.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from ...config import option, register_env
from ...types import Env
from . import units
from .env import smax_env
from .simulator import make_simulator


def _is_smax_reward(config: Any) -> bool:
    return config.env_options.reward == "smax"


@dataclasses.dataclass(frozen=True)
class SmaxOptions:
    """Options of the smax/* environments."""

    reward: Literal["smax", "smacv2"] = option(
        "smax",
        "The reward of JaxMARL (health taken and the win, half each) or of SMACv2 (health, kills, win; "
        "best return 20).",
    )
    reward_scale: float = option(
        10.0,
        "Multiplies the reward of JaxMARL; with 10 the best return is 20, as in SMAC.",
        above=0,
        when=_is_smax_reward,
    )
    max_steps: int | None = option(
        None,
        "Steps after which an episode ends; this time-out is terminal. By default 100 in the scenarios of "
        "JaxMARL, 200 in those of SMACv2, and the limit of SMAC in its maps.",
        low=1,
    )
    see_enemy_actions: bool | None = option(
        None, "Show what enemies did last; by default only in the scenarios of JaxMARL."
    )
    walls_cause_death: bool | None = option(
        None, "Units die at the edge of the map; by default only in the scenarios of JaxMARL."
    )


def names() -> Sequence[str]:
    """All scenarios."""
    return units.scenario_names()


@register_env("smax", options=SmaxOptions, names=names)
def make(name: str, options: SmaxOptions) -> Env:
    """The scenario `name`; options that are None take the scenario's defaults."""
    own = units.OWN_SCENARIOS.get(name)  # None: a scenario of JaxMARL

    def choice(value, default):
        return default if value is None else value

    sim = make_simulator(
        name,
        see_enemy_actions=choice(options.see_enemy_actions, own is None),
        walls_cause_death=choice(options.walls_cause_death, own is None),
    )
    return smax_env(
        f"smax/{name}",
        sim,
        max_steps=choice(options.max_steps, 100 if own is None else own.max_steps),
        reward=options.reward,
        reward_scale=options.reward_scale,
        smacv2_starts=name in units.SMACV2,
    )
