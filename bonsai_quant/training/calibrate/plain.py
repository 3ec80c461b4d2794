"""Moments of every layer's inputs in full precision, block after block."""

from __future__ import annotations

import torch
from torch import nn

from bonsai_quant.core.progress import Progress
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.layered import Stream, advance, run_block

from .job import CalibrationJob
from .moments import Inputs, Moments
from .paint import paint
from .prepared import Prepared
from .store import Store


def collect(job: CalibrationJob, prepared: Prepared, store: Store, progress: Progress) -> int:
    """Store the moments of every input; -> how many states were looked at."""
    model = prepared.model
    progress.phase("painting the prompts")
    streams = prepared.streams(paint(prepared))
    progress.phase("calibrating", len(model.block_names), "blocks")
    for name in model.block_names:
        block = model.block(name)
        readers = {v for k, v in job.inputs.items() if k.startswith(f"{name}.")}
        if prepared.processes.agree(readers <= store.stored):
            advance(block, name, streams)
        else:
            sums = _moments(block, name, sorted(readers), streams, prepared.processes)
            for linear, moments in sums.items():
                if linear not in store.stored:
                    store.put(linear, moments.h.cpu().numpy())
        progress.advance()
    return prepared.processes.size * sum(len(s.picture) for s in streams)


def _moments(
    block: nn.Module, name: str, readers: list[str], streams: list[Stream],
    processes: ProcessGroup,
) -> dict[str, Moments]:  # fmt: skip
    """Run a block on every stream and add up the inputs of these linears."""
    linears = {n: block.get_submodule(n.removeprefix(f"{name}.")) for n in readers}
    device = next(block.parameters()).device
    sums = {n: Moments(m.weight.shape[1], both=False, device=device) for n, m in linears.items()}
    inputs = Inputs(linears)
    for stream in streams:
        with inputs.catching(stop=False):
            picture, *text = run_block(block, name, stream)
        stream.picture, stream.text = picture.cpu(), text[0].cpu() if text else None
        for linear, x in inputs.x.items():
            sums[linear].add(x, x, torch.ones(x.shape[:2]))
    for moments in sums.values():
        moments.finish(processes)
    return sums
