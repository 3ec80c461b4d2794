"""What `calibrate --solver gptq` takes for FLUX.2 Klein 4B, from a slice at its real widths.

    python -m benchmarks.calibrate [--mode ternary] [--prompts 4] [--size 256]

One double block and two single ones, with made weights, noise and captions; every block's seconds
are counted apart, and times five double and twenty single blocks they are the whole model's. What
does not grow with blocks (encoding the prompts, painting's first and last layers) is left out.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import click
import torch

from bonsai_quant.core.numbers import duration, size
from bonsai_quant.core.progress import NoProgress
from bonsai_quant.runners.memory_meter import Meter
from bonsai_quant.training.calibrate import cost
from bonsai_quant.training.calibrate.job import CalibrationJob
from bonsai_quant.training.calibrate.paint import TokenWeights, paint
from bonsai_quant.training.calibrate.prepared import Prepared
from bonsai_quant.training.calibrate.solve_layers import BlockSolver
from bonsai_quant.training.calibrate.store import Store
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.layered import advance
from tools.gpu.slice import calibration
from tools.gpu.slice import made as slice_of

from .marked_text import RESULTS

BLOCKS = {"transformer_blocks": 5, "single_transformer_blocks": 20}
"""Of FLUX.2 Klein 4B."""
WORDS = 512
ALONE = ProcessGroup(0, 1, torch.device("cpu"))


class Clock:
    """Seconds by phase and kind of block. Call with the block that was just worked on."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.at = perf_counter()

    def __call__(self, phase: str, block: str) -> None:
        """Count what passed since the last call."""
        now = perf_counter()
        self.seconds[phase, block.rpartition(".")[0]].append(now - self.at)
        self.at = now

    def whole(self, phase: str) -> float:
        """Seconds of all blocks of the whole model: the mean of each kind, times their number."""
        total = 0.0
        for (p, kind), seconds in self.seconds.items():
            if p == phase:
                blocks = 1 if kind == "transformer_blocks" else 2
                total += sum(seconds) / blocks * BLOCKS[kind]
        return total


def measure(job: CalibrationJob, prepared: Prepared) -> tuple[Clock, dict[str, float]]:
    """Paint, weigh and solve; -> seconds by block, and those of solving alone, by kind of block."""
    clock, names = Clock(), prepared.model.block_names
    order = iter([*names, *reversed(names)] * (len(prepared.sigmas) - 1))
    weights = TokenWeights()
    parts = {linear: job.rows(linear) for linear in job.layers}
    states = paint(prepared, parts, weights, tick=lambda: clock("painting", next(order)))
    weights.finish(ALONE)
    original = prepared.streams(states)
    rounded = [s.copy() for s in original]
    solving: dict[str, float] = defaultdict(float)
    clock("between", names[0])
    for name in names:
        model = prepared.model
        blocks = (model.block(name), model.block(name))
        block = BlockSolver(job, name, blocks, weights, Store(), ALONE)
        solve_part = timed(block, solving, name.rpartition(".")[0])
        stages = job.stages(name)
        for stage in stages:
            block.solve(stage, original, rounded, last=stage is stages[-1], progress=NoProgress())
        advance(block.rounded, name, rounded)
        clock("solving", name)
        del block, solve_part
    return clock, solving


def timed(block: BlockSolver, seconds: dict[str, float], kind: str) -> BlockSolver:
    """Count what a block's solver spends on codes alone."""
    inner = block._solve

    def outer(*arguments: object) -> None:
        begin = perf_counter()
        inner(*arguments)  # type: ignore[arg-type]
        seconds[kind] += perf_counter() - begin

    block._solve = outer  # type: ignore[method-assign]
    return block


@click.command()
@click.option("--mode", default="ternary")
@click.option("--prompts", default=4)
@click.option("--size", "side", default=256)
def main(mode: str, prompts: int, side: int) -> None:
    """Measure a slice, and print what the whole model would take."""
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory(dir=".") as made:
        piece = slice_of(Path(made) / "slice", torch.device("cpu"), mode=mode, side=side)
        job, prepared = calibration(piece, prompts)
        rate = cost.speed(torch.device("cpu"))
        import psutil

        with Meter(lambda: int(psutil.Process().memory_info().rss)) as meter:
            clock, codes = measure(job, prepared)
    whole = {phase: clock.whole(phase) for phase in ("painting", "solving")}
    alone = sum(s / (1 if k == "transformer_blocks" else 2) * BLOCKS[k] for k, s in codes.items())
    sizes = replace(cost.sizes(job, prompts), others=0)
    result = {
        "mode": mode, "prompts": prompts, "side": side, "threads": torch.get_num_threads(),
        "gflops": rate / 1e9, "painting": whole["painting"], "solving": whole["solving"],
        "codes": alone, "total": sum(whole.values()), "peak": meter.peak,
        "blocks": {f"{p} {k}": s for (p, k), s in clock.seconds.items()},
        "operations of the slice": cost.work(job, sizes).total,
        "seconds of the slice": sum(sum(s) for s in clock.seconds.values()),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"calibrate-{mode}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{rate / 1e9:.0f} GFLOPS in float32 products, {torch.get_num_threads()} threads")
    for key in ("painting", "solving", "codes", "total"):
        print(f"{key:10} {duration(result[key])} of all 25 blocks")  # type: ignore[arg-type]
    print(f"peak memory of the slice {size(meter.peak)}")


if __name__ == "__main__":
    main()
