"""The files that a conversion or an export writes, with their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.schema import PackInfo
from bonsai_quant.packs.deployment import Deployment
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.sources.license import CARD

MEASURED = (CARD, "layers.csv", "manifest.json")
"""The only files whose size depends on the weights; SLACK_BYTES are for them."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be written. exact: its size is known before the weights are read."""

    format: str
    path: str
    size: int
    exact: bool = True


def planned_files(
    info: PackInfo, formats: Sequence[str], beside: Mapping[str, Deployment]
) -> tuple[PlannedFile, ...]:
    """Every file of every format, with its size; Unsupported where one cannot hold the mode."""
    files = []
    for name in formats:
        fmt = FORMATS[name]
        if info.mode not in fmt.modes:
            raise Unsupported(
                f"holds {' and '.join(fmt.modes)} packs, and this one is {info.mode}",
                where=f"format {name}",
                hint="use another format, or another --mode",
            )
        files.append(PlannedFile(name, fmt.weights_path(info.mode), fmt.layout(info).size))
        files += [PlannedFile(name, p, len(b)) for p, b in sorted(fmt.sidecars(info).items())]
        if name in beside:
            files += [PlannedFile(name, *entry) for entry in beside[name].sizes()]
        files += [PlannedFile(name, p, 0, exact=False) for p in MEASURED]
    return tuple(files)
