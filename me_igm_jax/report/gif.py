"""One episode as a GIF: what the team sees and does.

An environment draws a frame itself (`Env.draw`); for one that does not, each agent's observation is
shown as a row of colours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..config import Config, ConfigError
from ..envs import make_env
from ..runner.loading import load_run
from ..training.rollout import Act, collect_episodes, greedy_actor, random_actor
from ..types import Algorithm, Carry, Env, Frame


def render_run(
    directory: str | Path,
    out: str | Path,
    member: int = 0,
    seed: int = 1,
    *,
    env: Env | None = None,
    algo: Algorithm | None = None,
) -> Path:
    """The greedy team of a finished run plays one episode.

    member     which of the run: point * seeds + seed
    seed       key of the episode
    env, algo  the objects that the run was made with, when it was made with any
    """
    program, learners = load_run(directory, env=env, algo=algo)
    size = len(jax.tree.leaves(learners)[0])
    if not 0 <= member < size:
        raise ConfigError(f"--member {member}: {directory} holds members 0 to {size - 1}")
    learner = jax.tree.map(lambda x: x[member], learners)
    act, carry = greedy_actor(program.algo, learner), program.algo.carry(1)
    return write_gif(program.env, episode_frames(program.env, act, carry, jax.random.key(seed)), Path(out))


def render_random(config: Config, out: str | Path, seed: int = 1, *, env: Env | None = None) -> Path:
    """A team that picks available actions uniformly plays one episode of `config.env`, or of `env`."""
    env = make_env(config) if env is None else env
    return write_gif(env, episode_frames(env, random_actor(env.spec), (), jax.random.key(seed)), Path(out))


def episode_frames(env: Env, act: Act, carry: Carry, key: jax.Array) -> list[Frame]:
    """The instants of one episode, the final one included."""
    episode = jax.jit(lambda k: collect_episodes(env, carry, act, k, 1, snapshots=True)[0])
    batch = jax.tree.map(np.asarray, episode(key))
    length = int(batch.mask.sum())
    snapshots = jax.tree.map(lambda x: x[:, 0], batch.steps)
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(env.expand))(snapshots))
    totals = np.concatenate([[0.0], batch.reward[:, 0].cumsum()])
    return [
        Frame(
            snapshot=jax.tree.map(lambda x, t=t: x[t], snapshots),
            seen=jax.tree.map(lambda x, t=t: x[t], seen),
            action=batch.action[t, 0] if t < length else None,
            step=t,
            total=float(totals[t]),
        )
        for t in range(length + 1)
    ]


def write_gif(env: Env, frames: list[Frame], out: Path) -> Path:
    """Save one picture per frame as a GIF; nothing is left half written. The end stays in view."""
    images = list(pictures(env, frames))
    each = 1500 if len(frames) < 5 else 125  # milliseconds
    part = out.with_name(f".{out.stem}.part.gif")
    try:
        images[0].save(
            part, save_all=True, append_images=images[1:], loop=0,
            duration=[each] * (len(images) - 1) + [2000],
        )  # fmt: skip
        part.replace(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return out


def pictures(env: Env, frames: list[Frame]) -> Iterator[Any]:
    """A PIL image of every frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    draw = env.draw or draw_observations
    name = env.spec.name.replace("$", r"\$")  # matplotlib reads $...$ as mathematics
    figure = Figure(figsize=(5.0, 5.0), dpi=80, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    for frame in frames:
        axes.clear()
        draw(axes, frame)
        axes.set_title(f"{name}   step {frame.step}   return {frame.total:.1f}", fontsize=10)
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_observations(axes: Any, frame: Frame) -> None:
    """Each agent's observation as a row of colours, its action beside it."""
    agents = len(frame.seen.obs)
    rows = frame.seen.obs.reshape(agents, -1)
    axes.imshow(rows, aspect="auto", interpolation="nearest", vmin=-1, vmax=1, cmap="RdBu")
    does = [""] * agents if frame.action is None else [f": {a}" for a in frame.action.tolist()]
    axes.set_yticks(range(agents), [f"agent {i}{a}" for i, a in enumerate(does)])
    axes.set_xlabel("observation: red negative, blue positive\nbehind the colon: the action")
