"""A sweep in several jobs is the sweep that one program runs; what fails is said and loses nothing."""

import json
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest
import submitit  # noqa: F401  (here: its first import shuts loggers down, and closes what a test captures)

from me_igm_jax import ConfigError, load, load_run, run
from me_igm_jax.cli import main
from me_igm_jax.runner import job, launch
from me_igm_jax.runner.files import read_rows
from me_igm_jax.runner.job import Job
from me_igm_jax.runner.members import make_members
from me_igm_jax.runner.merge import merge
from me_igm_jax.runner.parts import make_parts

# One device everywhere, so that several members on it are computed as all of them are.
OPTIONS = {
    "run.total_steps": 200, "run.evals": 2, "run.seeds": 2, "run.eval_episodes": 4, "run.progress": False,
    "run.final_eval_episodes": 4, "run.devices": 1, "net.hidden": 8, "replay.capacity": 64,
    "replay.batch": 8,
}  # fmt: skip
GRID = {"lr": [1e-4, 1e-3]}
TIMES = {
    "env_steps_per_second",
    "updates_per_second",
    "compile_seconds",
    "wall_seconds",
    "peak_memory_bytes",
}


def tiny(directory, **overrides):
    return load("vdn", env="matrix/qtran", **(OPTIONS | {"run.dir": str(directory)} | overrides))


def words(directory):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in OPTIONS.items() if k != "run.progress"]
    grid = [f"--grid=hypers.{k}={','.join(map(str, v))}" for k, v in GRID.items()]
    start = ["sweep", "--preset", "vdn", "--env", "matrix/qtran", "--run.no-progress"]
    return [*start, f"--run.dir={directory}", *flags, *grid]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep as one program."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    run(tiny(directory), GRID)
    return directory


@pytest.fixture
def here(monkeypatch):
    """Jobs run at once and in this process; submitit's own processes are in the test of the command."""

    class Executor:
        batch = staticmethod(nullcontext)

        def submit(self, job):
            job()
            return type("Submitted", (), {"job_id": "0"})

    monkeypatch.setattr(launch, "make_executor", lambda *args: Executor())
    monkeypatch.setattr(launch, "is_running", lambda *args: False)


def assert_same(one, two, rtol=0.0):
    """Everything that both runs left is equal, weights up to `rtol`."""
    rows = [read_rows(path / "metrics.jsonl") for path in (one, two)]
    assert_all_close(*rows, rtol)
    assert len(rows[0]) > 0
    summaries = [json.loads((path / "summary.json").read_text()) for path in (one, two)]
    assert set(summaries[0]) == set(summaries[1]) >= TIMES
    results = [{k: v for k, v in summary.items() if k not in TIMES} for summary in summaries]
    assert_all_close(*results, rtol)
    assert_all_close(*(json.loads((path / "marl_eval.json").read_text()) for path in (one, two)), rtol)
    assert_all_close(*(load_run(path)[1].params for path in (one, two)), rtol)


def assert_all_close(one, two, rtol):
    """Trees of numbers and texts."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        if isinstance(a, str) or rtol == 0:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("jobs, shapes", [
    (2, [(2, 2)] * 2), (3, [(1, 2), (1, 2), (2, 2)]), (8, [(1, 1)] * 8),
])  # fmt: skip
def test_parts_cover_the_sweep_once(jobs, shapes):
    config, grid = tiny("d", **{"run.first_seed": 5}), GRID | {"gamma": [0.9, 0.95]}
    parts = make_parts(config, grid, jobs)
    sizes = [(np.prod([len(v) for v in p.grid.values()]), p.config.run.seeds) for p in parts]
    assert sorted(sizes) == shapes
    assert sorted(np.concatenate([p.members for p in parts])) == list(range(8))
    whole = make_members(config, grid)
    for part in parts:
        own = make_members(part.config, part.grid)
        assert (own.keys == whole.keys[part.members]).all()
        assert (own.hypers.lr == whole.hypers.lr[part.members]).all()
        assert (own.hypers.gamma == whole.hypers.gamma[part.members]).all()


def test_many_jobs_are_of_equal_size():
    parts = make_parts(tiny("d", **{"run.seeds": 1000}), {"lr": [1e-3]}, 64)
    assert {len(p.members) for p in parts} <= {15, 16} and len(parts) == 64


@pytest.mark.parametrize("jobs, rtol", [(2, 0), (4, 1e-4)], ids=["points", "seeds"])
def test_merged_is_the_same_as_one_program(jobs, rtol, whole, here, tmp_path):
    """Up to rounding when a job has one member: products of one matrix are not those of several."""
    directory = launch.launch(tiny(tmp_path / "run"), GRID, jobs, "local", {})
    with pytest.raises(ConfigError, match="merge it first"):
        load_run(directory)
    assert launch.unfinished(directory) == []
    merge(directory)
    assert_same(whole, directory, rtol)


def test_command(whole, tmp_path, capsys, monkeypatch):
    """Two processes, of which one fails at first: it is named, and only it is run again."""
    directory, write = tmp_path / "run", launch.records.write_config

    def occupy(*args):  # a file where the second job's directory should be
        write(*args)
        (directory / "jobs").mkdir()
        (directory / "jobs" / "1").write_text("")

    monkeypatch.setattr(launch.records, "write_config", occupy)
    with pytest.raises(SystemExit) as stop:
        main([*words(directory), "--launcher", "local", "--jobs", "2"])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and "job 1 of 2 did not finish" in error and "job 0" not in error
    assert "Not a directory" in Path(error.split("log: ")[1].split("\n")[0]).read_text()
    assert f"me-igm sweep --resume {directory}" in error
    with pytest.raises(SystemExit) as stop:
        main(["merge", str(directory)])
    assert stop.value.code == 1 and not (directory / "summary.json").exists()
    (directory / "jobs" / "1").unlink()
    before = (directory / "jobs" / "0" / "summary.json").stat().st_mtime_ns
    main(["sweep", "--resume", str(directory)])
    assert (directory / "jobs" / "0" / "summary.json").stat().st_mtime_ns == before
    assert_same(whole, directory)
    assert "optimal rate" in capsys.readouterr().out
    manifest = json.loads((directory / "manifest.json").read_text())
    assert len(manifest["jobs"]) == 2 and manifest["seeds"] == 2
    with pytest.raises(SystemExit) as stop:
        main([*words(directory), "--launcher", "local"])
    assert stop.value.code == 2 and "is not empty" in capsys.readouterr().err


def test_preempted_job_saves_and_goes_on(whole, here, tmp_path, monkeypatch):
    """Warned, it leaves a checkpoint and calls the cluster's handler; called again, it goes on."""
    calls, run = [], job.run

    class Requeued(BaseException):
        pass

    def requeue(number, frame):
        calls.append("requeue")
        raise Requeued

    def warned_at_first_epoch(config, grid, resume, on_epoch):
        def wrapped(epoch, metrics):
            on_epoch(epoch, metrics)
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGUSR2)

        calls.append(resume)
        return run(config, grid, resume, wrapped)

    monkeypatch.setattr(job, "run", warned_at_first_epoch)
    old = signal.signal(signal.SIGUSR2, requeue)
    try:
        (part,) = make_parts(tiny(tmp_path / "run"), GRID, 1)
        submitted = pickle.loads(pickle.dumps(Job.of(part)))
        with pytest.raises(Requeued):
            submitted()
        assert not part.is_finished
        submitted.checkpoint().result()
        submitted()
        assert part.is_finished
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert calls == [False, "requeue", True]
    assert_same(whole, tmp_path / "run" / "jobs" / "0")


