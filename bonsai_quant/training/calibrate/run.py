"""Block after block: collect moments, write them, round the block if asked to, and run it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from bonsai_quant.conversion.calibration_file import MOMENTS, RECORD, CalibrationRecord
from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import TensorSpec
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
from bonsai_quant.storage.journal import Journal, finished
from bonsai_quant.storage.staging import Staging, kept_for_resume
from bonsai_quant.storage.writer import WeightFile
from bonsai_quant.training.compute import compute_here
from bonsai_quant.training.trajectories.denoiser import Denoiser, load_transformer, walk
from bonsai_quant.training.trajectories.prompts import Prompts, choose_prompts, prompts_record

from .block_walk import Stream, blocks, first_streams, run_block
from .job import CalibrationJob
from .moments import Moments
from .store import MomentStore

ROWS = 256
"""Rows of a layer that one thread solves at a time."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def run(
    job: CalibrationJob, *, overwrite: bool, resume: bool, progress: Progress
) -> CalibrationRecord:
    """Write OUT; -> its record."""
    prompts = choose_prompts(job.pipeline, job.prompts, job.n_prompts)
    identity = {
        "schema_version": 1,
        "tool": {"name": TOOL, "version": __version__},
        "base": job.plan.info.base,
        "mode": job.plan.info.mode if job.solver else None,
        "solver": job.solver,
        "inputs": job.inputs,
        "source": {f.name: fs.sha256_file(f.path)[1] for f in job.plan.source.files},
        "prompts": {"number": len(prompts.used), "sha256": prompts.sha256},
        "seed": job.seed,
        "n_prompts": job.n_prompts,
        "at_once": job.at_once,
    }
    with (
        Staging(job.out, overwrite=overwrite, resume=resume, left=finished) as staging,
        kept_for_resume(staging),
    ):
        journal = Journal(staging, identity, resume=resume, of=len(set(job.inputs.values())))
        layout = safetensors_layout(_specs(job), {"format": "bonsai-quant calibration"})
        file = WeightFile(staging, MOMENTS, layout, resume=bool(journal.entries))
        try:
            states = _collect(job, prompts, MomentStore(file, journal), progress)
            size, sha256 = file.finish()
        finally:
            file.close()
            journal.close()
        result = {
            "prompts": prompts_record(prompts, job.prompts).model_dump(),
            "compute": compute_here(),
            "states": states,
            "size": size,
            "sha256": sha256,
            "files": [RECORD, MOMENTS],
        }
        record = CalibrationRecord.model_validate(identity | result)
        staging.write_file(RECORD, record.model_dump_json(indent=2).encode() + b"\n")
        staging.commit({MOMENTS, RECORD})
    return record


def _specs(job: CalibrationJob) -> list[TensorSpec]:
    """One F32 tensor [in, in] for each input."""
    width = {t.tensor.linear: t.tensor.shape[1] for t in job.plan.tensors if t.tensor.packed}
    names = sorted(set(job.inputs.values()))
    return [TensorSpec(n, "F32", (width[n], width[n])) for n in names]


def _collect(job: CalibrationJob, prompts: Prompts, store: MomentStore, progress: Progress) -> int:
    """Go through all blocks; -> how many states went through them."""
    progress.phase("painting the prompts")
    model, streams = _load(job, prompts)
    all_blocks = list(blocks(model, job.family.blocks))
    progress.phase("calibrating", len(all_blocks), "blocks")
    for name, block in all_blocks:
        inputs = {k: v for k, v in job.inputs.items() if k.startswith(f"{name}.")}
        linears = {k: block.get_submodule(k.removeprefix(f"{name}.")) for k in inputs}
        readers = {v: linears[v] for v in inputs.values()}
        moments = _moments(name, block, readers, streams, store, advance=job.solver is None)
        if job.solver is not None:
            for linear, first in inputs.items():
                _round(job, linear, linears[linear], moments[first])
            for stream in streams:
                run_block(block, name, stream, advance=True)
        progress.advance()
    return sum(len(s.picture) for s in streams)


def _moments(
    name: str, block: nn.Module, linears: dict[str, nn.Linear], streams: list[Stream],
    store: MomentStore, *, advance: bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    """H of each input in a block, from disk where an interrupted run left them all."""
    stored = set(linears) <= store.stored
    moments = Moments({} if stored else linears)
    if not stored or advance:
        with moments.collecting():
            for stream in streams:
                run_block(block, name, stream, advance=advance)
    for linear in () if stored else linears:
        store.put(linear, moments.result(linear))
    return {linear: store.get(linear) for linear in linears}


def _load(job: CalibrationJob, prompts: Prompts) -> tuple[Denoiser, list[Stream]]:
    """The model, and the inputs of its first block on its own path from noise to picture."""
    settings, runner = read_benchmark(job.pipeline.folder).settings, TorchRunner(job.pipeline)
    n_words = settings.max_sequence_length
    captions = torch.from_numpy(runner.encode(list(prompts.used), n_words))
    seeds = [job.seed * 1_000_003 + i for i in range(len(prompts.used))]
    noise = start(seeds, settings, job.pipeline.channels)
    _, rows, columns, _ = noise.shape
    transformer = load_transformer(job.pipeline.part("transformer"), runner.dtype)
    model = Denoiser(transformer.eval(), rows, columns, n_words).to(runner.device)
    sigmas = levels(rows * columns, settings.num_inference_steps)
    streams = []
    for at in range(0, len(prompts.used), job.at_once):
        some = captions[at : at + job.at_once].to(runner.device)
        z = torch.from_numpy(noise[at : at + job.at_once]).flatten(1, 2).to(runner.device)
        states = walk(model, z, some, sigmas)[:-1]
        batches = [
            (state, torch.full((len(state),), sigma, device=state.device), some)
            for state, sigma in zip(states, sigmas[:-1], strict=True)
        ]
        streams += first_streams(model, batches)
    return model, streams


def _round(job: CalibrationJob, name: str, linear: nn.Linear, moments: np.ndarray) -> None:
    """Give a linear the weights that the solver will choose when this is converted."""
    assert job.solver is not None
    solver = SOLVERS[job.solver]
    mode: Any = next(t.tensor.action for t in job.plan.tensors if t.tensor.linear == name)
    hessian = Hessian(moments.astype(np.float64))
    weight = linear.weight.detach().float().cpu().numpy()
    solver.prepare(hessian)

    def rounded_rows(at: int) -> np.ndarray:
        solved = solve(weight[at : at + ROWS], solver.name, mode, None, hessian)
        return decoded(solved.codes, solved.scales, 2 if mode == "ternary" else 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rounded = np.concatenate(list(pool.map(rounded_rows, range(0, len(weight), ROWS))))
    linear.weight.copy_(torch.from_numpy(rounded))
