"""A run from the command line: its files, its exact resume, its plots, its evaluation."""

import json

import jax
import matplotlib.image
import numpy as np
import pytest

from me_igm_jax import ConfigError, load, stats
from me_igm_jax.cli import main
from me_igm_jax.experiment import run
from me_igm_jax.play import load_run
from me_igm_jax.sinks import JsonLines, read_rows

FAST = {
    "run.total_steps": 400, "run.evals": 4, "run.seeds": 2, "run.eval_episodes": 4, "run.progress": False,
    "run.final_eval_episodes": 4, "net.hidden": 8, "algo.hyper_embed": 8, "replay.capacity": 64,
    "replay.batch": 8,
}  # fmt: skip


def fast(directory, env="probe/clock", **overrides):
    return load("me_qmix", env=env, **(FAST | {"run.dir": str(directory)} | overrides))


def params(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.learner.params)]


def test_run_directory(tmp_path):
    result = run(fast(tmp_path / "a"))
    files = {p.name for p in (tmp_path / "a").iterdir()}
    expected = {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "summary.json",
        "marl_eval.json",
        "checkpoints",
    }
    assert files == expected
    rows = read_rows(tmp_path / "a" / "metrics.jsonl")
    assert {(r["eval"], r["seed"]) for r in rows} >= {(e, s) for e in range(4) for s in range(2)}
    assert {"env_steps", "updates", "return", "length", "loss_td", "entropy", "alpha", "igm_gap"} <= set(
        rows[0]
    )
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    timing = {"env_steps_per_second", "compile_seconds", "wall_seconds", "peak_memory_bytes"}
    assert timing | {"replay_bytes_per_seed"} <= set(summary)
    assert len(summary["points"][0]["return"]["per_seed"]) == 2
    marl = json.loads((tmp_path / "a" / "marl_eval.json").read_text())
    assert set(marl["probe"]["clock"]["me_qmix"]["seed_0_point_0"]["step_0"]) == {"step_count", "return"}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    with pytest.raises(ConfigError, match="is not empty"):
        run(fast(tmp_path / "a"))
    _, learner = load_run(tmp_path / "a")
    for ours, theirs in zip(params(result.state), jax.tree.leaves(learner.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_resume_continues_exactly(tmp_path):
    """Interrupted after two evaluations and resumed == never interrupted, bit for bit."""
    import os
    import signal

    whole = run(fast(tmp_path / "whole"))

    def stop(epoch, metrics):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    cut = run(fast(tmp_path / "cut"), on_epoch=stop)
    assert cut.interrupted and not (tmp_path / "cut" / "summary.json").exists()
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"eval": 2, "half a li')  # as a crash would leave it
    main(["train", "--resume", str(tmp_path / "cut")])
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    _, learner = load_run(tmp_path / "cut")
    for one, two in zip(params(whole.state), jax.tree.leaves(learner.params), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(SystemExit) as finished:
        main(["train", "--resume", str(tmp_path / "cut")])
    assert finished.value.code == 2


def test_seeds_in_batches_are_the_same_seeds(tmp_path):
    """Three seeds on one device, at once and two at a time (the last batch is not full)."""
    options = {"run.seeds": 3, "run.devices": 1}
    at_once = run(fast(tmp_path / "a", **options))
    in_batches = run(fast(tmp_path / "b", **options, **{"run.seeds_per_batch": 2}))
    for one, two in zip(params(at_once.state), params(in_batches.state), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_same_seed_same_numbers_and_seeds_do_not_depend_on_each_other(tmp_path):
    one = run(fast(tmp_path / "1"))
    again = run(fast(tmp_path / "2"))
    for a, b in zip(params(one.state), params(again.state), strict=True):
        np.testing.assert_array_equal(a, b)
    alone = run(fast(tmp_path / "3", **{"run.seeds": 1}))
    for a, b in zip(params(one.state), params(alone.state), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-3, atol=1e-5)


def test_sweep_plot_and_eval(tmp_path, capsys):
    directory = tmp_path / "s"
    grid = {"lr": [1e-4, 1e-2], "target_entropy": [0.1, 0.3]}
    result = run(fast(directory), grid=grid)
    points = result.summary["points"]
    assert [p["point"]["lr"] for p in points] == pytest.approx([1e-4, 1e-4, 1e-2, 1e-2])
    rows = read_rows(directory / "metrics.jsonl")
    assert {r["hypers.lr"] for r in rows} == {p["point"]["lr"] for p in points}
    main(["plot", str(directory), "--out", str(tmp_path / "c.png"), "--metric", "return"])
    image = matplotlib.image.imread(tmp_path / "c.png")
    assert image.shape[0] > 300 and image.std() > 0.01
    main(["eval", str(directory), "--episodes", "5"])
    assert "return" in capsys.readouterr().out
    saved = json.loads((directory / "eval.json").read_text())
    assert saved["episodes"] == 5 and len(saved["points"]) == 4
    with pytest.raises(SystemExit):
        main(["plot", str(directory), "--metric", "nothing"])


def test_matrix_summary(tmp_path):
    config = load("vdn", env="matrix/qtran", **{
        "run.total_steps": 4032, "run.seeds": 3, "run.dir": str(tmp_path / "m"), "run.progress": False,
    })  # fmt: skip
    point = run(config).summary["points"][0]
    q = np.array(point["q_table"])
    assert q.shape == (3, 3) and point["additivity_error"] < 1e-3  # a sum is additive, whatever it learned
    assert np.array(point["policy"]).sum(-1) == pytest.approx([1, 1])
    assert 0 <= point["optimal_interval"][0] <= point["optimal_rate"] <= point["optimal_interval"][1] <= 1


def test_rows_survive_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink.write([{"eval": 0, "x": 1}, {"eval": 1, "x": 2}])
    sink.close()
    with path.open("a") as file:
        file.write('{"eval": 2, "x"')
    assert [r["x"] for r in read_rows(path)] == [1, 2]
    JsonLines(path, keep_before=1).close()
    assert [r["x"] for r in read_rows(path)] == [1]


def test_statistics():
    assert stats.iqm(np.array([0.0, 1, 2, 3, 100, 4, 5, 6])) == pytest.approx(3.5)
    assert stats.iqm(np.array([1.0, 5.0])) == 3.0
    low, high = stats.bootstrap(np.random.default_rng(0).normal(size=200), lambda x: x.mean(-1))
    assert low < 0.1 and high > -0.1 and 0.15 < high - low < 0.45
    assert stats.wilson(10, 10)[1] == 1.0 and stats.wilson(0, 10)[0] == 0.0
    assert stats.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
