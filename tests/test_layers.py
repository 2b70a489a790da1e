"""Imports point one way; nothing traced touches the host; the code is lint- and type-clean."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "me_igm_jax"
LAYERS = [  # a module may import from its own row and from the rows above
    {"types", "config", "validation"},
    {
        "boxes",
        "precision",
        "presets",
        "recurrent",
        "nets",
        "mixers",
        "transforms",
        "policies",
        "returns",
        "replay",
        "split",
        "stats",
        "envs",
    },
    {"algos"},
    {"rollout", "evaluate", "diagnostics", "train"},
    {
        "devices",
        "sinks",
        "records",
        "checkpoint",
        "experiment",
        "launch",
        "memory",
        "merge",
        "tuning",
        "play",
        "plots",
        "render",
        "cli",
    },
]
HOST_ONLY = {"os", "time", "pathlib", "logging", "subprocess", "tqdm", "orbax", "matplotlib"}
TRACED = {"types", "boxes", "precision", "recurrent", "nets", "mixers", "transforms", "policies", "returns",
          "replay", "split", "algos", "rollout", "evaluate", "diagnostics", "train", "envs"}  # fmt: skip


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts


def imports(path, parts):
    """(top module inside the package or None, outside name or None) of every import in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            inside = len(parts) > 1 and node.level == 1  # a sibling in the same sub-package
            if inside:
                yield parts[0], None
            elif node.module:
                yield node.module.split(".")[0], None
            else:
                yield from ((alias.name, None) for alias in node.names)


@pytest.mark.parametrize("path, parts", modules(), ids=lambda x: str(x)[-40:])
def test_imports_point_one_way(path, parts):
    rank = {name: i for i, row in enumerate(LAYERS) for name in row}
    assert parts[0] in rank, f"{parts[0]} is in no layer: add it to LAYERS"
    for inner, outer in imports(path, parts):
        if inner is not None:
            assert rank[inner] <= rank[parts[0]], f"{parts[0]} imports {inner}"
            assert not (parts[0] == "algos" and inner in ("envs", "rollout"))
        if parts[0] in TRACED:
            assert outer not in HOST_ONLY, f"{parts[0]} is traced and imports {outer}"


def test_files_stay_readable():
    long = {p.name: n for p, _ in modules() if (n := len(p.read_text().splitlines())) > 330}
    assert long == {}


def tool(*command):
    found = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert found, f"{command[0]} is not installed beside this Python: pip install -e '.[dev]'"
    done = subprocess.run([found, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_ruff_check():
    tool("ruff", "check", ".")


def test_ruff_format():
    tool("ruff", "format", "--check", ".")


def test_types():
    # Without the interpreter it would not find the packages of an environment elsewhere, and pass unseen.
    tool("basedpyright", "--level", "error", "--pythonpath", sys.executable)


def test_imports_touch_no_device():
    """Else it is too late to ask for a CPU device per core, and seeds run one after the other."""
    names = [".".join(("me_igm_jax", *parts)).removesuffix(".__init__") for _, parts in modules()]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "from me_igm_jax.envs import env_names; env_names()\n"
    code += "import jax; jax.config.update('jax_num_cpu_devices', 3); print(len(jax.devices()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["3"], found.stderr
