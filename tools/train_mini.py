"""Train mini-klein, part by part: `python tools/train_mini.py all --size small --out FOLDER`.

Every part goes on where it was stopped, and takes a GPU if there is one.
"""

from __future__ import annotations

from pathlib import Path

import click

PARTS = ("autoencoder", "decoder", "encoder", "latents", "teacher", "distill", "assemble")


@click.command()
@click.argument("part", type=click.Choice([*PARTS, "all"]))
@click.option("--size", type=click.Choice(["small", "half", "large"]), default="small")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="CPU threads; by default every core.")
def main(part: str, size: str, out: Path, seed: int, threads: int | None) -> None:
    """Train one part, or all in order."""
    import importlib

    import torch

    if threads:
        torch.set_num_threads(threads)
    package = f"{__package__}.mini" if __package__ else "mini"
    sizes = importlib.import_module(f"{package}.sizes").SIZES
    for name in PARTS if part == "all" else (part,):
        importlib.import_module(f"{package}.{name}").train(sizes[size], out, seed)


if __name__ == "__main__":
    main()
