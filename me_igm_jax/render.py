"""One episode as a GIF: what the team sees and does, for every family of environments.

A family is one function here: given what is fixed, it returns what draws a frame on empty axes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .config import Config, ConfigError
from .envs import make
from .play import load_run
from .records import read_config
from .rollout import collect_episodes, greedy_actor, random_actor
from .types import Env, EnvSpec, TimeStep

ALLY, ENEMY, GREY = "#1f77b4", "#d62728", "#7f7f7f"


class Frame(NamedTuple):
    """One instant, all arrays in NumPy."""

    snapshot: Any
    seen: TimeStep
    action: np.ndarray | None  # [N] what is done now; None at the end
    step: int
    total: float  # return so far


Draw = Callable[[Any, Frame], None]  # axes, frame


def render_run(directory: str | Path, out: Path, member: int = 0, seed: int = 1) -> Path:
    """The greedy team of a finished run (its `member`-th: point * seeds + seed) plays one episode."""
    program, learners = load_run(directory)
    size = len(jax.tree.leaves(learners)[0])
    if not 0 <= member < size:
        raise ConfigError(f"--member {member}: {directory} holds members 0 to {size - 1}")
    learner = jax.tree.map(lambda x: x[member], learners)
    act = greedy_actor(program.algo, learner)
    frames = play(program.env, act, program.algo.carry(1), jax.random.key(seed))
    return write(program.env.spec, read_config(Path(directory))[0], frames, out)


def render_random(config: Config, out: Path, seed: int = 1) -> Path:
    """A team that picks available actions uniformly plays one episode of `config.env`."""
    env = make(config)
    frames = play(env, random_actor(env.spec), (), jax.random.key(seed))
    return write(env.spec, config, frames, out)


def play(env: Env, act, carry, key: jax.Array) -> list[Frame]:
    """The instants of one episode, the final one included."""
    episode = jax.jit(lambda k: collect_episodes(env, carry, act, k, 1, snapshots=True)[0])
    batch = jax.tree.map(np.asarray, episode(key))
    length = int(batch.mask.sum())
    snapshots = jax.tree.map(lambda x: x[:, 0], batch.steps)
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(env.expand))(snapshots))
    totals = np.concatenate([[0.0], batch.reward[:, 0].cumsum()])
    return [
        Frame(
            *jax.tree.map(lambda x, t=t: x[t], (snapshots, seen)),
            action=batch.action[t, 0] if t < length else None,
            step=t,
            total=float(totals[t]),
        )
        for t in range(length + 1)
    ]


def write(spec: EnvSpec, config: Config, frames: list[Frame], out: Path) -> Path:
    """Draw every frame and save the GIF; nothing is left half written."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    draw = DRAWERS.get(spec.name.split("/")[0], observations)(spec, config)
    figure, axes = plt.subplots(figsize=(5.0, 5.0), layout="constrained")

    def show(frame: Frame):
        axes.clear()
        draw(axes, frame)
        axes.set_title(f"{spec.name}   step {frame.step}   return {frame.total:.1f}", fontsize=10)

    held = [*frames, *frames[-1:] * 8]  # the end stays in view
    fps = 2 if len(frames) < 5 else 8
    part = out.with_suffix(".part.gif")
    FuncAnimation(figure, show, held, cache_frame_data=False).save(part, PillowWriter(fps=fps), dpi=80)
    plt.close(figure)
    part.replace(out)
    return out


# -- families -------------------------------------------------------------------------------------


def smax(spec: EnvSpec, config: Config) -> Draw:
    """Discs of the units' size, blue allies and red enemies; opacity is health, lines are attacks."""
    from matplotlib.patches import Circle

    from .envs import smax_battle, smax_units

    sim = smax_units.simulator(spec.name.split("/")[1])
    n, types = sim.num_allies, sim.unit_type_names
    radius, full = np.asarray(sim.unit_type_radiuses), np.asarray(sim.unit_type_health)

    def draw(axes, frame: Frame):
        s = frame.snapshot
        axes.set(xlim=(0, sim.map_width), ylim=(0, sim.map_height), aspect="equal", xticks=[], yticks=[])
        heals = None if sim.specials is None else sim.specials.heals[s.type]
        done = np.where(s.action == 255, sim.num_movement_actions - 1, s.action).astype(int)
        target = np.asarray(smax_battle.decode(sim, jnp.asarray(done), heals)[1])
        for i, (x, y) in enumerate(s.position):
            if not s.alive[i]:
                axes.plot(x, y, "x", color=GREY, markersize=4, alpha=0.5)
                continue
            colour = ALLY if i < n else ENEMY
            share = float(s.health[i] / full[s.type[i]])
            axes.add_patch(
                Circle((x, y), float(radius[s.type[i]]), color=colour, alpha=0.25 + 0.75 * share, lw=0)
            )
            axes.text(x, y, types[s.type[i]][:3], ha="center", va="center", fontsize=6)
            if target[i] != i:
                axes.plot(*zip((x, y), s.position[target[i]], strict=True), color=colour, lw=0.6, alpha=0.7)

    return draw


def mpe(spec: EnvSpec, config: Config) -> Draw:
    """Landmarks as crosses, agents as discs of their true size with their velocities."""
    from matplotlib.patches import Circle

    from .envs import mpe as spread

    reach = 1.5 * spread.SCALES[spec.name.split("/")[1]]

    def draw(axes, frame: Frame):
        world = frame.snapshot
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.plot(*world.landmark.T, "kx", markersize=9)
        for i, (x, y) in enumerate(world.position):
            axes.add_patch(Circle((x, y), spread.RADIUS, color=f"C{i}", alpha=0.7, lw=0))
        axes.quiver(
            *world.position.T, *world.velocity.T, angles="xy", scale_units="xy", scale=2, width=0.004
        )

    return draw


