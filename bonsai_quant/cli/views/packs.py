"""Answers of the commands that read packs: inspect, verify, diff, report, doctor."""

from __future__ import annotations

from collections.abc import Sequence

from bonsai_quant.cli.doctor import Finding
from bonsai_quant.core.schema import to_json
from bonsai_quant.core.text import columns
from bonsai_quant.packs.diff import PackDiff, worst, worst_kept
from bonsai_quant.packs.inspect import Inspection
from bonsai_quant.publishing.report import Report
from bonsai_quant.publishing.report.make import as_data
from bonsai_quant.verification.verify import Verdict

from .answer import MARKS, Answer


def inspected(inspections: Sequence[Inspection], tensors: bool) -> Answer:
    """What is in a file or folder."""
    blocks = []
    for i in inspections:
        rows = [(i.kind, i.path), *((f"  {k}", v) for k, v in i.facts)]
        if tensors:
            rows += [(f"  {s.name}", f"{s.dtype} {list(s.shape)}") for s in i.tensors]
        blocks.append(columns(rows))
    data = [
        {
            "path": str(i.path),
            "kind": i.kind,
            "facts": dict(i.facts),
            "tensors": [to_json(s) for s in i.tensors],
        }
        for i in inspections
    ]
    return Answer("\n\n".join(blocks), {"found": data})


def verified(verdict: Verdict) -> Answer:
    """What was proved, what was not run, what is wrong."""
    rows = [(MARKS[c.status], c.level, c.subject, c.detail) for c in verdict.checks]
    counts = {s: sum(c.status == s for c in verdict.checks) for s in MARKS}
    last = f"{counts['passed']} passed, {counts['failed']} failed, {counts['not run']} not run"
    return Answer(
        f"{columns(rows)}\n{last}",
        {
            "failed": verdict.failed,
            "counts": counts,
            "checks": [to_json(c) for c in verdict.checks],
        },
    )


def compared(result: PackDiff, top: int) -> Answer:
    """How two packs differ."""
    changed = [d for d in result.layers if not d.same]
    lines = [f"{k}: {a} | {b}" for k, a, b in result.settings]
    lines += [f"only in {result.a}: {n}" for n in result.only_a]
    lines += [f"only in {result.b}: {n}" for n in result.only_b]
    lines.append(
        f"{len(changed)} of {len(result.layers)} tensors differ"
        if changed
        else f"the weights of all {len(result.layers)} common tensors are the same"
    )
    packed, kept = worst(result.layers, top), worst_kept(result.layers, top)
    if packed:
        rows = [("flipped", "share", "sign flips", "scale drift", "tensor")]
        rows += [
            (
                f"{d.flipped:,}",
                f"{d.flipped / d.size:.3%}",
                f"{d.sign_flips:,}",
                f"{d.scale_drift:.3%}",
                d.name,
            )
            for d in packed
        ]
        lines.append(columns(rows, (0, 1, 2, 3)))
    if kept:
        changes = [(f"{d.kept_changed:,}", f"{d.kept_changed / d.size:.3%}", d.name) for d in kept]
        head = ("values changed", "share", "tensor that is not packed")
        lines.append(columns([head, *changes], (0, 1)))
    return Answer(
        "\n".join(lines),
        {
            "same": result.same,
            "settings": [list(s) for s in result.settings],
            "only_a": list(result.only_a),
            "only_b": list(result.only_b),
            "layers": [to_json(d) for d in result.layers],
        },
    )


def diagnosed(findings: Sequence[Finding]) -> Answer:
    """What works on this machine."""
    marks = {True: "ok", False: "missing", None: "?"}
    rows = [(marks[f.works], f.part, f.detail, f.hint) for f in findings]
    return Answer(columns(rows), {"findings": [to_json(f) for f in findings]})


def reported(result: Report) -> Answer:
    """Where the report is, and what it could not show."""
    lines = [str(result.out / "report.html")]
    for pack in result.packs:
        counts = {s: sum(c.status == s for c in pack.verdict.checks) for s in MARKS}
        lines.append(f"{pack.name}: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n))
    if isinstance(result.gallery, str):
        lines.append(f"no pictures: {result.gallery}")
    return Answer("\n".join(lines), as_data(result))
