"""Print the structure of the package: entries, levels, circles, arrows, and what a command walks.

    python tools/structure.py [--tree] [PACKAGE]

Entries are the folders and files that stand directly in the package. An arrow is an import from
one entry into another, however many files have it. An entry stands one level above the highest
that it imports; entries that import one another in a circle share a level. A command walks through
every entry in which it calls a function.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import grimp
import networkx as nx

WALKS = {
    "convert": "convert {source} --mode ternary --format bonsai,mlx --out {work}/packs",
    "verify": "verify {work}/packs/mlx --against {source}",
    "generate": "generate {work}/packs/mlx --prompt x --steps 1 --backend torch --out {work}/x.png",
    "publish": "publish {work}/packs/mlx me/x --license apache-2.0 --dry-run",
}
CALLED = """
import importlib, os, sys, threading
note, package = sys.argv[1], sys.argv.pop(2)
del sys.argv[1]
main = importlib.import_module(package + ".cli.main").main
root = os.path.dirname(sys.modules[package].__file__) + os.sep
seen, called = set(), set()

def look(frame, event, argument):
    code = frame.f_code
    if code in seen:
        return
    seen.add(code)
    if code.co_filename.startswith(root) and code.co_flags & 1:  # a function, no body of a class
        called.add(code.co_filename[len(root):].split(os.sep)[0].removesuffix(".py"))

threading.setprofile(look)
sys.setprofile(look)
try:
    main()
finally:
    sys.setprofile(None)
    open(note, "w").write(" ".join(sorted(called - {"__init__"})))
"""
"""A child that runs a command and notes in which entries a function was called."""


def entry(module: str) -> str:
    """The entry of the package that a module belongs to; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def files(package: str) -> nx.DiGraph:
    """Which file imports which."""
    graph = grimp.build_graph(package, cache_dir=None)
    arrows = nx.DiGraph()
    arrows.add_nodes_from(graph.modules)
    for module in graph.modules:
        imported = graph.find_modules_directly_imported_by(module)
        arrows.add_edges_from((module, other) for other in imported)
    return arrows


def entries(arrows: nx.DiGraph) -> nx.DiGraph:
    """Which entry imports which; the package's own face, `__init__`, is left out."""
    between = nx.DiGraph()
    between.add_nodes_from(entry(m) for m in arrows if entry(m))
    pairs = ((entry(a), entry(b)) for a, b in arrows.edges)
    between.add_edges_from((a, b) for a, b in pairs if a and b and a != b)
    return between


def levels(between: nx.DiGraph) -> list[list[str]]:
    """Entries by level, the lowest first."""
    merged = nx.condensation(between)
    height: dict[int, int] = {}
    for node in reversed(list(nx.topological_sort(merged))):
        height[node] = 1 + max((height[n] for n in merged.successors(node)), default=0)
    rows: list[list[str]] = [[] for _ in range(max(height.values()))]
    for node, level in height.items():
        rows[level - 1] += merged.nodes[node]["members"]
    return [sorted(row) for row in rows]


def circles(arrows: nx.DiGraph) -> list[list[str]]:
    """Groups of files that import one another in a circle."""
    return [sorted(c) for c in nx.strongly_connected_components(arrows) if len(c) > 1]


def tree(root: Path) -> Iterator[str]:
    """The package two levels deep."""
    for path in sorted(root.iterdir()):
        if path.name == "__pycache__":
            continue
        inside = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        shown = [n.removesuffix(".py") for n in inside if not n.startswith("__")]
        yield f"{path.name}{'/' if path.is_dir() else ''}  {' '.join(shown)}".rstrip()


def walks(package: str, source: str) -> dict[str, list[str]]:
    """Command -> the entries in which it calls a function. Runs each command on `source`."""
    found = {}
    with tempfile.TemporaryDirectory() as work:
        note = Path(work) / "entries.txt"
        for name, line in WALKS.items():
            arguments = [str(note), package, *line.format(source=source, work=work).split()]
            done = subprocess.run(
                [sys.executable, "-c", CALLED, *arguments], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"{line}: {done.stderr}")
            found[name] = note.read_text().split()
    return found


@click.command()
@click.argument("package", default="bonsai_quant")
@click.option("--source", default="mini-klein", show_default=True, help="What the walks convert.")
@click.option("--tree", "shows_tree", is_flag=True, help="Print the package two levels deep.")
def main(package: str, source: str, shows_tree: bool) -> None:
    """Measure and print."""
    arrows = files(package)
    between = entries(arrows)
    root = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    rows = levels(between)
    click.echo(f"entries {len(between)}, levels {len(rows)}, arrows {between.number_of_edges()}")
    for number, row in reversed(list(enumerate(rows, 1))):
        click.echo(f"  {number:2}  {'  '.join(row)}")
    groups = circles(arrows)
    click.echo(f"circles of files: {len(groups)}")
    for group in groups:
        click.echo(f"  {', '.join(group)}")
    for name, entered in walks(package, source).items():
        click.echo(f"{name} walks through {len(entered)}: {', '.join(entered)}")
    if shows_tree:
        click.echo("\n".join(tree(root)))


if __name__ == "__main__":
    main()
