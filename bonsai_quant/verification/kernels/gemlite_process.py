"""Start the child process that runs gemlite, and read its answer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bonsai_quant.core.child_process import environment
from bonsai_quant.core.requirements import installed

from .result import Status

CHILD = "bonsai_quant.verification.kernels.gemlite_child"
INSTALL = "pip install torch gemlite==0.6.0.post2"

Task = dict[str, np.ndarray]
"""Arrays for one layer; an empty task is passed over."""


@dataclass(frozen=True, eq=False)
class ChildAnswer:
    """What the child said: `outputs` holds the arrays of each task."""

    status: Status
    reason: str = ""
    version: str | None = None
    where: str = ""
    outputs: list[Task] = field(default_factory=list)


def run_child(tasks: Sequence[Task], *, timeout_s: float) -> ChildAnswer:
    """Give tasks to a fresh process and wait for its answer, at most timeout_s."""
    version = installed("gemlite")
    missing = [name for name in ("torch", "gemlite") if installed(name) is None]
    if missing:
        return ChildAnswer("not run", f"{' and '.join(missing)} not installed: {INSTALL}", version)
    if not any(tasks):
        return ChildAnswer("passed", version=version, outputs=[{} for _ in tasks])
    with tempfile.TemporaryDirectory(prefix="bonsai-gemlite-") as folder:
        given, taken = Path(folder) / "tasks.npz", Path(folder) / "outputs.npz"
        np.savez(given, allow_pickle=False, **_flat(tasks))
        command = [sys.executable, "-P", "-m", CHILD, str(given), str(taken)]
        try:
            done = subprocess.run(
                command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ChildAnswer("not run", f"gemlite took more than {timeout_s:g} s", version)
        return _read(done, taken, len(tasks), version)


def _read(
    done: subprocess.CompletedProcess[str], taken: Path, n_tasks: int, version: str | None
) -> ChildAnswer:
    """The last line of stdout is the answer in JSON, arrays are in the file `taken`.

    A child that ends badly has run no kernel: what could upset one in a layer is checked before.
    """
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        reason = f"gemlite {version} ended with code {done.returncode}: {last}"
        return ChildAnswer("not run", reason, version)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    if "not_run" in said:
        return ChildAnswer("not run", f"{said['not_run']}: {INSTALL}", version)
    outputs: list[Task] = [{} for _ in range(n_tasks)]
    with np.load(taken, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            index, name = key.split("/", 1)
            outputs[int(index)][name] = array
    return ChildAnswer("passed", "", version, said["where"], outputs)


def _flat(tasks: Sequence[Task]) -> Task:
    """One dict of arrays, 'index/name' to array."""
    return {f"{k}/{name}": array for k, task in enumerate(tasks) for name, array in task.items()}
