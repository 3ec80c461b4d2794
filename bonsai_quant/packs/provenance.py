"""What a pack was made from and how, for its manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import GROUP, FileRecord, LayerStats, PackInfo
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.sources.checkpoint import Source
from bonsai_quant.sources.license import read_license
from bonsai_quant.sources.lora import Adapter

from .manifest import Counts, Manifest, ManifestFile, Measured
from .provenance_record import ProvenanceRecord
from .source_record import LoraRecord, SourceFileRecord, SourceRecord


def bits_per_weight(format_name: str, info: PackInfo) -> float:
    """Stored bits per packed weight, scales included, kept tensors not."""
    from .formats import FORMATS

    parts = [p for t in info.packed for p in FORMATS[format_name].parts(t, info.bits)]
    weights = sum(t.size for t in info.packed)
    return round(8 * sum(p.nbytes for p in parts) / weights, 6) if weights else 0.0


def build_manifest(
    format_name: str,
    info: PackInfo,
    provenance: Provenance,
    files: Sequence[FileRecord],
) -> Manifest:
    """The manifest of one format folder, without times or machine names."""
    return Manifest(
        schema_version=1,
        tool={"name": TOOL, "version": __version__},
        format=format_name,
        base=info.base,
        mode=info.mode,
        group_size=128,
        recipe=provenance.recipe.model_dump(mode="json", exclude_unset=not provenance.source.files),
        source=provenance.source,
        counts=Counts(
            packed=len(info.packed),
            kept=len(info.kept),
            packed_weights=sum(t.size for t in info.packed),
            kept_weights=sum(t.size for t in info.kept),
            groups=sum(t.size for t in info.packed) // GROUP,
        ),
        bits_per_weight=bits_per_weight(format_name, info),
        measured=provenance.measured,
        calibration=provenance.calibration,
        provenance=provenance.record,
        files=[
            ManifestFile(path=f.path, remote_path=f.path, size=f.size, sha256=f.sha256)
            for f in sorted(files, key=lambda f: f.path)
        ],
    )


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a pack came to be. measured and layers_csv: None when another program made it.

    calibration: sha256 of the calibration.json that guided the solver.
    record: of the stages, where there was more than rounding.
    """

    recipe: Recipe
    source: SourceRecord
    measured: Measured | None
    layers_csv: bytes | None
    calibration: str | None = None
    record: ProvenanceRecord | None = None


def with_parts(provenance: Provenance, read: Sequence[SourceFileRecord]) -> Provenance:
    """The same, with the files read of the source's other components."""
    source = provenance.source.model_copy(update={"parts": list(read)})
    return replace(provenance, source=source) if read else provenance


def measure(stats: Sequence[LayerStats]) -> Measured:
    """Sum the layers' measurements up."""
    packed = [s for s in stats if s.action != "keep"]
    total = math.fsum(s.energy for s in packed)
    error = math.fsum((s.relative_error or 0.0) ** 2 * s.energy for s in packed)
    inexact = sum(s.inexact for s in stats)
    return Measured(
        relative_error=round(math.sqrt(error / total), 9) if total else 0.0,
        groups_below_grid=sum(s.groups_below_grid for s in stats),
        kept_inexact=inexact,
        lossless=error == 0 and inexact == 0,
    )


def source_record(
    source: Source, digests: dict[str, str], loras: Sequence[Adapter]
) -> SourceRecord:
    """digests: sha256 of every file read, by name."""
    files = [
        SourceFileRecord(name=f.name, size=f.size, sha256=digests[f.name]) for f in source.files
    ]
    return SourceRecord(
        id=source.id,
        revision=source.revision,
        origin=source.origin,
        license=read_license(source.root),
        layout=source.model.layout,
        files=files,
        lora=[lora_record(a) for a in loras],
    )


def lora_record(a: Adapter) -> LoraRecord:
    """What a manifest says of a LoRA."""
    return LoraRecord(
        name=os.fsencode(a.path.name).decode("utf-8", "backslashreplace"),
        size=a.size,
        sha256=a.sha256,
        scale=a.scale,
        config=a.config,
        modules=a.modules,
        ignored=len(a.ignored),
    )
