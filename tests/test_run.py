"""A run from the command line: its files, its exact resume, its plots, its evaluation."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from me_igm_jax import ConfigError, load, load_run, run
from me_igm_jax.algos import make_algorithm
from me_igm_jax.cli import main
from me_igm_jax.envs import make_env
from me_igm_jax.runner import checkpoint, experiment
from me_igm_jax.runner.files import read_rows
from me_igm_jax.runner.members import make_members
from me_igm_jax.runner.records import read_config

FAST = {
    "run.total_steps": 400, "run.evals": 4, "run.seeds": 2, "run.eval_episodes": 4, "run.progress": False,
    "run.final_eval_episodes": 4, "net.hidden": 8, "algo.hyper_embed": 8, "replay.capacity": 64,
    "replay.batch": 8,
}  # fmt: skip


def fast(directory, env="probe/clock", **overrides):
    return load("me_qmix", env=env, **(FAST | {"run.dir": str(directory)} | overrides))


def params(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.learner.params)]


def same_learner(one, two):
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    return run(fast(tmp_path_factory.mktemp("whole") / "run"))


def test_run_directory(whole):
    result, directory = whole, whole.directory
    files = {p.name for p in directory.iterdir()}
    expected = {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "summary.json",
        "marl_eval.json",
        "checkpoints",
    }
    assert files == expected and len(repr(result)) < 200
    rows = read_rows(directory / "metrics.jsonl")
    assert {(r["eval"], r["seed"]) for r in rows} == {(e, s) for e in range(4) for s in range(2)}
    names = {"env_steps", "updates", "return", "length", "loss_td", "entropy", "alpha", "igm_gap"}
    assert names <= set(rows[0])
    summary = json.loads((directory / "summary.json").read_text())
    assert summary == result.summary
    timing = {"env_steps_per_second", "compile_seconds", "wall_seconds", "peak_memory_bytes"}
    assert timing | {"replay_bytes_per_seed"} <= set(summary)
    (point,) = summary["points"]
    assert len(point["return"]["per_seed"]) == 2 and point["diverged"] == []
    last = {r["seed"]: r for r in rows if r["eval"] == 3}
    for name in ("env_steps", "updates"):
        assert point[name] == [last[seed][name] for seed in range(2)]
    assert all(400 <= steps < 424 for steps in point["env_steps"])  # to within one collection
    marl = json.loads((directory / "marl_eval.json").read_text())["probe"]["clock"]["me_qmix"]
    assert set(marl) == {"seed_0", "seed_1"}
    assert set(marl["seed_0"]["step_0"]) == {"step_count", "return"}
    assert marl["seed_1"]["absolute_metrics"] == {"return": [point["return"]["per_seed"][1]]}
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    described = {name: manifest[name] for name in ("learner", "env", "plugins", "objects", "replay_store")}
    assert described == {
        "learner": "value", "env": "probe/clock", "plugins": [], "objects": [],
        "replay_store": "observations",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="is not empty"):
        run(fast(directory))
    program, learner = load_run(directory)
    same_learner(result.state.learner, learner)
    assert program.config.replay.store == "observations"


def test_resume_continues_exactly(whole, tmp_path):
    """Interrupted after two evaluations and resumed == never interrupted, bit for bit."""

    def stop(epoch, metrics):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    cut = run(fast(tmp_path / "cut"), on_epoch=stop)
    assert cut.interrupted and not (tmp_path / "cut" / "summary.json").exists()
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"eval": 2, "half a li')  # as a crash would leave it
    first = json.loads((tmp_path / "cut" / "manifest.json").read_text())["command"]
    main(["train", "--resume", str(tmp_path / "cut")])
    both = (whole.directory, tmp_path / "cut")
    rows = [read_rows(directory / "metrics.jsonl") for directory in both]
    assert rows[0] == rows[1]
    same_learner(whole.state.learner, load_run(tmp_path / "cut")[1])
    points = [json.loads((directory / "summary.json").read_text())["points"] for directory in both]
    assert points[0] == points[1]
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    assert manifest["command"] == first and len(manifest["resumed"]) == 1
    with pytest.raises(SystemExit) as finished:
        main(["train", "--resume", str(tmp_path / "cut")])
    assert finished.value.code == 2


@pytest.mark.parametrize("every", [1, 3], ids=["a checkpoint of the end", "an older checkpoint"])
def test_a_crash_at_the_end_loses_nothing(whole, tmp_path, monkeypatch, every):
    """Before summary.json is written there is always a checkpoint to go on from, afterwards none."""

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(experiment, "write_summary", crash)
        run(fast(tmp_path / "run", **{"run.checkpoint_every": every}))
    assert checkpoint.is_resumable(tmp_path / "run")
    config, _ = read_config(tmp_path / "run")
    again = run(config, resume=True)
    same_learner(again.state.learner, load_run(tmp_path / "run")[1])
    assert not checkpoint.is_resumable(tmp_path / "run")
    assert checkpoint.epochs(tmp_path / "run") == [4]
    same_learner(whole.state.learner, again.state.learner)
    assert whole.summary["points"] == again.summary["points"]


def test_objects_in_place_of_names(tmp_path):
    """An Env and an Algorithm of the user's own: trained, recorded, and asked for when the run is used."""
    env = make_env(load(env="probe/clock"))
    env = env._replace(spec=env.spec._replace(name="mine"))
    config = load("me_qmix", env=None, **(FAST | {"run.dir": str(tmp_path / "run")}))
    algo = make_algorithm(config, env.spec)
    result = run(config, env=env, algo=algo)
    assert result.summary["env"] == "mine"
    assert list(json.loads((tmp_path / "run" / "marl_eval.json").read_text())) == ["mine"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["objects"], manifest["env"]) == (["env", "algo"], "mine")
    with pytest.raises(ConfigError, match=r"an Env object; hand it in: load_run\(\.\.\., env=\.\.\.\)"):
        load_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"an Algorithm object; .* algo="):
        load_run(tmp_path / "run", env=env)
    with pytest.raises(ConfigError, match=r"hand it in: run\(\.\.\., env=\.\.\.\)"):
        run(config, resume=True)
    same_learner(load_run(tmp_path / "run", env=env, algo=algo)[1], result.state.learner)
    with pytest.raises(ConfigError, match="devices_per_seed=2: must be 1 with an Algorithm"):
        run(fast(tmp_path / "b", **{"run.devices_per_seed": 2}), algo=algo)
    assert not (tmp_path / "b").exists()


