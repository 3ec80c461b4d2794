"""Score mini-klein, and what each way of making packs of it keeps: the tables of docs/quality.md.

    python -m benchmarks.retention [--source mini-klein] [--prompts 100] [--images 4] [--way gptq]

Every rung is made anew but the trained ones, which ship with the package (`--train` makes them
again, which takes an hour). `--way` measures some of them, beside what earlier runs found of the
others. All of them paint the same captions from the same noise as the source,
whose pictures are made once. The figures go to benchmarks/results/retention.json and, as tables,
between the marks of docs/quality.md. One thread or many, a figure may move by a picture or two: the
order in which a processor adds numbers decides the last bit of a pixel.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from bonsai_quant import calibrate, convert, fold, recover, tune
from bonsai_quant.cli.views import score as scoreboard
from bonsai_quant.core.requirements import installed
from bonsai_quant.core.version import __version__
from bonsai_quant.evaluation.bootstrap import Figure
from bonsai_quant.evaluation.examples import examples
from bonsai_quant.evaluation.gallery import Gallery, paint_gallery
from bonsai_quant.evaluation.scenes.world import CATEGORIES
from bonsai_quant.evaluation.score import Scored, compare
from bonsai_quant.evaluation.task import Task, task_for
from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.pipeline import (
    Pipeline,
    locate,
)
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.sources.shipped import find_shipped_pack
from bonsai_quant.storage.small_file import write_file

from .marked_text import RESULTS, ROOT, write_between
from .proxies import PROXIES, Proxies, rank_correlation

MODES = ("ternary", "binary")
MOVES = ("heads", "scale")
WAYS = ("absmean", "exact", "weighted", "gptq", "folded", "tuned", "trained")
"""folded: gptq on a model that `fold` rewrote.  tuned: gptq, then `tune`."""
UNCALIBRATED = ("absmean", "exact", "trained")
"""Those that need no calibration, or ship with one of their own."""
N_PROMPTS, AT_ONCE = 1024, 32
"""Prompts of a calibration, and states at once."""

TUNING = {"at_once": 64}
"""What differs from the settings of `tune`."""

KEPT = ROOT / "bonsai_quant" / "data" / "kept.json"
"""What the program quotes of the results."""
PACKAGES = ("torch", "diffusers", "numpy")
KEPT_KEYS = ("overall", "categories", "retention")


@dataclass(frozen=True)
class Maker:
    """Makes the pack of one rung. train: train again rather than take what ships."""

    source: Pipeline
    work: Path
    train: bool

    def make(self, mode: str, way: str) -> Path | None:
        """The folder of the pack; None where a trained one neither ships nor is asked for."""
        out = self.work / f"{mode}-{way}"
        shutil.rmtree(out, ignore_errors=True)
        if way == "trained":
            return self._trained(mode, out)
        if way == "tuned":
            return self._tuned(mode, out)
        model, solver = (self._folded(), "gptq") if way == "folded" else (self.source.name, way)
        hessian = self._calibration(model, mode, way, solver) if solver in CALIBRATED else None
        convert(model, mode=mode, solver=solver, calibration=hessian, formats="bonsai", out=out)
        return out

    def _tuned(self, mode: str, out: Path) -> Path:
        start = self.work / f"{mode}-gptq"
        if not start.exists():
            self.make(mode, "gptq")
        place = self.work / f"{mode}-tuning"
        tune(self.source.name, start=start, out=place, overwrite=True, changes=TUNING)
        convert(str(place), mode=mode, formats="bonsai", out=out)
        return out

    def _calibration(self, model: str, mode: str | None, way: str, solver: str | None) -> Path:
        out = self.work / f"calibration-{mode}-{way}"
        calibrate(
            model, mode=mode, solver=solver, n_prompts=N_PROMPTS, at_once=AT_ONCE, out=out,
            overwrite=True,
        )  # fmt: skip
        return out

    def _folded(self) -> str:
        inputs = self._calibration(self.source.name, None, "inputs", None)
        folded = fold(
            self.source.name,
            calibration=inputs,
            out=self.work / "folded",
            moves=MOVES,
            overwrite=True,
        )
        return str(folded.out)

    def _trained(self, mode: str, out: Path) -> Path | None:
        if not self.train:
            return find_shipped_pack(f"{self.source.name}-{mode}")
        recipe = f"mini-klein-{mode}"
        recover(self.source.name, recipe=recipe, out=out, formats="bonsai", overwrite=True)
        return out


def climb(
    source: Pipeline, task: Task, maker: Maker, ways: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Gallery]]:
    """Make, paint and compare rungs; -> a record of each, and all pictures."""
    reference = painted(source, task)
    proxies = Proxies(source, task)
    rungs, galleries = [], [reference]
    for mode in MODES:
        for way in ways:
            start = perf_counter()
            folder = maker.make(mode, way)
            took = perf_counter() - start
            if folder is None:
                continue
            gallery = painted(locate(str(folder), spare=str(source.folder)), task)
            result = compare(gallery, reference)
            galleries.append(gallery)
            pack = open_pack(find_packs(folder)[0])
            rungs.append({
                "mode": mode,
                "way": way,
                "pictures": len(task.texts),
                "calibrated": 0 if way in UNCALIBRATED else N_PROMPTS,
                "seconds": None if find_shipped_pack(folder.name) else round(took, 1),
                **{k: v for k, v in scoreboard.data(result).items() if k in KEPT_KEYS},
                "proxies": proxies.of(pack),
            })  # fmt: skip
            click.echo(scoreboard.text(result), err=True)
    return rungs, galleries


def painted(pipeline: Pipeline, task: Task) -> Gallery:
    """Paint with one model, and say how long it took."""
    click.echo(f"- paint {len(task.texts)} pictures with {pipeline.name}", err=True)
    start = perf_counter()
    gallery = paint_gallery(pipeline, task)
    click.echo(f"  {perf_counter() - start:.0f} s", err=True)
    return gallery


def tables(figures: dict[str, Any]) -> str:
    """The figures as Markdown: scores and retention, by category, and the proxies."""
    source, rungs = figures["source"], figures["rungs"]
    rows = [
        "| weights | score | 95 % | retention | 95 % | above chance | 95 % | made in | pictures |",
        "|---|---|---|---|---|---|---|---|---|",
        row(f"{source['name']}, 16 bits", source["overall"]["score"]),
    ]
    for r in rungs:
        kept = r["retention"]["overall"]
        shown = (r["overall"]["score"], kept["retention"], kept["adjusted"])
        took = "" if r["seconds"] is None else f"{r['seconds']:.0f} s"
        more = f"{r['pictures']:,}"
        rows.append(row(f"{r['mode']}, {r['way']}", *shown, took=took, pictures=more))
    rows += ["", f"| score in | {' | '.join(CATEGORIES)} |", "|---" * (len(CATEGORIES) + 1) + "|"]
    named = [(source["name"], source), *((f"{r['mode']}, {r['way']}", r) for r in rungs)]
    rows += [
        f"| {name} | {' | '.join(percent(m['categories'][c]['score'])[0] for c in CATEGORIES)} |"
        for name, m in named
    ]
    return "\n".join([*rows, "", *proxy_table(rungs, figures["ranks"]), "", *footnotes(figures)])


def row(name: str, *figures: dict[str, Any], took: str = "", pictures: str = "") -> str:
    """One line of the first table; cells that do not apply stay empty."""
    cells = [name, *(c for f in figures for c in percent(f))]
    return f"| {' | '.join([*cells, *[''] * (7 - len(cells)), took, pictures])} |"


def proxy_table(rungs: list[dict[str, Any]], ranks: dict[str, float]) -> list[str]:
    """What can be measured without painting, and how well it puts the rungs in order."""
    rows = [
        f"| | score | {' | '.join(PROXIES.values())} |",
        "|---" * (len(PROXIES) + 2) + "|",
    ]
    for r in rungs:
        values = " | ".join(f"{r['proxies'][p]:.3f}" for p in PROXIES)
        score = percent(r["overall"]["score"])[0]
        rows.append(f"| {r['mode']}, {r['way']} | {score} | {values} |")
    correlations = " | ".join(f"{ranks[p]:.2f}" for p in PROXIES)
    return [*rows, f"| rank correlation with the score | | {correlations} |"]


def percent(figure: dict[str, Any]) -> tuple[str, str]:
    """A figure of the JSON as the program prints it."""
    return scoreboard.figure(Figure(**figure))


def footnotes(figures: dict[str, Any]) -> list[str]:
    """What was painted, what chance gives, and with which versions."""
    s, chance = figures["settings"], figures["rungs"][0]["retention"]["overall"]["chance"]
    versions = ", ".join(f"{k} {v}" for k, v in figures["versions"].items())
    luck = "" if chance is None else f" Chance alone scores {100 * chance:.1f} %."
    return [
        f"{s['split'].capitalize()} prompts, {s['prompts_per_category']} in each category, of "
        f"{s['width']} x {s['height']}, {s['num_inference_steps']} steps, seed {s['seed']}.{luck}"
        f"{older(figures['rungs'])}",
        f"{versions}; `python -m benchmarks.retention` repeats it.",
    ]


def older(rungs: Sequence[dict[str, Any]]) -> str:
    """Which rows an earlier version made."""
    rows = [f"{r['mode']} {r['way']}" for r in rungs if r["calibrated"] not in (0, N_PROMPTS)]
    text = f" Calibrated on {N_PROMPTS:,} training captions"
    return f"{text}; on 256, by an earlier version: {', '.join(rows)}." if rows else f"{text}."


def kept(figures: dict[str, Any]) -> dict[str, Any]:
    """What the program quotes: the share of the source's score that each way keeps, by mode."""
    shares: dict[str, Any] = {}
    for rung in figures["rungs"]:
        share = rung["retention"]["overall"]["retention"]
        shares.setdefault(rung["mode"], {})[rung["way"]] = share
    return {"model": figures["source"]["name"], "settings": figures["settings"], "kept": shares}


