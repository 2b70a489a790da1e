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

from me_igm_jax import ConfigError, load, make_env, override, sweep
from me_igm_jax.cli import main
from me_igm_jax.config import presets
from me_igm_jax.config.options import SECTIONS, is_read, section_fields
from me_igm_jax.config.presets import CONFIG_DIR, from_dict, preset_names, to_dict
from me_igm_jax.config.registry import env_names

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
    assert override(config, {}) == config
    assert isinstance(config.hypers.lr, float) and config.preset == preset and config.env == env


def test_every_section_of_a_preset_names_something():
    """A section is `default`, an environment family or an environment; a typo would be ignored."""
    families = {name.split("/")[0] for name in env_names()}
    for path in CONFIG_DIR.glob("*.yaml"):
        sections = set(yaml.safe_load(path.read_text()))
        assert sections <= {"extends", "default", *families, *env_names()}, path.name


def test_merge_order(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text(
        "default: {learner: value, hypers: {lr: 1e-3, gamma: 0.5}}\nsmax: {hypers: {lr: 2e-3}}"
    )
    (tmp_path / "top.yaml").write_text(
        "extends: base\ndefault: {hypers: {gamma: 0.7}}\nsmax/3m: {hypers: {gamma: 0.8}}"
    )
    monkeypatch.setattr(presets, "CONFIG_DIR", tmp_path)
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
    ({"algo.mixer": "sum"}, "algo.mixer=sum: unknown mixer"),
    ({"algo": "x"}, "is a section"),
    ({"collect.envs": 5}, "multiple"),
    ({"replay.capacity": 30}, "multiple"),
    ({"replay.warmup": 10**6}, "replay.capacity"),
    ({"replay.store": "states", "replay.dtype": "bfloat16"}, "replay.dtype: .* does not read it"),
    ({"algo.transform": "opt"}, "algo.transform: qmix on smax/3m does not read it"),
    ({"algo.mixer": "qatten", "algo.qatten_heads": 0}, "algo.qatten_heads=0.*at least 1"),
    ({"algo.qatten_heads": 3}, "does not read it"),
    ({"algo.twin": True}, "algo.twin: unknown key of learner value"),
    ({"fop.twin": True}, "fop: unknown key"),
    ({"hypers.clip": 0.5}, "hypers.clip: unknown key of learner value"),
    ({"hypers.alpha_lr": 0.1}, "hypers.alpha_lr: qmix on smax/3m does not read it"),
    ({"hypers.shaping": 0.1}, "does not read it"),
    ({"collect.episodes_per_update": 2}, "does not read it"),
    ({"env_options.payoff": [[1]]}, "unknown key of smax/3m"),
    ({"hypers.lr": -1}, "hypers.lr=-1.*positive"),
    ({"hypers.eps_end": 2}, r"\[0, 1\]"),
    ({"algo.weighting": "centrally"}, "algo.weighting=centrally.*algo.central_critic"),
    ({"run.seed": 2**40}, "run.seed"), ({"hypers.lr": np.ones(3)}, "hypers.lr"),
    ({"algo.fit": "qtran"}, "algo.fit=qtran.*algo.central_critic"),
    ({"algo.fit": "qtran", "algo.central_critic": True, "algo.weighting": "optimistic"}, "not read it"),
    ({"algo.fit": "qtran", "algo.central_critic": True, "hypers.nopt_weight": 0}, "nopt_weight=0"),
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
        load("qmix", env=env)


def test_sweep_is_a_cartesian_product():
    hypers = sweep(load("qmix"), lr=[1e-4, 5e-4], td_lambda=[0.1, 0.3, 0.5])
    assert hypers.lr.shape == hypers.gamma.shape == (6,)
    np.testing.assert_allclose(hypers.lr, [1e-4] * 3 + [5e-4] * 3)
    np.testing.assert_allclose(hypers.td_lambda, [0.1, 0.3, 0.5] * 2)
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        sweep(load("qmix"), lrr=[1.0])
    with pytest.raises(ConfigError, match="qmix on smax/3m does not read it"):
        sweep(load("qmix"), alpha_lr=[0.1, 0.3])  # the points would be identical
    with pytest.raises(ConfigError, match="must be positive"):
        sweep(load("qmix"), lr=[1e-3, -1.0])


def test_custom_payoffs_for_many_players():
    payoff = np.arange(8.0).reshape(2, 2, 2).tolist()
    env = make_env(load("vdn", env="matrix/custom", **{"env_options.payoff": payoff}))
    text = load("vdn", env="matrix/custom", **{"env_options.payoff": str(payoff)})  # as from a shell
    assert make_env(text).spec == env.spec
    assert (env.spec.n_agents, env.spec.n_actions, env.spec.max_return) == (3, 2, 7.0)
    import jax

    state = env.reset(jax.random.key(0))
    for a in np.ndindex(2, 2, 2):
        _, outcome = env.step(jax.random.key(0), state, jnp.array(a))
        assert outcome.reward == payoff[a[0]][a[1]][a[2]] and outcome.terminal
    for bad in (None, [[1, 2], [3]], [[1, 2, 3], [4, 5, 6]], [[math.inf, 0], [0, 0]]):
        with pytest.raises(ConfigError, match="payoff"):
            make_env(load("vdn", env="matrix/custom", **({"env_options.payoff": bad} if bad else {})))


@pytest.mark.parametrize("args", [
    "", "frain", "train --preset qmux", "train --env smax/3n", "train --run.sedes 3",
    "train --run.seeds 0", "train --run.seeds x", "train --algo.mixer foo", "train --resume /nowhere",
    "sweep --env matrix/qtran", "sweep --env matrix/qtran --grid hypers.lrr=1",
    "sweep --env matrix/qtran --grid hypers.lr=a", "sweep --env matrix/qtran --grid hypers.lr=-1",
    "eval /nowhere", "eval /nowhere --episodes 0", "plot /nowhere", "plot /nowhere --out x.doc",
    "render", "render /nowhere", "render --env matrix/qtran --out x.png", "render --env mpe/sprad",
    "train --preset hasac --env differential/mtq", "train --preset maddpg --env smax/3m",
    "train --env jaxmarl/MPE_simple_tag_v3", "train --preset pac --env matrix/qtran --algo.mixer qplex",
    "train --env jaxmarl/hanabi --env-options.max-steps 0", "list extra", "train --hypers.clip 0.3",
    "sweep --preset qmix --env matrix/qtran --grid hypers.alpha-lr=0.1,0.3", "train --plugin no.such",
    "train --preset ./mine.yaml", "train --algo.mixer no.such:Mixer", "train --env no.such:make",
    "train --net.hidden", "train --hypers.lr -1",
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


def test_help_lists_what_a_preset_reads_and_nothing_else(capsys):
    for preset in preset_names():
        env = "differential/mtq" if preset in ("maddpg", "facmaddpg", "maac") else "smax/3m"
        config = load(preset, env=env)
        with pytest.raises(SystemExit):
            main(["train", "--preset", preset, "--env", env, "--help"])
        text = capsys.readouterr().out
        for section, _, field in section_fields(config):
            flag = f"--{section}.{field.name}".replace("_", "-") + " "
            assert (flag in text) == is_read(config, field), (preset, flag)


def test_help_follows_the_other_options(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--env", "smax/3m", "--algo.policy", "epsilon_greedy", "--help"])
    text = capsys.readouterr().out
    assert "--hypers.eps-end" in text and "--hypers.alpha-lr" not in text


def test_every_field_has_a_help_text_and_a_range_if_it_is_a_number():
    for preset in preset_names():
        env = "differential/mtq" if preset in ("maddpg", "facmaddpg", "maac") else "overcooked/cramped_room"
        for section, options, field in section_fields(load(preset, env=env)):
            facts, value = field.metadata, getattr(options, field.name)
            assert facts["help"].endswith("."), (section, field.name)
            if section == "hypers" and field.name != "target_entropy":
                assert facts["low"] is not None or facts["above"] is not None, field.name
            if type(value) is int:
                assert facts["low"] is not None, (section, field.name)


def test_options_given_as_flags(tmp_path, monkeypatch):
    from me_igm_jax.config.arguments import parse_config

    args = "--net.no-recurrent --run.total-steps 1e5 --run.sinks tensorboard wandb --hypers.lr=1e-4"
    config = parse_config("me-igm train", args.split())
    assert not config.net.recurrent and config.run.total_steps == 100_000
    assert config.run.sinks == ("tensorboard", "wandb") and config.hypers.lr == 1e-4
    game = "--preset vdn --env matrix/custom --env-options.payoff [[1,2],[3,4]]"
    assert parse_config("me-igm train", game.split()).env_options.payoff == ((1, 2), (3, 4))


def test_on_policy_sizes_follow_the_environments():
    """One setting: the replay and the updates of MAPPO are what a collection is."""
    from me_igm_jax.config.schedule import schedule

    config = load("mappo", env="smax/3m", **{"collect.envs": 128})
    sizes = schedule(config, "fresh")
    assert (sizes.capacity, sizes.envs, sizes.updates, sizes.warmup) == (128, 128, 1, 0)
    with pytest.raises(ConfigError, match=r"replay\.capacity: mappo on smax/3m does not read it"):
        load("mappo", env="smax/3m", **{"replay.capacity": 64})


def test_what_is_not_read_is_at_its_default():
    config = load("me_qmix", env="smax/3m")
    for section, options, field in section_fields(config):
        if not is_read(config, field):
            assert getattr(options, field.name) == field.default, (section, field.name)
    assert set(to_dict(config)) == {"preset", "env", "learner", "plugins", *SECTIONS}


def test_importing_the_package_is_light():
    heavy = "('jaxmarl', 'matplotlib', 'wandb', 'orbax')"
    code = f"import me_igm_jax, sys, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
