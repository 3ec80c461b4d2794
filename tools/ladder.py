"""Score mini-klein, and what each way of rounding it keeps: the table of docs/quality.md.

    python tools/ladder.py [--source mini-klein] [--prompts 100] [--images 4] [--work .bench/ladder]

Every rung is converted anew, and all of them paint the same captions from the same noise as the
source, whose pictures are made once. The figures go to docs/ladder.json and, as tables, between the
marks of docs/quality.md. One thread or many, a figure may move by a picture or two: the order in
which a processor adds numbers decides the last bit of a pixel.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from bonsai_quant import convert, scoreboard  # noqa: E402
from bonsai_quant.gallery import Gallery, Task, exhibit  # noqa: E402
from bonsai_quant.intervals import Figure  # noqa: E402
from bonsai_quant.needs import installed  # noqa: E402
from bonsai_quant.runners.places import Place, locate  # noqa: E402
from bonsai_quant.scenes.world import CATEGORIES  # noqa: E402
from bonsai_quant.score import Scored, compare, examples, task_for  # noqa: E402
from bonsai_quant.storage.single import write_file  # noqa: E402
from bonsai_quant.version import __version__  # noqa: E402

RUNGS = tuple((mode, solver) for mode in ("ternary", "binary") for solver in ("exact", "absmean"))
BEGIN, END = "<!-- ladder -->", "<!-- /ladder -->"
PACKAGES = ("torch", "diffusers", "numpy")


def climb(source: Place, task: Task, work: Path) -> tuple[list[dict[str, Any]], list[Gallery]]:
    """Convert, paint and compare every rung; -> one record each, and the pictures of all."""
    reference = painted(source, task)
    rungs, galleries = [], [reference]
    for mode, solver in RUNGS:
        out = work / f"{mode}-{solver}"
        shutil.rmtree(out, ignore_errors=True)
        made = convert(source.name, mode=mode, solver=solver, formats="bonsai", out=out)
        measured = made.manifests["bonsai"].measured
        gallery = painted(locate(str(out), spare=str(source.pipeline)), task)
        result = compare(gallery, reference)
        galleries.append(gallery)
        rungs.append({
            "mode": mode,
            "solver": solver,
            "relative_error": measured.relative_error if measured else None,
            **{k: v for k, v in scoreboard.data(result).items() if k in KEPT_KEYS},
        })  # fmt: skip
        click.echo(scoreboard.text(result), err=True)
    return rungs, galleries


KEPT_KEYS = ("overall", "categories", "retention")


def painted(place: Place, task: Task) -> Gallery:
    """Paint with one model, and say how long it took."""
    click.echo(f"- paint {len(task.texts)} pictures with {place.name}", err=True)
    start = perf_counter()
    gallery = exhibit(place, task)
    click.echo(f"  {perf_counter() - start:.0f} s", err=True)
    return gallery


def tables(figures: dict[str, Any]) -> str:
    """The figures as Markdown: one row per rung, then retention by category."""
    source, rungs = figures["source"], figures["rungs"]
    rows = [
        "| weights | relative error | score | 95 % | retention | 95 % | above chance | 95 % |",
        "|---|---|---|---|---|---|---|---|",
        row(f"{source['name']}, 16 bits", None, source["overall"]["score"]),
    ]
    for r in rungs:
        kept = r["retention"]["overall"]
        shown = (r["overall"]["score"], kept["retention"], kept["adjusted"])
        rows.append(row(f"{r['mode']}, {r['solver']}", r["relative_error"], *shown))
    rows += ["", f"| score in | {' | '.join(CATEGORIES)} |", "|---" * (len(CATEGORIES) + 1) + "|"]
    named = [(source["name"], source), *((f"{r['mode']}, {r['solver']}", r) for r in rungs)]
    rows += [
        f"| {name} | {' | '.join(percent(m['categories'][c]['score'])[0] for c in CATEGORIES)} |"
        for name, m in named
    ]
    return "\n".join([*rows, "", *footnotes(figures)])


def row(name: str, error: float | None, *figures: dict[str, Any]) -> str:
    """One line of the first table; cells that do not apply stay empty."""
    cells = [
        name,
        "" if error is None else f"{error:.4f}",
        *(c for f in figures for c in percent(f)),
    ]
    return f"| {' | '.join(cells + [''] * (8 - len(cells)))} |"


def percent(figure: dict[str, Any]) -> tuple[str, str]:
    """A figure of the JSON as the program prints it."""
    return scoreboard.figure(Figure(**figure))


def footnotes(figures: dict[str, Any]) -> list[str]:
    """What was painted, what chance gives, and with which versions."""
    s, chance = figures["settings"], figures["rungs"][0]["retention"]["overall"]["chance"]
    versions = ", ".join(f"{k} {v}" for k, v in figures["versions"].items())
    luck = "" if chance is None else f" Chance alone scores {100 * chance:.1f} %."
    return [
        f"{s['split'].capitalize()} prompts, {s['prompts_per_category']} in each category, "
        f"{s['images_per_prompt']} pictures each of {s['width']} x {s['height']}, "
        f"{s['num_inference_steps']} steps, seed {s['seed']}.{luck}",
        f"{versions}; `python tools/ladder.py` repeats it.",
    ]


def write_page(path: Path, text: str) -> None:
    """Put the tables between their marks."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def source_record(result: Scored) -> dict[str, Any]:
    """The source's own scores."""
    data = scoreboard.data(result)
    return {"name": data["place"], "overall": data["overall"], "categories": data["categories"]}


@click.command()
@click.option("--source", default="mini-klein", show_default=True, help="A name or a pipeline.")
@click.option("--work", default=str(ROOT / ".bench" / "ladder"), help="Folder for the packs.")
@click.option("--docs", default=str(ROOT / "docs"), help="Folder of quality.md and ladder.json.")
@click.option("--split", default="test", show_default=True, help="test or dev.")
@click.option("--prompts", default=100, show_default=True, help="Per category.")
@click.option("--images", default=4, show_default=True, help="Pictures of each prompt.")
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option("--grid", help="A PNG to write, with examples of all.")
def main(
    source: str, work: str, docs: str, split: str, prompts: int, images: int, seed: int,
    grid: str | None,
) -> None:  # fmt: skip
    """Measure, print, and write docs/ladder.json and the tables of docs/quality.md."""
    folder, place = Path(work), locate(source)
    folder.mkdir(parents=True, exist_ok=True)
    task = task_for([place], split=split, prompts=prompts, images=images, seed=seed)
    rungs, galleries = climb(place, task, folder)
    figures = {
        "source": source_record(compare(galleries[0])),
        "settings": scoreboard.settings(task),
        "versions": {"bonsai-quant": __version__, "Python": platform.python_version()}
        | {p: installed(p) for p in PACKAGES},
        "rungs": rungs,
    }
    (Path(docs) / "ladder.json").write_text(json.dumps(figures, indent=2) + "\n")
    text = tables(figures)
    write_page(Path(docs) / "quality.md", text)
    if grid:
        write_file(Path(grid), examples(galleries, prompts=1, images=1), overwrite=True)
    click.echo(text)


if __name__ == "__main__":
    main()
