"""Run full-size packs and print seconds a step and memory, for docs/running.md.

    python -m benchmarks.generate --source FOLDER [--work .bench] [--sizes 256,512] [--steps 2]

The weights are synthetic and so are the captions: 512 tokens of noise, as if the text encoder had
been there and left. Each run is a process of its own; the rows of one table come from one run of
this program on one machine, one after the other.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from bonsai_quant.core.memory import resident

from .marked_text import RESULTS, ROOT, write_between

WORDS, WIDTH = 512, 7680
WHITEPAPER = {"ternary": 1.96, "binary": 1.50}
"""Active memory of the released packs at 512 x 512, in GB."""


def child(model: str, backend: str, side: int, steps: int, pipeline: Path) -> dict[str, Any]:
    """One model, one size: load, walk, decode; -> seconds and bytes."""
    from bonsai_quant.packs.pipeline import Pipeline
    from bonsai_quant.packs.read import open_pack
    from bonsai_quant.runners import open_runner
    from bonsai_quant.runners.memory_meter import Meter
    from bonsai_quant.runners.noise import draw
    from bonsai_quant.runners.sampling import PIXELS, levels, walk

    folder = Path(model)
    pack = open_pack(folder) if (folder / "manifest.json").exists() else None
    whole = Pipeline(folder.name, pipeline if pack else folder, pack)
    runner = open_runner(whole, backend)
    tokens = side // PIXELS
    z = draw(0, tokens, tokens, whole.channels)[None]
    captions = np.random.default_rng(0).normal(size=(1, WORDS, WIDTH)).astype(np.float32)
    sigmas = levels(tokens * tokens, steps)
    figures: dict[str, Any] = {"at_rest": resident(), "steps": []}
    with runner.transformer() as velocity:
        figures["loaded"] = resident()
        for now in sigmas[:-1]:
            with Meter(resident) as meter:
                velocity(z, now, captions)
            figures["steps"].append({"seconds": meter.seconds, "peak": meter.peak})
    decoding = open_runner(Pipeline("decoder", pipeline, pack), backend)
    with Meter(resident) as meter, decoding.decoder() as decode:
        decode(walk(lambda z, *_: z * 0, z, captions, [1.0, 0.0])[-1])
    return figures | {"decode_seconds": meter.seconds, "decode_peak": meter.peak}


def make_parts(folder: Path) -> None:
    """A decoder of FLUX.2's real shapes with random weights, and Klein's scheduler."""
    if folder.exists():
        return
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler

    from tools.mini.validation import SCHEDULER

    torch.manual_seed(0)
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    AutoencoderKLFlux2().to(torch.bfloat16).save_pretrained(part / "vae")
    FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER).save_pretrained(part / "scheduler")
    part.rename(folder)


def pipeline_of(checkpoint: Path, work: Path, parts: Path) -> Path:
    """The checkpoint's transformer beside the scheduler, as a pipeline's folder has them."""
    folder = work / "source"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "transformer").symlink_to((checkpoint / "transformer").resolve())
    (folder / "scheduler").symlink_to((parts / "scheduler").resolve())
    return folder


def table(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """One line per model and size."""
    lines = [
        "| model | runner | size | s / step | memory while denoising | of it above rest "
        "| decoder | whitepaper, 512 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "error" in r:
            lines.append(f"| {r['model']} | {r['backend']} | {r['side']} | not run: {r['error']} |")
            continue
        peak = max(s["peak"] for s in r["steps"])
        seconds = float(np.median([s["seconds"] for s in r["steps"]]))
        known = f"{WHITEPAPER[r['model']]:.2f} GB" if r["model"] in WHITEPAPER else ""
        lines.append(
            f"| {r['model']} | {r['backend']} | {r['side']} x {r['side']} | {seconds:.0f} "
            f"| {peak / 1e9:.2f} GB | {(peak - r['at_rest']) / 1e9:.2f} GB "
            f"| {r['decode_seconds']:.0f} s, {r['decode_peak'] / 1e9:.2f} GB | {known} |"
        )
    lines += ["", f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}; the "
              "peak of the whole process, its libraries included, and what of it came after "
              "they were loaded; `make bench-run` repeats it."]  # fmt: skip
    return "\n".join(lines)


@click.command()
@click.option("--work", default=str(ROOT / ".bench"), help="Folder for what the bench makes.")
@click.option("--source", help="A full-size checkpoint, instead of making one.")
@click.option("--sizes", default="256,512", show_default=True, help="Pixels of a side.")
@click.option("--backends", default="torch,mlx", show_default=True)
@click.option("--models", default="ternary,binary,source", show_default=True)
@click.option("--steps", default=2, show_default=True, help="Steps timed for each row.")
@click.option("--child", "task", nargs=2, help="Internal: model and backend of one run.")
def main(
    work: str, source: str | None, sizes: str, backends: str, models: str, steps: int,
    task: tuple[str, str] | None,
) -> None:  # fmt: skip
    """Measure, print, and write results/generate.json and the table of docs/running.md."""
    folder = Path(work)
    parts = folder / "parts"
    if task:
        click.echo(json.dumps(child(*task, int(sizes), steps, parts)))
        return
    from bench import find_source, machine

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = find_source(source, folder)
    make_parts(parts)
    places = {}
    for mode in (m for m in models.split(",") if m != "source"):
        places[mode] = folder / f"run-{mode}" / "mlx"
        if not places[mode].exists():
            subprocess.run([sys.executable, "-m", "bonsai_quant", "convert", str(checkpoint),
                            "--mode", mode, "-f", "mlx", "--transformer-only",
                            "-o", str(places[mode].parent)],
                           check=True)  # fmt: skip
    places["source"] = pipeline_of(checkpoint, folder, parts)
    rows = []
    for model in models.split(","):
        for backend in backends.split(",") if model != "source" else ("torch",):
            for side in (int(n) for n in sizes.split(",")):
                click.echo(f"- {model}, {backend}, {side}", err=True)
                rows.append(run(places[model], model, backend, side, steps, folder))
    target = RESULTS / "generate.json"
    target.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    text = table(rows, machine())
    page = ROOT / "docs" / "running.md"
    write_between(page, "run", text)
    click.echo(text)


def run(
    folder: Path, model: str, backend: str, side: int, steps: int, work: Path
) -> dict[str, Any]:
    """One row, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.generate", "--child", str(folder), backend,
         "--sizes", str(side), "--steps", str(steps), "--work", str(work)],
        capture_output=True, text=True,
    )  # fmt: skip
    row = {"model": model, "backend": backend, "side": side}
    if done.returncode:
        return row | {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]}
    return row | json.loads(done.stdout)


if __name__ == "__main__":
    main()
