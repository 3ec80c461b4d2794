"""The commands of the README, as a newcomer types them: section by section, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import bonsai_quant
from bonsai_quant import convert
from bonsai_quant.cli.main import cli
from tests.support.fakehub import use
from tests.support.writehub import WriteHub

README = Path(bonsai_quant.__file__).parents[1] / "README.md"
FEWER = {"score": ["--prompts", "1", "--images", "1"], "generate": ["--steps", "1"]}
"""So that a test does not paint for minutes."""
ONLY_PARSED = ("recover", "demo")
"""Trained and painted for in tests of their own."""


def sections() -> dict[str, list[list[str]]]:
    """Title -> its commands, with words as a shell takes them apart."""
    found = {}
    for part in re.split(r"^## ", README.read_text(), flags=re.M)[1:]:
        lines = re.findall(r"^    bonsai-quant (.+)$", part, flags=re.M)
        if lines:
            found[part.splitlines()[0]] = [shlex.split(line) for line in lines]
    return found


@pytest.mark.parametrize("title", sections())
def test_the_commands_work(title, shipped, standin_packs, cache, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (shipped / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    commands = sections()[title]
    with WriteHub() as hub:
        use(hub.url, monkeypatch)
        if not any(c[0] == "convert" for c in commands):
            convert("mini-klein", mode="ternary", out="packs")
            bonsai_quant.report("packs", out="report")
        for name, *rest in commands:
            hub.name = next((w for w in rest if w.startswith("YOUR-NAME/")), hub.name)
            if name in ONLY_PARSED:
                cli.commands[name].make_context(name, list(rest))
                continue
            result = run(name, *rest, *FEWER.get(name, []))
            assert result.code == 0, (name, rest, result.err)


def test_every_command_is_in_the_table():
    text = README.read_text()
    for name in cli.commands:
        assert re.search(rf"^\| .*`{name}\b", text, flags=re.M), name


def test_every_command_line_parses():
    """Of the table, too: options that it names are the command's."""
    for row in re.findall(r"^\| `([a-z]+)[^|]*\| (.*) \|$", README.read_text(), flags=re.M):
        name, text = row
        if name in cli.commands:
            known = {o for p in cli.commands[name].params for o in p.opts}
            assert set(re.findall(r"`(--?[a-z-]+)`", text)) <= known, name
