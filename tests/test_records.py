"""What a run writes: rows, valid JSON, marl-eval, sinks; and the statistics of its summary."""

import json
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from me_igm_jax import ConfigError, load, run
from me_igm_jax.runner import files, records, sinks, statistics
from me_igm_jax.runner.summary import marl_eval

ROWS = [
    {"eval": 0, "point": p, "seed": s, "env_steps": 10, "hypers.lr": lr, "return": value}
    for p, lr in enumerate((1e-4, 1e-3))
    for s, value in ((0, 8.0 - 4 * p), (1, 4.0 - 4 * p))
]


def test_rows_hold_no_number_that_json_cannot_hold():
    metrics = {"env_steps": np.array([8.0, 9.0]), "loss": np.array([np.nan, 0.12345678])}
    found = records.rows(3, metrics, 2, [{"lr": 1e-4}], first_seed=5)
    assert found == [
        {
            "eval": 3,
            "point": 0,
            "seed": 5,
            "hypers.lr": 1e-4,
            "env_steps": 8,
            "loss": None,
            "finite": False,
        },
        {"eval": 3, "point": 0, "seed": 6, "hypers.lr": 1e-4, "env_steps": 9, "loss": 0.123457},
    ]
    assert type(found[0]["env_steps"]) is int
    data = {"a": [float("inf"), 1.0, {"b": float("nan")}], "c": (None, "x", 2)}
    assert files.finite(data) == {"a": [None, 1.0, {"b": None}], "c": [None, "x", 2]}


def test_rows_survive_a_torn_line_and_name_a_damaged_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = sinks.JsonLines(path)
    rows = [{"eval": e, "point": 0, "seed": 0, "env_steps": 8 * e} for e in range(2)]
    sink.write(rows)
    sink.close()
    with path.open("a") as file:
        file.write('{"eval": 2, "x"')
    assert files.read_rows(path) == rows
    sinks.JsonLines(path, keep_before=1).close()
    assert files.read_rows(path) == rows[:1]
    for damaged in ("null", "[1]", '{"x": 1}', "what"):
        path.write_text(f"{damaged}\n{json.dumps(rows[0])}\n")
        with pytest.raises(ConfigError, match="line 1 is damaged"):
            files.read_rows(path)


def test_files_are_replaced_whole_and_links_are_not_followed(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    foreign.write_text("mine")
    monkeypatch.setattr(files.os, "getpid", lambda: 7)
    (tmp_path / ".x.json.7.tmp").symlink_to(foreign)
    files.write_json(tmp_path / "x.json", {"a": 1})
    assert foreign.read_text() == "mine" and files.read_json(tmp_path / "x.json") == {"a": 1}
    assert {p.name for p in tmp_path.iterdir()} == {"foreign", "x.json"}


def test_every_hyper_point_is_an_algorithm_of_marl_eval(tmp_path):
    """Else learning rates would count as seeds. The absolute metrics come from the final episodes."""
    (tmp_path / "metrics.jsonl").write_text(files.json_lines(ROWS))
    config = SimpleNamespace(preset="qmix", run=SimpleNamespace(seeds=2, first_seed=0))
    points = [{"point": {"lr": lr}, "return": {"per_seed": [lr, 2 * lr]}} for lr in (1e-4, 1e-3)]
    found = marl_eval(tmp_path, config, {"env": "smax/3m", "points": points})["smax"]["3m"]
    assert set(found) == {"qmix (lr=0.0001)", "qmix (lr=0.001)"}
    assert found["qmix (lr=0.001)"]["seed_1"] == {
        "step_0": {"step_count": 10, "return": [0.0]}, "absolute_metrics": {"return": [2e-3]}
    }  # fmt: skip
    one = marl_eval(tmp_path, config, {"env": "alone", "points": points})
    assert set(one["alone"]) == {"alone"}


def test_sinks_get_means_over_seeds_and_never_over_points():
    tags = dict(sinks.tagged(ROWS))
    assert (tags["return/point_0"], tags["return/point_1"]) == (6.0, 2.0)
    assert tags["return/point_1_seed_0"] == 4.0 and "return" not in tags
    tags = dict(sinks.tagged(ROWS[:2]))
    assert tags["return"] == 6.0 and tags["return/seed_1"] == 4.0
    assert not {"point", "seed", "eval", "env_steps"} & {tag.split("/")[0] for tag in tags}
    tags = dict(sinks.tagged([row | {"return": None} for row in ROWS]))
    assert np.isnan(tags["return/point_0"])


def test_a_missing_package_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks.WandB, "package", "no_such_package")
    config = load("vdn", env="matrix/qtran", **{"run.dir": str(tmp_path / "r"), "run.sinks": ["wandb"]})
    with pytest.raises(ConfigError, match=r"run.sinks=wandb: needs the package no_such_package"):
        run(config)
    assert not (tmp_path / "r").exists()


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
    """A false wandb keeps what it is given."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((values, step))

        def finish(self):
            calls.append("finished")

    module = types.ModuleType("wandb")
    module.init = lambda **given: calls.append(given) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "MODE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    config = load("vdn", env="matrix/qtran")
    sink = sinks.WandB(tmp_path, config)
    sink.write(ROWS)
    sink.close()
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_NAME", "this one")
    sinks.WandB(tmp_path, config)
    first, (values, step), finished, second = calls
    assert (first["project"], first["mode"], first["name"]) == ("me_igm_jax", "offline", tmp_path.name)
    assert first["config"]["preset"] == "vdn" and finished == "finished"
    assert (second["project"], second["name"]) == ("theirs", "this one")
    assert second["id"] == first["id"] and first["resume"] == second["resume"] == "allow"
    assert values["return/point_0"] == 6.0 and step == 10


def test_tensorboard(tmp_path, monkeypatch):
    written = []
    writer = SimpleNamespace(
        add_scalar=lambda *x: written.append(x), close=lambda: written.append("closed")
    )
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = lambda path: writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    sink = sinks.TensorBoard(tmp_path, load("vdn", env="matrix/qtran"))
    sink.write(ROWS)
    sink.close()
    assert ("return/point_0", 6.0, 10) in written and written[-1] == "closed"


def test_statistics():
    assert statistics.iqm(np.array([0.0, 1, 2, 3, 100, 4, 5, 6])) == pytest.approx(3.5)
    assert statistics.iqm(np.array([1.0, 5.0])) == 3.0
    low, high = statistics.bootstrap(np.random.default_rng(0).normal(size=200), np.mean)
    assert low < 0.1 and high > -0.1 and 0.15 < high - low < 0.45
    assert statistics.wilson(10, 10)[1] == 1.0 and statistics.wilson(0, 10)[0] == 0.0
    assert statistics.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)


def test_no_interval_of_one_seed_or_of_what_is_no_number():
    described = statistics.describe(np.array([3.0]))
    assert described == {
        "per_seed": [3.0], "mean": 3.0, "mean_interval": None, "iqm": 3.0, "iqm_interval": None
    }  # fmt: skip
    assert statistics.bootstrap(np.array([1.0, np.nan, 2.0])) is None
    band = statistics.bootstrap(np.zeros((4, 3)))
    assert band[0].shape == band[1].shape == (4,)
