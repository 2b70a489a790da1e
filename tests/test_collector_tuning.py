"""collect.tune: the number of environments that a device collects fastest with."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from me_igm_jax import ConfigError, load, make_program, run
from me_igm_jax.config.schedule import schedule
from me_igm_jax.runner import collector_tuning
from me_igm_jax.runner.records import read_config
from test_run import fast, params


def rates(monkeypatch, measured):
    """Let these be the steps per second, by number of environments; what was asked for, in order."""
    asked = []

    def steps_per_second(program, members, mesh):
        asked.append(program.schedule.envs)
        return measured[program.schedule.envs]

    monkeypatch.setattr(collector_tuning, "steps_per_second", steps_per_second)
    return asked


def fitted(config):
    return collector_tuning.fit_environments(config, SimpleNamespace(size=1), None)


@pytest.mark.parametrize(
    "measured, asked, best",
    [
        ({8: 100, 16: 105}, [8, 16], 8),  # not worth it
        ({8: 100, 16: 150, 32: 160}, [8, 16, 32], 16),
        ({8: 100, 16: 150, 32: 300, 64: 900}, [8, 16, 32, 64], 64),
    ],
)
def test_takes_what_pays(monkeypatch, measured, asked, best):
    seen = rates(monkeypatch, measured)
    config = load("me_qmix", env="probe/clock", **{"collect.envs": 8, "replay.capacity": 500 // 8 * 8})
    tuned = fitted(config)
    assert (seen, tuned.collect.envs, tuned.collect.tune) == (asked, best, False)
    assert tuned.replay.capacity % best == 0 and 0 <= 496 - tuned.replay.capacity < best
    updates = [schedule(c, "replay").updates for c in (tuned, config)]
    assert updates[0] * 8 == updates[1] * best


def test_ends_where_the_replay_is_full(monkeypatch):
    seen = rates(monkeypatch, {8: 1, 16: 2})
    options = {"collect.envs": 8, "replay.capacity": 24, "replay.warmup": 16}
    assert fitted(load("me_qmix", env="probe/clock", **options)).collect.envs == 16
    assert seen == [8, 16]


def test_who_learns_from_whole_collections_is_refused(monkeypatch):
    """By its name, or as an object beside the settings of another learner."""
    with pytest.raises(ConfigError, match=r"collect\.tune: mappo on probe/clock does not read it"):
        load("mappo", env="probe/clock", **{"collect.tune": True})
    config = load("me_qmix", env="probe/clock", **{"collect.tune": True})
    algo = make_program(load("mappo", env="probe/clock")).algo
    program = SimpleNamespace(algo=algo)
    monkeypatch.setattr(collector_tuning, "make_program", lambda *args, **kwargs: program)
    with pytest.raises(ConfigError, match=r"collect\.tune=True: me_qmix learns from whole collections"):
        fitted(config)


@pytest.mark.slow
def test_a_tuned_run_is_the_run_that_it_says_it_was(tmp_path, capsys):
    tuned = run(fast(tmp_path / "tuned", **{"collect.tune": True}))
    config, _ = read_config(tmp_path / "tuned")
    assert f"collect.envs={config.collect.envs} (steps/s" in capsys.readouterr().out
    assert not config.collect.tune
    options = {"collect.envs": config.collect.envs, "replay.capacity": config.replay.capacity}
    told = run(fast(tmp_path / "told", **options))
    for one, two in zip(params(tuned.state), params(told.state), strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(jax.tree.leaves(told.state.ring)[0]) == 2
