"""What recovering quality takes at the real size, projected from operations that are counted.

    python -m benchmarks.recover

The arithmetic of calibration and distillation of FLUX.2 Klein 4B. Solving is measured by
benchmarks/solver.py. The figures go to benchmarks/results/recover.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .marked_text import RESULTS

HIDDEN, DOUBLE, SINGLE, WORDS, STEPS = 3072, 5, 20, 512, 4
ROWS_OF = {
    HIDDEN: DOUBLE * 2 * (3 + 1 + 6) * HIDDEN + SINGLE * 9 * HIDDEN,
    3 * HIDDEN: DOUBLE * 2 * HIDDEN,
    4 * HIDDEN: SINGLE * HIDDEN,
}
"""Width of a packed layer -> rows of that width in all of them."""
PACKED = sum(width * rows for width, rows in ROWS_OF.items())
SPEEDS = {"24 GB (RTX 4090)": 100e12, "80 GB (H100)": 400e12, "141 GB (H200)": 400e12}
"""Products a second in bfloat16 that are assumed, about half of what each card is sold with."""


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
@click.option("--out", default=str(RESULTS / "recover.json"), help="Where figures go.")
def main(out: str) -> None:
    """Project, print, and write the JSON."""
    rows = projected()
    for r in rows:
        click.echo(
            f"{r['card']}, {r['pixels']} px: calibration {r['calibration_minutes']:.1f} min, "
            f"an update of 32 states {r['update_s']:.1f} s, 10,000 of them {r['hours_10k']:.0f} h"
        )
    Path(out).write_text(json.dumps({"projected": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
