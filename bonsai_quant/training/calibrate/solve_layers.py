"""Solve every layer behind those before it, and keep what proves the result."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import nn

from bonsai_quant.conversion.calibration.codes import OutputError
from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import PackTensor
from bonsai_quant.quantization.dequantize import decoded
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import Solved, solve
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.layered import Stream, advance, run_block

from .job import CalibrationJob, Part
from .moments import DAMPING, Inputs, Moments, negligible, target
from .paint import TokenWeights
from .prepared import Prepared
from .states import painted
from .store import Store


def solve_layers(
    job: CalibrationJob, prepared: Prepared, store: Store, progress: Progress
) -> dict[str, Any]:
    """Store codes, scales and probes of all layers; -> what the record says of them."""
    states, weights = painted(job, prepared, store, progress)
    model, processes = prepared.model, prepared.processes
    original = prepared.streams(states)
    rounded = [s.copy() for s in original]
    layers: dict[str, dict[str, Any]] = {}
    progress.phase("solving", len(job.layers), "layers",
                   work=sum(t.shape[0] * t.shape[1] ** 2 for t in job.layers.values()))  # fmt: skip
    for name in model.block_names:
        blocks = (model.block(name), model.block(name))
        block = BlockSolver(job, name, blocks, weights, store, processes)
        stages = job.stages(name)
        for stage in stages:
            last = stage is stages[-1]
            layers |= block.solve(stage, original, rounded, last=last, progress=progress)
        if not block.passed:
            advance(block.original, name, original)
        advance(block.rounded, name, rounded)
    return {"states": processes.size * sum(len(s.picture) for s in original), "layers": layers}


class BlockSolver:
    """One block twice: as it is in the source, and with the layers that are solved so far."""

    def __init__(
        self, job: CalibrationJob, name: str, blocks: tuple[nn.Module, nn.Module],
        weights: TokenWeights, store: Store, processes: ProcessGroup,
    ) -> None:  # fmt: skip
        self.job, self.name, self.weights, self.store = job, name, weights, store
        self.processes = processes
        self.original, self.rounded = blocks
        self.passed = False
        """Whether the source's states are behind the block already."""

    def solve(
        self, stage: list[str], original: list[Stream], rounded: list[Stream], *, last: bool,
        progress: Progress,
    ) -> dict[str, dict[str, Any]]:  # fmt: skip
        """Solve the layers of a stage, which read what the stages before it computed."""
        wanted = [n for n in stage if not self._stored(n)]
        moments = self._moments(wanted, original, rounded, last=last) if wanted else {}
        found = {}
        for linear in stage:
            tensor, module = self.job.layers[linear], self._module(self.rounded, linear)
            if linear in wanted:
                self._solve(linear, module.weight, moments)
            codes, scales = self._solved(linear)
            weight = decoded(codes, scales, self.job.plan.info.bits)
            found[linear] = self._errors(linear, module.weight.cpu().numpy(), weight)
            module.weight.copy_(torch.from_numpy(weight))
            progress.advance(work=tensor.shape[0] * tensor.shape[1] ** 2)
        return found

    def _module(self, block: nn.Module, linear: str) -> nn.Linear:
        module: nn.Linear = block.get_submodule(linear.removeprefix(f"{self.name}."))
        return module

    def _stored(self, linear: str) -> bool:
        names = {f"{linear}.{x}" for x in ("codes", "scales", "probes")}
        return self.processes.agree(names <= self.store.stored)

    def _solved(self, linear: str) -> tuple[np.ndarray, np.ndarray]:
        """Codes and scales, which the first process has in its file."""
        names = [f"{linear}.{x}" for x in ("codes", "scales")]
        mine = [self.store.get(n) for n in names] if self.processes.first else None
        codes, scales = self.processes.broadcast(mine)
        return codes, scales

    def _moments(
        self, linears: list[str], original: list[Stream], rounded: list[Stream], *, last: bool
    ) -> dict[Part, Moments]:
        """Run both blocks up to these layers, side by side, and add up what they read.

        last: the source's block is run to its end, since nothing of it will change.
        """
        device = next(self.original.parameters()).device
        before = Inputs({n: self._module(self.original, n) for n in linears})
        behind = Inputs({n: self._module(self.rounded, n) for n in linears})
        parts = [part for n in linears for part in self.job.rows(n)]
        sums = {
            part: Moments(
                self.job.layers[part[0]].shape[1], both=True, device=device,
                seed=zlib.crc32(f"{self.job.seed} {part} {self.processes.rank}".encode()),
            )
            for part in parts
        }  # fmt: skip
        gather = self.processes.gather
        least = {part: negligible(torch.cat(gather(self.weights.of[part]))) for part in parts}
        at = 0
        for mine, other in zip(original, rounded, strict=True):
            with behind.catching(stop=True):
                run_block(self.rounded, self.name, other.copy())
            with before.catching(stop=not last):
                advance(self.original, self.name, [mine if last else mine.copy()])
            stop = at + len(other.picture)
            for part, moments in sums.items():
                weights = self.weights.of[part][at:stop]
                moments.add(before.x[part[0]], behind.x[part[0]], weights, least[part])
            at = stop
        self.passed = last
        for moments in sums.values():
            moments.finish(self.processes)
        return sums

    def _solve(self, linear: str, weight: torch.Tensor, moments: dict[Part, Moments]) -> None:
        """Solve a layer part by part, and store it."""
        solved: list[Solved] = []
        tensor = self.job.layers[linear]
        for part, rows in self.job.rows(linear).items():
            # Rows do not meet: each process solves some of them.
            mine = weight[rows].tensor_split(self.processes.size)[self.processes.rank]
            solved += self.processes.gather(_solve_part(self.job, tensor, mine, moments[part]))
        if not self.processes.first:
            return
        probes = torch.stack([moments[part].probes for part in self.job.rows(linear)])
        for name, values in (
            ("codes", np.concatenate([s.codes for s in solved])),
            ("scales", np.concatenate([s.scales for s in solved])),
            ("probes", probes.cpu().numpy()),
        ):
            if f"{linear}.{name}" not in self.store.stored:
                self.store.put(f"{linear}.{name}", values)

    def _errors(self, linear: str, weight: np.ndarray, rounded: np.ndarray) -> dict[str, Any]:
        """What the record says of a layer; nothing in processes that write none."""
        if not self.processes.first:
            return {}
        tensor, starts = self.job.layers[linear], self.job.starts(linear)
        probes, bits = self.store.get(f"{linear}.probes"), self.job.plan.info.bits
        mode: Any = tensor.action
        plain = solve(weight, "exact", mode, bits)
        errors = {}
        for key, values in (
            ("error", rounded), ("nearest", decoded(plain.codes, plain.scales, bits))
        ):  # fmt: skip
            outputs = OutputError(probes, starts)
            outputs.add(weight, values, 0)
            errors[key] = outputs.relative
        return errors | {"starts": starts}


def _solve_part(
    job: CalibrationJob, tensor: PackTensor, weight: torch.Tensor, moments: Moments
) -> Solved:
    """The codes and scales of some rows of a layer, all weighed alike."""
    assert job.solver is not None
    hessian = Hessian(moments.h, DAMPING)
    wanted = target(weight, moments.h, moments.c, hessian)
    mode: Any = tensor.action
    return solve(wanted.cpu().numpy(), job.solver, mode, job.plan.info.bits, hessian)
