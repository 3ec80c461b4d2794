"""LoRAs that run beside a pack's weights, opened and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.schema import StoredTensor, TensorSpec
from bonsai_quant.core.shell import command_line
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.read import Pack
from bonsai_quant.sources.families import Model, detect
from bonsai_quant.sources.lora import Adapter, open_adapters


def with_loras(pipeline: Pipeline, asked: Sequence[str] | str, *, partial: bool) -> Pipeline:
    """A pack with LoRAs. asked: FILE or FILE:SCALE each.

    partial: leave out what they hold for other models. Raises Unsupported (4) for what is no pack.
    """
    if not asked:
        return pipeline
    if pipeline.pack is None:
        name = command_line(pipeline.name)
        raise Unsupported(
            "is a model in full precision; LoRAs run beside the weights of a pack",
            where=pipeline.name,
            hint=f"make a pack: bonsai-quant convert {name} --mode ternary -o packs",
        )
    loras = open_adapters(asked, _model(pipeline.pack), partial=partial)
    return replace(pipeline, loras=loras)


def _model(pack: Pack) -> Model:
    """What a pack is a model of, by which the names in a LoRA are known."""
    tensors = pack.info.tensors
    dense = {t.name: StoredTensor(TensorSpec(t.name, "BF16", t.shape), pack.path, 0)
             for t in tensors}  # fmt: skip
    return detect(dense, str(pack.folder))


def bytes_of(loras: Sequence[Adapter]) -> int:
    """What their factors take in float32."""
    return sum(
        4 * d.rank * (d.down.spec.shape[1] + sum(p.stop - p.start for p in d.up))
        for a in loras
        for d in a.deltas.values()
    )
