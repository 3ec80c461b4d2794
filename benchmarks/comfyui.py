"""Run packs in ComfyUI's engine, and write what was measured into docs/how-to/comfyui.md.

    BONSAI_COMFYUI=../ComfyUI python -m benchmarks.comfyui [--memory]

The model is made: of Klein's kind, with 128 latent channels, 2 double and 4 single blocks, and
random weights. Everything is held against diffusers in float32 with the weights decoded from the
same pack: the dense file and the packed one; then the packed one with a LoRA of rank 8 on every
packed layer, whose measure is the LoRA added to the decoded weights.

With --memory it is another model, as wide as Klein 4B and with three blocks, which takes 4 GB of
disk; how a process grows is measured with it.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from bonsai_quant import convert
from bonsai_quant.core.schema import MODES, Mode
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.runners.torch.dense import dense_transformer
from bonsai_quant.runners.torch.runner import velocity_of
from tools.make_checkpoint import make

from .clients.comfyui import answers
from .marked_text import ROOT, write_between

PAGE, MARK = ROOT / "docs/how-to/comfyui.md", "comfyui"
BATCHES = (1, 4)
RANK, ALPHA, STRENGTH = 8, 4.0, 0.8
SIZE, TOKENS, SIGMA = (8, 6), 32, 0.7
HEAD = """| mode, pictures | `comfyui` | `comfyui-packed` | with a LoRA | off again | parameters |
|---|---|---|---|---|---|"""
MEMORY_HEAD = """| mode | format | parameters | the process, while it loads and computes |
|---|---|---|---|"""


@click.command()
@click.option("--memory", is_flag=True, help="Measure memory instead, with a wider model.")
def main(memory: bool) -> None:
    """Measure, print and write."""
    size, head, row_of, mark = ("wide", MEMORY_HEAD, grown, f"{MARK}-memory") if memory else (
        "small", HEAD, measure, MARK)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source = make(Path(folder) / size, size) / "transformer"
        rows = [row for mode in MODES for row in row_of(source, Path(folder) / mode, mode)]
    table = "\n".join([head, *rows])
    click.echo(table)
    write_between(PAGE, mark, table)


def grown(source: Path, out: Path, mode: Mode) -> list[str]:
    """A row for each format: a process of its own, one picture of 16 x 16 tokens, 64 of text."""
    rows, names = [], ("comfyui", "comfyui-packed")
    convert(str(source), mode=mode, formats=names, out=out)
    for name in names:
        pack = open_pack(out / name)
        width = pack.info.config["joint_attention_dim"]
        inputs = draw(1, width, (16, 16), 64)
        _, (facts,) = answers([{"file": str(pack.path), "loras": []}], **inputs)
        parameters, most = facts["bytes"] / 1e9, facts["grown"] / 1e9
        rows.append(f"| {mode} | `{name}` | {parameters:.2f} GB | {most:.2f} GB |")
        pack.path.unlink()
    return rows


def measure(source: Path, out: Path, mode: Mode) -> list[str]:
    """A row for each size of batch."""
    names = ["bonsai", "comfyui", "comfyui-packed"]
    convert(str(source), mode=mode, formats=names, out=out)
    pack, *files = (open_pack(out / name) for name in names)
    lora, deltas = make_lora(pack, out / "lora.safetensors")
    dense, packed = (str(f.path) for f in files)
    runs: list[dict[str, Any]] = [{"file": dense, "loras": []}]
    runs += [{"file": packed, "loras": x} for x in ([], [(str(lora), STRENGTH)], [])]
    rows = []
    for n in BATCHES:
        inputs = draw(n, pack.info.config["joint_attention_dim"])
        found, facts = answers(runs, **inputs)
        plain, merged = (expected(pack, inputs, d) for d in ({}, deltas))
        errors = [error(found[0], plain), error(found[1], plain), error(found[2], merged)]
        off = np.array_equal(found[1], found[3]) and facts[1]["sha256"] == facts[3]["sha256"]
        decibels = -20 * math.log10(errors[2])
        rows.append(
            f"| {mode}, {n} | {errors[0]:.1e} | {errors[1]:.1e} | {errors[2]:.1e}, "
            f"{decibels:.0f} dB | {'bit for bit' if off else 'not the same'} | "
            f"{facts[1]['bytes'] / 1e6:.1f} of {facts[0]['bytes'] / 1e6:.1f} MB |"
        )
    return rows


def make_lora(pack: Pack, path: Path) -> tuple[Path, dict[str, Any]]:
    """A LoRA on every packed layer, and what it adds to each: B A alpha / rank."""
    import torch
    from safetensors.torch import save_file

    random, tensors, deltas = torch.Generator().manual_seed(0), {}, {}
    for t in pack.info.packed:
        out, n = t.shape
        down = torch.randn(RANK, n, generator=random) / n**0.5
        up = torch.randn(out, RANK, generator=random) / 50
        name = f"transformer.{t.linear}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        deltas[t.name] = STRENGTH * ALPHA / RANK * up @ down
    save_file(tensors, path)
    return path, deltas


def draw(n: int, width: int, size: tuple[int, int] = SIZE, tokens: int = TOKENS) -> dict[str, Any]:
    """n states of so many rows and columns, and captions [n, tokens, width]."""
    rng = np.random.default_rng(n)
    z = rng.standard_normal((n, *size, 128)).astype(np.float32)
    captions = rng.standard_normal((n, tokens, width)).astype(np.float32)
    return {"z": z, "sigma": SIGMA, "captions": captions}


def expected(pack: Pack, inputs: dict[str, Any], deltas: dict[str, Any]) -> np.ndarray:
    """diffusers' velocity in float32. deltas: what is added to the decoded weights."""
    import torch

    model = dense_transformer(pack)
    with torch.inference_mode():
        state = model.state_dict()
        for name, delta in deltas.items():
            state[name] += delta
        return velocity_of(model, **inputs)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Relative, of the whole velocity."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


if __name__ == "__main__":
    main()
