"""Contestants of a race: processes that take a turn when asked, so that all meet the same machine."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
    """A process that answers every line on its standard input with a line of JSON."""

    def __init__(self, name: str, command: Sequence[str]):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self._answer()

    def _answer(self) -> Any:
        for line in self.process.stdout or ():
            try:
                return json.loads(line)
            except ValueError:
                continue  # something that a library printed
        raise SystemExit(f"{self.name}: stopped without an answer (see above)")

    def turn(self) -> Any:
        """What the process says of one turn."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve(facts: dict, turn: Callable[[], Any]) -> None:
    """The worker's side: say the facts, then take a turn for every line."""
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)
