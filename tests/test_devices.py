"""Seeds over devices: eight give what one gives, and none waits for another."""

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from me_igm_jax import ConfigError, load, make_program
from me_igm_jax.config import machine
from me_igm_jax.ops.gradient_share import GradientShare
from me_igm_jax.runner import devices, plan
from me_igm_jax.training import storage

# Processes of their own: the number of CPU devices is settled before JAX first touches one. Seeds go one
# at a time: eight side by side are other matrix products than one alone, and round otherwise.
PROGRAM = textwrap.dedent("""
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from me_igm_jax import load, make_program
    from me_igm_jax.runner import devices
    from me_igm_jax.runner.compiled import compile_program
    from me_igm_jax.runner.members import make_members

    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")

    def trained(count, sharing):
        config = load("me_qmix", env="probe/match", **{
            "run.seeds": 8, "run.devices": count, "run.devices_per_seed": sharing,
            "run.total_steps": 400, "run.evals": 2, "run.eval_episodes": 4,
            "collect.envs": 8, "replay.batch": 8, "replay.capacity": 64,
        })
        members, mesh = make_members(config, {}), devices.member_mesh(config, 8)
        program = make_program(config, share=devices.gradient_share(mesh))
        steps = compile_program(program, members, mesh, at_a_time=1)
        state = steps.init(members.keys, members.hypers)
        state, metrics = steps.epoch(state, jnp.int32(0), members.hypers)
        played = steps.greedy_episodes(state, 6)
        text = "".join(step.compiled.as_text() for step in (steps.init, steps.epoch, steps.evaluate))
        return {
            "devices": len(state.env_steps.sharding.device_set),
            "collectives": [name for name in collectives if name in text],
            "metrics": {k: np.asarray(v).tolist() for k, v in {**metrics, **played}.items()},
        }

    print(json.dumps([trained(*map(int, pair.split("x"))) for pair in sys.argv[2:]]))
""")


@pytest.fixture(scope="module")
def runs() -> dict:
    def trained(*words: str) -> list[dict]:
        command = [sys.executable, "-c", PROGRAM, *words]
        found = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert found.returncode == 0, found.stderr[-2000:]
        return json.loads(found.stdout.splitlines()[-1])

    (one,), (eight, shared) = trained("1", "1x1"), trained("8", "8x1", "8x2")
    return {"one": one, "eight": eight, "shared": shared}


def test_eight_devices_are_one_without_communication(runs):
    one, eight = runs["one"], runs["eight"]
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert eight["collectives"] == []
    assert np.shape(one["metrics"]["return"]) == (8, 6)
    assert len(np.unique(one["metrics"]["q_tot"])) == 8
    for name, values in one["metrics"].items():
        # What is left is the last bit of a scalar.
        np.testing.assert_allclose(eight["metrics"][name], values, rtol=1e-6, err_msg=name)


def test_devices_that_share_seeds_exchange_sums_alone(runs):
    """Two devices for every seed: the same results, up to the order in which a batch is added up."""
    one, shared = runs["one"], runs["shared"]
    assert (shared["devices"], shared["collectives"]) == (8, ["all-reduce"])
    for name, values in one["metrics"].items():
        np.testing.assert_allclose(shared["metrics"][name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "members, cores, expected", [(1, 2, 1), (2, 2, 2), (3, 2, 3), (1000, 2, 2), (1009, 2, 1)]
)
def test_a_cpu_device_for_each_core(members, cores, expected):
    assert devices.cpu_devices(members, cores) == expected


@pytest.mark.parametrize("platform, expected", [("cpu", 16), ("gpu", None)])
def test_small_batches_of_seeds_are_for_cpus(monkeypatch, platform, expected):
    monkeypatch.setattr(devices.jax, "default_backend", lambda: platform)
    assert devices.seeds_at_a_time(load("me_qmix", env="matrix/qtran").run) == expected


@pytest.mark.parametrize(
    "cores, members, setting, expected",
    [
        (2, 1, {}, 2),
        (2, 2, {}, 1),
        (8, 2, {}, 2),  # each has 2,048 of the 4,096 transitions of a step
        (8, 2, {"replay.batch": 64}, 4),
        (8, 1, {"replay.batch": 33}, 1),  # no share of it is whole
        (8, 1, {"run.devices": 1}, 1),
        (2, 2, {"run.devices_per_seed": 4}, 4),
        (2, 1, {"preset": "fop"}, 1),
        (2, 1, {"preset": "soft_qmix_released"}, 1),
        (2, 1, {"net.recurrent": False}, 1),
    ],
)
def test_idle_cores_share_seeds(monkeypatch, cores, members, setting, expected):
    monkeypatch.setattr(devices, "cores", lambda: cores)
    overrides = {k: v for k, v in setting.items() if k != "preset"}
    config = load(setting.get("preset", "me_qmix"), env="smax/smacv2_5_units", **overrides)
    assert devices.devices_per_member(config, members) == expected


def test_what_cannot_be_shared_is_refused():
    def refused(preset, env, **overrides):
        config = load(preset, env=env, **overrides | {"run.devices_per_seed": 2})
        with pytest.raises(ConfigError, match=r"run\.devices_per_seed=2") as error:
            make_program(config, share=GradientShare("batch", 2))
            devices.member_mesh(config, 1)
        return str(error.value)

    assert "fop" in refused("fop", "probe/match")
    assert "qmix" in refused("qmix", "differential/mtq")
    assert "soft_qmix" in refused("soft_qmix_released", "matrix/qtran")
    assert "more than the 1 device" in refused("qmix", "probe/match", **{"run.devices": 1})


def test_replay_keeps_what_fits(monkeypatch):
    """Observations if there is room, else states; what is asked for stays; nothing fits: one clear line."""

    def planned(limit, **overrides):
        for module in (storage, machine):
            monkeypatch.setattr(module, "memory_limit", lambda: limit)
        options = {"run.seeds": 2, "run.devices": 1, "replay.capacity": 2000} | overrides
        made = plan.make_plan(load("qmix", env="mpe/spread", **options), {}, None, None)
        assert made.memory.replay_bytes_per_seed == made.program.replay.nbytes
        return made.config.replay.store, made.memory.replay_bytes_per_seed

    store, large = planned(2**40)
    assert store == "observations"
    store, small = planned(2 * large)
    assert store == "states" and 2 * small < large
    assert planned(2**40, **{"replay.store": "states"}) == ("states", small)
    refusals = (
        (large, {"replay.store": "observations"}, "try replay.store=states, replay.capacity="),
        (small, {}, "try replay.capacity="),
        (3 * small, {"replay.store": "states", "run.seeds_per_batch": 1}, "held twice"),
        (2**16, {}, "try a smaller net.hidden or fewer run.seeds"),
    )
    for limit, overrides, message in refusals:
        error = str(refusal_of(planned, limit, **overrides))
        assert error.startswith("replay.capacity=2000: 2 x ") and message in error
    (capacity,) = re.findall(r"replay.capacity=(\d+) or", str(refusal_of(planned, small)))
    assert planned(small, **{"replay.capacity": int(capacity)})[0] == "states"


def test_fresh_data_are_refused_by_what_decides_their_size(monkeypatch):
    monkeypatch.setattr(machine, "memory_limit", lambda: 2**20)
    config = load("mappo", env="mpe/spread", **{"collect.envs": 128, "run.devices": 1})
    error = refusal_of(plan.make_plan, config, {}, None, None)
    assert str(error).startswith("collect.envs=128: ")


def refusal_of(function, *args, **kwargs):
    with pytest.raises(ConfigError) as error:
        function(*args, **kwargs)
    return error.value
