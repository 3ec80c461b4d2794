"""Answers of the commands that paint: generate, score, demo."""

from __future__ import annotations

from bonsai_quant.cli.demo import Demo, Pictures
from bonsai_quant.core import numbers
from bonsai_quant.core.schema import to_json
from bonsai_quant.evaluation.score import Scored
from bonsai_quant.runners.generate import Generated

from . import score as scoreboard
from .answer import Answer, Table
from .conversion import converted, planned
from .packs import compared, inspected, verified

SHOWN = 20
"""Pictures that are listed; of more only the number is told."""


def scored(result: Scored) -> Answer:
    """How well a model paints, and what it keeps of another."""
    return Answer(scoreboard.text(result), scoreboard.data(result))


def demonstrated(demo: Demo) -> Answer:
    """The story of a demo."""
    steps = {
        "plan": planned(demo.plan),
        **{f"convert_{m}": converted(c, demo.source) for m, c in demo.packs.items()},
        "inspect": inspected(demo.inspections, False),
        **{f"verify_{m}": verified(v) for m, v in demo.verdicts.items()},
        "diff": compared(demo.solvers, 3),
        "pictures": painted(demo.pictures),
    }
    text = "\n\n".join(f"== {n.replace('_', ' ')}\n{a.text}" for n, a in steps.items())
    return Answer(text, {"source": demo.source, "steps": {n: a.data for n, a in steps.items()}})


def painted(pictures: Pictures | str) -> Answer:
    """What a demo painted, or why it did not."""
    if isinstance(pictures, str):
        return Answer(f"not run: {pictures}", {"status": "not run", "reason": pictures})
    table = scoreboard.short_table(pictures.scores)
    note = "a small sample; `bonsai-quant score` measures"
    return Answer(
        f"{pictures.sheet}\n{scoreboard.about(pictures.task)}: {note}\n{table}",
        {
            "status": "run",
            "side_by_side": str(pictures.sheet),
            "settings": scoreboard.settings(pictures.task),
            "scores": [to_json(m) for m in pictures.scores],
        },
    )


def generated(result: Generated) -> Answer:
    """Where the pictures are, and what making them took."""
    files = [(str(p.path), f"seed {p.seed}", p.prompt) for p in result.pictures[:SHOWN]]
    last, n = result.pictures[-1].path, len(result.pictures)
    blocks: list[str | Table] = [Table(files)]
    if n > SHOWN:
        blocks.append(f"and {n - SHOWN} more, up to {last}")
    return Answer([*blocks, "", *_work(result)], to_json(result))


def _work(result: Generated) -> list[str | Table]:
    """Time and memory of what was painted now."""
    painted = len(result.pictures) - result.kept
    kept = f"; {result.kept} were there" if result.kept else ""
    if not painted:
        return [f"nothing to paint{kept}"]
    seconds = sum(s.seconds for s in result.stages)
    stages = [(s.name, f"{s.seconds:.1f} s", numbers.size(s.peak_bytes)) for s in result.stages]
    return [
        f"{painted} picture{'s' * (painted > 1)} in {seconds:.1f} s by {result.runner}{kept}; "
        f"memory at most, {numbers.size(result.at_rest)} of it before loading",
        Table(stages, (1, 2)),
    ]
