"""One product of each of a model's shapes, in three ways: its time, its memory, its error."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from bonsai_quant.core.schema import GROUP
from bonsai_quant.runners.gemlite.linear import GemliteLinear
from bonsai_quant.runners.gemlite.rule import VARIABLE
from bonsai_quant.sources.families.flux2 import BLOCKS, KNOWN

from .clock import Clock, OutOfTime

WAYS = ("gemlite", "decode", "dense")
ALL_ROWS = (1536, 32, 128, 512, 8, 4608, 1)
"""Tokens, the most telling first: minutes may be few. 1,536 are a picture of 512 x 512 pixels."""
EVERYTHING = "999999999"
Shape = tuple[int, int]


@dataclass
class Product:
    """x [rows, in] W', W [out, in]. layers: how many layers have the shape.

    ms, peak, error: by way, milliseconds, bytes beyond the weights, relative error to float32.
    """

    out: int
    width: int
    layers: int
    bits: int
    rows: int
    ms: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    not_measured: str = ""


def shapes_of(base: str) -> dict[Shape, int]:
    """(out, in) of the packed linears of a known FLUX.2 -> how many layers have it."""
    ((double, single, hidden, _),) = (k for k, name in KNOWN.items() if name == base)
    sizes = {"h": hidden, "m": 3 * hidden}
    found: Counter[Shape] = Counter()
    for n, (_, _, table) in zip((double, single), BLOCKS, strict=True):
        for row in table:
            axes = [_axis(text, sizes) for text in row.shape.split(",")] if "," in row.shape else []
            if axes:
                found[axes[0], axes[1]] += n
    return dict(found)


def _axis(text: str, sizes: dict[str, int]) -> int:
    terms = re.findall(r"(\d*)([a-z])", text)
    return sum(int(n or 1) * sizes[letter] for n, letter in terms)


def measure(
    shapes: dict[Shape, int], rows: Sequence[int], bits: int, clock: Clock, dtype: torch.dtype
) -> list[Product]:
    """Every shape at every number of rows, as far as the minutes reach."""
    made: list[Product] = []
    for n in rows:
        for (out, width), layers in shapes.items():
            product = Product(out, width, layers, bits, n)
            made.append(product)
            try:
                _measure(product, clock, dtype)
            except OutOfTime:
                product.not_measured = "out of time"
            except Exception as e:  # of Triton, too: one shape that fails is a finding
                product.not_measured = " ".join(str(e).split())[:120]
    return made


def _measure(product: Product, clock: Clock, dtype: torch.dtype) -> None:
    layer = random_layer(product.out, product.width, product.bits, dtype, clock.device)
    x = torch.randn(product.rows, product.width, generator=torch.Generator().manual_seed(0))
    x = x.to(clock.device, dtype)
    weight = layer.rows(0, product.out).to(dtype)
    exact = functional.linear(x.float(), weight.float())
    calls = {
        "gemlite": lambda: layer(x), "decode": lambda: layer(x),
        "dense": lambda: functional.linear(x, weight),
    }  # fmt: skip
    with torch.inference_mode():
        for way, call in calls.items():
            with most_rows(EVERYTHING if way == "gemlite" else "0"):
                product.ms[way] = clock.milliseconds(call)
                product.peak[way] = clock.peak(call)
                product.error[way] = float((call().float() - exact).norm() / exact.norm())


@contextmanager
def most_rows(text: str) -> Iterator[None]:
    """The rule's variable, for as long as the context is open."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = text
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def random_layer(
    out: int, width: int, bits: int, dtype: torch.dtype, device: torch.device
) -> GemliteLinear:
    """Legal codes and scales that bfloat16 and float16 both hold."""
    rng = np.random.default_rng(out + width + bits)
    every = np.arange(256, dtype=np.uint8)
    legal = every if bits == 1 else every[((every & every >> 1) & 0x55) == 0]
    codes = rng.choice(legal, (width * bits // 8, out))
    s = (rng.integers(128, 256, (width // GROUP, out)) / 8192).astype(np.float32)
    return GemliteLinear((codes, s if bits == 2 else 2 * s, -s), dtype, device)


def best_limit(products: Sequence[Product]) -> int | None:
    """Rows up to which gemlite's kernels took no longer than decoding, over all layers of a model.

    None where too little was measured to tell.
    """
    best: int | None = None
    for rows in sorted({p.rows for p in products}):
        at = [p for p in products if p.rows == rows]
        if any(p.not_measured for p in at):
            continue
        gemlite, decode = (sum(p.layers * p.ms[w] for p in at) for w in ("gemlite", "decode"))
        best = best or 0
        if gemlite > decode:
            return best
        best = rows
    return best
