"""One client on one pack, in a process of its own.

    python -m benchmarks.clients.walk MODULE PACK INPUTS.npz ANSWER.npz

INPUTS: noise [4, rows, columns, channels], captions [4, tokens, width], sigmas. The first picture
is painted alone, and then all four at once. ANSWER: the first velocity and the last state of both,
as `velocity1`, `state1`, `velocity4`, `state4`; `seconds` of each step with one picture; `peak`,
bytes of the process in which the client runs, libraries included; `version`, if the client has one
of its own.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bonsai_quant.runners.memory_meter import Meter
from bonsai_quant.runners.sampling import walk


def main(module: str, pack: str, inputs: str, answer: str) -> None:
    """Paint, and write down what came of it."""
    client = import_module(f"benchmarks.clients.{module}")
    given = np.load(inputs)
    velocity = client.open_velocity(Path(pack))
    seconds: list[float] = []
    first: list[np.ndarray] = []

    def timed(z: np.ndarray, sigma: float, captions: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        v = velocity(z, sigma, captions)
        seconds.append(time.perf_counter() - began)
        first.append(v)
        return v

    results: dict[str, Any] = {}
    steps = len(given["sigmas"]) - 1
    with Meter(largest) as meter:
        for n in (1, 4):
            sigmas = [float(s) for s in given["sigmas"]]
            states = walk(timed, given["noise"][:n], given["captions"][:n], sigmas)
            results |= {f"velocity{n}": first[-steps], f"state{n}": states[-1]}
    own = getattr(client, "SECONDS", None) or seconds
    version = getattr(client, "version", str)()
    np.savez(answer, seconds=own[:steps], peak=meter.peak, version=version, **results)


def largest() -> int:
    """Bytes of this process, or of the largest that it has started: that is where a client runs."""
    me = psutil.Process()
    used = [0]
    for child in me.children(recursive=True):
        with suppress(psutil.Error):
            used.append(child.memory_info().rss)
    return max(used) or me.memory_info().rss


if __name__ == "__main__":
    main(*sys.argv[1:])
