"""Imports point one way; nothing traced touches the host; the code is lint- and type-clean."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "me_igm_jax"
LAYERS = ("types", "config", "ops", "networks", "algos", "envs", "training", "runner", "report", "cli")
"""A module imports from its folder and from those before it."""
TRACED = ("types", "ops", "networks", "algos", "envs", "training")
HOST_ONLY = {"os", "time", "pathlib", "logging", "subprocess", "tqdm", "orbax", "matplotlib"}
LONGEST_FILE, LONGEST_MAKE = 300, 60


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts


def imports(path, parts):
    """(folder inside the package or None, outside name or None) of every import in the file."""
    package = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (((*base, *name.split("."))[0], None) for name in names)


@pytest.mark.parametrize("path, parts", modules(), ids=lambda x: str(x)[-40:])
def test_imports_point_one_way(path, parts):
    assert parts[0] in LAYERS, f"{parts[0]} is in no layer: add it to LAYERS"
    for inner, outer in imports(path, parts):
        if inner is not None:
            assert LAYERS.index(inner) <= LAYERS.index(parts[0]), f"{parts[0]} imports {inner}"
        # Drawers stand beside their environments; they import matplotlib when they draw.
        drawer = parts[0] == "envs" and outer == "matplotlib"
        if parts[0] in TRACED and not drawer:
            assert outer not in HOST_ONLY, f"{parts[0]} is traced and imports {outer}"


@pytest.mark.parametrize("path, parts", modules(), ids=lambda x: str(x)[-40:])
def test_a_module_says_what_belongs_in_it(path, parts):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text and text.splitlines()[0].strip().endswith((".", ":")), path


def test_files_and_wiring_stay_short():
    long = {str(p.relative_to(PACKAGE)): n for p, _ in modules() if (n := lines(p)) > LONGEST_FILE}
    assert long == {}
    makes = {}
    for path, parts in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("make_") and parts[0] == "algos":
                makes[node.name] = node.end_lineno - node.lineno + 1
    assert {name: n for name, n in makes.items() if n > LONGEST_MAKE} == {}


def lines(path):
    return len(path.read_text().splitlines())


def tool(*command):
    found = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert found, f"{command[0]} is not installed beside this Python: pip install -e '.[dev]'"
    done = subprocess.run([found, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


CHECKED = ("me_igm_jax", "tests", "benchmarks", "notebooks", "docs")  # not what else lies in the checkout


def test_ruff_check():
    tool("ruff", "check", *CHECKED)


def test_ruff_format():
    tool("ruff", "format", "--check", *CHECKED)


def test_types():
    # Without the interpreter it would not find the packages of an environment elsewhere, and pass unseen.
    tool("basedpyright", "--level", "error", "--pythonpath", sys.executable)


def test_imports_touch_no_device():
    """Else it is too late to ask for a CPU device per core, and seeds run one after the other."""
    names = [".".join(("me_igm_jax", *parts)).removesuffix(".__init__") for _, parts in modules()]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "from me_igm_jax.config.registry import env_names; env_names()\n"
    code += "import jax; jax.config.update('jax_num_cpu_devices', 3); print(len(jax.devices()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["3"], found.stderr
