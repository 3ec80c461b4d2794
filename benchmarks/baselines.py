"""Measure other tools on the same weights: how long they take, how far their weights are off.

    python -m benchmarks.baselines FOLDER            all packed linears of a diffusers folder
    python -m benchmarks.baselines FOLDER --layers 4 --tool mlx-2bit --json
    python -m benchmarks.baselines                   Gaussian weights only

Each tool is one function: [out, in] float32 -> (seconds, decoded [out, in] float32), timed without
copying the weight in or decoding it. None of them solves exactly our problem: most have 4 levels
and a zero point where a ternary pack has 3 levels and none. A tool that is not installed says so.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import click
import numpy as np

GROUP = 128
Decoded = tuple[float, np.ndarray]


class NotRunError(Exception):
    """A tool cannot run here, or not on this weight; the text says why."""


@dataclass(frozen=True)
class Tool:
    """What is measured, and with which function."""

    run: Callable[[np.ndarray], Decoded]
    package: str
    what: str
    layers: int | None = None  # measure only so many, then scale the seconds


@dataclass(frozen=True)
class Result:
    """What one tool did; the errors are ||w - decoded||^2 / ||w||^2."""

    what: str
    status: str = "ok"  # or "not run", and why
    why: str = ""
    version: str = ""
    weights: int = 0
    seconds: float = 0.0  # for all of them
    scaled_from_weights: int | None = None  # measured on these only; the seconds are scaled
    relative_error: float | None = None  # on the weights measured
    gaussian_error: float | None = None


class Layer(NamedTuple):
    """One weight: its size, the seconds, ||w - decoded||^2 and ||w||^2."""

    n_weights: int
    seconds: float
    error: float
    energy: float


def mlx_affine(weight: np.ndarray, bits: int) -> Decoded:
    """MLX's own quantizer: per group of 128, 2^bits levels between the minimum and the maximum."""
    import mlx.core as mx

    installed = version("mlx")
    if bits == 1 and tuple(int(n) for n in installed.split(".")[:3]) < (0, 32, 4):
        raise NotRunError(f"mlx {installed} aborts on 1 bit: pip install 'mlx>=0.32.4'")
    source = mx.array(weight)
    mx.eval(source)
    start = perf_counter()
    packed = mx.quantize(source, group_size=GROUP, bits=bits)
    mx.eval(*packed)
    seconds = perf_counter() - start
    return seconds, np.array(mx.dequantize(*packed, group_size=GROUP, bits=bits))


def gguf_tq2_0(weight: np.ndarray) -> Decoded:
    """gguf-py's TQ2_0: ternary, one fp16 scale = the largest |w| of a block of 256."""
    from gguf import GGMLQuantizationType, quants

    if weight.shape[1] % 256:
        raise NotRunError(f"TQ2_0 has blocks of 256, a row has {weight.shape[1]} weights")
    start = perf_counter()
    packed = quants.quantize(weight, GGMLQuantizationType.TQ2_0)
    seconds = perf_counter() - start
    return seconds, quants.dequantize(packed, GGMLQuantizationType.TQ2_0)


def quanto_qint2(weight: np.ndarray) -> Decoded:
    """optimum-quanto's qint2 as its modules do it: min/max scale and shift, then the codes."""
    import torch
    from optimum.quanto import MaxOptimizer, qint2, quantize_weight

    source = torch.from_numpy(weight)
    start = perf_counter()
    scale, shift = MaxOptimizer()(source, qtype=qint2, axis=0, group_size=GROUP)
    packed = quantize_weight(source, qint2, 0, scale, shift, group_size=GROUP)
    seconds = perf_counter() - start
    return seconds, packed.dequantize().numpy()


def hqq_2bit(weight: np.ndarray) -> Decoded:
    """HQQ with its own half-quadratic optimizer: 4 levels, a float zero point."""
    import torch
    from hqq.core.quantize import Quantizer

    source, shape = torch.from_numpy(weight), {"nbits": 2, "group_size": GROUP, "axis": 1}
    start = perf_counter()
    packed, meta = Quantizer.quantize(source, **shape, device="cpu", compute_dtype=torch.float32)
    seconds = perf_counter() - start
    return seconds, Quantizer.dequantize(packed, meta).float().numpy()


TOOLS = {
    "mlx-2bit": Tool(lambda w: mlx_affine(w, 2), "mlx", "4 levels, min/max, g128"),
    "mlx-1bit": Tool(lambda w: mlx_affine(w, 1), "mlx", "2 levels, min/max, g128"),
    "gguf-tq2_0": Tool(gguf_tq2_0, "gguf", "3 levels, max |w|, g256"),
    "quanto-qint2": Tool(quanto_qint2, "optimum-quanto", "4 levels, min/max, g128"),
    "hqq-2bit": Tool(hqq_2bit, "hqq", "4 levels, optimized, g128", layers=1),
}