def merged(new: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """New rungs, and those of earlier runs that were not measured again, in the usual order."""
    known = {(r["mode"], r["way"]): r for r in json.loads(file.read_text())["rungs"]}
    known |= {(r["mode"], r["way"]): r for r in new}
    return [known[m, w] for m in MODES for w in WAYS if (m, w) in known]


def source_record(result: Scored) -> dict[str, Any]:
    """The source's own scores."""
    data = scoreboard.data(result)
    return {"name": data["place"], "overall": data["overall"], "categories": data["categories"]}


def ranks(rungs: list[dict[str, Any]]) -> dict[str, float]:
    """How well each proxy orders the rungs: Spearman's correlation with the score."""
    scores = [r["overall"]["score"]["value"] for r in rungs]
    return {p: rank_correlation([r["proxies"][p] for r in rungs], scores) for p in PROXIES}


@click.command()
@click.option("--source", default="mini-klein", show_default=True, help="A name or a pipeline.")
@click.option("--work", default=str(ROOT / ".bench" / "ladder"), help="Folder for the packs.")
@click.option("--docs", default=str(ROOT / "docs"), help="Folder of quality.md.")
@click.option("--results", default=str(RESULTS), help="Folder of retention.json.")
@click.option("--split", default="test", show_default=True, help="test or dev.")
@click.option("--prompts", default=100, show_default=True, help="Per category.")
@click.option("--images", default=4, show_default=True, help="Pictures of each prompt.")
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), help="Only this one.")
@click.option("--train", is_flag=True, help="Train again rather than take what ships.")
@click.option("--grid", help="A PNG to write, with examples of all.")
def main(
    source: str, work: str, docs: str, results: str, split: str, prompts: int, images: int,
    seed: int, ways: tuple[str, ...], train: bool, grid: str | None,
) -> None:  # fmt: skip
    """Measure, print, and write results/retention.json and the tables of docs/quality.md."""
    folder, pipeline = Path(work), locate(source)
    folder.mkdir(parents=True, exist_ok=True)
    task = task_for([pipeline], split=split, prompts=prompts, images=images, seed=seed)
    rungs, galleries = climb(pipeline, task, Maker(pipeline, folder, train), ways or WAYS)
    if ways:
        rungs = merged(rungs, Path(results) / "retention.json")
    figures = {
        "source": source_record(compare(galleries[0])),
        "settings": scoreboard.settings(task),
        "versions": {"bonsai-quant": __version__, "Python": platform.python_version()}
        | {p: installed(p) for p in PACKAGES},
        "rungs": rungs,
        "ranks": ranks(rungs),
    }
    (Path(results) / "retention.json").write_text(json.dumps(figures, indent=2) + "\n")
    if Path(results) == RESULTS:
        KEPT.write_text(json.dumps(kept(figures), indent=2) + "\n")
    text = tables(figures)
    write_between(Path(docs) / "quality.md", "ladder", text)
    if grid:
        write_file(Path(grid), examples(galleries, prompts=1, images=1), overwrite=True)
    click.echo(text)


if __name__ == "__main__":
    main()
