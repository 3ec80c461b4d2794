"""The painted states and the weights of their tokens, kept for a run that is resumed."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from bonsai_quant.core.progress import Progress
from bonsai_quant.storage import fs
from bonsai_quant.training.distributed import ProcessGroup

from .job import CalibrationJob
from .paint import TokenWeights, paint
from .prepared import Prepared
from .store import Store

FILE = "states.safetensors"


def painted(
    job: CalibrationJob, prepared: Prepared, store: Store, progress: Progress
) -> tuple[list[torch.Tensor], TokenWeights]:
    """This process's states, level by level, and what their tokens count in every part."""
    weights, levels = TokenWeights(), len(prepared.sigmas) - 1
    if tensors := prepared.processes.broadcast(_kept(store)):
        mine = {n: _share(x, levels, prepared.processes) for n, x in tensors.items()}
        weights.of = {_part(n): x for n, x in mine.items() if n != "states"}
        return list(mine["states"].unflatten(0, (levels, -1))), weights
    blocks, groups = len(prepared.model.block_names), -(-len(prepared.noise) // prepared.group)
    runs = 2 * blocks * groups * levels
    progress.phase("painting the prompts and weighing tokens", runs, "blocks")
    parts = {linear: job.rows(linear) for linear in job.layers}
    states = paint(prepared, parts, weights, seed=job.seed, tick=progress.advance)
    weights.finish(prepared.processes)
    own = {"states": torch.cat(states)} | {f"{n} {at}": w for (n, at), w in weights.of.items()}
    whole = {n: _whole(prepared.processes.gather(x), levels) for n, x in own.items()}
    if prepared.processes.first:
        _keep(store, whole)
    return states, weights


def _kept(store: Store) -> dict[str, torch.Tensor] | None:
    """What an interrupted run left, of all prompts; in the first process alone."""
    known = store.journal.entries.get(FILE) if store.journal else None
    if known is None or store.staging is None:
        return None
    path = store.staging.path / FILE
    if not path.is_file() or fs.sha256_file(path)[1] != known.get("sha256"):
        return None
    tensors: dict[str, torch.Tensor] = load(path.read_bytes())
    return tensors


def _keep(store: Store, tensors: dict[str, torch.Tensor]) -> None:
    assert store.staging is not None and store.journal is not None
    store.staging.write_file(FILE, save({n: x.contiguous() for n, x in tensors.items()}))
    sha256 = fs.sha256_file(store.staging.path / FILE)[1]
    store.journal.add({"tensor": FILE, "sha256": sha256})


def _whole(shares: list[torch.Tensor], levels: int) -> torch.Tensor:
    """[levels * own prompts, ...] of every process -> [levels * prompts, ...], prompts in order."""
    split = [x.unflatten(0, (levels, -1)) for x in shares]
    return torch.stack(split, 2).flatten(0, 2)


def _share(whole: torch.Tensor, levels: int, processes: ProcessGroup) -> torch.Tensor:
    """The inverse, of one process."""
    return whole.unflatten(0, (levels, -1))[:, processes.rank :: processes.size].flatten(0, 1)


def _part(name: str) -> tuple[str, int]:
    linear, _, start = name.rpartition(" ")
    return linear, int(start)
