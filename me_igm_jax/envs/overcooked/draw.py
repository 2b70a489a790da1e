"""The picture of overcooked/*: the kitchen, as the observation layers of the first cook tell it."""

from typing import Any

import numpy as np

from ...types import Frame

# Layers of JaxMARL's observation [H, W, 26]. Layers 0 and 1 are the places of the two cooks, layers 2 to 5
# and 6 to 9 the way each of them faces: north, south, east, west.
FACING = (2, 6)
POT, COUNTER, ONIONS, PLATES, DELIVERY = 10, 11, 12, 14, 15
ONIONS_IN_POT, COOKING_TIME, SOUP, PLATE, ONION = 16, 20, 21, 22, 23

WOOD, FLOOR = "#c8a165", "#f4efe6"
FIXTURES = {  # layer -> colour and label, the first that applies
    ONIONS: (WOOD, "onions"),
    PLATES: (WOOD, "plates"),
    DELIVERY: ("#8fbf8f", "serve"),
    POT: ("#555555", ""),
    COUNTER: (WOOD, ""),
}
DIRECTIONS = ((0, -0.3), (0, 0.3), (0.3, 0), (-0.3, 0))  # north, south, east, west; y points down


def draw(axes: Any, frame: Frame) -> None:
    """Every tile with what lies on it, and both cooks with what they hold."""
    grid = np.asarray(frame.seen.obs[0])
    height, width = grid.shape[:2]
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    for y, x in np.ndindex(height, width):
        draw_tile(axes, grid[y, x], x, y)
    for cook in range(2):
        draw_cook(axes, grid, cook)


def draw_tile(axes: Any, layers: np.ndarray, x: int, y: int) -> None:
    """One place of the kitchen; layers [26]."""
    from matplotlib.patches import Rectangle

    empty, lying = not layers[:2].any(), thing(layers)
    # JaxMARL shows no counter below a thing that lies on it.
    otherwise = FIXTURES[COUNTER] if lying and empty else (FLOOR, "")
    colour, label = next((look for layer, look in FIXTURES.items() if layers[layer]), otherwise)
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=0.5))
    axes.text(x, y + 0.38, label, ha="center", va="center", fontsize=6)
    if not empty:
        return
    pot, time, onions = layers[POT] > 0, int(layers[COOKING_TIME]), int(layers[ONIONS_IN_POT])
    if pot and not lying:
        lying = f"cooking {time}" if time else f"{onions} onions" if onions else ""
    axes.text(x, y, lying, ha="center", va="center", fontsize=7, color="white" if pot else "black")


def draw_cook(axes: Any, grid: np.ndarray, cook: int) -> None:
    """A disc with a line the way the cook faces, and the name of what it holds."""
    y, x = (int(i[0]) for i in np.nonzero(grid[..., cook]))
    faces = grid[y, x, FACING[cook] : FACING[cook] + 4]
    dx, dy = DIRECTIONS[int(np.argmax(faces))]
    axes.plot(x, y, "o", color=f"C{cook}", markersize=22, alpha=0.75)
    axes.plot([x, x + dx], [y, y + dy], color="black", lw=2)
    axes.text(x, y + 0.05, thing(grid[y, x]), ha="center", va="center", fontsize=7)


def thing(layers: np.ndarray) -> str:
    """The name of the thing at a place, or nothing."""
    return "soup" if layers[SOUP] else "onion" if layers[ONION] else "plate" if layers[PLATE] else ""
