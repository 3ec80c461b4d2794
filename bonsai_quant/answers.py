"""What commands say: every result as text for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import scoreboard
from .calibrate import Calibrated
from .convert import Converted
from .demo import Demo, Pictures
from .deployment import published
from .diff import PackDiff, worst
from .distill import Distilled
from .doctor import Finding
from .fold import Folded
from .generate import Generated
from .inspect import Inspection
from .manifest import Manifest, lora_record
from .plan import MEASURED, Plan
from .report import Report
from .report.make import as_data
from .schema import PlannedTensor, to_json
from .score import Scored
from .tables import columns, grouped, megabytes
from .verify import Verdict

MARKS = {"passed": "ok", "failed": "FAILED", "not run": "not run", "measured": "measured"}


@dataclass(frozen=True, slots=True)
class Answer:
    """text: for people.  data: for `--json`."""

    text: str
    data: dict[str, Any]


def calibrated(made: Calibrated) -> Answer:
    """What was looked at, and what to do with it."""
    r = made.record
    behind = f"behind {r.mode} layers by {r.solver}" if r.solver else "in full precision"
    lines = [
        f"{made.out}: inputs of {len(r.inputs)} layers, {behind}",
        f"{r.samples} states of {r.prompts['number']} prompts, {r.size:,} bytes",
        f"use it with: bonsai-quant convert ... --solver {r.solver or 'gptq'} "
        f"--calibration {made.out}",
    ]
    return Answer("\n".join(lines), {"out": str(made.out), **r.model_dump(mode="json")})


def folded(made: Folded) -> Answer:
    """What was changed."""
    text = f"{made.out}: {len(made.layers)} layers changed, to the same outputs"
    return Answer(text, {"out": str(made.out), "layers": made.layers})


def training_memory(parts: dict[str, int], devices: int) -> Answer:
    """What each of some GPUs would hold."""
    total = sum(parts.values())
    rows = [(f"  {name}", f"{n / 1e9:.2f} GB") for name, n in parts.items()]
    head = f"{total / 1e9:.1f} GB on each of {devices} GPU{'s' * (devices > 1)}"
    data = {"devices": devices, "bytes": total, "parts": parts}
    return Answer("\n".join([head, columns(rows, (1,))]), data)


def distilled(made: Distilled) -> Answer:
    """How the training ended, and what to do with it."""
    record = made.record or {}
    held = ", ".join(f"{k} {v:.4f}" for k, v in record["held_out"].items() if k != "step")
    lines = [
        f"{made.out}: {record['layers']} layers on their {record['mode']} grid",
        f"held-out prompts after {record['settings']['steps']} updates: {held}",
        f"pack it with: bonsai-quant convert {made.out} --mode {record['mode']}",
    ]
    return Answer("\n".join(lines), {"out": str(made.out), **record})


def planned(plan: Plan) -> Answer:
    """What a conversion will do."""
    info = plan.info
    head = [
        ("source", f"{plan.source.place}: {info.base}, {plan.source.model.reason}"),
        ("packed", f"{len(info.packed)} layers, {sum(t.size for t in info.packed):,} weights"),
        ("kept", f"{len(info.kept)} tensors, {sum(t.size for t in info.kept):,} weights"),
        ("reads", f"{plan.source_bytes:,} bytes"),
        ("writes", f"{plan.output_bytes:,} bytes, and {', '.join(MEASURED)} per format"),
        ("memory", f"at most {megabytes(plan.memory_bytes)} with {plan.threads} threads"),
    ]
    head[1:1] = [("lora", f"{a.path}: {a.summary()}") for a in plan.loras]
    if plan.child_bytes:
        head.append(("", f"about {megabytes(plan.child_bytes)} in a process of hqq's own"))
    settings = [(f"  {s.name}", s.value, f"({s.origin})") for s in plan.settings]
    fates = [("  tensor", "n", "shape", "becomes")]
    fates += [(f"  {name}", str(n), shape, act) for name, n, shape, act, _ in grouped(plan.tensors)]
    files = [
        (f"  {f.format}/{f.path}", f"{'' if f.exact else 'about '}{f.size:,} bytes")
        for f in plan.files
        if f.size
    ]
    parts = [columns(head), "\nsettings", columns(settings), "", columns(fates, (1,))]
    parts += ["\nfiles", columns(files, (1,)), *_beside_published(plan)]
    return Answer("\n".join(parts), _plan_data(plan))


def _beside_published(plan: Plan) -> list[str]:
    """Whole deployments of Klein 4B beside those of the whitepaper."""
    blocks = []
    for name in plan.beside if plan.info.base == published.BASE else ():
        sizes = [(f.path, f.size) for f in plan.files if f.format == name]
        rows = [(f"  {name}", "GB", "published")]
        rows += [
            (f"  {part}", f"{size / 1e9:.3f}", "" if said is None else f"{said:.2f}")
            for part, size, said in published.beside_published(plan.info.mode, name, sizes)
        ]
        blocks.append("\n" + columns(rows, (1, 2)))
    return blocks


def _plan_data(plan: Plan) -> dict[str, Any]:
    model, info = plan.source.model, plan.info
    return {
        "base": info.base,
        "mode": info.mode,
        "layout": model.layout,
        "reason": model.reason,
        "formats": list(plan.formats),
        "counts": {"packed": len(info.packed), "kept": len(info.kept)},
        "source_bytes": plan.source_bytes,
        "output_bytes": plan.output_bytes,
        "memory_bytes": plan.memory_bytes,
        "child_bytes": plan.child_bytes,
        "threads": plan.threads,
        "settings": [to_json(s) for s in plan.settings],
        "files": [to_json(f) for f in plan.files],
        "tensors": [to_json(t.tensor) | {"rule": t.rule} for t in plan.tensors],
        "lora": [lora_record(a).model_dump(mode="json") for a in plan.loras],
    }


def explained(planned: PlannedTensor) -> Answer:
    """Which rule decided about a tensor."""
    t = planned.tensor
    rows = [
        ("tensor", t.name),
        ("shape", " x ".join(map(str, t.shape))),
        ("becomes", t.action),
        ("rule", planned.rule),
    ]
    rows += [
        (
            "from",
            f"{p.stored.spec.name}, rows {p.start} to {p.stop}, {p.stored.spec.dtype} in "
            f"{p.stored.path.name}",
        )
        for p in planned.pieces
    ]
    rows += [
        ("lora", f"{d.lora}: {d.factor:g} times {d.up[0].stored.spec.name}, rank {d.rank}")
        for d in planned.deltas
    ]
    added = [{"file": str(d.lora), "rank": d.rank, "factor": d.factor} for d in planned.deltas]
    return Answer(columns(rows), to_json(t) | {"rule": planned.rule, "lora": added})


def converted(made: Converted) -> Answer:
    """What a conversion wrote."""
    first = next(iter(made.manifests.values()))
    measured = first.measured
    rows = [
        (
            f"  {made.out / name}",
            megabytes(sum(f.size for f in m.files)),
            f"{m.bits_per_weight:g} bits per packed weight",
        )
        for name, m in made.manifests.items()
    ]
    text = [
        f"{first.base}, {first.mode}: {first.counts.packed} layers packed, "
        f"{first.counts.kept} tensors kept",
        columns(rows, (1,)),
    ]
    text += [
        f"lora {a.name}: {a.modules} of {a.modules + a.ignored} modules matched, scale {a.scale:g}"
        for a in first.source.lora
    ]
    if measured and measured.lossless:
        text.append("lossless: the source was on the grid already")
    elif measured:
        text.append(f"relative error {measured.relative_error:.4f} over all packed weights")
        if measured.groups_below_grid:
            text.append(f"{measured.groups_below_grid} groups had a scale below 2^-14 and got it")
        if measured.kept_inexact:
            text.append(f"{measured.kept_inexact} kept values were rounded to fp16 and bf16's grid")
    data = {n: m.model_dump(mode="json") for n, m in made.manifests.items()}
    return Answer(
        "\n".join(text),
        {"out": str(made.out), "manifests": data, "layers": [to_json(s) for s in made.layers]},
    )


def exported(out: Path, manifest: Manifest) -> Answer:
    """What an export wrote."""
    size = megabytes(sum(f.size for f in manifest.files))
    return Answer(
        f"{out}: {manifest.format}, {manifest.mode}, {size}",
        {"out": str(out), "manifest": manifest.model_dump(mode="json")},
    )


def inspected(found: Sequence[Inspection], tensors: bool) -> Answer:
    """What is in a file or folder."""
    blocks = []
    for i in found:
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
        for i in found
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
    if changed:
        rows = [("flipped", "share", "sign flips", "scale drift", "tensor")]
        rows += [
            (
                f"{d.flipped:,}",
                f"{d.flipped / d.size:.3%}",
                f"{d.sign_flips:,}",
                f"{d.scale_drift:.3%}",
                d.name,
            )
            for d in worst(result.layers, top)
        ]
        lines.append(columns(rows, (0, 1, 2, 3)))
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


def scored(result: Scored) -> Answer:
    """How well a model paints, and what it keeps of another."""
    return Answer(scoreboard.text(result), scoreboard.data(result))


def demonstrated(demo: Demo) -> Answer:
    """The story of a demo."""
    steps = {
        "plan": planned(demo.plan),
        **{f"convert_{m}": converted(c) for m, c in demo.packs.items()},
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


def generated(made: Generated) -> Answer:
    """Where the pictures are, and what making them took."""
    files = [(str(p.path), f"seed {p.seed}", p.prompt) for p in made.pictures]
    stages = [(s.name, f"{s.seconds:.1f} s", megabytes(s.peak_bytes)) for s in made.stages]
    text = [
        columns(files),
        f"\nby {made.runner}; memory at most, {megabytes(made.at_rest)} of it before loading",
        columns(stages, (1, 2)),
    ]
    return Answer("\n".join(text), to_json(made))


def reported(made: Report) -> Answer:
    """Where the report is, and what it could not show."""
    lines = [str(made.out / "report.html")]
    for pack in made.packs:
        counts = {s: sum(c.status == s for c in pack.verdict.checks) for s in MARKS}
        lines.append(f"{pack.name}: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n))
    if isinstance(made.gallery, str):
        lines.append(f"no pictures: {made.gallery}")
    return Answer("\n".join(lines), as_data(made))
