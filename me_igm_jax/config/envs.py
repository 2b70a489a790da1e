"""Options of the environments, a class per family. Frozen: a change compiles a new program."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Options of the matrix/* environments."""

    payoff: tuple | None = None
    """Payoff tensor of matrix/custom, nested lists with one level per player."""
    steps: int = 1
    """How often the game is played in an episode; above 1, a repeated game."""


@dataclasses.dataclass(frozen=True)
class Differential:
    """Options of the differential/* environments."""

    reward_scale: float = 0.1
    """Multiplies the reward; FOP's 0.1 makes the best return 1."""


@dataclasses.dataclass(frozen=True)
class Smax:
    """Options of the smax/* environments."""

    reward_scale: float = 10.0
    """Multiplies JaxMARL's reward; 10 puts the best return near 20, as in SMAC."""
    reward: Literal["smax", "smacv2"] = "smax"
    """JaxMARL's (health taken and the win, half each) or SMACv2's (health, kills, win; best return 20)."""
    max_steps: int | None = None
    """Steps after which an episode ends, a terminal time-out; by default 100 in JaxMARL's scenarios, 200
    in SMACv2's, SMAC's limit in its maps."""
    see_enemy_actions: bool | None = None
    """Show what enemies did last; by default only in JaxMARL's scenarios."""
    walls_cause_death: bool | None = None
    """Units die at the edge of the map; by default only in JaxMARL's scenarios."""


@dataclasses.dataclass(frozen=True)
class Overcooked:
    """Options of the overcooked/* environments."""

    horizon: int = 400
    """Steps of every episode; its end is terminal. Streamed sequences must be as long to see all of it."""


@dataclasses.dataclass(frozen=True)
class Jaxmarl:
    """Options of the jaxmarl/* environments."""

    max_steps: int | None = None
    """Steps after which an episode is cut off; by default at the environment's own limit."""
