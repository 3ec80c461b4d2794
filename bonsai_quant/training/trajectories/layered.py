"""A transformer one block at a time: the weights of its other blocks stay on disk."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from torch import nn

from bonsai_quant.core.schema import PlannedTensor
from bonsai_quant.training.source_weights import as_weights

from .denoiser import Denoiser


@dataclass(slots=True)
class Stream:
    """Some states between two blocks, in main memory.

    picture, text: [n, tokens, width]; joined, text first, when the single blocks begin.
    double, single: the other arguments of the two kinds of blocks, on the device.
    """

    picture: torch.Tensor
    text: torch.Tensor | None
    double: dict[str, Any]
    single: dict[str, Any]

    def copy(self) -> Stream:
        """One that can go its own way: blocks put new tensors in, they change none."""
        return Stream(self.picture, self.text, self.double, self.single)


class LayeredModel:
    """The parts before and after the blocks are in memory, in float32; a block when asked for.

    The library's own class runs what stands around the blocks: it is built with one block of each
    kind, and these two only hand on what comes to them.
    """

    def __init__(
        self, tensors: Sequence[PlannedTensor], config: Mapping[str, Any],
        lists: Sequence[str], size: tuple[int, int, int], device: torch.device,
    ) -> None:  # fmt: skip
        """lists: names of the lists of blocks, in order.  size: rows, columns, words."""
        self.device, self.lists = device, lists
        self.tensors = {t.tensor.name: t for t in tensors}
        with torch.device("meta"):
            shell = Flux2Transformer2DModel.from_config(
                {**config, "num_layers": 1, "num_single_layers": 1}
            )
        self._molds = {name: getattr(shell, name)[0] for name in lists}
        self._entry, self._exit = _Entry(), _Exit()
        shell.transformer_blocks = nn.ModuleList([self._entry])
        shell.single_transformer_blocks = nn.ModuleList([self._exit])
        around = [n for n in self.tensors if not n.startswith(tuple(f"{x}." for x in lists))]
        shell.load_state_dict(self._state(around), assign=True)
        self._around = Denoiser(shell, *size).to(device).eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """Channels of a token between two blocks."""
        return int(self._around.transformer.inner_dim)

    @property
    def block_names(self) -> list[str]:
        """All blocks, in the order in which they run."""
        found = {re.match(rf"({'|'.join(self.lists)})\.(\d+)\.", n) for n in self.tensors}
        keys = {(list(self.lists).index(m[1]), int(m[2])) for m in found if m}
        return [f"{self.lists[kind]}.{i}" for kind, i in sorted(keys)]

    def block(self, name: str) -> nn.Module:
        """A block with its weights, in float32 on the device."""
        module = copy.deepcopy(self._molds[name.rpartition(".")[0]])
        state = self._state(n for n in self.tensors if n.startswith(f"{name}."))
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.items()},
                               assign=True)  # fmt: skip
        return module.to(self.device).eval().requires_grad_(False)

    def enter(self, z: torch.Tensor, sigma: torch.Tensor, captions: torch.Tensor) -> Stream:
        """What the first block is given for a state: see `Denoiser.forward`."""
        self._exit.given = None
        self._around(z, sigma, captions)
        into, single = self._entry.arguments, self._exit.arguments
        rotary = {"image_rotary_emb": into["image_rotary_emb"]}
        return Stream(
            into["hidden_states"].cpu(),
            into["encoder_hidden_states"].cpu(),
            {k: into[k] for k in ("temb_mod_img", "temb_mod_txt")} | rotary,
            {"temb_mod": single["temb_mod"]} | rotary,
        )

    def leave(
        self, z: torch.Tensor, sigma: torch.Tensor, captions: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """The velocity of a state, from what its last block gave: [n, text + tokens, width]."""
        self._exit.given = last
        v: torch.Tensor = self._around(z, sigma, captions)
        self._exit.given = None
        return v

    def _state(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        return {n: torch.from_numpy(as_weights(self.tensors[n])) for n in names}


def join(streams: Iterable[Stream]) -> None:
    """Put the text before the picture, as the single blocks take them."""
    for s in streams:
        if s.text is not None:
            s.picture, s.text = torch.cat([s.text, s.picture], 1), None


def run_block(block: nn.Module, name: str, stream: Stream) -> tuple[torch.Tensor, ...]:
    """(picture,) or (picture, text) behind a block, on its device."""
    device = next(block.parameters()).device
    single = name.startswith("single")
    if single:
        join([stream])
    picture = stream.picture.to(device)
    text = None if stream.text is None else stream.text.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        arguments = stream.single if single else stream.double
        output = block(hidden_states=picture, encoder_hidden_states=text, **arguments)
    return (output,) if single else (output[1], output[0])


def advance(block: nn.Module, name: str, streams: Iterable[Stream]) -> None:
    """Put what a block gives in the place of what it was given."""
    for stream in streams:
        picture, *text = run_block(block, name, stream)
        stream.picture, stream.text = picture.cpu(), text[0].cpu() if text else None


class _Entry(nn.Module):  # type: ignore[misc]
    """Stands for all double blocks: keeps what it is given, and hands it on."""

    arguments: dict[str, Any]

    def forward(self, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.arguments = arguments
        return arguments["encoder_hidden_states"], arguments["hidden_states"]


class _Exit(nn.Module):  # type: ignore[misc]
    """Stands for all single blocks: hands on what was computed elsewhere."""

    arguments: dict[str, Any]
    given: torch.Tensor | None = None

    def forward(self, **arguments: Any) -> torch.Tensor:
        self.arguments = arguments
        return arguments["hidden_states"] if self.given is None else self.given
