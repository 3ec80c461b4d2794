"""A transformer one block at a time: what goes into each is kept between, in main memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bonsai_quant.training.trajectories.denoiser import Denoiser


class _Enough(Exception):
    """The first block was reached: the rest of the model need not run."""


@dataclass(slots=True)
class Stream:
    """Some states on their way through the blocks.

    picture, text: [n, tokens, width]; joined when the single blocks begin.
    """

    picture: torch.Tensor
    text: torch.Tensor | None
    double: dict[str, Any]
    single: dict[str, Any]

    def join(self) -> None:
        """Text before picture, as the single blocks take them."""
        if self.text is not None:
            self.picture, self.text = torch.cat([self.text, self.picture], 1), None


def streams(model: Denoiser, pieces: list[tuple[torch.Tensor, ...]]) -> list[Stream]:
    """What goes into the first block for each (z, sigma, captions)."""
    caught: dict[str, Any] = {}

    def stop(_: nn.Module, __: tuple[()], given: dict[str, Any]) -> None:
        caught.update(given)
        raise _Enough

    def keep(_: nn.Module, __: tuple[Any, ...], out: torch.Tensor) -> None:
        caught["temb_mod"] = out

    transformer = model.transformer
    first = transformer.transformer_blocks[0]
    hooks = [
        first.register_forward_pre_hook(stop, with_kwargs=True),
        transformer.single_stream_modulation.register_forward_hook(keep),
    ]
    found = []
    try:
        for piece in pieces:
            try:
                model(*piece)
            except _Enough:
                found.append(_stream(caught))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _stream(caught: dict[str, Any]) -> Stream:
    rotary = caught["image_rotary_emb"]
    return Stream(
        caught["hidden_states"].cpu(),
        caught["encoder_hidden_states"].cpu(),
        {k: caught[k] for k in ("temb_mod_img", "temb_mod_txt")} | {"image_rotary_emb": rotary},
        {"temb_mod": caught["temb_mod"], "image_rotary_emb": rotary},
    )


def blocks(model: Denoiser, lists: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Every block with its name, in order. lists: as `Family.blocks` names them."""
    for name in lists:
        for i, block in enumerate(getattr(model.transformer, name)):
            yield f"{name}.{i}", block


def through(block: nn.Module, name: str, stream: Stream, *, advance: bool) -> None:
    """Let a stream pass a block; advance: and be what comes out of it."""
    device = next(block.parameters()).device
    single = name.startswith("single")
    if single:
        stream.join()
    picture = stream.picture.to(device)
    text = None if stream.text is None else stream.text.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        more = stream.single if single else stream.double
        out = block(hidden_states=picture, encoder_hidden_states=text, **more)
    text, picture = (None, out) if single else out
    if advance:
        stream.picture, stream.text = picture.cpu(), None if text is None else text.cpu()
