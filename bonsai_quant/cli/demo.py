"""The whole loop on mini-klein: plan, convert, verify, inspect, diff, and pictures of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.convert import Converted, convert
from bonsai_quant.conversion.plan import Plan, plan
from bonsai_quant.core.errors import OutputExists
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, RUN, install, missing
from bonsai_quant.evaluation.examples import examples
from bonsai_quant.evaluation.gallery import paint_gallery
from bonsai_quant.evaluation.score import ModelScore, compare
from bonsai_quant.evaluation.task import Task, task_for
from bonsai_quant.packs.diff import PackDiff, diff
from bonsai_quant.packs.inspect import Inspection, inspect
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.sources.shipped import NAMES, find_shipped_pack
from bonsai_quant.storage.small_file import write_file
from bonsai_quant.verification.verify import Verdict, verify

MODES = ("ternary", "binary")
PROMPTS, IMAGES = 8, 2
"""Prompts of each category and pictures of each: enough to look at, too few to measure with."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the models painted. sheet: the PNG.  scores: the source's, then each pack's.

    A pack of rounded weights stands beside the one whose quality was recovered by training.
    """

    sheet: Path
    task: Task
    scores: tuple[ModelScore, ...]


@dataclass(frozen=True, slots=True)
class Demo:
    """Everything the loop made, for the command line to show. pictures: or why there are none."""

    source: str
    plan: Plan
    packs: dict[str, Converted]
    inspections: tuple[Inspection, ...]
    verdicts: dict[str, Verdict]
    solvers: PackDiff
    pictures: Pictures | str


def demo(
    out: str | Path = "bonsai-demo",
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = no_progress,
) -> Demo:
    """Convert mini-klein in both modes, prove the packs, and paint with all of them.

    out: a new folder for all of it.  seed: of the noise that pictures start from.
    say: told each step before it is taken.  progress: of the steps, one after the other.
    """
    folder, source = Path(out), NAMES[0]
    if folder.exists():
        raise OutputExists(
            "exists already", where=str(folder), hint="remove it, or name another -o"
        )
    say(f"plan {source}: what will happen to every tensor, from headers alone")
    work = plan(source, mode="ternary")
    packs, verdicts = {}, {}
    for mode in MODES:
        say(f"convert {source} --mode {mode}, then verify --level kernel --against {source}")
        packs[mode] = convert(source, mode=mode, out=folder / mode, progress=progress)
        verdicts[mode] = verify(
            folder / mode, level="kernel", against=source, layers=1, progress=progress
        )
    say("convert --solver absmean, then diff against the exact optimum")
    convert(
        source, mode="ternary", solver="absmean", formats="bonsai", out=folder / "absmean",
        progress=progress,
    )  # fmt: skip
    solvers = diff(folder / "absmean", folder / "ternary", progress=progress)
    pictures = _pictures(folder, source, seed, say, progress)
    return Demo(source, work, packs, inspect(folder / "ternary"), verdicts, solvers, pictures)


def _pictures(
    folder: Path, source: str, seed: int, say: Callable[[str], None], progress: Progress
) -> Pictures | str:
    """Paint the same captions with source and packs; or the reason why it cannot be done here."""
    if problem := missing((*RUN, *LOOK)):
        return f"{problem} -> {install('run')}"
    trained = [f"{source}-{mode}" for mode in MODES]
    packs = [p for m, t in zip(MODES, trained, strict=True) for p in (str(folder / m), t)]
    shipped = [p for p in packs if p not in trained or find_shipped_pack(p)]
    pipelines = [locate(source), *(locate(p) for p in shipped)]
    task = task_for(pipelines, split="test", prompts=PROMPTS, images=IMAGES, seed=seed)
    galleries = []
    for pipeline in pipelines:
        say(f"paint {len(task.texts)} pictures with {pipeline.name}, and judge them")
        galleries.append(paint_gallery(pipeline, task, chance=False, progress=progress))
    sheet = folder / "side-by-side.png"
    write_file(sheet, examples(galleries, prompts=1, images=1), overwrite=False)
    return Pictures(sheet, task, tuple(compare(g).model for g in galleries))
