"""The notebook runs from top to bottom (in its fast mode); the README names only what exists."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from me_igm_jax.config import Config
from me_igm_jax.envs import env_names
from me_igm_jax.presets import load, preset_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("ME_IGM_FAST", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    images = [
        o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]  # fmt: skip
    assert len(images) >= 3
    assert os.listdir(tmp_path) == []


def test_readme_commands_parse():
    """Every `me-igm train` line of the README is a valid configuration."""
    commands = re.findall(r"^me-igm (?:train|sweep) (--preset .*)$", README, re.M)
    assert len(commands) >= 3
    for command in commands:
        words = command.split("#")[0].split()
        options = dict(zip(words[::2], words[1::2], strict=True))
        preset, env = options.pop("--preset"), options.pop("--env")
        assert preset in preset_names() and env in env_names()
        grid = options.pop("--grid", "")
        for flag in ("--launcher", "--jobs", "--slurm"):
            options.pop(flag, None)
        config = load(preset, env=env, **{k[2:].replace("-", "_"): v for k, v in options.items()})
        assert isinstance(config, Config) and (not grid or grid.startswith("hypers."))


def test_readme_names_every_preset():
    assert {name for name in preset_names() if f"`{name}`" not in README} == set()


def test_readme_files_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
