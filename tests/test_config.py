"""Presets load, round-trip and hash; mistakes are named; the command line keeps its contract."""

import dataclasses
import json
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from me_igm_jax import ConfigError, load, sweep
from me_igm_jax.cli import main
from me_igm_jax.envs import env_names, make
from me_igm_jax.presets import CONFIG_DIR, from_dict, preset_names, to_dict

NAMED = {
    "me_qmix", "me_qplex", "me_vdn", "me_ow_qmix", "soft_qmix", "qmix", "qplex", "vdn",
    "entropy_qmix", "mlp_qmix", "soft_qmix_released", "ow_qmix", "cw_qmix", "qatten", "qtran",
    "fop", "fop_released", "hasac", "hasac_released", "msac", "msac_released", "pac",
    "mappo", "mappo_jaxmarl", "ippo", "dop", "dop_released", "maddpg", "facmaddpg", "maac",
}  # fmt: skip


def test_every_named_preset_ships():
    assert set(preset_names()) >= NAMED


@pytest.mark.parametrize("preset", sorted(NAMED))
@pytest.mark.parametrize("env", ["matrix/qtran", "smax/smacv2_5_units", "probe/delay"])
def test_presets_load_round_trip_and_hash(preset, env):
    config = load(preset, env=env)
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    assert hash(dataclasses.replace(config, hypers=None)) is not None
    assert isinstance(config.hypers.lr, float) and config.preset == preset and config.env == env


def test_every_section_of_a_preset_names_something():
    """A section is `default`, an environment family or an environment; a typo would be ignored."""
    families = {name.split("/")[0] for name in env_names()}
    for path in CONFIG_DIR.glob("*.yaml"):
        sections = set(yaml.safe_load(path.read_text()))
        assert sections <= {"extends", "default", *families, *env_names()}, path.name


