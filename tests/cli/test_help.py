"""What `--help` looks like: in groups, in any width, without colors where none are wanted."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from bonsai_quant.cli.commands import GROUPS
from bonsai_quant.cli.main import cli
from tools.help_page import MARK, on_page_markdown

NAMES = ("", *cli.commands)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits_and_is_not_cut(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for name in NAMES:
        text = run(*name.split(), "--help").out
        lines = text.splitlines()
        long = [line for line in lines if len(line) > width and " " in line.strip(" \\")]
        assert long == [], name
        assert not re.search(r"\.\.\.$|…", text.partition("\n\n")[2], flags=re.M), name
        assert not any(line.endswith(" ") for line in lines), name


def test_commands_stand_in_groups_and_in_order(run):
    text = run("--help").out
    places = [text.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for title, commands in GROUPS.items():
        group = text[text.index(f"\n{title}:\n") :].split("\n\n")[0]
        assert re.findall(r"^  ([a-z]+) ", group, flags=re.M) == [c.name for c in commands]


@pytest.mark.parametrize("name", cli.commands)
def test_every_option_is_shown_once_and_explained(run, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "120")
    text = run(name, "--help").out.split("\nExamples:")[0]
    for param in cli.commands[name].params:
        assert getattr(param, "help", None), param.name
        if param.opts[0].startswith("-"):
            spelled = max(param.opts, key=len)
            assert len(re.findall(rf"^ +(?:-\w  )?{spelled} ", text, flags=re.M)) == 1, spelled


def test_choices_and_defaults_are_shown(run):
    text = " ".join(run("verify", "--help").out.split())
    assert "[file | codes | kernel | step | image] [default: codes]" in text
    assert "[ternary | binary]" in " ".join(run("convert", "--help").out.split())


def in_a_terminal(**environment: str) -> str:
    """The help as a terminal with colors gets it."""
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    code = "from bonsai_quant.cli.main import main; main(['verify', '--help'])"
    return subprocess.run([sys.executable, "-c", code], env=os.environ | paths | environment,
                          capture_output=True, text=True).stdout  # fmt: skip


def test_colors_suit_light_and_dark_and_can_be_left_out():
    colored = in_a_terminal()
    used = {c for codes in re.findall(r"\x1b\[([0-9;]+)m", colored) for c in codes.split(";")}
    assert "36" in used  # cyan
    assert not used & {"30", "37", "33", "90", "97", "38", "48"}  # black, white, yellow, fixed
    plain = in_a_terminal(NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)


def test_the_page_has_the_help_of_every_command():
    page = on_page_markdown(f"# Command line\n\n{MARK}\n")
    for name, command in cli.commands.items():
        part = page[page.index(f"\n## {name}\n") :].split("\n## ")[1]
        assert f"Usage: bonsai-quant {name} " in part
        assert all(max(p.opts, key=len) in part for p in command.params if p.opts[0][0] == "-")
    assert on_page_markdown("# Another page") == "# Another page"