PLUGIN = """
from me_igm_jax import option, register_env
import dataclasses
from me_igm_jax.envs.matrix import make, MatrixOptions

@dataclasses.dataclass(frozen=True)
class MineOptions(MatrixOptions):
    more: int = option(1, "A setting.", low=0)

@register_env("mine", options=MineOptions, names=("qtran",))
def mine(name, options):
    return make(name, options)
"""


def test_a_plugin_goes_with_its_jobs(tmp_path):
    """The processes of the jobs find a module beside the command, and the class of its options."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in OPTIONS.items() if k != "run.progress"]
    command = [sys.executable, "-c", "from me_igm_jax.cli import main; main()"]
    words = ["sweep", "--plugin", "my_plugin", "--preset", "vdn", "--env", "mine/qtran", *flags,
             "--env-options.more=3", "--run.no-progress", "--run.dir=run", "--grid=hypers.lr=1e-4",
             "--launcher=local", "--jobs=1"]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(Path(launch.__file__).parents[2])}
    done = subprocess.run([*command, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "run" / "manifest.json").read_text())["jobs"]) == 1
    words = ["eval", "run", "--episodes", "4"]
    refused = subprocess.run([*command, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert refused.returncode == 2 and "--plugin my_plugin" in refused.stderr
    words += ["--plugin", "my_plugin"]
    assert subprocess.run([*command, *words], cwd=tmp_path, env=env, capture_output=True).returncode == 0


def test_slurm_gets_its_options(tmp_path, monkeypatch, capsys):
    """A false sbatch keeps the script that it is given."""
    for name, text in {"srun": "", "sacct": "", "sbatch": f"cp $1 {tmp_path}/script; echo job 17"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = ["time=60", "partition=gpu", "gpus-per-node=1", "licenses=x", "setup=module load cuda"]
    flags = [f"--slurm={option}" for option in options]
    main([*words(tmp_path / "run"), "--launcher", "slurm", "--jobs", "4", "--no-wait", *flags])
    script = (tmp_path / "script").read_text()
    for line in ("time=60", "partition=gpu", "gpus-per-node=1", "licenses=x", "array=0-3%4"):
        assert f"#SBATCH --{line}\n" in script
    assert "\nmodule load cuda\n" in script
    assert f"me-igm merge {tmp_path / 'run'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "jobs.json").read_text())["ids"] == [f"17_{k}" for k in range(4)]


@pytest.mark.parametrize("flags, message", [
    ("--launcher local --jobs 9", "between 1 and 4"),
    ("--launcher moon", "invalid choice"),
    ("--launcher local --slurm time=3", "--slurm: is for --launcher slurm"),
    ("--launcher slurm", "time=MINUTES"),
    ("--launcher slurm --slurm time=5", "no srun"),
    ("--launcher local --run.distributed", "takes no --launcher"),
    ("--jobs 2", "need --launcher"),
    ("--resume nowhere", "takes no|as it was"),
])  # fmt: skip
def test_bad_input(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")  # as on a machine of no cluster
    with pytest.raises(SystemExit) as stop:
        main([*words(tmp_path / "run"), *flags.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(message, error), error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_no_submitit(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SystemExit) as stop:
        main([*words(tmp_path / "run"), "--launcher", "local"])
    assert stop.value.code == 2 and "me_igm_jax[cluster]" in capsys.readouterr().err
