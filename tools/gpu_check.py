"""Measure this program on an NVIDIA GPU: gemlite's runner, and what calibrates and trains.

    python -m tools.gpu_check [--json FILE] [--minutes 9]

Products of FLUX.2 Klein 4B's shapes in three ways, which say for which rows gemlite's kernels are;
a picture by each backend; solving, calibrating, tuning and distilling a slice at Klein's widths;
and `verify --level kernel` on the packs that ship. Prints Markdown.

Exit code 6: no card, or gemlite is missing. 5: something is wrong on this card. --dry walks through
all of it on a CPU, with a decoded product in the place of gemlite's, to see that it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import click

from bonsai_quant.core.errors import EnvironmentFault, VerificationFailed
from bonsai_quant.core.requirements import installed
from bonsai_quant.core.version import TOOL, __version__

PACKS = ("mini-klein-ternary", "mini-klein-binary")
DRY_SHAPES, DRY_ROWS = {(128, 128): 8, (768, 256): 2}, (8, 1)
FOR_PRODUCTS, FOR_ONE_MODE = 0.6, 0.65
"""Shares of the minutes: for all products, and of those for ternary ones, which come first."""


@click.command()
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write JSON here.")
@click.option("--minutes", default=9.0, show_default=True, help="For all of it, about.")
@click.option("--pack", "packs", multiple=True, default=PACKS, show_default=True)
@click.option("--pipeline", help="Where the packs' other parts are. [default: their source]")
@click.option("--dry", is_flag=True, help="On a CPU, with stand-ins.")
def main(
    file: Path | None, minutes: float, packs: tuple[str, ...], pipeline: str | None, dry: bool
) -> None:
    """Measure, print, and exit with what was found."""
    from bonsai_quant.runners.gemlite import card

    try:
        with standing_in() if dry else _nothing():
            device = card.open_card()
            found = check(device, minutes, packs, pipeline, dry)
    except EnvironmentFault as e:
        click.echo(f"not run: no card ({e})", err=True)
        sys.exit(e.exit_code)
    from tools.gpu.table import as_json, as_markdown

    if file:
        file.write_text(json.dumps(as_json(found), indent=2) + "\n")
    click.echo(as_markdown(found))
    sys.exit(VerificationFailed.exit_code if found.wrong else 0)


def check(device, minutes: float, packs: tuple[str, ...], pipeline: str | None, dry: bool):  # noqa: ANN001, ANN201
    """All parts, the pictures and the kernels even when minutes are over: they are short."""
    import torch

    from bonsai_quant.packs.pipeline import locate
    from tools.gpu.clock import Clock
    from tools.gpu.kernels import verified
    from tools.gpu.pictures import painted
    from tools.gpu.products import ALL_ROWS, measure, shapes_of
    from tools.gpu.table import Found
    from tools.gpu.training import trained

    found = Found(_machine(device), dry)
    shapes = DRY_SHAPES if dry else shapes_of("flux2-klein-4b")
    share = minutes * FOR_PRODUCTS
    for bits, part in ((2, FOR_ONE_MODE), (1, 1 - FOR_ONE_MODE)):
        clock = Clock(device, share * part, quick=dry)
        rows = DRY_ROWS if dry else ALL_ROWS
        found.products += measure(shapes, rows, bits, clock, torch.bfloat16)
    clock = Clock(device, minutes - share, quick=dry)

    def attempt(what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as e:  # Triton's errors have no common kin; the other parts are still told
            found.problems.append(f"{what}: {' '.join(str(e).split())[:200]}")

    attempt("pictures", lambda: found.pictures.extend(
        painted(locate(packs[0], pipeline=pipeline), clock)))  # fmt: skip
    # Part by part: what was measured before the minutes are over is told.
    attempt("training", lambda: [found.training.append(t) for t in trained(device, clock)])
    attempt("kernels", lambda: found.kernels.extend(verified(packs)))
    return found


def _machine(device) -> dict[str, str]:  # noqa: ANN001
    import torch

    facts = {"card": "none"}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts = {
            "card": about.name,
            "compute capability": f"{about.major}.{about.minor}",
            "memory": f"{about.total_memory / 1e9:.1f} GB",
            "CUDA": str(torch.version.cuda),
        }
    packages = {name: installed(name) or "none" for name in ("torch", "triton", "gemlite")}
    return facts | packages | {TOOL: __version__}


@contextmanager
def standing_in() -> Iterator[None]:
    """The CPU for the card, and a decoded product for gemlite's."""
    import torch

    from bonsai_quant.runners.gemlite.linear import GemliteLinear
    from bonsai_quant.runners.torch.packed_linear import RowsLinear

    def decoded(self: GemliteLinear, x: torch.Tensor, rows: int) -> torch.Tensor:
        return RowsLinear.forward(self, x)

    with (
        patch("bonsai_quant.runners.gemlite.card.open_card", lambda: torch.device("cpu")),
        patch.object(GemliteLinear, "_by_gemlite", decoded),
    ):
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    main()
