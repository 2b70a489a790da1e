"""Two processes form one run: what they leave is what one process leaves, bit for bit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from me_igm_jax import ConfigError, load, load_run
from me_igm_jax.runner.files import read_rows

OPTIONS = {"run.total-steps": 4000, "run.evals": 40, "run.seeds": 4, "run.eval-episodes": 4,
    "run.final-eval-episodes": 4, "net.hidden": 8, "replay.capacity": 64, "replay.batch": 8,
}  # fmt: skip
RUN = ["--preset", "vdn", "--env", "matrix/qtran", *(f"--{k}={v}" for k, v in OPTIONS.items())]


def start(args, **variables):
    command = [sys.executable, "-c", "from me_igm_jax.cli import main; main()", "train", *args]
    env = os.environ | variables
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def start_two(args):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "1"}
    return [start(args, JAX_PROCESS_ID=str(k), **common) for k in range(2)]


def end(processes, code=0):
    """Their outputs."""
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code] * len(processes), outputs
    return outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with as many devices."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    end([start([*RUN, f"--run.dir={directory}", "--run.devices=2"])])
    return directory


def assert_same(one, two):
    rows = [read_rows(path / "metrics.jsonl") for path in (one, two)]
    assert rows[0] == rows[1] and len(rows[0]) == 4 * 40
    points = [json.loads((path / "summary.json").read_text())["points"] for path in (one, two)]
    assert points[0] == points[1]
    learners = [load_run(path)[1] for path in (one, two)]
    for a, b in zip(*map(jax.tree.leaves, learners), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_processes_are_one_run(alone, tmp_path):
    outputs = end(start_two([*RUN, f"--run.dir={tmp_path / 'run'}", "--run.distributed"]))
    assert_same(alone, tmp_path / "run")
    assert "optimal rate" in outputs[0] and "optimal rate" not in outputs[1]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["processes"], manifest["devices"]) == (2, 2)


def test_one_is_stopped_and_all_go_on_later(alone, tmp_path):
    directory = tmp_path / "run"
    processes = start_two([*RUN, f"--run.dir={directory}", "--run.distributed"])
    while not read_rows(directory / "metrics.jsonl") and processes[0].poll() is None:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    end(processes, 130)
    assert not (directory / "summary.json").exists()
    end(start_two(["--resume", str(directory)]))
    assert_same(alone, directory)


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.dir"):
        load("vdn", env="matrix/qtran", **{"run.distributed": True})
    args = [*RUN, f"--run.dir={tmp_path / 'run'}", "--run.distributed", "--run.seeds=1"]
    for output in end(start_two(args), 2):
        assert "each of 2 processes" in output
    (output,) = end([start(args, JAX_COORDINATOR_ADDRESS="")], 2)
    assert "run.distributed=True: " in output
    assert not (tmp_path / "run").exists()
