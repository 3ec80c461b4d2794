"""diffusers' transformer on fixed picture and text sizes, and its walk from noise to picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from torch import nn

from bonsai_quant.runners.text import loading
from bonsai_quant.runners.tokens import position_ids, text_position_ids


class Denoiser(nn.Module):  # type: ignore[misc]
    """A transformer with the positions of rows x columns picture tokens and so many words."""

    def __init__(self, transformer: nn.Module, rows: int, columns: int, words: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.register_buffer("image_ids", torch.from_numpy(position_ids(rows, columns, ())), False)
        self.register_buffer("text_ids", torch.from_numpy(text_position_ids(words)), False)

    def forward(self, z: torch.Tensor, sigma: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """z [n, tokens, channels], sigma [n] in 0..1, captions [n, words, width] -> like z.

        The velocity: noise minus picture. In bfloat16 on a GPU, the result in float32.
        """
        with torch.autocast(z.device.type, torch.bfloat16, enabled=z.device.type == "cuda"):
            v: Any = self.transformer(
                hidden_states=z,
                encoder_hidden_states=captions,
                timestep=sigma,
                img_ids=self.image_ids,
                txt_ids=self.text_ids,
                return_dict=False,
            )[0]
        return v.float()


def load_transformer(folder: Path, dtype: torch.dtype) -> Flux2Transformer2DModel:
    """diffusers' own class with the weights of a pipeline's part, all of it in memory."""
    with loading("diffusers", folder):
        return Flux2Transformer2DModel.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
        )


@torch.no_grad()  # type: ignore[untyped-decorator]
def walk(
    model: nn.Module, noise: torch.Tensor, captions: torch.Tensor, sigmas: Sequence[float]
) -> list[torch.Tensor]:
    """Euler's method: every state from noise to picture, one more than there are steps."""
    states = [noise]
    for now, after in pairwise(sigmas):
        level = torch.full((len(noise),), now, device=noise.device)
        states.append(states[-1] + (after - now) * model(states[-1], level, captions))
    return states
