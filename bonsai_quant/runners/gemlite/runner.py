"""The torch runner with a pack's linears in gemlite's layout, in bfloat16 on an NVIDIA GPU."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.packs.integrity import held
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.sampling import PIXELS, Velocity
from bonsai_quant.runners.tokens import Reference
from bonsai_quant.runners.torch.runner import TorchRunner

from . import card, tuned
from .rule import VARIABLE, Way, most_rows, way_of

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


class GemliteRunner(TorchRunner):
    """Runs a pack in any format; its other parts as the torch runner does."""

    name = "gemlite"

    def __init__(self, pipeline: Pipeline) -> None:
        if pipeline.pack is None:
            raise Unsupported(
                "is not a pack, and the gemlite runner runs packs",
                where=pipeline.name,
                hint=card.OTHERWISE,
            )
        device = card.open_card()
        super().__init__(pipeline)
        import torch

        self.pack, self.device = pipeline.pack, device
        # The interpreter computes with the bits of bfloat16 as if they were whole numbers.
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
        self.computes = str(self.dtype).removeprefix("torch.")
        self.ways: Counter[Way] = Counter()

    @contextmanager
    def transformer(self, references: Sequence[Reference] = ()) -> Iterator[Velocity]:
        """The transformer; `ways` counts the products that went through it."""
        self.ways.clear()
        with super().transformer(references) as velocity:
            yield velocity
        if self.ways["gemlite"]:
            tuned.keep(self.device)
        elif self.ways:
            log.warning(
                "all products had more than %d rows: weights were decoded, gemlite's kernels were "
                "not called; %s=N lets products of up to N rows through them",
                most_rows(), VARIABLE,
            )  # fmt: skip

    def _transformer(self) -> nn.Module:
        from bonsai_quant.runners.torch.transformer import filled_transformer

        from .linear import from_pack

        tuned.load(self.device)
        with held(self.pack, check=not self.pipeline.unverified) as pack:
            model = filled_transformer(
                pack, lambda p, t: from_pack(p, t, self.dtype, self.device, self.ways)
            )
        self._adapt(model)
        return self._moved(model)


def is_faster(pipeline: Pipeline) -> bool:
    """Whether the rule sends the largest products of a usual picture through gemlite."""
    if pipeline.pack is None:
        return False
    info, settings = pipeline.pack.info, read_benchmark(pipeline.folder).settings
    tokens = settings.height * settings.width // PIXELS**2
    rows = tokens + settings.max_sequence_length
    ways = {way_of(rows, t.shape[0], t.shape[1], info.bits) for t in info.packed}
    return ways == {"gemlite"}