def test_merge_order(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text(
        "default: {hypers: {lr: 1e-3, gamma: 0.5}}\nsmax: {hypers: {lr: 2e-3}}"
    )
    (tmp_path / "top.yaml").write_text(
        "extends: base\ndefault: {hypers: {gamma: 0.7}}\nsmax/3m: {hypers: {gamma: 0.8}}"
    )
    monkeypatch.setattr("me_igm_jax.presets.CONFIG_DIR", tmp_path)
    hypers = load("top", env="smax/3m", **{"hypers.tau": "1e-2"}).hypers
    assert (hypers.lr, hypers.gamma, hypers.tau) == (2e-3, 0.8, 0.01)
    assert load("top", env="smax/8m").hypers.gamma == 0.7


@pytest.mark.parametrize("overrides, words", [
    ({"hypers.lrr": 1}, "hypers.lrr.*did you mean 'lr'"),
    ({"run.sedes": 1}, "did you mean 'seeds'"),
    ({"run.seeds": 0}, "run.seeds=0.*at least 1"),
    ({"run.seeds": 1.5}, "run.seeds=1.5.*int"),
    ({"run.seeds": True}, "run.seeds=True.*int"),
    ({"hypers.lr": "fast"}, "hypers.lr=fast.*float"),
    ({"hypers.lr": float("nan")}, "float"),
    ({"hypers.gamma": 1.5}, r"\[0, 1\]"),
    ({"algo.mixer": "sum"}, "algo.mixer=sum.*vdn, qmix, qplex"),
    ({"algo": "x"}, "is a section"),
    ({"collect.envs": 5}, "multiple"),
    ({"replay.capacity": 30}, "multiple"),
    ({"replay.warmup": 10**6}, "replay.capacity"),
    ({"replay.store": "states", "replay.dtype": "bfloat16"}, "keeps no observations"),
    ({"algo.transform": "opt", "algo.policy": "epsilon_greedy"}, "softmax"),
    ({"algo.qatten_heads": 0}, "algo.qatten_heads=0.*at least 1"),
    ({"algo.weighting": "centrally"}, "algo.weighting=centrally.*algo.central_critic"),
    ({"algo.fit": "qtran"}, "algo.fit=qtran.*algo.central_critic"),
    ({"algo.fit": "qtran", "algo.central_critic": True, "algo.weighting": "optimistic"}, "must be uniform"),
    ({"hypers.nopt_weight": 0}, "hypers.nopt_weight=0.*positive"),
])  # fmt: skip
def test_mistakes_are_named(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load("qmix", env="smax/3m", **overrides)


@pytest.mark.parametrize("env, words", [
    ("smax/3n", "did you mean 'smax/3m'"), ("smax", "unknown"), ("smax/", "unknown"),
    ("matrix/qtram", "did you mean 'matrix/qtran'"), ("foo/bar", "unknown"),
])  # fmt: skip
def test_unknown_environments(env, words):
    with pytest.raises(ConfigError, match=words):
        make(load("qmix", env=env))


def test_sweep_is_a_cartesian_product():
    hypers = sweep(load("qmix").hypers, lr=[1e-4, 5e-4], td_lambda=[0.1, 0.3, 0.5])
    assert hypers.lr.shape == hypers.gamma.shape == (6,)
    np.testing.assert_allclose(hypers.lr, [1e-4] * 3 + [5e-4] * 3)
    np.testing.assert_allclose(hypers.td_lambda, [0.1, 0.3, 0.5] * 2)
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        sweep(load("qmix").hypers, lrr=[1.0])


def test_custom_payoffs_for_many_players():
    payoff = np.arange(8.0).reshape(2, 2, 2).tolist()
    env = make(load("vdn", env="matrix/custom", **{"matrix.payoff": payoff}))
    assert (env.spec.n_agents, env.spec.n_actions, env.spec.max_return) == (3, 2, 7.0)
    import jax

    state = env.reset(jax.random.key(0))
    for a in np.ndindex(2, 2, 2):
        _, outcome = env.step(jax.random.key(0), state, jnp.array(a))
        assert outcome.reward == payoff[a[0]][a[1]][a[2]] and outcome.terminal
    for bad in (None, [[1, 2], [3]], [[1, 2, 3], [4, 5, 6]], [[math.inf, 0], [0, 0]]):
        with pytest.raises(ConfigError, match="payoff"):
            make(load("vdn", env="matrix/custom", **({"matrix.payoff": bad} if bad else {})))


@pytest.mark.parametrize("args", [
    "", "frain", "train --preset qmux", "train --env smax/3n", "train --run.sedes 3",
    "train --run.seeds 0", "train --run.seeds x", "train --algo.mixer foo", "train --resume /nowhere",
    "sweep --env matrix/qtran", "sweep --env matrix/qtran --grid hypers.lrr=1",
    "sweep --env matrix/qtran --grid hypers.lr=a", "sweep --env matrix/qtran --grid hypers.lr=-1",
    "eval /nowhere", "eval /nowhere --episodes 0", "plot /nowhere", "plot /nowhere --out x.doc",
    "render", "render /nowhere", "render --env matrix/qtran --out x.png", "render --env mpe/sprad",
    "train --preset hasac --env differential/mtq", "train --preset maddpg --env smax/3m",
    "train --env jaxmarl/MPE_simple_tag_v3", "train --preset pac --env matrix/qtran --algo.mixer qplex",
    "train --env jaxmarl/hanabi --jaxmarl.max-steps 0", "list extra",
    "train --replay.capacity 499200 --env smax/smacv2_20_units",
])  # fmt: skip
def test_bad_input_is_one_line_and_status_2(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(args.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert not args or (error.startswith("me-igm: ") and error.count("\n") == 1 and len(error) < 400)
    assert list(tmp_path.iterdir()) == []


def test_help_and_list(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--preset", "me_qmix", "--env", "smax/3m", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "--hypers.target-entropy" in text and "nats per agent" in text
    main(["list"])
    listed = capsys.readouterr().out.split()
    assert set(env_names()) <= set(listed) and set(listed) >= NAMED


def test_importing_the_package_is_light():
    heavy = "('jaxmarl', 'matplotlib', 'wandb', 'orbax')"
    code = f"import me_igm_jax, sys, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
