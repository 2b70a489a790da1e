"""The documents name only what exists: links, commands, presets, quoted code. The notebooks run."""

import ast
import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from me_igm_jax.config import ConfigError, preset_names
from me_igm_jax.config.arguments import parse_config

ROOT = Path(__file__).parent.parent
GUEST = ROOT / "docs" / "examples" / "house_guest"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHAPTERS = sorted(p for p in (ROOT / "docs" / "notes").glob("*.md") if p.stem != "README")
QUOTED = sorted(p for p in GUEST.rglob("*") if p.suffix in (".py", ".yaml") and p.stem != "__init__")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def page_name(path):
    return str(path.relative_to(ROOT))


def without_fences(text):
    return FENCE.sub("", text)


def headings(path):
    return re.findall(r"^#+ (.+)$", without_fences(path.read_text()), re.M)


def anchor(heading):
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def lines_of_code(text):
    return [line for line in text.splitlines() if line.strip()]


# -- links ----------------------------------------------------------------------------------------


def test_anchors_are_those_of_github():
    assert anchor("The (8, -12, 0) game") == "the-8--12-0-game"
    assert anchor("FOP's `ablations`") == "fops-ablations"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page.read_text())):
        if re.match(r"\w+:", target):
            continue  # a page elsewhere
        path, _, place = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not place or place in {anchor(h) for h in headings(linked)}, target


# -- the notes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_entries_of_the_notes_are_complete(chapter):
    _, *entries = re.split(r"^## ", chapter.read_text(), flags=re.M)
    assert entries
    for entry in entries:
        for part in ("Prediction", "Change", "Outcome"):
            assert f"**{part}.**" in entry, entry.splitlines()[0]


def test_every_chapter_of_the_notes_is_in_the_index():
    index = (ROOT / "docs" / "notes" / "README.md").read_text()
    assert [p.name for p in CHAPTERS if f"({p.name})" not in index] == []


def test_references_to_the_notes_exist():
    """Comments name a chapter, and often an entry: notes/smax.md, "3m without a GRU"."""
    found = 0
    for folder in ("configs", "me_igm_jax", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in (".py", ".yaml", ".sh") or path == Path(__file__):
                continue
            text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
            for name, entry in re.findall(r'notes/([\w-]+\.md)(?:, "([^"]+)")?', text):
                found += 1
                chapter = ROOT / "docs" / "notes" / name
                assert chapter.exists(), f"{path}: {name}"
                assert not entry or entry in headings(chapter), f"{path}: {name}, {entry}"
            stale = re.search("engineering.notes", text)
            assert stale is None, f"{path}: names the old page"
    assert found >= 5


# -- code and commands ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", QUOTED, ids=page_name)
def test_quoted_code_is_the_files(path):
    """Together, the pieces of a file that docs/extending.md quotes are the whole file."""
    text = (ROOT / "docs" / "extending.md").read_text()
    mark = re.escape(f"<!-- file: {path.relative_to(ROOT / 'docs')} -->")
    pieces = re.findall(rf"^{mark}\n```\w+\n(.*?)^```$", text, re.M | re.S)
    assert pieces, "is quoted nowhere"
    assert lines_of_code("".join(pieces)) == lines_of_code(path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_parses(page):
    for language, code in FENCE.findall(page.read_text()):
        if language == "python":
            ast.parse(code)


def commands(page):
    """The arguments of every `me-igm train` and `me-igm sweep` that starts something new."""
    for _, code in FENCE.findall(page.read_text()):
        for line in re.findall(r"me-igm (?:train|sweep) .*", code.replace("\\\n", " ")):
            arguments = shlex.split(line, comments=True)[2:]
            placeholder = any("my_pkg" in word for word in arguments)
            if not placeholder and not {"--resume", "--help", "..."} & {*arguments}:
                yield arguments


def without_launcher(arguments):
    """The arguments without those of `me-igm sweep` itself."""
    own = ("--grid", "--launcher", "--jobs", "--slurm")
    kept = list(arguments)
    while found := [i for i, word in enumerate(kept) if word in own]:
        del kept[found[0] : found[0] + 2]
    return kept


@pytest.mark.parametrize("page", [p for p in PAGES if any(commands(p))], ids=page_name)
def test_commands_parse(page, monkeypatch):
    """Every command is a valid configuration."""
    monkeypatch.chdir(GUEST)
    monkeypatch.syspath_prepend(str(GUEST))
    for arguments in commands(page):
        try:
            config = parse_config("me-igm", without_launcher(arguments))
        except ConfigError as error:
            pytest.fail(f"{' '.join(arguments)}: {error}")
        for axis in (arguments[i + 1] for i, word in enumerate(arguments) if word == "--grid"):
            section, _, key = axis.partition("=")[0].partition(".")
            assert section == "hypers" and hasattr(config.hypers, key.replace("-", "_")), axis


def test_there_are_commands():
    assert len(list(commands(ROOT / "README.md"))) >= 3


def test_readme_names_every_preset():
    readme = (ROOT / "README.md").read_text()
    assert {name for name in preset_names() if f"`{name}`" not in readme} == set()


# -- notebooks ------------------------------------------------------------------------------------


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
