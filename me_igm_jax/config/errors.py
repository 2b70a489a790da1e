"""The one error that a user's settings can cause, and how it suggests names."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot work. Its message is one line that names the key and the way out."""


def nearest(name: str, names: Iterable[str], most: int = 12) -> str:
    """The tail of an error message: the nearest name, or the known ones (`most` of them at most)."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = ", ..." if len(names) > most else ""
    return f"; known: {', '.join(names[:most])}{more}"