def overcooked(spec: EnvSpec, config: Config) -> Draw:
    """The kitchen as the first cook's observation layers tell it."""
    from matplotlib.patches import Rectangle

    tiles = {11: ("#c8a165", ""), 12: ("#c8a165", "onions"), 14: ("#c8a165", "plates"),
             15: ("#8fbf8f", "serve"), 10: ("#555555", "")}  # fmt: skip
    turns = ((0, -0.3), (0, 0.3), (0.3, 0), (-0.3, 0))

    def tile(axes, layers, x: int, y: int):
        empty = not layers[:2].any()
        lying = "soup" if layers[21] else "onion" if layers[23] else "plate" if layers[22] else ""
        # JaxMARL shows no counter where something lies on it.
        floor = tiles[11] if lying and empty else ("#f4efe6", "")
        colour, label = next((tiles[k] for k in (12, 14, 15, 10, 11) if layers[k]), floor)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=0.5))
        axes.text(x, y + 0.38, label, ha="center", va="center", fontsize=6)
        pot, cooking, onions = layers[10] > 0, int(layers[20]), int(layers[16])
        if pot and not lying:
            lying = f"cooking {cooking}" if cooking else f"{onions} onions" if onions else ""
        if empty:
            colour = "white" if pot else "black"
            axes.text(x, y, lying, ha="center", va="center", fontsize=7, color=colour)

    def draw(axes, frame: Frame):
        grid = frame.seen.obs[0]
        axes.set(xlim=(-0.5, grid.shape[1] - 0.5), ylim=(grid.shape[0] - 0.5, -0.5), aspect="equal")
        axes.set(xticks=[], yticks=[])
        for y, x in np.ndindex(grid.shape[:2]):
            tile(axes, grid[y, x], x, y)
        for cook in range(2):
            y, x = (int(i[0]) for i in np.nonzero(grid[..., cook]))
            dx, dy = turns[int(np.argmax(grid[y, x, 2 + 4 * cook : 6 + 4 * cook]))]
            axes.plot(x, y, "o", color=f"C{cook}", markersize=22, alpha=0.75)
            axes.plot([x, x + dx], [y, y + dy], color="black", lw=2)
            held = grid[y, x]
            carries = "soup" if held[21] else "onion" if held[23] else "plate" if held[22] else ""
            axes.text(x, y + 0.05, carries, ha="center", va="center", fontsize=7)

    return draw


def matrix(spec: EnvSpec, config: Config) -> Draw:
    """The payoffs, the joint action framed; of games of more than two players, the first two's slice."""
    from matplotlib.patches import Rectangle

    from .envs.matrix import payoff_of

    table = payoff_of(spec.name.split("/")[1], config)

    def draw(axes, frame: Frame):
        action = np.zeros(spec.n_agents, int) if frame.action is None else frame.action
        shown = table.reshape(*table.shape[:2], -1) if table.ndim > 1 else table[:, None, None]
        rest = np.ravel_multi_index(action[2:], table.shape[2:]) if table.ndim > 2 else 0
        shown = shown[..., rest]
        most = 1.8 * np.abs(table).max()  # pale, so that the numbers can be read
        axes.imshow(shown, cmap="RdBu", vmin=-most, vmax=most)
        for y, x in np.ndindex(shown.shape):
            axes.text(x, y, f"{shown[y, x]:g}", ha="center", va="center")
        if frame.action is not None:
            column = action[1] if table.ndim > 1 else 0
            axes.add_patch(Rectangle((column - 0.5, action[0] - 0.5), 1, 1, fill=False, lw=3))
        axes.set(xticks=range(shown.shape[1]), yticks=range(shown.shape[0]))
        axes.set(xlabel="action of agent 1", ylabel="action of agent 0")

    return draw


def differential(spec: EnvSpec, config: Config) -> Draw:
    """The reward surface, unscaled, and the joint action on it."""
    from .envs import differential as game

    grid = np.linspace(-game.BOUND, game.BOUND, 101)
    u = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    surface = np.asarray(game.surface(jnp.asarray(u)))

    def draw(axes, frame: Frame):
        axes.contourf(grid, grid, np.maximum(surface, -60).T, levels=30, cmap="viridis")
        if frame.action is not None:
            axes.plot(*frame.action[:, 0], "o", color="white", markeredgecolor="black", markersize=9)
        axes.set(xlabel="action of agent 0", ylabel="action of agent 1", aspect="equal")

    return draw


def observations(spec: EnvSpec, config: Config) -> Draw:
    """Any other family: each agent's observation as a row of colours, its action beside it."""

    def draw(axes, frame: Frame):
        rows = frame.seen.obs.reshape(spec.n_agents, -1)
        axes.imshow(rows, aspect="auto", interpolation="nearest", vmin=-1, vmax=1, cmap="RdBu")
        does = [""] * spec.n_agents if frame.action is None else [f": {a}" for a in frame.action.tolist()]
        axes.set_yticks(range(spec.n_agents), [f"agent {i}{a}" for i, a in enumerate(does)])
        axes.set_xlabel("observation (red negative, blue positive); behind the colon, the action")

    return draw


DRAWERS = {
    "smax": smax,
    "mpe": mpe,
    "overcooked": overcooked,
    "matrix": matrix,
    "differential": differential,
}
