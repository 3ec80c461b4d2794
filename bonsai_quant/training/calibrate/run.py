"""Block after block: collect, write, round if asked to, and go on behind what is now there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from bonsai_quant.conversion.calibration_file import MOMENTS, RECORD, CalibrationRecord
from bonsai_quant.core.schema import Progress, TensorSpec
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.quantization.dequantize import decoded
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import SOLVERS, solve
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.runner import start
from bonsai_quant.runners.sampling import levels
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.layout import safetensors_layout
from bonsai_quant.storage.journal import Journal
from bonsai_quant.storage.staging import Staging, kept_for_resume
from bonsai_quant.storage.writer import WeightFile
from bonsai_quant.training.trajectories.denoiser import Denoiser, load_transformer, walk
from bonsai_quant.training.trajectories.prompts import Prompts, choose_prompts

from .block_walk import Stream, blocks, streams, through
from .job import CalibrationJob
from .moments import Moments
from .store import MomentStore

ROWS = 256
"""Rows of a layer that one thread solves at a time."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def run(
    work: CalibrationJob, *, overwrite: bool, resume: bool, progress: Progress
) -> CalibrationRecord:
    """Write OUT; -> its record."""
    prompts = choose_prompts(work.place, work.prompts, work.samples)
    digests = {f.name: fs.sha256_file(f.path)[1] for f in work.plan.source.files}
    said = {
        "schema_version": 1,
        "tool": {"name": TOOL, "version": __version__},
        "base": work.plan.info.base,
        "mode": work.plan.info.mode if work.solver else None,
        "solver": work.solver,
        "inputs": work.inputs,
        "source": digests,
        "prompts": {"number": len(prompts.used), "sha256": prompts.sha256},
        "seed": work.seed,
    }
    with Staging(work.out, overwrite=overwrite, resume=resume) as staging, kept_for_resume(staging):
        journal = Journal(staging, said, resume=resume)
        layout = safetensors_layout(_specs(work), {"format": "bonsai-quant calibration"})
        file = WeightFile(staging, MOMENTS, layout, resume=bool(journal.entries))
        try:
            samples = _collect(work, prompts, MomentStore(file, journal), progress)
            size, sha256 = file.finish()
        finally:
            file.close()
            journal.close()
        record = CalibrationRecord.model_validate(
            said | {"samples": samples, "size": size, "sha256": sha256, "files": [RECORD, MOMENTS]}
        )
        staging.write_file(RECORD, record.model_dump_json(indent=2).encode() + b"\n")
        staging.commit({MOMENTS, RECORD})
    return record


def _specs(work: CalibrationJob) -> list[TensorSpec]:
    width = {t.tensor.linear: t.tensor.shape[1] for t in work.plan.tensors if t.tensor.packed}
    names = sorted(set(work.inputs.values()))
    return [TensorSpec(n, "F32", (width[n], width[n])) for n in names]


def _collect(work: CalibrationJob, prompts: Prompts, shelf: MomentStore, progress: Progress) -> int:
    """Go through all blocks; -> states that were looked at."""
    model, passing = _prepare(work, prompts)
    every = list(blocks(model, work.family.blocks))
    for name, block in every:
        inside = {k: v for k, v in work.inputs.items() if k.startswith(f"{name}.")}
        linears = {k: block.get_submodule(k.removeprefix(f"{name}.")) for k in inside}
        moments = _moments(name, block, {v: linears[v] for v in inside.values()}, passing, shelf,
                           advance=work.solver is None)  # fmt: skip
        if work.solver is not None:
            for linear, source in inside.items():
                _round(work, linear, linears[linear], moments[source])
            for stream in passing:
                through(block, name, stream, advance=True)
        progress(1, 0, len(every))
    return sum(len(s.picture) for s in passing)


def _moments(
    name: str, block: nn.Module, linears: dict[str, nn.Linear], passing: list[Stream],
    shelf: MomentStore, *, advance: bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    """H of each input in a block, from disk where an interrupted run left them all."""
    known = set(linears) <= shelf.held
    found = Moments({} if known else linears)
    if not known or advance:
        with found.watching():
            for stream in passing:
                through(block, name, stream, advance=advance)
    for linear in () if known else linears:
        shelf.put(linear, found.result(linear))
    return {linear: shelf.get(linear) for linear in linears}


def _prepare(work: CalibrationJob, prompts: Prompts) -> tuple[Denoiser, list[Stream]]:
    """The model, and what goes into its first block along its own ways."""
    pictures, runner = read_benchmark(work.place.pipeline).settings, TorchRunner(work.place)
    chosen = list(prompts.used)
    captions = torch.from_numpy(runner.encode(chosen, pictures.max_sequence_length))
    seeds = [work.seed * 1_000_003 + i for i in range(len(chosen))]
    noise = start(seeds, pictures, work.place.channels)
    _, rows, columns, _ = noise.shape
    transformer = load_transformer(work.place.part("transformer"), runner.dtype)
    words = pictures.max_sequence_length
    model = Denoiser(transformer.eval(), rows, columns, words).to(runner.device)
    sigmas = levels(rows * columns, pictures.num_inference_steps)
    passing = []
    for at in range(0, len(chosen), work.at_once):
        told = captions[at : at + work.at_once].to(runner.device)
        z = torch.from_numpy(noise[at : at + work.at_once]).flatten(1, 2).to(runner.device)
        states = walk(model, z, told, sigmas)[:-1]
        pieces = [
            (state, torch.full((len(state),), sigma, device=state.device), told)
            for state, sigma in zip(states, sigmas[:-1], strict=True)
        ]
        passing += streams(model, pieces)
    return model, passing


def _round(work: CalibrationJob, name: str, linear: nn.Linear, moments: np.ndarray) -> None:
    """Put the weights in place that the solver will choose when this is converted."""
    assert work.solver is not None
    solver = SOLVERS[work.solver]
    mode: Any = next(t.tensor.action for t in work.plan.tensors if t.tensor.linear == name)
    hessian = Hessian(moments.astype(np.float64))
    weight = linear.weight.detach().float().cpu().numpy()
    solver.prepare(hessian)

    def rows(at: int) -> np.ndarray:
        solved = solve(weight[at : at + ROWS], solver.name, mode, None, hessian)
        return decoded(solved.codes, solved.scales, 2 if mode == "ternary" else 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = np.concatenate(list(pool.map(rows, range(0, len(weight), ROWS))))
    linear.weight.copy_(torch.from_numpy(done))
