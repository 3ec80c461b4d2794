"""Start the child process that runs gemlite, and read its answer."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bonsai_quant.core.child_process import ChildFailed, ask
from bonsai_quant.core.requirements import installed

from .result import Status

CHILD = "bonsai_quant.verification.kernels.gemlite_child"
INSTALL = "pip install torch gemlite==0.6.0.post2"

Task = dict[str, np.ndarray]
"""Arrays for one layer; an empty task is passed over."""


@dataclass(frozen=True, eq=False)
class ChildAnswer:
    """What came of it: `outputs` holds the arrays of each task."""

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
        tasks_file, outputs_file = Path(folder) / "tasks.npz", Path(folder) / "outputs.npz"
        np.savez(tasks_file, allow_pickle=False, **_flat(tasks))
        try:
            answer = ask(CHILD, (str(tasks_file), str(outputs_file)), timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            return ChildAnswer("not run", f"gemlite took more than {timeout_s:g} s", version)
        except ChildFailed as e:
            # It has run no kernel: what could upset one in a layer is checked before.
            return ChildAnswer("not run", f"gemlite {version} {e}", version)
        return _read(answer, outputs_file, len(tasks), version)


def _read(
    answer: Mapping[str, str], outputs_file: Path, n_tasks: int, version: str | None
) -> ChildAnswer:
    """answer: where the kernels ran, or why they did not.  outputs_file: has the arrays."""
    if "not_run" in answer:
        return ChildAnswer("not run", f"{answer['not_run']}: {INSTALL}", version)
    outputs: list[Task] = [{} for _ in range(n_tasks)]
    with np.load(outputs_file, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            index, name = key.split("/", 1)
            outputs[int(index)][name] = array
    return ChildAnswer("passed", "", version, answer["where"], outputs)


def _flat(tasks: Sequence[Task]) -> Task:
    """One dict of arrays, 'index/name' to array."""
    return {f"{k}/{name}": array for k, task in enumerate(tasks) for name, array in task.items()}
