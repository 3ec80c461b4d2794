"""What a library says when it cannot load a part, as one line for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BadInput


@contextmanager
def loading(library: str, folder: Path) -> Iterator[None]:
    """BadInput, with the folder's name, for whatever goes wrong in a library that reads it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise BadInput(
            f"{library} cannot load it: {one_line(e)}",
            where=str(folder),
            hint="fetch the pipeline again",
        ) from e


def one_line(e: Exception) -> str:
    """The beginning of a message, without its line breaks."""
    return " ".join(str(e).split())[:300]
