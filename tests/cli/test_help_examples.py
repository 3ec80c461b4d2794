"""The examples at the end of every `--help`: they are typed as they stand, and work."""

from __future__ import annotations

import shlex

import pytest

from bonsai_quant.cli.main import cli
from bonsai_quant.cli.mending import first_fault
from bonsai_quant.conversion.settings import shipped_recipes
from tests.docs.conftest import data, finetune, place, which  # noqa: F401
from tests.docs.test_commands import FEWER, REAL_FEWER, Reader
from tests.support.fakehub import use
from tests.support.writehub import WriteHub

TERNARY = "bonsai-quant convert mini-klein --mode ternary -f bonsai,mlx -o packs"
PUBLISH = "bonsai-quant publish packs/mlx YOUR-NAME/mini-klein-ternary-mlx"
BEFORE = {
    "verify": (TERNARY,), "inspect": (TERNARY,), "diff": (TERNARY,), "publish": (TERNARY,),
    "report": (TERNARY,),
    "pull": (TERNARY, PUBLISH),
}  # fmt: skip
"""What the examples of a command take for granted: what other commands made."""
FROM_THE_HUB = ("black-forest-labs/", "klein-4b-")
"""Examples with the real model are parsed, not run: they need the network, or a GPU for days."""


def examples(command) -> list[list[str]]:
    words = [shlex.split(line, comments=True) for line in command.examples]
    return [w for w in words if w]


def ours(command) -> list[list[str]]:
    """The words behind `bonsai-quant`, without what the shell takes."""
    lines = [w for w in examples(command) if w[0] == "bonsai-quant"]
    return [w[1 : w.index(">")] if ">" in w else w[1:] for w in lines]


@pytest.mark.parametrize("name", cli.commands)
def test_a_command_has_one_to_three_examples_of_itself(name):
    own = [w for w in ours(cli.commands[name]) if w[0] == name]
    assert 1 <= len(own) <= 3


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_examples_can_be_parsed_and_name_what_there_is(name):
    for words in ours(cli.commands[name] if name else cli):
        assert first_fault(cli, words) is None
        if "--recipe" in words:
            assert words[words.index("--recipe") + 1] in shipped_recipes()


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["", *cli.commands])
def test_examples_work(name, which, place, cache, monkeypatch, run):  # noqa: F811
    fewer = FEWER if which == "standin" else REAL_FEWER
    reader = Reader(place, monkeypatch, run, fewer)
    with WriteHub() as hub:
        use(hub.url, monkeypatch)
        reader.hub = hub
        for line in BEFORE.get(name, ()):
            reader.type(shlex.split(line), only_parsed=False)
        for words in examples(cli.commands[name] if name else cli):
            real = any(mark in word for word in words for mark in FROM_THE_HUB)
            if words[0] != "echo":
                reader.type(words, only_parsed=real)
