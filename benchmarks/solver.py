"""How fast `gptq` solves all layers of FLUX.2 Klein 4B, and how low, on made layers of its shapes.

    python -m benchmarks.solver [--threads 2] [--was 32] [--prompts 32]

For every width: the speed of a large product, making a factor ready, the targets of a slice of
rows and their codes, in both modes, and the memory that takes beside weights and H. The times of a
row are scaled by the rows of all layers. Made rows, and every layer of mini-klein, are also solved
as they were before, in float64, to compare the objective. With one thread, seconds are the
processor's. Figures go to benchmarks/results/solver.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch

from bonsai_quant import calibrate
from bonsai_quant.core.schema import Mode
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import gptq
from tests.support.gptq_reference import reference

from .marked_text import RESULTS

MODES: tuple[Mode, ...] = ("ternary", "binary")
HIDDEN, STREAMS, SINGLE = 3072, 10, 20
LAYERS = (
    ("to_q, to_k, to_v, to_out", HIDDEN, HIDDEN, 4 * STREAMS, 1),
    ("linear_in", HIDDEN, 6 * HIDDEN, STREAMS, 1),
    ("linear_out", 3 * HIDDEN, HIDDEN, STREAMS, 1),
    ("to_qkv_mlp_proj", HIDDEN, 9 * HIDDEN, SINGLE, 4),
    ("single to_out", 4 * HIDDEN, HIDDEN, SINGLE, 1),
)
"""Name, in, out, how many, and how many kinds of rows, whose tokens are weighed apart."""
WIDTHS = sorted({width for _, width, *_ in LAYERS})
COUNTED = 10
"""Operations for each weight and each input of its row that products are counted with."""


def made(width: int, seed: int = 0) -> torch.Tensor:
    """H of inputs that go together, with a mean and some large channels: [width, width] float32."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    few = width // 16
    x = normal(width // 2, few) @ normal(few, width) * 2 / few**0.5 + normal(width // 2, width)
    x *= torch.exp(0.5 * normal(width))
    x[:, torch.randperm(width, generator=draw)[: width // 200]] *= 20
    x += 0.3 * normal(width)
    return x.T @ x / len(x)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returns. With one thread, of the processor: others may be at work."""
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    start = clock()
    result = call()
    return clock() - start, result


def product_speed() -> float:
    """Operations a second of a large float32 product: the best of three."""
    a, b = torch.randn(2048, HIDDEN), torch.randn(HIDDEN, HIDDEN)
    return 2 * a.numel() * HIDDEN / min(timed(lambda: a @ b)[0] for _ in range(3))


def memory(name: str) -> int:
    """VmRSS, what the process has now, or VmHWM, the most since it was reset: bytes, on Linux."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def measure(width: int) -> dict[str, Any]:
    """Seconds at a width, over as many rows as are solved together."""
    h, rows = made(width), gptq.WORK_BYTES // (gptq.BYTES_AN_INPUT * width)
    weight = torch.from_numpy(np.random.default_rng(0).standard_t(5, (rows, width))).float() * 0.02
    speed = [product_speed()]
    Path("/proc/self/clear_refs").write_text("5")
    before, hessian = memory("VmRSS"), Hessian(h)
    factor, _ = timed(lambda: hessian.factor)
    codes = {mode: timed(lambda m=mode: gptq.choose(weight, hessian, m))[0] for mode in MODES}
    work = memory("VmHWM") - before
    target, _ = timed(lambda: hessian.divide(weight @ h))
    speed.append(product_speed())
    return {
        "rows": rows,
        "product_gflops": [s / 1e9 for s in speed],
        "factor_s": factor,
        "target_row_s": target / rows,
        "row_s": {mode: s / rows for mode, s in codes.items()},
        "work_bytes": work,
    }


def whole(measured: dict[int, dict[str, Any]], mode: Mode) -> dict[str, float]:
    """Seconds for all layers, by what is done."""
    row = {width: m["row_s"][mode] for width, m in measured.items()}
    speed = float(np.mean([m["product_gflops"] for m in measured.values()])) * 1e9
    return {
        "factors": sum(n * parts * measured[w]["factor_s"] for _, w, _, n, parts in LAYERS),
        "targets": sum(n * out * measured[w]["target_row_s"] for _, w, out, n, _ in LAYERS),
        "codes": sum(n * out * row[w] for _, w, out, n, _ in LAYERS),
        "counted": sum(COUNTED * n * out * w**2 / speed for _, w, out, n, _ in LAYERS),
    }


def beside(rows: int) -> dict[str, float]:
    """The objective over that of the solver as it was, at the smallest width."""
    hessian = Hessian(made(HIDDEN, 1))
    weight = torch.from_numpy(np.random.default_rng(1).standard_t(5, (rows, HIDDEN)) * 0.02).float()
    ratios = {}
    for mode in MODES:
        was = reference(weight.double().numpy(), hessian.damped.double().numpy(), mode)
        chosen = gptq.choose(weight, hessian, mode)
        now = gptq.objective(weight, hessian, chosen.codes, chosen.scales)
        ratios[mode] = float(now.sum() / was.sum())
    return ratios


def mini_klein(n_prompts: int) -> dict[str, list[float]]:
    """The same for every layer of mini-klein, as `calibrate` solves them one behind the other."""
    ratios: dict[str, list[float]] = {mode: [] for mode in MODES}
    choose = gptq.choose

    def compared(weight: torch.Tensor, hessian: Hessian, mode: Mode) -> gptq.Chosen:
        chosen = choose(weight, hessian, mode)
        was = reference(weight.double().numpy(), hessian.damped.double().numpy(), mode)
        now = gptq.objective(weight, hessian, chosen.codes, chosen.scales)
        ratios[mode].append(float(now.sum() / was.sum()))
        return chosen

    with patch.object(gptq, "choose", compared), TemporaryDirectory() as folder:
        for mode in MODES:
            calibrate("mini-klein", mode=mode, solver="gptq", n_prompts=n_prompts,
                      out=Path(folder) / mode)  # fmt: skip
    return ratios


@click.command()
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--was", default=32, show_default=True, help="Rows solved as before, too.")
@click.option("--prompts", default=32, show_default=True, help="For mini-klein's layers; 0: none.")
@click.option("--widths", default=",".join(map(str, WIDTHS)), show_default=True)
@click.option("--out", default=str(RESULTS / "solver.json"), help="Where figures go.")
def main(threads: int, was: int, prompts: int, widths: str, out: str) -> None:
    """Measure, scale, print, and write the JSON."""
    torch.set_num_threads(threads)
    for mode in MODES:  # compiles
        gptq.choose(torch.randn(threads, 128), Hessian(torch.eye(128)), mode)
    figures: dict[str, Any] = {"threads": threads, "widths": {}}
    for width in map(int, filter(None, widths.split(","))):
        figures["widths"][width] = measure(width)
        click.echo(f"{width}: {figures['widths'][width]}", err=True)
    if prompts:
        figures["mini_klein_over_what_it_was"] = mini_klein(prompts)
        for mode, ratios in figures["mini_klein_over_what_it_was"].items():
            click.echo(f"mini-klein, {mode}: {len(ratios)} parts of layers, {min(ratios):.3f} to "
                       f"{max(ratios):.3f}, mean {np.mean(ratios):.3f}")  # fmt: skip
    if was:
        figures["objective_over_what_it_was"] = beside(was)
        click.echo(f"objective over what it was: {figures['objective_over_what_it_was']}")
    if set(figures["widths"]) == set(WIDTHS):
        figures["all_layers_s"] = {mode: whole(figures["widths"], mode) for mode in MODES}
        for mode, s in figures["all_layers_s"].items():
            total = s["factors"] + s["codes"]
            click.echo(
                f"{mode}: all {sum(n for *_, n, _ in LAYERS)} layers {total / 60:.1f} min (factors "
                f"{s['factors'] / 60:.1f}, codes {s['codes'] / 60:.1f}), {total / s['counted']:.2f}"
                f" times {COUNTED} in^2 operations a row; targets {s['targets'] / 60:.1f} min more"
            )
    Path(out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
