"""What one run of `verify` looks at, and what it was given for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.packs.find import PackFolder
from bonsai_quant.packs.read import Pack, open_pack

from .check import Check


@dataclass(frozen=True)
class Job:
    """folders: of the packs. The other fields are the arguments of `verify`.

    The packs are opened at their first use, since the level file looks at folders alone.
    """

    folders: Sequence[PackFolder]
    against: str | None = None
    calibration: str | None = None
    lora: tuple[str, ...] = ()
    pipeline: str | None = None
    backends: Sequence[str] = ()
    layers: int = 3
    threads: int = 1
    progress: Progress = no_progress

    @property
    def packs(self) -> list[Pack]:
        """The packs that can be opened."""
        return self._opened[0]

    @property
    def unreadable(self) -> list[Check]:
        """A failed check for each of the others."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[list[Pack], list[Check]]:
        packs, failed = [], []
        for folder in self.folders:
            try:
                packs.append(open_pack(folder))
            except BonsaiError as e:
                failed.append(Check("codes", folder.path.name, "failed", str(e)))
        return packs, failed
