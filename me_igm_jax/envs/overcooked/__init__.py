"""overcooked/*: JaxMARL's Overcooked, two cooks who deliver onion soups, in its five layouts.

Onions go into a pot. Three onions cook for 20 steps. A cook then carries the soup on a plate to the
counter where it is delivered. The dynamics and the observations are the code of JaxMARL. This project
decides the following:
  * A step never resets. An episode has exactly `horizon` steps, and its end is terminal, as in JaxMARL. An
    observation shows when fewer than 40 steps are left.
  * The reward is the reward of the team, counted once: 20 for a delivery. `shaping` is the sum of the
    shaped rewards of both cooks: 3 for an onion put into a pot, 3 for a plate taken while a pot is in
    use, 5 for a soup taken out of a pot.
  * The cooks start at fixed places and face random ways (JaxMARL without `random_reset`). Nothing else is
    random, so deterministic policies play at most 16 different episodes.
  * The central state is the observations of both cooks, flattened. Every action is always available:
    north, south, east, west, stay, interact.
An observation is the grid [H, W, 26]; the layers of the observing cook come first. The shape that JaxMARL
declares swaps H and W.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from ...config import option, register_env
from ...types import Env
from ..common import quiet
from .env import overcooked_env

LAYOUTS = ("cramped_room", "asymm_advantages", "coord_ring", "forced_coord", "counter_circuit")


@dataclasses.dataclass(frozen=True)
class OvercookedOptions:
    """Options of the overcooked/* environments."""

    horizon: int = option(
        400,
        "Steps of every episode; its end is terminal. Streamed sequences (collect.length) must be as long "
        "to hold a whole episode.",
        low=1,
    )


def names() -> Sequence[str]:
    """The layouts. They are written out, because importing JaxMARL takes seconds; a test compares them."""
    return LAYOUTS


@register_env("overcooked", options=OvercookedOptions, names=names, shaped=True)
def make(name: str, options: OvercookedOptions) -> Env:
    """The layout `name`, with episodes of `options.horizon` steps."""
    game, layouts = _jaxmarl()
    return overcooked_env(f"overcooked/{name}", game(layouts[name], max_steps=options.horizon))


@cache
def _jaxmarl() -> tuple[Any, dict]:
    with quiet():
        from jaxmarl.environments.overcooked.layouts import overcooked_layouts
        from jaxmarl.environments.overcooked.overcooked import Overcooked
    return Overcooked, overcooked_layouts
