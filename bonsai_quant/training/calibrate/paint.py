"""The model's own way from noise to picture, and how much each token on it counts.

A token counts by what an error at a layer's output does to the velocity. For a state with velocity
v = f(x), r ~ N(0, 1) of v's shape and L = sum r v / rms(v), a token of a layer's output y counts as
E_r mean_channels (dL/dy)^2: the diagonal, averaged over channels, of the Gauss-Newton matrix of the
square error of v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.layered import (
    Stream,
    advance,
    join,
    run_block,
)

from .job import Part
from .prepared import Prepared

DRAWS = 2
"""Random projections of a velocity, each with a pass back through the model."""
LARGEST = 30.0
"""Weights are cut at so many times their mean."""

Parts = Mapping[str, Mapping[Part, slice]]
"""Layer -> its parts and their rows."""
Gradients = list[tuple[torch.Tensor, ...]]
"""Of the picture, or of the picture and the text, for each draw."""


class TokenWeights:
    """of: part -> [states, tokens] float32, with mean 1; states level by level."""

    def __init__(self) -> None:
        self.of: dict[Part, torch.Tensor] = {}
        self._found: dict[Part, dict[int, list[torch.Tensor]]] = {}

    def add(self, part: Part, level: int, weights: torch.Tensor) -> None:
        """Some more states of a level: [n, tokens]."""
        self._found.setdefault(part, {}).setdefault(level, []).append(weights.cpu())

    def finish(self, processes: ProcessGroup) -> None:
        """Bring the states of all processes to mean 1, without weights far above it."""
        for part, found in self._found.items():
            w = torch.cat([x for level in sorted(found) for x in found[level]])
            w = (w / _mean(w, processes)).clamp(max=LARGEST)
            self.of[part] = w / _mean(w, processes)
        self._found.clear()


def _mean(w: torch.Tensor, processes: ProcessGroup) -> float:
    """Over all processes, which have equally many; above zero."""
    return max(1e-30, float(torch.tensor(processes.gather(float(w.mean()))).mean()))


def paint(
    prepared: Prepared, parts: Parts | None = None, weights: TokenWeights | None = None, *,
    seed: int = 0, tick: Callable[[], None] = lambda: None,
) -> list[torch.Tensor]:  # fmt: skip
    """Walk from noise to picture by Euler's method; -> the states, one a level, each like noise.

    weights: also filled, with the weight of every token at the outputs of these parts.
    tick: called for every block that was run, forwards or backwards.
    """
    levels = prepared.sigmas[:-1]
    states: list[list[torch.Tensor]] = [[] for _ in levels]
    for at in range(0, len(prepared.noise), prepared.group):
        some = slice(at, at + prepared.group)
        z, captions = prepared.noise[some], prepared.captions[some]
        for i, (now, after) in enumerate(zip(levels, prepared.sigmas[1:], strict=True)):
            states[i].append(z)
            passage = Passage(prepared, z, now, captions, tick)
            v = passage.forward(keep=weights is not None)
            if weights is not None:
                # A state's random numbers do not depend on who draws them, and after which.
                which = (prepared.index(at + k) for k in range(len(z)))
                seeds = [(seed * 1_000_003 + k) * 1_009 + i for k in which]
                passage.weigh(parts or {}, weights, i, seeds)
            z = z + (after - now) * v
    return [torch.cat(s) for s in states]


class Passage:
    """States of one level on their way through all blocks, and back."""

    def __init__(
        self, prepared: Prepared, z: torch.Tensor, sigma: float, captions: torch.Tensor,
        tick: Callable[[], None],
    ) -> None:  # fmt: skip
        self.model, self.processes, self.tick = prepared.model, prepared.processes, tick
        model, at_once = prepared.model, prepared.at_once
        self.states = [
            (a.to(model.device), torch.full((len(a),), sigma, device=model.device),
             b.to(model.device))
            for a, b in zip(z.split(at_once), captions.split(at_once), strict=True)
        ]  # fmt: skip
        self.inputs: list[tuple[str, list[Stream]]] = []
        self.lasts: list[torch.Tensor] = []
        self.velocities: list[torch.Tensor] = []

    def forward(self, *, keep: bool) -> torch.Tensor:
        """Run everything; -> the velocity, in main memory. keep: what the way back needs."""
        model = self.model
        with torch.no_grad():
            streams = [model.enter(*s) for s in self.states]
            for name in model.block_names:
                if name.startswith("single"):
                    join(streams)
                if keep:
                    self.inputs.append((name, [s.copy() for s in streams]))
                advance(model.block(name), name, streams)
                self.tick()
        with torch.set_grad_enabled(keep):
            self.lasts = [s.picture.to(model.device).requires_grad_(keep) for s in streams]
            self.velocities = [
                model.leave(*s, x) for s, x in zip(self.states, self.lasts, strict=True)
            ]
        return torch.cat([v.detach().cpu() for v in self.velocities])

    def weigh(self, parts: Parts, weights: TokenWeights, level: int, seeds: Sequence[int]) -> None:
        """Go back through all blocks, and add the weights of these states' tokens.

        seeds: of each state's random projections.
        """
        gradients = self._first_gradients(list(seeds))
        for name, streams in reversed(self.inputs):
            block = self.model.block(name)
            with weighing(block, name, parts) as found:
                for i, stream in enumerate(streams):
                    gradients[i] = _backwards(block, name, stream, gradients[i])
            for part, batches in found.items():
                w = torch.cat([torch.stack(draws).mean(0) for draws in batches])
                weights.add(part, level, w)
            self.tick()

    def _first_gradients(self, seeds: list[int]) -> list[Gradients]:
        """dL/dy of the last block's output y, for each batch of states."""
        square = torch.cat([v.detach().square().mean((1, 2)) for v in self.velocities])
        rms = self.processes.mean(square.mean()).sqrt()
        result = []
        for velocity, last in zip(self.velocities, self.lasts, strict=True):
            draws: Gradients = []
            projections = [projection(seeds.pop(0), velocity.shape[1:]) for _ in velocity]
            for i in range(DRAWS):
                r = torch.stack([p[i] for p in projections]).to(velocity.device)
                with torch.enable_grad():
                    loss = (r * velocity).sum() / rms
                draws.append(torch.autograd.grad(loss, last, retain_graph=True))
            result.append(draws)
        self.velocities.clear()
        return result


