"""ComfyUI's model patcher, which leaves the codes of packed layers as they are."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from .layers import PackedLinear


class PackedPatcher(ModelPatcher):
    """Patches of packed layers are handed to the layers, which apply them as they compute.

    ComfyUI adds a LoRA to the stored weight, and keeps the former one to go back to. Codes hold no
    such sum.
    """

    def load(self, *args: Any, **kwargs: Any) -> None:
        """See ModelPatcher."""
        super().load(*args, **kwargs)
        self._hand_over(self.patches)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """See ModelPatcher."""
        if unpatch_weights:
            self._hand_over({})
        super().unpatch_model(device_to, unpatch_weights)

    def patch_weight_to_device(
        self, key: str, *args: Any, return_weight: bool = False, **kwargs: Any
    ) -> Any:
        """See ModelPatcher. Raises RuntimeError where a patched packed layer is to be saved."""
        layer = self._packed_layer(key)
        if layer is None:
            return super().patch_weight_to_device(key, *args, return_weight=return_weight, **kwargs)
        if return_weight and key in self.patches:
            raise RuntimeError(
                f"{key}: a packed layer cannot be saved with a LoRA in it. Merge the LoRA into the "
                "source with `bonsai-quant convert --lora`"
            )
        return layer.weight

    def patch_hook_weight_to_device(
        self, hooks: Any, combined_patches: Any, key: str, *args: Any, **kwargs: Any
    ) -> None:
        """See ModelPatcher. Raises RuntimeError for a packed layer."""
        if key in combined_patches and self._packed_layer(key) is not None:
            raise RuntimeError(
                f"{key}: hooks on weights, such as scheduled LoRAs, do not work on packed layers. "
                "Use the node Load LoRA"
            )
        super().patch_hook_weight_to_device(hooks, combined_patches, key, *args, **kwargs)

    def _packed_layer(self, key: str) -> PackedLinear | None:
        """The packed layer whose codes a key of the state dict names."""
        name, _, kind = key.rpartition(".")
        layer: torch.nn.Module = comfy.utils.get_attr(self.model, name) if name else self.model
        packed = kind == "weight" and isinstance(layer, PackedLinear) and layer.is_packed
        return layer if packed else None

    def _hand_over(self, patches: dict[str, list[Any]]) -> None:
        for name, layer in self.model.named_modules():
            if isinstance(layer, PackedLinear):
                layer.patches = patches.get(f"{name}.weight", [])
