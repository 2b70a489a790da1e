"""A package outside ours moves in: its environment, mixer, network and learner train, resume and are used.

The package is docs/examples/house_guest, which docs/extending.md explains. No file of ours names it.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from conftest import random_batch
from me_igm_jax import ConfigError, load, load_run, make_program, run
from me_igm_jax.algos import make_algorithm
from me_igm_jax.cli import main
from me_igm_jax.runner.files import read_rows

GUEST = Path(__file__).parent.parent / "docs" / "examples" / "house_guest"
PRESET = str(GUEST / "house_guest" / "presets" / "iql.yaml")
SMALL = {
    "run.total_steps": 2400, "run.evals": 3, "run.seeds": 2, "run.eval_episodes": 4, "run.progress": False,
    "run.final_eval_episodes": 4, "net.hidden": 8, "replay.capacity": 64, "replay.batch": 8,
    "collect.envs": 8,
}  # fmt: skip
ME_QMIX = SMALL | {"algo.hyper_embed": 8, "net.agent": "house_guest.agent:TraceAgent"}


@pytest.fixture(scope="module", autouse=True)
def guest_on_the_path():
    sys.path.insert(0, str(GUEST))
    yield
    sys.path.remove(str(GUEST))


def flags(settings):
    return [f"--{k.replace('_', '-')}={v}" for k, v in settings.items()]


@pytest.fixture(scope="module")
def iql_run(tmp_path_factory):
    """The guest's learner and preset on the guest's environment, from the command line."""
    directory = tmp_path_factory.mktemp("iql") / "run"
    words = ["train", "--plugin", "house_guest", "--preset", PRESET, "--env", "soccer/short"]
    main([*words, *flags(SMALL), "--run.dir", str(directory)])
    return directory


def test_a_guest_trains_by_name(iql_run):
    rows = read_rows(iql_run / "metrics.jsonl")
    assert {(r["eval"], r["seed"]) for r in rows} == {(e, s) for e in range(3) for s in range(2)}
    assert {"won", "loss_td", "q_tot", "grad_norm"} <= set(rows[0])
    manifest = json.loads((iql_run / "manifest.json").read_text())
    assert (manifest["learner"], manifest["plugins"]) == ("iql", ["house_guest"])


def test_a_guest_resumes_bit_for_bit(iql_run, tmp_path):
    overrides = SMALL | {"run.dir": str(tmp_path / "cut")}
    config = load(PRESET, env="soccer/short", plugins=["house_guest"], **overrides)

    def stop(epoch, metrics):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(config, on_epoch=stop).interrupted
    main(["train", "--resume", str(tmp_path / "cut"), "--plugin", "house_guest"])
    rows = [read_rows(d / "metrics.jsonl") for d in (iql_run, tmp_path / "cut")]
    assert rows[0] == rows[1]
    learners = [load_run(d)[1] for d in (iql_run, tmp_path / "cut")]
    jax.tree.map(np.testing.assert_array_equal, *(x.params for x in learners))


def test_a_guest_is_evaluated_plotted_and_rendered(iql_run, tmp_path, capsys):
    main(["eval", str(iql_run), "--episodes", "8"])
    assert "won: " in capsys.readouterr().out
    main(["plot", str(iql_run), "--out", str(tmp_path / "curve.png")])
    main(["render", str(iql_run), "--out", str(tmp_path / "episode.gif")])
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert (tmp_path / "episode.gif").stat().st_size > 2000


def test_a_guest_is_swept(tmp_path):
    words = ["sweep", "--plugin", "house_guest", "--preset", PRESET, "--env", "soccer/short"]
    main([*words, *flags(SMALL), "--run.dir", str(tmp_path / "x"), "--grid", "hypers.lr=1e-3,1e-2"])
    points = json.loads((tmp_path / "x" / "summary.json").read_text())["points"]
    assert [p["point"] for p in points] == [{"lr": 1e-3}, {"lr": 1e-2}]


def test_parts_at_import_paths(tmp_path):
    """An environment, a mixer and an agent network that nobody registered by a name that is used here."""
    config = load(
        "me_qmix", env="house_guest.soccer:make", **ME_QMIX,
        **{"algo.mixer": "house_guest.mixer:SoftMin", "env_options.reach": 3},
        **{"run.dir": str(tmp_path / "x")},
    )  # fmt: skip
    result = run(config)
    assert result.summary["points"][0]["won"]["per_seed"] and config.env_options.reach == 3
    program, learner = load_run(tmp_path / "x")
    assert program.env.spec.name == "line soccer" and program.config.algo == config.algo
    assert set(learner.params["agent"]["params"]) >= {"Linear_0", "Linear_1"}


@pytest.mark.parametrize("word", [[], ["--plugin", "house_guest"]])
def test_code_that_a_run_names_is_imported_at_the_users_word_alone(iql_run, word):
    code = "from me_igm_jax.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", str(iql_run), "--episodes", "4", *word],
        capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(GUEST)},
    )  # fmt: skip
    assert done.returncode == (0 if word else 2), done.stderr
    if not word:
        assert done.stderr.count("\n") == 1 and "--plugin house_guest" in done.stderr


def test_objects_in_place_of_names(tmp_path):
    """An Env and an Algorithm as objects; the run says that they must be handed in again."""
    from house_guest import soccer

    env = soccer.line_soccer("mine", 4, soccer.SoccerOptions())
    config = load(PRESET, env=None, plugins=["house_guest"], **SMALL, **{"run.dir": str(tmp_path / "x")})
    algo = make_algorithm(config, env.spec)
    result = run(config, env=env, algo=algo)
    assert result.summary["env"] == "mine" and len(result.summary["points"][0]["won"]["per_seed"]) == 2
    with pytest.raises(ConfigError, match="hand it in"):
        load_run(tmp_path / "x")
    program, _ = load_run(tmp_path / "x", env=env, algo=algo)
    assert program.env is env


def test_iql_loss_is_its_equation():
    """One update of the guest's learner against NumPy: targets, loss, and who counts."""
    from house_guest import iql

    config = load(PRESET, env="soccer/short", plugins=["house_guest"])
    batch = random_batch(jax.random.key(3))
    rng = np.random.default_rng(0)
    T, B, N, A = 5, 4, 3, 4
    q, q_target = rng.normal(size=(2, T + 1, B, N, A)).astype(np.float32)
    targets = np.asarray(iql.td_targets(q, q_target, batch, config.hypers))
    gamma, lam = config.hypers.gamma, config.hypers.td_lambda
    avail, alive = np.asarray(batch.steps.avail), np.asarray(batch.steps.alive)
    reward, discount, mask = (np.asarray(x) for x in (batch.reward, batch.discount, batch.mask))
    best = np.where(avail, q, -np.inf).argmax(-1)
    value = np.take_along_axis(q_target, best[..., None], -1)[..., 0]
    expected = np.zeros((T, B, N))
    for t in reversed(range(T)):
        real_next = (mask[t + 1] if t + 1 < T else np.zeros(B))[:, None]
        later = expected[t + 1] if t + 1 < T else value[T]
        mixed = value[t + 1] + lam * real_next * (later - value[t + 1])
        expected[t] = reward[t][:, None] + gamma * discount[t][:, None] * alive[t + 1] * mixed
    real = mask[..., None] * alive[:T]
    np.testing.assert_allclose(targets * real, expected * real, rtol=1e-4, atol=1e-5)
    loss, _ = iql.td_loss(q, targets, batch)
    done = np.take_along_axis(q[:T], np.asarray(batch.action)[..., None], -1)[..., 0]
    wanted = 0.5 * (real * (done - expected) ** 2).sum() / real.sum()
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)


def test_the_guests_mixer_grows_with_every_utility():
    config = load("qmix", env="matrix/qtran", plugins=["house_guest"], **{"algo.mixer": "soft_min"})
    program = make_program(config)
    from house_guest.mixer import SoftMin

    mixer, state = SoftMin(hyper_embed=8), jax.random.normal(jax.random.key(0), (7, 3))
    q = jax.random.normal(jax.random.key(1), (7, 4))
    params = mixer.init(jax.random.key(2), q, state)
    slopes = jax.grad(lambda q: mixer.apply(params, q, state).sum())(q)
    assert (slopes > 0).all() and program.config.algo.mixer == "soft_min"