def projection(seed: int, shape: torch.Size) -> torch.Tensor:
    """The random numbers of one state: [DRAWS, tokens, channels]."""
    return torch.randn(DRAWS, *shape, generator=torch.Generator().manual_seed(seed))


def _backwards(block: nn.Module, name: str, stream: Stream, draws: Gradients) -> Gradients:
    """Gradients of a block's outputs -> those of its inputs."""
    device = next(block.parameters()).device
    own = stream.copy()
    own.picture = own.picture.to(device).requires_grad_()
    own.text = None if own.text is None else own.text.to(device).requires_grad_()
    inputs = [x for x in (own.picture, own.text) if x is not None]
    with torch.enable_grad():
        outputs = run_block(block, name, own)
    result = []
    for i, gradients in enumerate(draws):
        if len(gradients) < len(outputs):  # where text and picture were joined
            words = outputs[1].shape[1]
            gradients = (gradients[0][:, words:], gradients[0][:, :words])
        more = i + 1 < len(draws)
        result.append(torch.autograd.grad(outputs, inputs, gradients, retain_graph=more))
    return result


@contextmanager
def weighing(
    block: nn.Module, name: str, parts: Parts
) -> Iterator[dict[Part, list[list[torch.Tensor]]]]:
    """Collect mean_channels (dL/dy)^2 of a block's layers: part -> batch -> draw -> [n, tokens]."""
    found: dict[Part, list[list[torch.Tensor]]] = {}

    def watch(rows: Mapping[Part, slice], output: torch.Tensor) -> None:
        for part in rows:
            found.setdefault(part, []).append([])
        draws = {part: found[part][-1] for part in rows}

        def keep(gradient: torch.Tensor) -> None:
            for part, some in rows.items():
                draws[part].append(gradient[..., some].float().square().mean(-1))

        output.register_hook(keep)

    hooks = [
        block.get_submodule(linear.removeprefix(f"{name}.")).register_forward_hook(
            lambda _, __, output, rows=rows: watch(rows, output)
        )
        for linear, rows in parts.items()
        if linear.startswith(f"{name}.")
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
