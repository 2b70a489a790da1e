"""Reading and writing files: whole or not at all, and JSON that every parser accepts."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config import ConfigError

Row = dict[str, Any]  # one line of metrics.jsonl: one seed at one evaluation


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at `path` in one step: it holds the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # it could be a link to another file
    with temporary.open("x") as file:
        file.write(text)
    temporary.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON; see `finite`."""
    write_atomic(path, json.dumps(finite(data), indent=2, allow_nan=False) + "\n")


def finite(data: Any) -> Any:
    """`data` with None for every number that is not finite, which JSON cannot hold."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path) -> dict:
    """The object that a JSON file holds; ConfigError when it holds none."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: is damaged (no JSON object)")
    return data


def json_lines(rows: Iterable[Row]) -> str:
    """One line of JSON for each row."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """All rows of a metrics.jsonl. A crash may have cut off the last line; that one is left out.

    Raises ConfigError when another line is damaged.
    """
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and {"eval", "point", "seed", "env_steps"} <= set(row):
            rows.append(row)
        elif number < len(lines):
            raise ConfigError(f"{path}: line {number} is damaged")
    return rows
