"""A transformer one block at a time; between two blocks, all states wait in main memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bonsai_quant.training.trajectories.denoiser import Denoiser


class _FirstBlockReached(Exception):
    """The inputs of the first block are known: the rest of the model need not run."""


@dataclass(slots=True)
class Stream:
    """Some states on their way through the blocks.

    picture, text: [n, tokens, width]; joined when the single blocks begin.
    double, single: the other arguments of the two kinds of blocks.
    """

    picture: torch.Tensor
    text: torch.Tensor | None
    double: dict[str, Any]
    single: dict[str, Any]

    def join(self) -> None:
        """Put the text before the picture, as the single blocks take them."""
        if self.text is not None:
            self.picture, self.text = torch.cat([self.text, self.picture], 1), None


def first_streams(model: Denoiser, batches: list[tuple[torch.Tensor, ...]]) -> list[Stream]:
    """The inputs of the first block, for each batch (z, sigma, captions)."""
    caught: dict[str, Any] = {}

    def stop(_: nn.Module, __: tuple[()], arguments: dict[str, Any]) -> None:
        caught.update(arguments)
        raise _FirstBlockReached

    def keep_modulation(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> None:
        caught["temb_mod"] = output

    transformer = model.transformer
    hooks = [
        transformer.transformer_blocks[0].register_forward_pre_hook(stop, with_kwargs=True),
        transformer.single_stream_modulation.register_forward_hook(keep_modulation),
    ]
    streams = []
    try:
        for batch in batches:
            try:
                model(*batch)
            except _FirstBlockReached:
                streams.append(_stream(caught))
    finally:
        for hook in hooks:
            hook.remove()
    return streams


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


def run_block(block: nn.Module, name: str, stream: Stream, *, advance: bool) -> None:
    """Run a block on a stream. advance: put the outputs in the place of the inputs."""
    device = next(block.parameters()).device
    single = name.startswith("single")
    if single:
        stream.join()
    picture = stream.picture.to(device)
    text = None if stream.text is None else stream.text.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        arguments = stream.single if single else stream.double
        output = block(hidden_states=picture, encoder_hidden_states=text, **arguments)
    text, picture = (None, output) if single else output
    if advance:
        stream.picture, stream.text = picture.cpu(), None if text is None else text.cpu()
