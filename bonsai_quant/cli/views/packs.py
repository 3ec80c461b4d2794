"""Answers of the commands that read packs: inspect, verify, diff, report, doctor."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bonsai_quant.cli.doctor import Finding
from bonsai_quant.core.numbers import count, percent, size
from bonsai_quant.core.schema import to_json
from bonsai_quant.packs.diff import PackDiff, worst, worst_kept
from bonsai_quant.packs.inspect import Inspection
from bonsai_quant.publishing.report import Report
from bonsai_quant.publishing.report.data import as_data
from bonsai_quant.verification.verify import Verdict

from .answer import MARKS, Answer, Table


def inspected(inspections: Sequence[Inspection], tensors: bool) -> Answer:
    """What is in a file or folder."""
    blocks: list[str | Table] = []
    for i in inspections:
        rows = [(i.kind, i.path), *((f"  {k}", _readable(v)) for k, v in i.facts)]
        if tensors:
            rows += [(f"  {s.name}", f"{s.dtype} {list(s.shape)}") for s in i.tensors]
        blocks += [*([""] if blocks else []), Table(rows)]
    data = [
        {
            "path": str(i.path),
            "kind": i.kind,
            "facts": dict(i.facts),
            "tensors": [to_json(s) for s in i.tensors],
        }
        for i in inspections
    ]
    return Answer(blocks, {"found": data})


def _readable(fact: str) -> str:
    """A fact with its bytes as a size, and its weights with commas; --json has it to the byte."""
    fact = re.sub(r"\b(\d+) bytes", lambda m: size(int(m[1])), fact)
    return re.sub(r"\b(\d+) weights", lambda m: f"{count(int(m[1]))} weights", fact)


def verified(verdict: Verdict) -> Answer:
    """What was proved, what was not run, what is wrong."""
    rows = [(MARKS[c.status], c.level, c.subject, c.detail) for c in verdict.checks]
    counts = {s: sum(c.status == s for c in verdict.checks) for s in MARKS}
    last = f"{counts['passed']} passed, {counts['failed']} failed, {counts['not run']} not run"
    return Answer(
        [Table(rows), last],
        {
            "failed": verdict.failed,
            "counts": counts,
            "checks": [to_json(c) for c in verdict.checks],
        },
    )


def compared(result: PackDiff, top: int) -> Answer:
    """How two packs differ."""
    changed = [d for d in result.layers if not d.same]
    lines: list[str | Table] = [f"{k}: {a} | {b}" for k, a, b in result.settings]
    lines += [f"only in {result.a}: {n}" for n in result.only_a]
    lines += [f"only in {result.b}: {n}" for n in result.only_b]
    lines.append(
        f"{count(len(changed))} of {count(len(result.layers))} tensors differ"
        if changed
        else f"the weights of all {len(result.layers)} common tensors are the same"
    )
    packed, kept = worst(result.layers, top), worst_kept(result.layers, top)
    if packed:
        rows = [("flipped", "share", "sign flips", "scale drift", "tensor")]
        rows += [
            (
                count(d.flipped),
                percent(d.flipped / d.size),
                count(d.sign_flips),
                percent(d.scale_drift),
                d.name,
            )
            for d in packed
        ]
        lines.append(Table(rows, (0, 1, 2, 3)))
    if kept:
        values = [("values changed", "share", "tensor that is not packed")]
        values += [(count(d.kept_changed), percent(d.kept_changed / d.size), d.name) for d in kept]
        lines.append(Table(values, (0, 1)))
    return Answer(
        lines,
        {
            "same": result.same,
            "settings": [list(s) for s in result.settings],
            "only_a": list(result.only_a),
            "only_b": list(result.only_b),
            "layers": [to_json(d) for d in result.layers],
        },
    )


def diagnosed(findings: Sequence[Finding]) -> Answer:
    """What works on this machine; what to type for the rest stands on lines of its own."""
    marks = {True: "ok", False: "missing", None: "-"}
    rows = [
        (marks[f.works], f.part, f"{f.use}: {f.detail}" if f.use else f.detail) for f in findings
    ]
    parts: list[str | Table] = [Table(rows)]
    for title, works in (("to install what is missing:", False), ("where you need it:", None)):
        commands = dict.fromkeys(f.hint for f in findings if f.hint and f.works is works)
        if commands:
            parts += ["", title, *(f"  {c}" for c in commands)]
    return Answer([*parts, ""], {"findings": [to_json(f) for f in findings]})


def reported(result: Report) -> Answer:
    """Where the report is, and what it could not show."""
    lines = [str(result.out / "report.html")]
    for pack in result.packs:
        counts = {s: sum(c.status == s for c in pack.verdict.checks) for s in MARKS}
        lines.append(f"{pack.name}: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n))
    lines += [f"FAILED  {name}, level {c.level}: {c.detail}" for name, c in result.failed]
    if isinstance(result.gallery, str):
        lines.append(f"no pictures: {result.gallery}")
    return Answer("\n".join(lines), as_data(result))
