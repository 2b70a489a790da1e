"""Importing JaxMARL: lazily, because it takes seconds, and quietly, because it prints."""

import contextlib
import io
import sys


@contextlib.contextmanager
def quiet():
    """JaxMARL prints while it is imported, and puts sys.stdout back to the terminal behind it."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    saved = {name: getattr(sys, name) for name in names}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        for name, stream in saved.items():
            setattr(sys, name, stream)
