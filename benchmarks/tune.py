"""What `tune` takes at FLUX.2 Klein's widths: seconds an update and memory, on a slice, measured.

    python -m benchmarks.tune [--updates 20] [--size 256]

A made model with one double and two single blocks, rounded to a ternary pack; one prompt at a time,
at the sampler's four levels. What the whole model takes of a GPU is counted by the program itself.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import click
import psutil
import torch

from bonsai_quant import convert
from bonsai_quant.conversion.plan import plan
from bonsai_quant.core.numbers import size
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.provenance_record import RecipeRecord
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.memory_meter import Meter, give_back
from bonsai_quant.runners.sampling import levels
from bonsai_quant.training.distill.batches import Batches
from bonsai_quant.training.distill.coded_linear import coded_transformer
from bonsai_quant.training.distill.job import DistillationJob
from bonsai_quant.training.distill.memory_need import needed
from bonsai_quant.training.distill.trainer import Trainer
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.settings import TuningSettings
from bonsai_quant.training.trajectories.denoiser import Denoiser, load_transformer
from tools.make_checkpoint import make

from .calibrate import WORDS
from .marked_text import RESULTS

PROMPTS = 8


def trainer(source: Path, pack: Path, side: int, updates: int) -> tuple[Trainer, DistillationJob]:
    """All that a tuning has in memory, with random captions."""
    work = plan(str(source), mode="ternary", formats="unpacked", transformer_only=True)
    settings = TuningSettings(steps=updates, batch=4, at_once=1, prompts=PROMPTS)
    job = DistillationJob(
        Pipeline("slice", source, None), work, settings, None, 0, source,
        RecipeRecord(name="", sha256=""), open_pack(pack),
    )  # fmt: skip
    rows, config = side // 16, work.info.config
    size3 = (rows, rows, WORDS)
    teacher = Denoiser(load_transformer(source / "transformer", torch.float32), *size3)
    student = coded_transformer(open_pack(pack))
    student.enable_gradient_checkpointing()
    captions = torch.randn(PROMPTS, WORDS, int(config["joint_attention_dim"]))
    processes = ProcessGroup(0, 1, torch.device("cpu"))
    shape = (rows * rows, int(config["in_channels"]))
    batches = Batches(captions, shape, list(levels(rows * rows, 4)), settings, 0, processes)
    learning = Denoiser(student.train().requires_grad_(True), *size3)
    teacher.eval().requires_grad_(False)
    return Trainer(learning, teacher, batches, settings, processes), job


@click.command()
@click.option("--updates", default=20)
@click.option("--size", "side", default=256)
def main(updates: int, side: int) -> None:
    """Measure, print, and write results/tune.json."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=".") as made:
        source = make(Path(made) / "slice", "wide")
        convert(str(source), mode="ternary", formats="bonsai", out=Path(made) / "pack",
                transformer_only=True)  # fmt: skip
        give_back()
        before = psutil.Process().memory_info().rss
        with Meter(lambda: int(psutil.Process().memory_info().rss)) as meter:
            tuning, job = trainer(source, Path(made) / "pack" / "bonsai", side, updates)
            seconds, losses = [], []
            for _ in range(updates):
                begin = perf_counter()
                losses.append(tuning.update())
                seconds.append(perf_counter() - begin)
        parts = needed(_at(job, side), 1, half=False)
    result = {
        "updates": updates, "side": side, "states an update": 4, "threads": torch.get_num_threads(),
        "seconds an update, median": statistics.median(seconds), "losses": losses,
        "peak of this process above its start": meter.peak - before, "counted": parts,
        "counted in all": sum(parts.values()),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tune.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['seconds an update, median']:.1f} s an update of 4 states at {side} px")
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} after {updates} updates")
    print(f"peak {size(meter.peak - before)}, counted {size(sum(parts.values()))}")


def _at(job: DistillationJob, side: int) -> DistillationJob:
    """The job with a benchmark.json of this size beside its model."""
    (job.pipeline.folder / "benchmark.json").write_text(
        json.dumps({"height": side, "width": side, "max_sequence_length": WORDS})
    )
    return replace(job)


if __name__ == "__main__":
    main()
