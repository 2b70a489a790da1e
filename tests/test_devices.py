"""Seeds over devices: eight give what one gives, and none waits for another."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from me_igm_jax import devices, load
from me_igm_jax.config import ConfigError
from me_igm_jax.experiment import make_members
from me_igm_jax.memory import fit_replay

# A process of its own: the number of CPU devices is settled before JAX first touches one. Seeds go one
# at a time: eight side by side are other matrix products than one alone, and round otherwise;
# what is left is the last bit of a scalar.
PROGRAM = textwrap.dedent("""
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from me_igm_jax import devices, load
    from me_igm_jax.experiment import compile_program, make_members
    from me_igm_jax.train import make_program

    config = load("me_qmix", env="probe/match", **{
        "run.seeds": 8, "run.devices": int(sys.argv[1]), "run.total_steps": 400, "run.evals": 2,
        "run.eval_episodes": 4, "collect.envs": 8, "replay.batch": 8, "replay.capacity": 64,
    })
    devices.prepare(config.run, 8)
    members, mesh = make_members(config, {}), devices.member_mesh(config.run, 8)
    steps = compile_program(make_program(config), members, mesh, at_a_time=1)
    state = steps.init(members.keys, members.hypers)
    state, metrics = steps.epoch(state, jnp.int32(0), members.hypers)
    played = steps.play(state, 6)
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    text = "".join(step.compiled.as_text() for step in (steps.init, steps.epoch, steps.evaluate))
    print(json.dumps({
        "devices": len(state.env_steps.sharding.device_set),
        "collectives": [name for name in collectives if name in text],
        "metrics": {k: np.asarray(v).tolist() for k, v in {**metrics, **played}.items()},
    }))
""")


def trained(count: int) -> dict:
    command = [sys.executable, "-c", PROGRAM, str(count)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(found.stdout.splitlines()[-1])


def test_eight_devices_are_one_without_communication():
    one, eight = trained(1), trained(8)
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert eight["collectives"] == []
    assert np.shape(one["metrics"]["return"]) == (8, 6)
    assert len(np.unique(one["metrics"]["q_tot"])) == 8
    for name, values in one["metrics"].items():
        np.testing.assert_allclose(eight["metrics"][name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "members, cores, expected", [(1, 2, 1), (2, 2, 2), (3, 2, 3), (1000, 2, 2), (1009, 2, 1)]
)
def test_a_cpu_device_for_each_core(members, cores, expected):
    assert devices.cpu_devices(members, cores) == expected


def test_replay_keeps_what_fits(monkeypatch):
    """Observations if there is room, else states; what is asked for stays; nothing fits: one clear line."""

    def chosen(gib, store="auto"):
        monkeypatch.setattr(devices, "memory_limit", lambda: int(gib * 2**30))
        config = load("qmix", env="smax/smacv2_5_units", **{"replay.store": store, "run.seeds": 2})
        members = make_members(config, {})
        return fit_replay(config, members.keys, members.hypers, 1)[0].replay.store

    assert chosen(16) == "observations"
    assert chosen(1) == "states"
    assert chosen(16, "states") == "states"
    for gib, store in ((1, "observations"), (0.1, "auto")):
        with pytest.raises(ConfigError, match=r"replay.capacity=\d+"):
            chosen(gib, store)
