"""A linear layer that holds codes and scales, and that diffusers and PEFT take for `nn.Linear`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.schema import GROUP
from bonsai_quant.runners.torch import packed_linear


class PackedLinear(packed_linear.PackedLinear, nn.Linear):  # type: ignore[misc]
    """x -> x W', W decoded some rows at a time. Made empty: the loader fills codes and scales.

    compute_dtype: of the inputs, in which PEFT adds an adapter.
    """

    def __init__(
        self, out_features: int, in_features: int, bits: int, compute_dtype: torch.dtype
    ) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would make a weight
        self.out_features, self.in_features, self.bits = out_features, in_features, bits
        self.compute_dtype, self.adapter = compute_dtype, None  # PEFT has its own
        made: dict[str, Any] = {"device": "meta"}
        self.register_buffer(
            "codes", torch.empty(out_features, in_features * bits // 8, dtype=torch.uint8, **made)
        )
        self.register_buffer(
            "scales", torch.empty(out_features, in_features // GROUP, dtype=torch.float16, **made)
        )
        self.register_parameter("bias", None)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """s * t; the same numbers from torch alone where torch.compile looks on."""
        if torch.compiler.is_compiling():
            codes, scales = self.codes[start:stop], self.scales[start:stop].float()
            return packed_linear.decode_on_device(codes, scales, self.bits)
        return super().rows(start, stop)

    @property
    def weight(self) -> PackedWeight:
        """What may be asked of the weight without decoding it."""
        size = torch.Size((self.out_features, self.in_features))
        return PackedWeight(size, self.compute_dtype, self.codes.device)


@dataclass(frozen=True)
class PackedWeight:
    """Shape, dtype and device of a weight that is not there: PEFT puts adapters where it says."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool = False

    @property
    def data(self) -> PackedWeight:
        """Itself."""
        return self

    def clone(self) -> NoReturn:
        """Asked for before an adapter is merged."""
        _refuse()

    def __iadd__(self, other: object) -> NoReturn:
        _refuse()

    def __isub__(self, other: object) -> NoReturn:
        _refuse()

    @classmethod
    def __torch_function__(cls, function: Any, *_more: Any) -> NoReturn:
        raise Unsupported(
            f"a packed weight is no tensor, so there is no {function.__name__} of it",
            hint="call the layer, or load the pack in the format unpacked",
        )


def _refuse() -> NoReturn:
    raise Unsupported(
        "a LoRA cannot be fused into packed weights: its changes are smaller than the steps "
        "between codes",
        hint="leave it loaded, or merge it first: bonsai-quant convert SOURCE --lora FILE",
    )
