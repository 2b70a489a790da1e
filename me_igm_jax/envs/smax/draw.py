"""The picture of smax/*: the battlefield."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ...types import Frame
from .battle import decode
from .simulator import Simulator
from .views import NEVER

ALLY, ENEMY, DEAD = "#1f77b4", "#d62728", "#7f7f7f"


def draw(sim: Simulator, axes: Any, frame: Frame) -> None:
    """Discs of the true size, blue for allies and red for enemies; opacity is health, lines are attacks."""
    from matplotlib.patches import Circle

    s, n = frame.snapshot, sim.num_allies
    axes.set(xlim=(0, sim.map_width), ylim=(0, sim.map_height), aspect="equal", xticks=[], yticks=[])
    radius = np.asarray(sim.unit_type_radiuses)[s.type]
    share = s.health / np.asarray(sim.unit_type_health)[s.type]
    target = last_targets(sim, s.action, s.type)
    for i, (x, y) in enumerate(s.position):
        if not s.alive[i]:
            axes.plot(x, y, "x", color=DEAD, markersize=4, alpha=0.5)
            continue
        colour, opacity = ALLY if i < n else ENEMY, 0.25 + 0.75 * float(share[i])
        axes.add_patch(Circle((x, y), float(radius[i]), color=colour, alpha=opacity, lw=0))
        axes.text(x, y, sim.unit_type_names[s.type[i]][:3], ha="center", va="center", fontsize=6)
        if target[i] != i:
            line = zip((x, y), s.position[target[i]], strict=True)
            axes.plot(*line, color=colour, lw=0.6, alpha=0.7)


def last_targets(sim: Simulator, action: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Which unit [U] each unit attacked or healed last; itself for none."""
    heals = None if sim.specials is None else sim.specials.heals[types]
    action = np.where(action == NEVER, sim.num_movement_actions - 1, action).astype(int)
    return np.asarray(decode(sim, jnp.asarray(action), heals)[1])
