"""One row of the table of runners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bonsai_quant.packs.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Backend:
    """A runner that is not imported yet.

    module, cls: where its class is, under `runners`; called with a pipeline it gives a Runner.
    packages: without these `auto` passes it over.  suits: whether `auto` may take it for a
    pipeline on this machine.  adapts: whether it runs LoRAs beside a pack's weights.
    """

    name: str
    module: str
    cls: str
    packages: tuple[str, ...]
    suits: Callable[[Pipeline], bool]
    adapts: bool = False