def test_run_directories_that_cannot_be_read(tmp_path, capsys):
    """An older release's, one that names code which nobody allowed, damaged ones: one line each."""

    def refused(text):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(SystemExit) as stop:
            main(["eval", str(tmp_path)])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        return error

    old = refused(yaml.safe_dump({"preset": "qmix", "env": "smax/3m", "algo": {"learner": "value"}}))
    assert f"{tmp_path}: was written by an older release (0.1)" in old
    run(load("vdn", env="matrix/qtran", **{"run.dir": str(tmp_path / "run"), **SHORT}))
    data = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert data["format"] == 2 and data["objects"] == [] and data["grid"] == {}
    for change in ({"env": "nobody_allowed:make"}, {"plugins": ["nobody_allowed"]}):
        assert "--plugin nobody_allowed" in refused(yaml.safe_dump(data | change))
    for damaged in ("", "- 1", "a: [", "\0"):
        assert "is damaged" in refused(damaged)


SHORT = {
    "run.total_steps": 64, "run.evals": 1, "run.eval_episodes": 4, "run.final_eval_episodes": 4,
    "run.progress": False, "replay.batch": 8, "replay.capacity": 64,
}  # fmt: skip


def test_a_seed_that_diverged_is_not_a_solved_game(tmp_path):
    """Values that are not numbers make argmax choose action 0, which is the best one in this game."""
    options = SHORT | {"run.seeds": 2, "run.total_steps": 400, "run.first_seed": 3}
    config = load("qmix", env="matrix/climbing", **options, **{"run.dir": str(tmp_path / "run")})
    grid = {"lr": [1e38, 5e-4]}
    bad, good = run(config, grid).summary["points"]
    assert bad["diverged"] == [3, 4] and good["diverged"] == []
    assert bad["optimal_rate"] == 0 and bad["optimal_interval"][0] == 0
    for path in ("summary.json", "marl_eval.json", "metrics.jsonl"):
        text = (tmp_path / "run" / path).read_text()
        assert "NaN" not in text and "Infinity" not in text
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(("finite" in row) == (row["point"] == 0) for row in rows)
    assert all(row["q_tot"] is None for row in rows if row["point"] == 0)


