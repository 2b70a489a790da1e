"""Learning curves: what is drawn, what is left out, and what cannot be drawn."""

import json

import matplotlib.image
import numpy as np
import pytest
import yaml

from me_igm_jax import ConfigError, plot
from me_igm_jax.cli import main
from me_igm_jax.report import plots


def write_run(directory, rows, preset="qmix", env="smax/3m", grid=None):
    directory.mkdir()
    settings = {"format": 2, "preset": preset, "env": env, "grid": grid or {}, "objects": []}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def rows(seeds=3, evals=4, points=1, **metrics):
    """Rows whose `return` is eval + 10 point + seed."""
    return [
        {"eval": e, "point": p, "seed": s, "env_steps": 100 * (e + 1), "return": e + 10.0 * p + s} | metrics
        for e in range(evals)
        for p in range(points)
        for s in range(seeds)
    ]


@pytest.fixture
def labels(monkeypatch):
    """The labels and titles that were drawn."""
    found, plain = [], plots.plain_text

    def kept(text):
        found.append(text)
        return plain(text)

    monkeypatch.setattr(plots, "plain_text", kept)
    return found


def test_a_curve_for_each_point_as_it_was_typed(tmp_path, labels):
    directory = write_run(tmp_path / "a", rows(points=2), grid={"lr": [1e-4, 5e-4]})
    drawn = plots.curves(directory, "return")
    assert [c.label for c in drawn] == ["qmix (lr=0.0001)", "qmix (lr=0.0005)"]
    np.testing.assert_array_equal(drawn[1].steps, [100, 200, 300, 400])
    np.testing.assert_array_equal(drawn[1].values[2], [12, 13, 14])
    out = plot([str(directory)], out=str(tmp_path / "c.png"))
    image = matplotlib.image.imread(out)
    assert image.shape[0] > 300 and image.std() > 0.01
    assert "qmix (lr=0.0005), 3 seeds" in labels


def test_seeds_with_more_evaluations_than_others(tmp_path):
    """As jobs leave them that have not all finished."""
    longer = rows() + [row | {"eval": row["eval"] + 4} for row in rows() if row["seed"] == 1]
    one, two = (write_run(tmp_path / name, r) for name, r in (("a", rows()), ("b", longer)))
    for a, b in zip(plots.curves(one, "return"), plots.curves(two, "return"), strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        assert b.values.shape == (4, 3)


def test_numbers_that_are_not_finite_leave_a_curve_of_the_others(tmp_path, labels):
    found = rows(won=0.5)
    found[4] |= {"won": None, "finite": False}  # of seed 1
    plot([write_run(tmp_path / "a", found)], out=tmp_path / "c.svg")
    assert "qmix, 2 of 3 seeds, the others not finite" in labels
    plot([write_run(tmp_path / "b", rows(won=None))], out=tmp_path / "d.png")
    assert "qmix, 0 of 3 seeds, the others not finite" in labels


def test_runs_without_evaluations_are_left_out_and_named(tmp_path, capsys, labels):
    empty, full = write_run(tmp_path / "empty", []), write_run(tmp_path / "full", rows(seeds=1, won=0.5))
    main(["plot", str(empty), str(full), "--out", str(tmp_path / "c.pdf")])
    assert f"left out {empty}: has no evaluations" in capsys.readouterr().err
    assert (tmp_path / "c.pdf").stat().st_size > 1000 and "qmix, 1 seed" in labels
    assert "greedy win rate" in labels
    with pytest.raises(ConfigError, match="no run has evaluations"):
        plot([empty])


def test_runs_that_share_names(tmp_path, labels):
    """Equal presets are told apart by their directories, and environments are named when they differ."""
    names = [("a", "smax/3m"), ("b", "smax/3m"), ("c", "mpe/spread")]
    runs = [write_run(tmp_path / name, rows(), env=env) for name, env in names]
    (tmp_path / "c" / "manifest.json").write_text('{"env": "my own"}')
    plot(runs, out=tmp_path / "c.png")
    assert "qmix [a] on smax/3m, 3 seeds" in labels and "qmix [c] on my own, 3 seeds" in labels


def test_dollars_are_no_mathematics(tmp_path):
    run = write_run(tmp_path / "a", rows(), preset="my$preset", env="$\\frac{x")
    assert plot([run], out=tmp_path / "c.png").stat().st_size > 1000


def test_what_cannot_be_drawn(tmp_path):
    run = write_run(tmp_path / "a", rows())
    with pytest.raises(ConfigError, match="metric=nothing: not in"):
        plot([run], "nothing", tmp_path / "c.png")
    with pytest.raises(ConfigError, match="--out"):
        plot([run], None, tmp_path / "nowhere" / "c.png")
    with pytest.raises(ConfigError, match="is no run directory"):
        plot([tmp_path])
    other = write_run(tmp_path / "b", rows(won=1.0))
    assert plot([run, other], out=tmp_path / "d.png").is_file()  # by what both have


def test_colours_differ_for_more_curves_than_there_are_colours(tmp_path, monkeypatch):
    looks, draw = [], plots._draw

    def kept(axes, curve, name, *look):
        looks.append(look)
        draw(axes, curve, name, *look)

    monkeypatch.setattr(plots, "_draw", kept)
    grid = {"lr": [k / 100 for k in range(1, 21)]}
    plot([write_run(tmp_path / "a", rows(seeds=1, points=20), grid=grid)], out=tmp_path / "c.png")
    assert len(set(looks)) == 20
