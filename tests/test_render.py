"""GIFs of episodes: the right frames, nothing half written, clear refusals."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from me_igm_jax import ConfigError, load, make_env, run
from me_igm_jax.cli import main
from me_igm_jax.report import gif
from me_igm_jax.training.rollout import random_actor

SHORT = {"smax": {"env_options.max_steps": 6}, "overcooked": {"env_options.horizon": 6}}
OTHERS = ("overcooked/cramped_room", "smax/terran_5_vs_5", "jaxmarl/switch_riddle", "differential/mtq")


def test_frames_are_the_episode():
    env = make_env(load(env="mpe/spread"))
    frames = gif.episode_frames(env, random_actor(env.spec), (), jax.random.key(0))
    assert [frame.step for frame in frames] == list(range(26))
    assert frames[-1].action is None and frames[0].total == 0
    state = frames[0].snapshot
    for before, after in itertools.pairwise(frames):
        state, outcome = env.step(jax.random.key(0), state, before.action)
        np.testing.assert_allclose(state.position, after.snapshot.position, atol=1e-5)
        assert after.total - before.total == pytest.approx(float(outcome.reward), abs=1e-3)


@pytest.mark.parametrize("name", [
    "matrix/qtran", *(pytest.param(e, marks=pytest.mark.slow) for e in OTHERS),
])  # fmt: skip
def test_a_random_team_of_every_family(name, tmp_path):
    config = load(env=name, **SHORT.get(name.split("/")[0], {}))
    out = gif.render_random(config, tmp_path / "episode.gif")
    with Image.open(out) as film:
        pictures = [np.asarray(film.convert("RGB")) for i in range(film.n_frames) if film.seek(i) is None]
    assert len(pictures) >= 2 and (pictures[0] != pictures[-1]).any()
    assert [p.name for p in tmp_path.iterdir()] == ["episode.gif"]


def test_a_trained_team_and_a_member_that_is_not_there(tmp_path, capsys):
    config = load("vdn", env="matrix/qtran", **{
        "run.total_steps": 100, "run.evals": 1, "run.dir": str(tmp_path / "run"), "run.progress": False,
    })  # fmt: skip
    run(config)
    main(["render", str(tmp_path / "run"), "--out", str(tmp_path / "a.gif")])
    assert (tmp_path / "a.gif").stat().st_size > 1000
    with pytest.raises(SystemExit) as stop:
        main(["render", str(tmp_path / "run"), "--member", "3"])
    assert stop.value.code == 2 and "members 0 to 0" in capsys.readouterr().err


def test_an_environment_of_ones_own_and_what_cannot_be_written(tmp_path):
    """Without a drawer its observations are shown; nothing is left half written."""
    env = make_env(load(env="probe/clock"))._replace(draw=None)
    env = env._replace(spec=env.spec._replace(name="cost: 3$ or 4$"))
    config = load(env=None)
    out = gif.render_random(config, str(tmp_path / "a.b.gif"), env=env)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]

    def broken(axes, frame):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gif.render_random(config, tmp_path / "b.gif", env=env._replace(draw=broken))
    with pytest.raises(ConfigError, match="--out"):
        gif.render_random(config, tmp_path / "nowhere" / "c.gif", env=env)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
