"""What is said after Ctrl-C: the command that goes on, where there is one, and nothing untrue."""

from __future__ import annotations

import shlex

import pytest

from bonsai_quant.cli.failure import Typed
from bonsai_quant.cli.main import cli


@pytest.mark.parametrize(("line", "says"), [
    ("convert 'my model' --mode ternary", "continue with: bonsai-quant convert 'my model' "
     "--mode ternary --resume"),
    ("convert m --mode ternary --resume", "bonsai-quant convert m --mode ternary --resume"),
    ("recover m --recipe r -o p --json", "bonsai-quant recover m --recipe r -o p --json --resume"),
    ("distill -- m", "bonsai-quant distill --resume -- m"),
    ("publish packs/mlx me/it", "continue with: bonsai-quant publish packs/mlx me/it"),
    ("pull me/it", "continue with: bonsai-quant pull me/it"),
])  # fmt: skip
def test_what_goes_on_is_named(line, says):
    failure = Typed(cli, "bonsai-quant", tuple(shlex.split(line))).interrupted(130)
    assert (failure.code, failure.kind) == (130, "interrupted")
    assert str(failure).startswith("interrupted; continue with: ")
    assert str(failure).endswith(says)


@pytest.mark.parametrize("line", ["verify packs", "plan m --mode ternary", "inspect p", "doctor",
                                  "convert m --mode ternary -n", "export p -f mlx -o out",
                                  "report p -o out", "frobnicate", ""])  # fmt: skip
def test_nothing_is_promised_where_nothing_goes_on(line):
    failure = Typed(cli, "bonsai-quant", tuple(line.split())).interrupted(143)
    assert (str(failure), failure.code) == ("interrupted", 143)


def test_many_processes_are_started_again_by_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    typed = Typed(cli, "bonsai-quant", ("distill", "m", "--recipe", "r"))
    assert "the same torchrun command and --resume" in str(typed.interrupted(130))
