"""diffusers' transformer with packed linears in the place of dense ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import PackTensor
from bonsai_quant.packs.read import Pack

from .packed_linear import KeptEmbedding, KeptLinear, PackedLinear, RowsLinear

if TYPE_CHECKING:
    from diffusers import Flux2Transformer2DModel


def keep_small(model: nn.Module) -> nn.Module:
    """Let a model in 16 bits compute in float32, its linears' weights a few rows at a time."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module.bias is None:
            model.set_submodule(name, KeptLinear(module.weight.detach()))
        elif isinstance(module, nn.Embedding):
            model.set_submodule(name, KeptEmbedding(module.weight.detach()))
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            large = isinstance(module, RowsLinear | KeptEmbedding)
            for name, value in kind.items():
                if not large and value is not None and value.is_floating_point():
                    kind[name] = _in_float(value)
    return model


def _in_float(value: torch.Tensor) -> torch.Tensor:
    wide = value.detach().float()
    return nn.Parameter(wide, requires_grad=False) if isinstance(value, nn.Parameter) else wide


def packed_transformer(pack: Pack) -> Flux2Transformer2DModel:
    """The model of a pack, its big linears held as the pack holds them."""
    from .chunked_feed_forward import in_chunks

    return in_chunks(filled_transformer(pack, _packed_linear))


def filled_transformer(
    pack: Pack, linear: Callable[[Pack, PackTensor], nn.Module]
) -> Flux2Transformer2DModel:
    """diffusers' model with the module that `linear` makes of each packed tensor."""
    from diffusers import Flux2Transformer2DModel

    with torch.device("meta"):
        model = Flux2Transformer2DModel.from_config(pack.info.config)
    for name, part in _parts(pack, linear):
        try:
            if isinstance(part, nn.Parameter):
                model.get_submodule(name).weight = part
            else:
                model.set_submodule(name, part)
        except AttributeError as e:
            raise BadInput(
                f"its config has no {name}", where=str(pack.folder), hint="convert again"
            ) from e
    left = [n for n, p in model.named_parameters() if p.is_meta]
    if left:
        raise BadInput(f"lacks {left[0]}", where=str(pack.folder), hint="convert again")
    return model.eval().requires_grad_(False)


def _packed_linear(pack: Pack, tensor: PackTensor) -> PackedLinear:
    layer = pack.layer(tensor)
    codes, scales = (torch.from_numpy(np.array(a)) for a in (layer.codes, layer.scales))
    return PackedLinear(codes, scales, layer.bits)


def _parts(
    pack: Pack, linear: Callable[[Pack, PackTensor], nn.Module]
) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    for t in pack.info.tensors:
        if t.packed:
            yield t.linear, linear(pack, t)
            continue
        values = torch.from_numpy(np.array(pack.kept(t)))
        if len(t.shape) == 2:
            yield t.linear, KeptLinear(values)
        else:
            yield t.linear, nn.Parameter(values.float(), requires_grad=False)
