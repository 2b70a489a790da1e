"""GIFs of episodes: the right frames, nothing half written, clear refusals."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from me_igm_jax import render
from me_igm_jax.cli import main
from me_igm_jax.envs import make
from me_igm_jax.experiment import run
from me_igm_jax.presets import load
from me_igm_jax.rollout import random_actor

OTHERS = ("overcooked/cramped_room", "smax/terran_5_vs_5", "jaxmarl/switch_riddle", "differential/mtq")


def test_frames_are_the_episode():
    env = make(load(env="mpe/spread"))
    frames = render.play(env, random_actor(env.spec), (), jax.random.key(0))
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
    config = load(env=name, **{"smax.max_steps": 6, "overcooked.horizon": 6})
    out = render.render_random(config, tmp_path / "episode.gif")
    with Image.open(out) as gif:
        pictures = [np.asarray(gif.convert("RGB")) for i in range(gif.n_frames) if gif.seek(i) is None]
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
