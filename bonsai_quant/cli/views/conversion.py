"""What commands say: every result as text for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bonsai_quant.conversion.convert import Converted
from bonsai_quant.conversion.plan import Plan
from bonsai_quant.conversion.planned_files import MEASURED
from bonsai_quant.core import numbers
from bonsai_quant.core.schema import PackTensor, PlannedTensor, to_json
from bonsai_quant.core.text import grouped
from bonsai_quant.packs import whitepaper as published
from bonsai_quant.packs.manifest import Manifest, ManifestFile
from bonsai_quant.packs.provenance import lora_record
from bonsai_quant.packs.quality import better, quality_words
from bonsai_quant.packs.source_record import SourceFileRecord
from bonsai_quant.sources.components import INDEX

from .answer import Answer, Table


def planned(plan: Plan) -> Answer:
    """What a conversion will do."""
    info = plan.info
    head = [
        ("source", f"{plan.source.place}: {info.base}, {plan.source.model.reason}"),
        (
            "packed",
            f"{len(info.packed)} layers, {_weights(info.packed)}",
        ),
        (
            "kept",
            f"{len(info.kept)} tensors, {_weights(info.kept)}",
        ),
        ("reads", numbers.size(plan.source_bytes)),
        ("writes", f"{numbers.size(plan.output_bytes)}, and {', '.join(MEASURED)} per format"),
        ("memory", f"at most {numbers.size(plan.memory_bytes)} with {plan.threads} threads"),
    ]
    head[1:1] = [("lora", f"{a.path}: {a.summary()}") for a in plan.loras]
    if plan.child_bytes:
        head.append(("", f"about {numbers.size(plan.child_bytes)} in a process of hqq's own"))
    settings = [(f"  {s.name}", s.value, f"({s.origin})") for s in plan.settings]
    fates = [("  tensor", "n", "shape", "becomes")]
    fates += [(f"  {name}", str(n), shape, act) for name, n, shape, act, _ in grouped(plan.tensors)]
    files = [("  file", "bytes", "")]
    files += [
        (f"  {f.format}/{f.path}", numbers.count(f.size), "" if f.exact else "about")
        for f in plan.files
        if f.size
    ]
    parts: list[str | Table] = [
        Table(head),
        "\nsettings",
        Table(settings),
        "",
        Table(fates, (1,)),
        "",
    ]
    return Answer([*parts, Table(files, (1,)), *_beside_published(plan)], _plan_data(plan))


def _weights(tensors: Sequence[PackTensor]) -> str:
    return f"{numbers.count(sum(t.size for t in tensors))} weights"


def _beside_published(plan: Plan) -> list[str | Table]:
    """Whole deployments of Klein 4B beside those of the whitepaper."""
    blocks: list[str | Table] = []
    for name in plan.beside if plan.info.base == published.BASE else ():
        sizes = [(f.path, f.size) for f in plan.files if f.format == name]
        rows = [(f"  {name}", "size", "published")]
        rows += [
            (f"  {part}", numbers.size(size), "" if theirs is None else f"{theirs:.2f} GB")
            for part, size, theirs in published.beside_published(plan.info.mode, name, sizes)
        ]
        blocks += ["", Table(rows, (1, 2))]
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
    return Answer([Table(rows)], to_json(t) | {"rule": planned.rule, "lora": added})


def converted(result: Converted, source: str) -> Answer:
    """What a conversion wrote, what is known of such packs' pictures, and what is better.

    source: as the user named it.
    """
    first = next(iter(result.manifests.values()))
    rows = [
        (
            f"  {result.out / name}",
            numbers.smaller(_bytes([*m.source.files, *m.source.parts]), _bytes(m.files)),
            f"{m.bits_per_weight:g} bits per packed weight",
        )
        for name, m in result.manifests.items()
    ]
    text: list[str | Table] = [
        f"{first.base}, {first.mode}: {first.counts.packed} layers packed, "
        f"{first.counts.kept} tensors kept",
        Table(rows, (1,)),
    ]
    text += [
        f"lora {a.name}: {a.modules} of {a.modules + a.ignored} modules matched, scale {a.scale:g}"
        for a in first.source.lora
    ]
    text += [
        *_exceptions(first),
        f"pictures: {quality_words(first)}",
        *_better(first, source, result.out),
    ]
    data = {n: m.model_dump(mode="json") for n, m in result.manifests.items()}
    return Answer(
        text,
        {
            "out": str(result.out),
            "manifests": data,
            "layers": [to_json(s) for s in result.layers],
            "pictures": quality_words(first),
        },
    )


def _exceptions(manifest: Manifest) -> list[str]:
    """What the format could not hold, in numbers."""
    lines, measured = [], manifest.measured
    if measured and measured.groups_below_grid:
        lines.append(f"{measured.groups_below_grid} groups had a scale below 2^-14 and got it")
    if measured and measured.kept_inexact:
        lines.append(f"{measured.kept_inexact} kept values were rounded to fp16 and bf16's grid")
    return lines


def _better(manifest: Manifest, source: str, out: Path) -> list[str]:
    """The command that gives a better pack, if one does."""
    path = Path(source)
    whole = not path.exists() or (path / INDEX).is_file()
    command = better(manifest, source if whole else "PIPELINE", f"{out}-recovered")
    if not command:
        return []
    brings = "" if whole else " (PIPELINE: the model's folder, with text encoder and VAE)"
    return [f"for a better pack{brings}: {command}"]


def _bytes(files: Sequence[ManifestFile | SourceFileRecord]) -> int:
    return sum(f.size for f in files)


def exported(out: Path, manifest: Manifest) -> Answer:
    """What an export wrote."""
    size = numbers.size(sum(f.size for f in manifest.files))
    return Answer(
        f"{out}: {manifest.format}, {manifest.mode}, {size}",
        {"out": str(out), "manifest": manifest.model_dump(mode="json")},
    )
