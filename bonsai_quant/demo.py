"""The whole loop on a small model: plan, convert, verify, inspect, diff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .bases.flux2 import dense_specs
from .convert import Converted, convert
from .diff import PackDiff, diff
from .errors import OutputExists
from .inspect import Inspection, inspect
from .plan import Plan, plan
from .verify import Verdict, verify

BLOCKS = (2, 4)
SIZES = {"h": 256, "i": 128, "o": 128, "j": 384, "t": 256, "d": 128, "m": 768}
"""A FLUX.2 transformer of 8 million weights; letters as in `bases.flux2`."""


@dataclass(frozen=True, slots=True)
class Demo:
    """Everything the loop made, for the command line to show."""

    source: Path
    plan: Plan
    packs: dict[str, Converted]
    inspections: tuple[Inspection, ...]
    verdicts: dict[str, Verdict]
    solvers: PackDiff


def demo(
    out: str | Path = "bonsai-demo",
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Make a small checkpoint with random weights, convert it in both modes, and prove the packs.

    out: a new folder for all of it.  say: told each step before it is taken.
    """
    folder = Path(out)
    if folder.exists():
        raise OutputExists(
            "exists already", where=str(folder), hint="remove it, or name another -o"
        )
    say(f"make a small FLUX.2 checkpoint with random weights: {folder / 'source'}")
    source = make_checkpoint(folder / "source", seed=seed)
    say("plan: what will happen to every tensor, from headers alone")
    work = plan(str(source), mode="ternary")
    packs, verdicts = {}, {}
    for mode in ("ternary", "binary"):
        say(f"convert --mode {mode}, then verify --level kernel --against the source")
        packs[mode] = convert(str(source), mode=mode, out=folder / mode)
        verdicts[mode] = verify(folder / mode, level="kernel", against=str(source), layers=1)
    say("convert --solver absmean, then diff against the exact optimum")
    convert(str(source), mode="ternary", solver="absmean", formats="bonsai", out=folder / "absmean")
    solvers = diff(folder / "absmean", folder / "ternary")
    return Demo(source, work, packs, inspect(folder / "ternary"), verdicts, solvers)


def make_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """A transformer folder in diffusers' layout: bf16, Gaussian weights of std 1 / sqrt(in)."""
    import ml_dtypes
    from safetensors.numpy import save_file

    from .formats.format import json_bytes

    rng = np.random.default_rng(seed)
    specs, config = dense_specs(BLOCKS, SIZES)
    tensors = {}
    for s in specs:
        centre, spread = (1.0, 0.1) if len(s.shape) == 1 else (0.0, s.shape[1] ** -0.5)
        values = centre + spread * rng.standard_normal(s.shape, np.float32)
        tensors[s.name] = values.astype(ml_dtypes.bfloat16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes(json_bytes(config))
    return folder
