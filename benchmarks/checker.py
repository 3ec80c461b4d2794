"""Measure the checker on pictures whose content is known: `python -m benchmarks.checker`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from bonsai_quant.evaluation.scenes.validation import Row, validate
from bonsai_quant.evaluation.scenes.world import WORLDS


@click.command()
@click.option("--world", type=click.Choice(sorted(WORLDS)), default="small", show_default=True)
@click.option("--pictures", default=600, show_default=True, help="Pictures of every kind.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(world: str, pictures: int, seed: int, file: Path | None) -> None:
    """Print as a table what the checker says about right, worsened and wrong pictures."""
    rows = validate(WORLDS[world], pictures=pictures, seed=seed)
    click.echo(table(rows))
    if file:
        record = {"world": world, "seed": seed, "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(record, indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Two markdown tables: what should pass, and what should fail with a certain reason."""
    lines = ["| right pictures | pictures | pass | mean score |", "|---|---:|---:|---:|"]
    for row in rows:
        if row.right:
            lines.append(f"| {row.name} | {row.pictures} | {row.passed:.2%} | {row.score:.3f} |")
    lines += ["", "| wrong pictures | pictures | fail | for the right reason | mean score |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for row in rows:
        if not row.right:
            reason = "any" if row.named is None else f"{row.named:.2%} {row.expected}"
            failed = f"{1 - row.passed:.2%} | {reason}"
            lines.append(f"| {row.name} | {row.pictures} | {failed} | {row.score:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
