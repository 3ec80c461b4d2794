"""ComfyUI's operations with linear layers that may hold codes and scales instead of weights."""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.ops
import torch

from .decode import bits_of, decode
from .low_rank import side_paths

WEIGHTS_AT_ONCE = 1 << 24
"""Decoded at a time: 32 MB in 16 bits."""


class PackedLinear(comfy.ops.manual_cast.Linear):
    """A linear layer whose file holds codes and scales, or a dense weight like any other.

    weight: codes, or the weight.  weight_scale: None in a dense layer.
    patches: what LoRAs and other nodes do to the weight of a packed layer while it is loaded.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # Nothing is allocated before the file is read: dense weights are 8 to 16 times larger.
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.has_bias = in_features, out_features, bias
        self.dtype = dtype
        for name in ("weight", "weight_scale", "bias"):
            self.register_parameter(name, None)
        self.patches: list[Any] = []

    @property
    def is_packed(self) -> bool:
        """Whether it holds codes."""
        return self.weight_scale is not None

    def _load_from_state_dict(
        self,
        state_dict: dict[str, torch.Tensor],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        wanted = ("weight", "bias") if self.has_bias else ("weight",)
        missing_keys += [prefix + name for name in wanted if name not in found]
        scales = found.pop("weight_scale", None)
        unexpected_keys += [prefix + name for name in found if name not in wanted]
        if problem := self._problem(found.get("weight"), scales):
            error_msgs.append(f"{prefix}weight {problem}")
            return
        if scales is not None:
            self.weight_scale = _parameter(scales, None)
        for name in wanted:
            if name in found:
                codes = scales is not None and name == "weight"
                setattr(self, name, _parameter(found[name], None if codes else self.dtype))

    def _problem(self, weight: torch.Tensor | None, scales: torch.Tensor | None) -> str:
        shape = (self.out_features, self.in_features)
        if weight is None:
            return "is missing"
        if scales is None:
            wrong = tuple(weight.shape) != shape or weight.dtype == torch.uint8
        else:
            decoded = (len(weight), scales.shape[-1] * 128)
            wrong = not bits_of(weight, scales) or decoded != shape
        return (
            f"is {weight.dtype} {list(weight.shape)}; {list(shape)} was expected" if wrong else ""
        )

    def convert_weight(self, weight: torch.Tensor, inplace: bool = False, **_: Any) -> torch.Tensor:
        """The dense weight. weight: as the state dict has it, in any dtype.

        ComfyUI calls this where it merges whole models.
        """
        if not self.is_packed:
            return weight
        scales = self.weight_scale.to(weight.device)
        return decode(weight.to(torch.uint8), scales, torch.float32)

    def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
        """input: [..., in] -> [..., out]."""
        if not self.is_packed:
            return super().forward_comfy_cast_weights(input)
        lowvram = comfy.model_patcher.LowVramPatch  # which `patches` stand for
        wrappers = [f for f in self.weight_function if not isinstance(f, lowvram)]
        paths = None if wrappers else side_paths(self.patches, self.out_features)
        output = self._through_weight(input, wrappers) if paths is None else self._by_rows(input)
        if self.bias is not None:
            output += self.bias.to(input.device, input.dtype)
        for path in paths or ():
            path.add_to(output, input)
        return output

    def _by_rows(self, input: torch.Tensor) -> torch.Tensor:
        step = max(1, WEIGHTS_AT_ONCE // self.in_features)
        output = input.new_empty(*input.shape[:-1], self.out_features)
        for at in range(0, self.out_features, step):
            weight = self._decoded(at, at + step, input.device, input.dtype)
            output[..., at : at + step] = torch.nn.functional.linear(input, weight)
        return output

    def _through_weight(self, input: torch.Tensor, wrappers: list[Any]) -> torch.Tensor:
        """For patches that need the whole weight, such as LoHa, LoKr and DoRA: decoded, patched in
        float32, used once."""
        weight = self._decoded(0, self.out_features, input.device, torch.float32)
        weight = comfy.lora.calculate_weight(self.patches, weight, "weight").to(input.dtype)
        for wrapper in wrappers:
            weight = wrapper(weight)
        return torch.nn.functional.linear(input, weight)

    def _decoded(self, start: int, stop: int, device: Any, dtype: torch.dtype) -> torch.Tensor:
        codes, scales = (w[start:stop].to(device) for w in (self.weight, self.weight_scale))
        return decode(codes, scales, dtype)


class Operations(comfy.ops.manual_cast):
    """What ComfyUI builds the model of."""

    Linear = PackedLinear


def _parameter(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.nn.Parameter:
    """A copy of its own, so that the file can be closed."""
    copy = tensor.to(dtype, copy=True) if dtype else tensor.clone()
    return torch.nn.Parameter(copy, requires_grad=False)
