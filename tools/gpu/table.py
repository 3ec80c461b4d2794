"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bonsai_quant.core.numbers import size
from bonsai_quant.runners.gemlite.rule import MOST_ROWS, VARIABLE
from bonsai_quant.verification.levels.check import Check
from bonsai_quant.verification.levels.images import LEAST_PSNR

from .pictures import Painted
from .products import WAYS, Product, best_limit
from .training import Trained

LEAST_ERROR = 2.0**-6
"""A product in bfloat16, whose unit is 2^-8, that is farther off than this is wrong."""


@dataclass
class Found:
    """Everything. problems: what went wrong on the way, one line each."""

    machine: dict[str, str]
    dry: bool
    products: list[Product] = field(default_factory=list)
    pictures: list[Painted] = field(default_factory=list)
    training: list[Trained] = field(default_factory=list)
    kernels: list[tuple[str, Check]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """What no card may show, one line each."""
        lines = [
            f"{way}: {p.rows} x {p.width} -> {p.out}, {p.bits} bits: error {error:.1e}"
            for p in self.products
            for way, error in p.error.items()
            if not error <= LEAST_ERROR
        ]
        lines += [f"{p.backend}: {p.psnr:.1f} dB" for p in self.pictures if p.psnr < LEAST_PSNR]
        return lines + [
            f"{pack}: {c.subject}: {c.detail}" for pack, c in self.kernels if c.status == "failed"
        ]

    @property
    def limit(self) -> int | None:
        """The most rows that gemlite was faster for, with either number of bits."""
        bits = {p.bits for p in self.products}
        limits = [best_limit([p for p in self.products if p.bits == b]) for b in bits]
        known = [n for n in limits if n is not None]
        return min(known) if known else None


def as_json(found: Found) -> dict[str, Any]:
    """All figures, with what follows from them."""
    return {
        "machine": found.machine,
        "dry": found.dry,
        "products": [asdict(p) for p in found.products],
        "pictures": [asdict(p) for p in found.pictures],
        "training": [asdict(t) for t in found.training],
        "kernels": [{"pack": pack, **asdict(c)} for pack, c in found.kernels],
        "problems": found.problems,
        "wrong": found.wrong,
        "gemlite_rows": found.limit,
    }


def as_markdown(found: Found) -> str:
    """Tables, and what to set."""
    lines = ["# GPU check", ""]
    if found.dry:
        lines += ["**Dry run on a CPU with stand-ins: no figure here means anything.**", ""]
    lines += _table(("", ""), found.machine.items())
    lines += ["", "## Products", "", "Milliseconds; in brackets memory beyond the weights.", ""]
    lines += _table(
        ("rows", "in", "out", "layers", "bits", *WAYS, "error of gemlite"),
        map(_row, found.products),
    )
    lines += ["", _advice(found.limit), "", "## Pictures", ""]
    lines += _table(
        ("backend", "s", "s, first", "peak", "PSNR to the CPU's", "products"),
        (
            (p.backend, f"{p.seconds:.2f}", f"{p.first:.2f}", size(p.peak), f"{p.psnr:.1f} dB",
             ", ".join(f"{n} {way}" for way, n in p.ways.items()))
            for p in found.pictures
        ),
    )  # fmt: skip
    lines += ["", "## Training, one double and two single blocks", ""]
    lines += _table(
        ("", "s", "peak", ""),
        ((t.what, f"{t.seconds:.1f}", size(t.peak), t.figure) for t in found.training),
    )
    lines += ["", "## Kernels", ""]
    lines += [f"- {c.status}: {pack}, {c.subject}: {c.detail}" for pack, c in found.kernels]
    for title, texts in (("Wrong", found.wrong), ("Not measured", found.problems)):
        if texts:
            lines += ["", f"## {title}", "", *(f"- {text}" for text in texts)]
    return "\n".join(lines)


def _row(p: Product) -> tuple[object, ...]:
    head = (p.rows, p.width, p.out, p.layers, p.bits)
    if p.not_measured:
        return (*head, *(_cell(p, way) if way in p.error else "" for way in WAYS), p.not_measured)
    return (*head, *(_cell(p, way) for way in WAYS), f"{p.error['gemlite']:.1e}")


def _cell(p: Product, way: str) -> str:
    return f"{p.ms[way]:.3f} ({size(p.peak[way])})"


def _advice(limit: int | None) -> str:
    if limit is None:
        return "Too little was measured to say which rows should go through gemlite."
    note = " (the program's own)" if limit == MOST_ROWS else ""
    return (
        f"Over all layers, gemlite beats decoding up to {limit} rows: set {VARIABLE}={limit}{note}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]
