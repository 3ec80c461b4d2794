"""Convert a full-size checkpoint and print the project's figures beside what they compare to.

    python -m benchmarks.convert [--rounds 3] [--work .bench] [--source FOLDER] [--skip-tools]

All figures of a row come from one run on one machine; timed pairs alternate and the ratio is that
of their medians. Source pages are dropped from the cache before every timed read, so that a
conversion and its floor read the same disk. The results go to benchmarks/results/convert.json,
from which the tables of docs/figures.md are made.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

from bonsai_quant import (
    inspect,
    plan,
)
from bonsai_quant.core.schema import Mode
from bonsai_quant.quantization.bf16 import from_bf16
from bonsai_quant.quantization.packing import to_base3
from bonsai_quant.quantization.solvers import solve
from bonsai_quant.quantization.solvers.nearest import (
    ENERGY,
    ERROR,
)

from . import baselines
from .marked_text import RESULTS, ROOT, write_between

FORMATS = ("bonsai", "mlx", "gemlite")
MODES: tuple[Mode, ...] = ("ternary", "binary")
CHUNK = 8 << 20
SLICE = 4 << 20
"""Weights that one thread solves at a time, as `convert` does."""


def measured_child(arguments: list[str]) -> dict[str, float]:
    """Run a child process; -> wall and CPU seconds, and its peak resident bytes."""
    start = perf_counter()
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} ended with {child.returncode}")
    return {"seconds": perf_counter() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024}  # fmt: skip


def drop_from_cache(path: Path) -> None:
    """Make the next read of a file come from the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def copy_floor(source: Path, sizes: list[int], work: Path) -> None:
    """The least that a conversion could do: read the source, write and fsync so many bytes."""
    buffer = memoryview(bytearray(np.random.default_rng(0).bytes(CHUNK)))
    fd = os.open(source, os.O_RDONLY)
    at = 0
    while n := os.preadv(fd, [buffer], at):
        at += n
    os.close(fd)
    for i, size in enumerate(sizes):
        fd = os.open(work / f"floor-{i}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for start in range(0, size, CHUNK):
            os.pwrite(fd, buffer[: min(CHUNK, size - start)], start)
        os.fsync(fd)
        os.close(fd)


def time_converts(source: Path, work: Path, mode: Mode, rounds: int) -> dict[str, Any]:
    """Conversions and their floor in turn; -> medians and their ratio."""
    weights = next(source.rglob("*.safetensors"))
    sizes = [
        f.size
        for f in plan(str(source), mode=mode, formats=FORMATS, transformer_only=True).files
        if f.size > 1e6
    ]
    out = work / "out"
    convert = [sys.executable, "-m", "bonsai_quant", "convert", str(source), "--mode", mode,
               "--transformer-only", "-o", str(out), "--format", ",".join(FORMATS)]  # fmt: skip
    floor = [sys.executable, "-m", "benchmarks.convert", "--floor", str(weights), *map(str, sizes),
             "--work", str(work)]  # fmt: skip
    runs: dict[str, list[dict[str, float]]] = {"convert": [], "floor": []}
    for _ in range(rounds):
        for name, command in (("floor", floor), ("convert", convert)):
            shutil.rmtree(out, ignore_errors=True)
            for left in work.glob("floor-*"):
                left.unlink()
            drop_from_cache(weights)
            os.sync()
            runs[name].append(measured_child(command))
            click.echo(f"  {mode} {name}: {runs[name][-1]['seconds']:.1f} s", err=True)
    middle = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in runs.items()}
    facts = {dict(i.facts)["format"]: dict(i.facts) for i in inspect(out)}
    shutil.rmtree(out)
    return {
        **middle["convert"], "floor_seconds": middle["floor"]["seconds"], "rounds": rounds,
        "ratio": middle["convert"]["seconds"] / middle["floor"]["seconds"],
        "peak_bytes": max(r["peak_bytes"] for r in runs["convert"]),
        "all_seconds": {n: [round(r["seconds"], 2) for r in rs] for n, rs in runs.items()},
        "tensor_data": {f: int(d["tensor data"].split()[0]) for f, d in facts.items()},
        "weight_file": {f: int(d["weight file"].split()[0]) for f, d in facts.items()},
    }  # fmt: skip


def packed_weights(source: Path) -> Iterator[np.ndarray]:
    """The weights that are packed, one layer at a time: [out, in] uint16, the bits of bf16."""
    for planned in plan(str(source), mode="ternary").tensors:
        if planned.tensor.packed:
            stored = planned.pieces[0].stored
            shape = planned.tensor.shape
            yield np.fromfile(
                stored.path, "<u2", shape[0] * shape[1], offset=stored.offset
            ).reshape(shape)


