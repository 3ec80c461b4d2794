"""transformers' hooks while it loads a text encoder whose linears are in 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.packs.formats.diffusers import METHOD
from bonsai_quant.runners.four_bits import BITS, GROUPS
from bonsai_quant.runners.torch import affine4
from bonsai_quant.runners.torch.packed_linear import RowsLinear

from .config import Method


class FourBitConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """group_size: inputs that share a scale.  modules_to_not_convert: linears kept in 16 bits."""

    def __init__(
        self,
        bits: int,
        group_size: int,
        modules_to_not_convert: Sequence[str] = (),
        quant_method: str = METHOD,
        **unknown: Any,
    ) -> None:
        if unknown or bits != BITS or group_size not in GROUPS:
            raise Unsupported(
                f"has codes of {bits} bits in groups of {group_size}"
                f"{''.join(f', and {k[:80]}' for k in sorted(unknown)[:1])}; {BITS} bits in groups "
                f"of {', '.join(map(str, GROUPS))} are read",
                where="quantization_config of the text encoder",
                hint="update bonsai-quant, or export the pack again",
            )
        self.quant_method = Method(quant_method)
        self.bits, self.group_size = bits, group_size
        self.modules_to_not_convert = list(modules_to_not_convert)


class FourBitLinear(affine4.FourBitLinear):
    """The same under the names of the pack's file. Made empty: the loader fills it."""

    def __init__(self, out_features: int, in_features: int, group: int) -> None:
        RowsLinear.__init__(self, out_features, in_features)
        groups = in_features // group
        scales = (out_features, groups, 1) if groups > 1 else (out_features, 1)
        codes = torch.empty(
            out_features * in_features * BITS // 8, dtype=torch.uint8, device="meta"
        )
        self.register_buffer("weight", codes)
        for name in ("scale", "zero_point"):
            self.register_buffer(name, torch.empty(scales, dtype=torch.bfloat16, device="meta"))

    @property
    def words(self) -> torch.Tensor:
        """[out, in / 8] int32."""
        return self.weight.view(self.out_features, -1).view(torch.int32)

    @property
    def scales(self) -> torch.Tensor:
        """[out, groups]."""
        return self.scale.reshape(self.out_features, -1)

    @property
    def biases(self) -> torch.Tensor:
        """[out, groups]."""
        return self.zero_point.reshape(self.out_features, -1)


class FourBitQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads packs; it rounds nothing itself."""

    def __init__(self, quantization_config: FourBitConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        if not self.pre_quantized:
            raise Unsupported(
                "the text encoder is in full precision, and loading rounds nothing",
                hint="make a pack of it: bonsai-quant convert SOURCE --mode ternary -f diffusers",
            )

    def _process_model_before_weight_loading(self, model: nn.Module, **_more: Any) -> None:
        kept = self.quantization_config.modules_to_not_convert
        group = self.quantization_config.group_size
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name not in kept:
                out, n = module.out_features, module.in_features
                model.set_submodule(name, FourBitLinear(out, n, group))

    def _process_model_after_weight_loading(self, model: nn.Module, **_more: Any) -> nn.Module:
        # transformers would go on with numbers out of nowhere where the file lacks a tensor.
        for name, module in model.named_modules():
            if isinstance(module, FourBitLinear):
                for end, buffer in module.named_buffers():
                    if not getattr(buffer, "_is_hf_initialized", False):
                        raise BadInput(
                            f"the text encoder's weight file lacks {name}.{end}",
                            hint="export the pack again",
                        )
        return model

    def is_serializable(self) -> bool:
        """`save_pretrained` writes codes and scales as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes have no gradient."""
        return False