def measure(
    weights: Iterable[np.ndarray], *, tools: Iterable[str] | None = None
) -> dict[str, Result]:
    """Run the tools on every weight, [out, in] float32, holding one weight at a time.

    tools: names in TOOLS; all of them when None.
    """
    results = {name: _try_gaussian(TOOLS[name]) for name in (TOOLS if tools is None else tools)}
    layers: dict[str, list[Layer]] = {name: [] for name in results}
    n_weights = 0
    for weight in weights:
        n_weights += weight.size
        for name, result in results.items():
            if result.status == "ok" and len(layers[name]) != TOOLS[name].layers:
                try:
                    layers[name].append(run_layer(TOOLS[name], weight))
                except NotRunError as error:
                    results[name] = replace(result, status="not run", why=str(error))
    return {name: _sum(result, layers[name], n_weights) for name, result in results.items()}


def run_layer(tool: Tool, weight: np.ndarray) -> Layer:
    """One tool on one weight [out, in]."""
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    try:
        seconds, decoded = tool.run(weight)
    except ImportError as error:
        raise NotRunError(f"{error}: pip install {tool.package}") from error
    error = energy = 0.0
    for row, back in zip(weight, decoded, strict=True):  # by rows: sums in float64, no big copies
        error += float(np.sum((row - back) ** 2, dtype=np.float64))
        energy += float(np.sum(row**2, dtype=np.float64))
    return Layer(weight.size, seconds, error, energy)


def _try_gaussian(tool: Tool) -> Result:
    """The error on Gaussian weights; also starts threads and compiles kernels, off the clock."""
    gauss = np.random.default_rng(0).standard_normal((1024, 3072), dtype=np.float32)
    try:
        layer = run_layer(tool, gauss)
    except NotRunError as error:
        return Result(tool.what, status="not run", why=str(error))
    return Result(
        tool.what, version=version(tool.package), gaussian_error=layer.error / layer.energy
    )


def _sum(result: Result, layers: list[Layer], n_weights: int) -> Result:
    """The whole list from the layers that were measured."""
    if result.status != "ok" or not layers:
        return result
    measured = sum(layer.n_weights for layer in layers)
    return replace(
        result,
        weights=n_weights,
        seconds=sum(layer.seconds for layer in layers) * n_weights / measured,
        scaled_from_weights=measured if measured < n_weights else None,
        relative_error=sum(layer.error for layer in layers) / sum(layer.energy for layer in layers),
    )


def packed_weights(folder: Path) -> Iterator[np.ndarray]:
    """The linears of all blocks of a diffusers folder: [out, in] float32, one at a time."""
    from safetensors import safe_open

    inner = folder / "transformer"
    for path in sorted((inner if inner.is_dir() else folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                if "transformer_blocks." in name and len(file.get_slice(name).get_shape()) == 2:
                    yield file.get_tensor(name).float().numpy()


def table(results: dict[str, Result]) -> str:
    """The results as aligned text."""
    lines = [f"{'tool':14}{'version':14}{'what':26}{'seconds':>9}{'error':>9}{'Gaussian':>10}"]
    for name, r in results.items():
        if r.status != "ok":
            lines.append(f"{name:14}not run: {r.why}")
            continue
        seconds = f"{r.seconds:.1f}" if r.weights else "-"
        error = "-" if r.relative_error is None else f"{r.relative_error:.4f}"
        line = f"{name:14}{r.version:14}{r.what:26}{seconds:>9}{error:>9}{r.gaussian_error:10.4f}"
        if r.scaled_from_weights:
            line += f"  (seconds scaled from {r.scaled_from_weights:,} weights)"
        lines.append(line)
    return "\n".join(lines)


@click.command()
@click.argument("folder", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--layers", type=click.IntRange(1), help="Only the first so many linears.")
@click.option("--tool", "tools", multiple=True, type=click.Choice(list(TOOLS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: Path | None, layers: int | None, tools: tuple[str, ...], as_json: bool) -> None:
    """Measure other quantizers on the packed linears of a diffusers FOLDER."""
    weights = islice(packed_weights(folder), layers) if folder else ()
    results = measure(weights, tools=tools or None)
    if as_json:
        tools_data = {name: asdict(result) for name, result in results.items()}
        head = {"schema_version": 1, "cpus": os.cpu_count(), "group": GROUP}
        click.echo(json.dumps(head | {"tools": tools_data}, indent=2))
    else:
        click.echo(table(results))


if __name__ == "__main__":
    main()