def test_seeds_in_batches_are_the_same_seeds(tmp_path):
    """Three seeds on one device, at once and two at a time (the last batch is not full)."""
    options = {"run.seeds": 3, "run.devices": 1}
    at_once = run(fast(tmp_path / "a", **options))
    in_batches = run(fast(tmp_path / "b", **options, **{"run.seeds_per_batch": 2}))
    for one, two in zip(params(at_once.state), params(in_batches.state), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_same_seed_same_numbers_and_seeds_do_not_depend_on_each_other(whole, tmp_path):
    again = run(fast(tmp_path / "2"))
    same_learner(whole.state.learner, again.state.learner)
    alone = run(fast(tmp_path / "3", **{"run.seeds": 1}))
    for a, b in zip(params(whole.state), params(alone.state), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-3, atol=1e-5)
    (point,) = alone.summary["points"]
    assert point["return"]["mean_interval"] is None  # one seed says nothing about others


def test_sweep_and_eval(tmp_path, capsys):
    """Swept values are found again exactly as they were typed."""
    directory = tmp_path / "s"
    main(["sweep", "--preset", "me_qmix", "--env", "probe/clock", "--grid", "hypers.lr=1e-4,1e-2",
          "--grid", "hypers.target-entropy=0.1,0.3", f"--run.dir={directory}", "--run.no-progress",
          *(f"--{k.replace('_', '-')}={v}" for k, v in FAST.items() if k != "run.progress")])  # fmt: skip
    points = json.loads((directory / "summary.json").read_text())["points"]
    typed = [(lr, entropy) for lr in (1e-4, 1e-2) for entropy in (0.1, 0.3)]
    assert [tuple(p["point"].values()) for p in points] == typed
    rows = read_rows(directory / "metrics.jsonl")
    assert {(r["hypers.lr"], r["hypers.target_entropy"]) for r in rows} == set(typed)
    assert read_config(directory)[1] == {"lr": [1e-4, 1e-2], "target_entropy": [0.1, 0.3]}
    marl = json.loads((directory / "marl_eval.json").read_text())["probe"]["clock"]
    assert list(marl) == [f"me_qmix (lr={lr:g}, target_entropy={e:g})" for lr, e in typed]
    capsys.readouterr()
    main(["eval", str(directory), "--episodes", "5"])
    assert "return" in capsys.readouterr().out
    saved = json.loads((directory / "eval.json").read_text())
    assert saved["episodes"] == 5 and len(saved["points"]) == 4


def test_a_grid_that_the_run_does_not_read_is_refused(tmp_path):
    for grid, message in (({"clip": [0.1]}, "clip"), ({"lr": ["x"]}, "lr=x"), ({"lr": [-1]}, "positive")):
        with pytest.raises(ConfigError, match=message):
            run(fast(tmp_path / "run"), grid)
    assert not (tmp_path / "run").exists()


def test_matrix_summary(tmp_path):
    config = load("me_vdn", env="matrix/qtran", **{
        "run.total_steps": 4032, "run.seeds": 3, "run.dir": str(tmp_path / "m"), "run.progress": False,
    })  # fmt: skip
    point = run(config).summary["points"][0]
    q = np.array(point["q_table"])
    assert q.shape == (3, 3) and point["additivity_error"] < 1e-3  # a sum is additive, whatever it learned
    assert np.array(point["policy"]).sum(-1) == pytest.approx([1, 1])
    assert 0 <= point["optimal_interval"][0] <= point["optimal_rate"] <= point["optimal_interval"][1] <= 1


def test_other_numbers_of_seeds_are_other_keys():
    config = load("vdn", env="matrix/qtran", **{"run.seeds": 3, "run.first_seed": 5, "run.seed": 7})
    members = make_members(config, {"lr": [1e-3, 1e-4]})
    keys = [jax.random.fold_in(jax.random.key(7), 5 + s) for s in range(3)]
    np.testing.assert_array_equal(
        jax.random.key_data(members.keys), jax.random.key_data(jnp.stack(keys * 2))
    )
    np.testing.assert_array_equal(members.hypers.lr, np.float32([1e-3] * 3 + [1e-4] * 3))
    assert members.points == [{"lr": 1e-3}, {"lr": 1e-4}]
