"""What a report holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.verification.verify import Verdict

from .survey import Survey


@dataclass(frozen=True, slots=True)
class PackReport:
    """One pack in all the formats that lie together.

    facts: of its first format.  sizes: format, bytes of its weight file, of its tensor data.
    rebuild: the command that makes it again; '' where nobody says how it was made.
    """

    name: str
    mode: str
    facts: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, int, int], ...]
    survey: Survey
    verdict: Verdict
    manifest: Manifest | None
    rebuild: str


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Pictures of the same prompts and seeds by each model: [models, prompts, h, w, 3] uint8.

    decibels: of each pack's picture to the source's; empty without a source.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    pictures: NDArray[np.uint8]
    decibels: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page. gallery: or the reason why there is none."""

    packs: tuple[PackReport, ...]
    source: str | None
    gallery: SideBySide | str
    out: Path
