"""What `tune` takes at FLUX.2 Klein's widths: seconds an update and memory, on a slice, measured.

    python -m benchmarks.tune [--updates 20] [--size 256]

A made model with one double and two single blocks, rounded to a ternary pack; one prompt at a time,
at the sampler's four levels. What the whole model takes of a GPU is counted by the program itself.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import click
import psutil
import torch

from bonsai_quant.core.numbers import size
from bonsai_quant.runners.memory_meter import Meter, give_back
from bonsai_quant.training.distill.memory_need import needed
from bonsai_quant.training.settings import TuningSettings
from tools.gpu.slice import made as slice_of
from tools.gpu.slice import training

from .marked_text import RESULTS


@click.command()
@click.option("--updates", default=20)
@click.option("--size", "side", default=256)
def main(updates: int, side: int) -> None:
    """Measure, print, and write results/tune.json."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=".") as made:
        piece = slice_of(Path(made) / "slice", torch.device("cpu"), side=side)
        settings = TuningSettings(steps=updates, batch=4, at_once=1)
        give_back()
        before = psutil.Process().memory_info().rss
        with Meter(lambda: int(psutil.Process().memory_info().rss)) as meter:
            tuning, job = training(piece, settings)
            seconds, losses = [], []
            for _ in range(updates):
                begin = perf_counter()
                losses.append(tuning.update())
                seconds.append(perf_counter() - begin)
        parts = needed(job, 1, half=False)
    result = {
        "updates": updates, "side": side, "states an update": 4, "threads": torch.get_num_threads(),
        "seconds an update, median": statistics.median(seconds), "losses": losses,
        "peak of this process above its start": meter.peak - before, "counted": parts,
        "counted in all": sum(parts.values()),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tune.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['seconds an update, median']:.1f} s an update of 4 states at {side} px")
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} after {updates} updates")
    print(f"peak {size(meter.peak - before)}, counted {size(sum(parts.values()))}")


if __name__ == "__main__":
    main()
