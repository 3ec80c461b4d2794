"""What recovering quality takes at the real size: measured pieces, and what follows from them.

    python -m benchmarks.recover [--rows 64]

Measured here, on this machine's processor: making a layer's moments ready, and solving rows of it
with `gptq`, at every width of FLUX.2 Klein 4B. Projected: the whole model's time from these, and
the arithmetic and memory of calibration and distillation. The figures go to
benchmarks/results/recover.json.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import SOLVERS, solve

from .marked_text import RESULTS

MODES = ("ternary", "binary")
HIDDEN, DOUBLE, SINGLE, WORDS, STEPS = 3072, 5, 20, 512, 4
ROWS_OF = {
    HIDDEN: DOUBLE * 2 * (3 + 1 + 6) * HIDDEN + SINGLE * 9 * HIDDEN,
    3 * HIDDEN: DOUBLE * 2 * HIDDEN,
    4 * HIDDEN: SINGLE * HIDDEN,
}
"""Width of a packed layer -> rows of that width in all of them."""
LAYERS_OF = {HIDDEN: DOUBLE * 10 + SINGLE, 3 * HIDDEN: DOUBLE * 2, 4 * HIDDEN: SINGLE}
PACKED = sum(width * rows for width, rows in ROWS_OF.items())
SPEEDS = {"24 GB (RTX 4090)": 100e12, "80 GB (H100)": 400e12, "141 GB (H200)": 400e12}
"""Products a second in bfloat16 that are assumed, about half of what each card is sold with."""


def measure(width: int, rows: int) -> dict[str, dict[str, float]]:
    """For both modes: seconds to make H of a width ready, and to solve a row, with every core."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(width // 4, width)) * np.exp(0.5 * rng.normal(size=width))
    x[:, 1:] += 0.5 * x[:, :-1]
    hessian = Hessian(x.T @ x / len(x))
    weight = (rng.standard_t(5, (rows, width)) * 0.02).astype(np.float32)
    start = perf_counter()
    SOLVERS["gptq"].prepare(hessian)
    ready = perf_counter() - start
    cores = os.cpu_count() or 1
    seconds = {}
    for mode in MODES:
        solve(weight[:1, :128], "gptq", mode, None, Hessian(np.eye(128)))  # compiles
        start = perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            parts = np.array_split(weight, min(cores, rows))
            list(pool.map(lambda w, m=mode: solve(w, "gptq", m, None, hessian), parts))
        seconds[mode] = {"ready_s": ready, "row_s": (perf_counter() - start) / rows}
    return seconds


def whole_seconds(measured: dict[int, dict[str, float]]) -> float:
    """Seconds for every layer of Klein 4B."""
    return sum(LAYERS_OF[w] * m["ready_s"] + ROWS_OF[w] * m["row_s"] for w, m in measured.items())


def pass_operations(pixels: int) -> float:
    """Operations of one state's pass through the blocks: products with weights, and attention.

    In a double block a token meets the weights of its own stream only.
    """
    tokens, blocks = (pixels // 16) ** 2 + WORDS, DOUBLE + SINGLE
    met = PACKED * blocks / (2 * DOUBLE + SINGLE)
    return 2 * met * tokens + 4 * tokens**2 * HIDDEN * blocks


def moment_operations(pixels: int) -> float:
    """Operations of adding one state's inputs to the second moments of every layer."""
    tokens = (pixels // 16) ** 2 + WORDS
    return 2 * tokens * HIDDEN**2 * (DOUBLE * (3 + 9) + SINGLE * (1 + 16))


def projected() -> list[dict[str, Any]]:
    """For each card: minutes of a calibration's passes, hours of 10,000 updates of 32 states."""
    rows = []
    for card, speed in SPEEDS.items():
        for pixels in (256, 512):
            # A step of the walk, a pass to look, and one behind rounded weights.
            calibration = 64 * STEPS * (3 * pass_operations(pixels) + moment_operations(pixels))
            # A step of a walk, the teacher's answer, and a gradient: forward, again, twice back.
            update = 32 * (1 + 1 + 4) * pass_operations(pixels)
            rows.append({
                "card": card,
                "pixels": pixels,
                "calibration_minutes": calibration / speed / 60,
                "update_s": update / speed,
                "hours_10k": 1e4 * update / speed / 3600,
            })  # fmt: skip
    return rows


@click.command()
@click.option("--rows", default=64, show_default=True, help="Rows solved at each width.")
@click.option("--out", default=str(RESULTS / "recover.json"), help="Where figures go.")
def main(rows: int, out: str) -> None:
    """Measure, project, print, and write the JSON."""
    figures: dict[str, Any] = {"cores": os.cpu_count(), "solver": {}, "projected": projected()}
    by_width = {}
    for width in ROWS_OF:
        by_width[width] = measure(width, rows)
        click.echo(f"{width}: {by_width[width]}", err=True)
    for mode in MODES:
        measured = {width: by_width[width][mode] for width in ROWS_OF}
        figures["solver"][mode] = {
            "measured": {str(w): m for w, m in measured.items()},
            "whole_s_projected": whole_seconds(measured),
        }
        hours = whole_seconds(measured) / 3600
        click.echo(f"{mode}: all of Klein 4B would take {hours:.1f} hours on this processor")
    for r in figures["projected"]:
        click.echo(
            f"{r['card']}, {r['pixels']} px: calibration {r['calibration_minutes']:.1f} min, "
            f"an update of 32 states {r['update_s']:.1f} s, 10,000 of them {r['hours_10k']:.0f} h"
        )
    Path(out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