def time_solver(source: Path, mode: Mode, solver: str, threads: int) -> dict[str, Any]:
    """Solve and pack every layer, reading not counted; -> seconds and relative squared error."""

    def one(rows: np.ndarray) -> np.ndarray:
        solved = solve(rows, solver, mode)
        if mode == "ternary":
            to_base3(solved.codes, rows.shape[1])
        return solved.sums.sum(0)

    one(np.ones((1, 128), np.uint16))  # compile
    seconds, sums, weights = 0.0, np.zeros(5), 0
    with ThreadPoolExecutor(threads) as pool:
        for weight in packed_weights(source):
            step = max(1, SLICE // weight.shape[1])
            slices = [weight[r : r + step] for r in range(0, len(weight), step)]
            start = perf_counter()
            sums += sum(pool.map(one, slices))
            seconds += perf_counter() - start
            weights += weight.size
    return {"seconds": seconds, "weights": weights, "relative_error": sums[ERROR] / sums[ENERGY],
            "gaussian_error": gaussian_error(solver, mode)}  # fmt: skip


def gaussian_error(solver: str, mode: Mode) -> float:
    """Relative squared error on Gaussian weights of std 0.02."""
    weight = np.random.default_rng(0).normal(0, 0.02, (2048, 3072)).astype(np.float32)
    sums = solve(weight, solver, mode).sums.sum(0)
    return float(sums[ERROR] / sums[ENERGY])


def other_tools(source: Path) -> dict[str, Any]:
    """The same weights through other quantizers."""
    from dataclasses import asdict

    def as_float() -> Iterator[np.ndarray]:
        for weight in packed_weights(source):
            yield from_bf16(weight)

    return {name: asdict(result) for name, result in baselines.measure(as_float()).items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(), "system": platform.system()}  # fmt: skip


def table(figures: dict[str, Any]) -> str:
    """The tables of docs/figures.md."""
    rows = ["| | seconds | squared error | squared error, Gaussian |", "|---|---|---|---|"]
    for name, r in figures["solve"].items():
        rows.append(f"| **{name}** | {r['seconds']:.1f} | {r['relative_error']:.3f} "
                    f"| {r['gaussian_error']:.4f} |")  # fmt: skip
    for name, r in figures["other_tools"].items():
        label = f"{name} {r['version']}: {r['what']}".replace("|w|", "abs w")
        if r["status"] != "ok":
            rows.append(f"| {label} | not run | | |")
            continue
        scaled = "~" if r["scaled_from_weights"] else ""
        rows.append(
            f"| {label} | {scaled}{r['seconds']:,.0f} | {r['relative_error']:.3f} "
            f"| {r['gaussian_error']:.4f} |"
        )
    rows += ["", "| whole `convert`, three formats | seconds | copy floor | ratio | peak memory "
             "| bonsai | mlx tensor data |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for mode, r in figures["convert"].items():
        rows.append(f"| {mode} | {r['seconds']:.1f} | {r['floor_seconds']:.1f} | {r['ratio']:.2f} "
                    f"| {r['peak_bytes'] / 2**20:.0f} MiB | {r['weight_file']['bonsai']:,} bytes "
                    f"| {r['tensor_data']['mlx']:,} bytes |")  # fmt: skip
    m = figures["machine"]
    rounds = figures["convert"]["ternary"]["rounds"]
    rows += ["", f"{m['cores']} cores of {m['cpu']}, Python {m['python']}; medians of {rounds} "
             "rounds; `make bench` repeats them."]  # fmt: skip
    return "\n".join(rows)


def find_source(given: str | None, work: Path) -> Path:
    """The checkpoint to convert; made when it is not there."""
    source = Path(given) if given else work / "klein-4b"
    if not source.exists():
        tool = ROOT / "tools" / "make_checkpoint.py"
        subprocess.run([sys.executable, str(tool), str(source), "--size", "klein-4b"], check=True)
    return source


def step(say: str, call: Callable[[], Any]) -> Any:
    """Announce and run one part."""
    click.echo(say, err=True)
    return call()


@click.command()
@click.option("--work", default=str(ROOT / ".bench"), help="Folder for what the bench makes.")
@click.option("--source", help="A full-size checkpoint, instead of making one.")
@click.option("--rounds", default=3, help="Conversions per mode.")
@click.option("--threads", default=None, type=int, help="Threads of the solve times.")
@click.option("--skip-tools", is_flag=True, help="Keep the other tools' figures of the last run.")
@click.option("--floor", nargs=4, help="Internal: copy instead.")
def main(
    work: str, source: str | None, rounds: int, threads: int | None, skip_tools: bool,
    floor: tuple[str, ...] | None,
) -> None:  # fmt: skip
    """Measure, print, and write results/convert.json and the tables of docs/figures.md."""
    folder = Path(work)
    if floor:
        copy_floor(Path(floor[0]), [int(n) for n in floor[1:]], folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = find_source(source, folder)
    target = RESULTS / "convert.json"
    old = json.loads(target.read_text()) if target.exists() and skip_tools else {}
    count = threads or len(os.sched_getaffinity(0))
    solvers = (("exact", "ternary"), ("exact", "binary"), ("absmean", "ternary"))
    figures = {
        "machine": machine(),
        "convert": {m: step(f"convert --mode {m}", lambda m=m: time_converts(
            checkpoint, folder, m, rounds)) for m in MODES},
        "solve": {f"{s} {m}": step(f"solve {s} {m}", lambda s=s, m=m: time_solver(
            checkpoint, m, s, count)) for s, m in solvers},
    }  # fmt: skip
    tools = old.get("other_tools") or step("other tools", lambda: other_tools(checkpoint))
    figures["other_tools"] = tools
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(figures, indent=2) + "\n")
    text = table(figures)
    write_between(ROOT / "docs" / "figures.md", "figures", text)
    click.echo(text)


if __name__ == "__main__":
    main()
