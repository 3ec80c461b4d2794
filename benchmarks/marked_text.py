"""Where results go: JSON in benchmarks/results, and tables between two marks of a page."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_between(page: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->` on a page."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, opened, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"{page}: has no {begin} ... {end}")
    page.write_text(f"{before}{begin}\n{text.rstrip()}\n{end}{after}")
