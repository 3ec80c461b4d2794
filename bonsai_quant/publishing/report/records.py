"""What a report holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.evaluation.scenes.scene import Prompt
from bonsai_quant.evaluation.scenes.world import World
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.verification.levels.check import Check
from bonsai_quant.verification.verify import Verdict

from .survey import Survey


@dataclass(frozen=True, slots=True)
class PackReport:
    """One pack in all the formats that lie together.

    facts: of its first format.  sizes: format, bytes of its weight file, of its tensor data.
    bytes_16: what its weights take in 16 bits each.  rebuild: the commands that make it again; ''
    where nobody says how it was made.  score: what `score --json` wrote of it, where it did.
    """

    name: str
    mode: str
    facts: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, int, int], ...]
    bytes_16: int
    survey: Survey
    verdict: Verdict
    manifest: Manifest | None
    rebuild: str
    score: dict[str, Any] | None = None

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that found something wrong."""
        return tuple(c for c in self.verdict.checks if c.status == "failed")

    @property
    def smallest(self) -> tuple[str, int]:
        """The format with the smallest weight file, and its bytes."""
        name, size, _ = min(self.sizes, key=lambda s: s[1])
        return name, size


@dataclass(frozen=True, slots=True)
class Scenes:
    """What the checker needs: the meaning of each prompt, and the world they are about."""

    prompts: tuple[Prompt, ...]
    world: World


@dataclass(frozen=True, slots=True)
class Asked:
    """What is painted. rule: how the prompts were chosen, as a sentence.

    seeds: of the noise, one for each prompt.  scenes: what the prompts mean, where a checker can
    judge their pictures.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: PictureSettings
    rule: str
    scenes: Scenes | None = None


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Pictures of the same prompts and seeds by each model: [models, prompts, h, w, 3] uint8.

    decibels, ssim: of each pack's picture to the source's; empty without a source.  no_ssim: why
    there is no ssim where there could be.  failures: [models, prompts], the checker's word for what
    is wrong, "" where nothing is; None where no checker knows the prompts.
    """

    models: tuple[str, ...]
    asked: Asked
    pictures: NDArray[np.uint8]
    decibels: tuple[tuple[float, ...], ...]
    ssim: tuple[tuple[float, ...], ...] = ()
    no_ssim: str = ""
    failures: tuple[tuple[str, ...], ...] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The caption of each picture."""
        return self.asked.prompts

    def index(self, pack: int) -> int:
        """The place of a report's pack among the models: the source comes first."""
        return pack + len(self.models) - len(self.decibels or self.models)

    def right(self, model: int) -> int | None:
        """How many of a model's pictures show what the prompt says; None without a checker."""
        return None if self.failures is None else sum(not f for f in self.failures[model])


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page. gallery: or the reason why there is none.

    date: UTC, when it was made.  machine: that it was made on.
    """

    packs: tuple[PackReport, ...]
    source: str | None
    gallery: SideBySide | str
    out: Path
    date: str = ""
    machine: str = ""

    @property
    def failed(self) -> tuple[tuple[str, Check], ...]:
        """Every check that found something wrong, with its pack's name."""
        return tuple((p.name, c) for p in self.packs for c in p.failed)
