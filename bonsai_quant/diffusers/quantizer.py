"""diffusers' hooks while it loads a model: packed layers take the place of dense ones."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from torch import nn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import GROUP

from .config import BonsaiConfig
from .linear import PackedLinear

COMPUTED = (torch.float32, torch.bfloat16, torch.float16)
ENDS = (".codes", ".scales")


class BonsaiQuantizer(DiffusersQuantizer):  # type: ignore[misc]
    """Loads packs; it rounds nothing itself."""

    def __init__(self, quantization_config: BonsaiConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.modules_to_not_convert = list(quantization_config.modules_to_not_convert)
        self.compute_dtype = torch.float32
        if not self.pre_quantized:
            raise Unsupported(
                "the model is in full precision, and loading rounds nothing",
                hint="make a pack of it: bonsai-quant convert SOURCE --mode ternary -f diffusers",
            )

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        """What is computed in: float32 where nothing is asked for, as in diffusers."""
        self.compute_dtype = torch_dtype or torch.float32
        if self.compute_dtype not in COMPUTED:
            raise Unsupported(
                f"cannot compute in {self.compute_dtype}",
                hint="pass torch_dtype=torch.bfloat16, float16 or float32",
            )
        return self.compute_dtype

    def _process_model_before_weight_loading(self, model: nn.Module, **_more: Any) -> None:
        kept = set(self.modules_to_not_convert)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name not in kept:
                model.set_submodule(name, self._packed(model, name, module))

    def _packed(self, model: nn.Module, name: str, linear: nn.Linear) -> PackedLinear:
        out, n = linear.out_features, linear.in_features
        if n % GROUP or linear.bias is not None:
            raise BadInput(
                f"{type(model).__name__} has a layer [{out}, {n}] there that cannot be packed: "
                "the config is not that of the pack",
                where=f"layer {name}",
                hint="export the pack again",
            )
        return PackedLinear(out, n, self.quantization_config.bits, self.compute_dtype)

    def update_missing_keys(self, model: nn.Module, missing_keys: list[str], prefix: str) -> Any:
        """Refuse a file that lacks a tensor: diffusers would warn, and fail later."""
        if missing_keys:
            first = min(missing_keys)
            raise BadInput(
                f"the weight file lacks {len(missing_keys)} tensors of this "
                f"{type(model).__name__}, such as {first}",
                hint="it is of another model or format; export the pack again: "
                "bonsai-quant export PACK -f diffusers -o OUT",
            )
        return missing_keys

    def check_if_quantized_param(
        self, model: nn.Module, param_value: Any, param_name: str, state_dict: Any, **_more: Any
    ) -> bool:
        """Codes and scales are."""
        return param_name.endswith(ENDS)

    def check_quantized_param_shape(self, param_name: str, current: Any, loaded: Any) -> bool:
        """Raises BadInput: diffusers asks only where the shapes differ."""
        raise BadInput(
            f"has the shape {list(loaded.shape)}, expected {list(current.shape)}",
            where=f"tensor {param_name}",
            hint="the config is of another pack; export the pack again",
        )

    def create_quantized_param(
        self, model: nn.Module, param_value: Any, param_name: str, target_device: Any, *_more: Any,
        **_options: Any,
    ) -> None:  # fmt: skip
        """Put codes or scales in their place; diffusers has made scales of the computed dtype."""
        name, _, kind = param_name.rpartition(".")
        layer = model.get_submodule(name)
        held = getattr(layer, kind)
        layer.register_buffer(kind, param_value.to(target_device, held.dtype))

    def _process_model_after_weight_loading(self, model: nn.Module, **_more: Any) -> nn.Module:
        return model

    @property
    def is_serializable(self) -> bool:
        """`save_pretrained` writes codes and scales as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes have no gradient."""
        return False
