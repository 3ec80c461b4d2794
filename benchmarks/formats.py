"""Convert a full-size checkpoint into every format, and hold what `plan` says against it.

    python -m benchmarks.formats [--work .bench] [--source FOLDER]

The transformer alone: what stands beside it depends on the pipeline. One process for each format
and mode, so that its peak memory is its own. Fills a table of docs/figures.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click

from bonsai_quant import plan
from bonsai_quant.core.numbers import size
from bonsai_quant.core.schema import MODES
from bonsai_quant.packs.formats import FORMATS
from tools.make_checkpoint import make

from .convert import measured_child
from .marked_text import RESULTS, ROOT, write_between

UNCOUNTED = ("README.md", "manifest.json", "layers.csv")
"""They hold times and names, and are some kilobytes."""


@click.command()
@click.option("--work", type=Path, default=ROOT / ".bench")
@click.option("--source", type=Path, help="A checkpoint; made when it is not given.")
def main(work: Path, source: Path | None) -> None:
    """Every format in both modes."""
    source = source or work / "klein-4b"
    if not source.exists():
        make(source, "klein-4b")
    rows = [measure(source, m, n, work) for m in MODES for n, f in FORMATS.items() if m in f.modes]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "formats.json").write_text(json.dumps(rows, indent=2) + "\n")
    write_between(ROOT / "docs" / "figures.md", "formats", table(rows))


def measure(source: Path, mode: str, name: str, work: Path) -> dict[str, object]:
    """One conversion. Ends with a message when a file has not the planned size."""
    files = plan(str(source), mode=mode, formats=[name], transformer_only=True).files
    planned = {f.path: f.size for f in files if Path(f.path).name not in UNCOUNTED}
    out = work / "formats-out"
    shutil.rmtree(out, ignore_errors=True)
    words = ["convert", source, "--mode", mode, "-f", name, "--transformer-only", "-o", out]
    figures = measured_child([sys.executable, "-m", "bonsai_quant", *map(str, words), "--quiet"])
    found = {
        p.relative_to(out / name).as_posix(): p.stat().st_size
        for p in out.rglob("*")
        if p.is_file()
    }
    found = {p: n for p, n in found.items() if Path(p).name not in UNCOUNTED}
    shutil.rmtree(out)
    if found != planned:
        raise SystemExit(f"{name}, {mode}: planned {planned}, and written {found}")
    row = {"format": name, "mode": mode, "bytes": sum(found.values()), "files": found}
    print(row, figures, flush=True)
    return row | {"peak": figures["peak_bytes"], "seconds": figures["seconds"]}


def table(rows: list[dict]) -> str:
    """A line for each format."""
    lines = ["| format | ternary | binary | peak memory |", "|---|---|---|---|"]
    for name in FORMATS:
        of = {r["mode"]: r for r in rows if r["format"] == name}
        sizes = (f"{of[mode]['bytes']:,} bytes" if mode in of else "-" for mode in MODES)
        peak = size(max(r["peak"] for r in of.values()))
        lines.append(f"| `{name}` | {' | '.join(sizes)} | {peak} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
