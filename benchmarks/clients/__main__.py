"""Run every client that is here, and fill the table of docs/clients.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from bonsai_quant.core.numbers import size
from bonsai_quant.core.schema import MODES
from bonsai_quant.packs.formats import FORMATS

from ..marked_text import RESULTS, ROOT, write_between
from . import models
from .client import CLIENTS, KLEIN128, MINI, Client

PAGE = ROOT / "docs" / "clients.md"
REFERENCE = "unpacked"
COLUMNS = ("client", "version", "format", "mode", "error, one picture", "error, four", "PSNR",
           "peak memory", "s a step")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one client in one mode. reason: why it was not run; then nothing else is there.

    error1, error4: relative error of the first velocity, with one and with four pictures.
    equal: whether those velocities are the dense ones, bit for bit.  psnr: the worst picture's.
    seconds: median of a step with one picture.
    """

    client: str
    version: str
    format: str
    model: str
    mode: str
    reason: str = ""
    error1: float = 0.0
    error4: float = 0.0
    equal: bool = False
    psnr: float = 0.0
    peak: int = 0
    seconds: float = 0.0

    def cells(self) -> str:
        """A line of the table."""
        head = [self.client, self.version, f"`{self.format}`", self.mode]
        if self.reason:
            return line([*head, f"not run: {self.reason}", "", "", "", ""])
        errors = ("0" if self.equal else f"{e:.1e}" for e in (self.error1, self.error4))
        psnr = "equal" if np.isinf(self.psnr) else f"{self.psnr:.1f} dB"
        return line([*head, *errors, psnr, size(self.peak), f"{self.seconds:.3f}"])


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


@click.command()
@click.option("--work", type=Path, default=ROOT / ".bench" / "clients", help="For packs.")
@click.option("--only", multiple=True, help="Modules of clients to run; the page stays as it is.")
def main(work: Path, only: tuple[str, ...]) -> None:
    """Compare clients with the dense weights."""
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for model in (models.make_mini(), models.make_klein128(work)):
        rows += rows_of(model, [c for c in CLIENTS if not only or c.module in only], work)
    print(table(rows))
    if not only:
        RESULTS.mkdir(exist_ok=True)
        results = json.dumps([asdict(r) for r in rows], indent=2)
        (RESULTS / "clients.json").write_text(results + "\n")
        write_between(PAGE, "clients", table(rows))


def rows_of(model: models.Model, clients: list[Client], work: Path) -> list[Row]:
    """Every client of a model in both modes, and the dense weights first."""
    inputs, rows = work / f"{model.name}.npz", []
    np.savez(inputs, noise=model.noise, captions=model.captions, sigmas=model.sigmas)
    mine = [c for c in clients if c.model == model.name]
    formats = {c.format for c in mine if c.format in FORMATS} | {REFERENCE}
    for mode in MODES:
        packs = models.packs(model, mode, formats, work)
        dense = answer_of("dense", packs[REFERENCE], inputs)
        first = Client("diffusers, dense weights", "dense", "diffusers", "", REFERENCE, model.name)
        rows.append(compare(first, mode, model, dense, dense))
        for client in mine:
            answer: dict[str, np.ndarray] | str = f"no format {client.format}"
            if client.format in packs:
                answer = answer_of(client.module, packs[client.format], inputs)
            rows.append(compare(client, mode, model, answer, dense))
            print(rows[-1].cells(), flush=True)
    return rows


def answer_of(module: str, pack: Path, inputs: Path) -> dict[str, np.ndarray] | str:
    """What `walk` wrote; or why there is nothing, in a line."""
    answer = inputs.with_name("answer.npz")
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.clients.walk", module, pack, inputs, answer],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended"])[-1]
        why = last.rpartition("Error: ")[2].rpartition("Fault: ")[2].partition(" -> ")[0]
        return why.removeprefix("not run: ")[:120].replace("|", "/")
    with np.load(answer) as found:
        return dict(found)


def compare(
    client: Client,
    mode: str,
    model: models.Model,
    answer: dict[str, np.ndarray] | str,
    dense: dict[str, np.ndarray] | str,
) -> Row:
    """One row."""
    row = {"client": client.name, "version": client.version, "format": client.format,
           "model": model.name, "mode": mode}  # fmt: skip
    if isinstance(answer, str) or isinstance(dense, str):
        return Row(**row, reason=str(answer if isinstance(answer, str) else dense))
    row["version"] = str(answer["version"]) or client.version
    return Row(
        **row,
        error1=relative(answer["velocity1"], dense["velocity1"]),
        error4=relative(answer["velocity4"], dense["velocity4"]),
        equal=all(np.array_equal(answer[k], dense[k]) for k in ("velocity1", "velocity4")),
        psnr=min(psnr(model, answer[k], dense[k]) for k in ("state1", "state4")),
        peak=int(answer["peak"]),
        seconds=float(np.median(answer["seconds"])),
    )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected||."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def psnr(model: models.Model, found: np.ndarray, expected: np.ndarray) -> float:
    """The worst picture's, in dB; infinite where all are equal."""
    off = np.square(model.decode(found) - model.decode(expected)).mean((1, 2, 3)).max()
    return float(-10 * np.log10(off)) if off else float("inf")


def table(rows: list[Row]) -> str:
    """Markdown: a table for each model."""
    titles = {MINI: "mini-klein", KLEIN128: "A model with 128 latent channels, random weights"}
    parts = []
    for name, title in titles.items():
        lines = [r.cells() for r in rows if r.model == name]
        head = [line(COLUMNS), line(["---"] * len(COLUMNS))]
        parts += [f"### {title}", "", *head, *lines, ""] if lines else []
    return "\n".join(parts)


if __name__ == "__main__":
    main()
