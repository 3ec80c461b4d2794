"""Solving, calibrating, tuning and distilling at Klein's widths: seconds and memory of each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bonsai_quant.core.progress import no_progress
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import gptq
from bonsai_quant.training.calibrate.paint import TokenWeights, paint
from bonsai_quant.training.calibrate.solve_layers import BlockSolver
from bonsai_quant.training.calibrate.store import Store
from bonsai_quant.training.settings import DistillationSettings, TuningSettings
from bonsai_quant.training.trajectories.layered import advance

from .clock import Clock, OutOfTime
from .slice import Slice, calibration, made, training

UPDATES, ROWS, WIDTH = 10, 512, 12288
DRY = {"size": "tiny", "side": 64, "words": 8}


@dataclass(frozen=True, slots=True)
class Trained:
    """what: was done.  seconds, peak (bytes on the device): it took.  figure: what came of it."""

    what: str
    seconds: float
    peak: int
    figure: str


def trained(device: torch.device, clock: Clock) -> Iterator[Trained]:
    """Everything, one after another; it ends where the minutes are over."""
    dry = clock.quick
    with tempfile.TemporaryDirectory(prefix="bonsai-gpu-") as scratch, torch.no_grad():
        yield _timed("solve", clock, lambda: _solve(device, *((8, 256) if dry else (ROWS, WIDTH))))
        piece = made(Path(scratch) / "slice", device, **(DRY if dry else {}))
        yield _timed("calibrate one prompt", clock, lambda: _calibrate(piece))
        updates = 1 if dry else UPDATES
        for what, settings in (
            ("tune", TuningSettings(steps=updates, batch=4, at_once=1)),
            ("distill", DistillationSettings(steps=updates, batch=4, at_once=1, freeze=0)),
        ):
            call = lambda settings=settings: _train(piece, settings, updates)  # noqa: E731
            yield _timed(f"{updates} updates: {what}", clock, call)


def _timed(what: str, clock: Clock, call: Callable[[], str]) -> Trained:
    if time.monotonic() > clock.end:
        raise OutOfTime
    begin, figures = time.perf_counter(), list[str]()
    peak = clock.peak(lambda: figures.append(call()))
    return Trained(what, time.perf_counter() - begin, peak, figures[0])


def _solve(device: torch.device, rows: int, n: int) -> str:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2 * n, n, generator=random).to(device)
    w = torch.randn(rows, n, generator=random).to(device)
    hessian = Hessian(x.T @ x / len(x))
    chosen = gptq.choose(w, hessian, "ternary")
    scales = chosen.scales.repeat_interleave(n // chosen.scales.shape[1], 1)
    off = float((w - chosen.codes * scales).square().sum() / w.square().sum())
    return f"{rows} rows of {n} inputs, error of weights {off:.4f}"


def _calibrate(piece: Slice) -> str:
    job, prepared = calibration(piece, 1)
    weights, parts = TokenWeights(), {n: job.rows(n) for n in job.layers}
    states = paint(prepared, parts, weights)
    weights.finish(piece.processes)
    original = prepared.streams(states)
    rounded, errors = [s.copy() for s in original], list[float]()
    for name in prepared.model.block_names:
        blocks = (prepared.model.block(name), prepared.model.block(name))
        block = BlockSolver(job, name, blocks, weights, Store(), piece.processes)
        stages = job.stages(name)
        for stage in stages:
            found = block.solve(stage, original, rounded, last=stage is stages[-1],
                                progress=no_progress)  # fmt: skip
            errors += [layer["error"] for layer in found.values()]
        advance(block.rounded, name, rounded)
    return f"{len(errors)} layers, mean error of outputs {sum(errors) / len(errors):.4f}"


@torch.enable_grad()  # type: ignore[untyped-decorator]
def _train(piece: Slice, settings: DistillationSettings, updates: int) -> str:
    trainer, _ = training(piece, settings)
    losses = [trainer.update() for _ in range(updates)]
    return f"loss {losses[0]:.4f} -> {losses[-1]:.4f}"
