"""Child processes of this program: a module of this package, which answers with a line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE_PARENT = Path(__file__).resolve().parents[2]
MAX_MESSAGE = 300
"""Characters of the child's own last message that are repeated."""


class ChildFailed(Exception):
    """The child ended without an answer; the text says with which code, and its last line."""


def ask(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    timeout_s: float | None = None,
) -> Any:
    """Run `python -m module arguments` -> the JSON in the last line of its standard output.

    environment: variables besides this process's.  pass_fds: files that it finds open.
    Raises ChildFailed, or subprocess.TimeoutExpired after timeout_s.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        env=_environment() | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=tuple(pass_fds),
        timeout=timeout_s,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildFailed(f"ended with code {done.returncode}: {last[:MAX_MESSAGE]}")
    return json.loads(lines[-1])


def _environment() -> dict[str, str]:
    """This process's, with this very package first on the path, installed or not."""
    path = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
