"""Every block of README and of the site, as a newcomer types it: page by page, in order."""

from __future__ import annotations

import re
import shutil
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from bonsai_quant.cli.main import cli
from tests.docs.blocks import ROOT, Block, blocks, pages
from tests.support.fakehub import use
from tests.support.writehub import WriteHub

LANGUAGES = {"bash", "python", "yaml", "text"}
NOT_RUN = 5
"""Blocks that say why they are not run."""
FEWER = {
    "score": ("--prompts", "1", "--images", "1"),
    "generate": ("--steps", "1"),
    "calibrate": ("--n-prompts", "2"),
}
"""So that a test does not paint for minutes."""
REAL_FEWER = {"score": FEWER["score"], "calibrate": ("--n-prompts", "16")}
"""With mini-klein itself: two prompts do not tell enough for its binary `gptq` pack."""
ONLY_PARSED = ("demo",)
"""Painted for in a test of its own."""
SHELL = ("cd", "ls", "source", "cp", "python3")


@pytest.mark.parametrize(
    "page", [p for p in pages() if any(b.language != "text" for b in blocks(p))]
)
def test_the_blocks_work(page, place, which, cache, monkeypatch, run):
    """With random weights; and, in minutes, with mini-klein itself (`-m slow`).

    Shorter in both: `score` paints one picture for each category, `calibrate` sees few prompts,
    and recipes train for one update. With mini-klein itself `generate` paints in as many steps
    as the page says.
    """
    fewer = FEWER if which == "standin" else REAL_FEWER
    reader = Reader(place, monkeypatch, run, fewer)
    with WriteHub() as hub:
        use(hub.url, monkeypatch)
        reader.hub = hub
        for block in blocks(page):
            reader.take(block)


class Reader:
    """Types what a page says."""

    def __init__(self, place: Path, monkeypatch, run, fewer: dict[str, tuple[str, ...]]) -> None:
        self.place, self.monkeypatch, self.run, self.fewer = place, monkeypatch, run, fewer
        self.hub: WriteHub | None = None
        self.names: dict[str, object] = {}

    def take(self, block: Block) -> None:
        if block.title:
            Path(block.title).write_text(block.text)
        if block.language == "python" and not block.reason:
            exec(compile(block.text, "page", "exec"), self.names)
        if block.language == "bash":
            for words in block.commands:
                self.type(words, block.reason is not None)

    def type(self, words: list[str], only_parsed: bool) -> None:
        program, *rest = words
        if program == "bonsai-quant":
            self.ours(rest, only_parsed)
        elif program == "torchrun":
            assert rest[2:4] == ["-m", "bonsai_quant"], words
            parse(rest[4], rest[5:])
        elif program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), flags=re.M), words
        elif program == "pip":
            check_extras(rest)
        elif program == "hf":
            self.download(rest)
        elif program == "python":
            assert (ROOT / rest[0]).is_file(), words
        elif program == "git":
            assert rest == ["clone", project()["urls"]["Repository"]], words
        elif program == "cp":
            shutil.copytree(rest[1], rest[2], dirs_exist_ok=True)
        else:
            assert program in SHELL or only_parsed, words

    def ours(self, words: list[str], only_parsed: bool) -> None:
        name, *rest = words
        into = None
        if ">" in rest:
            at = rest.index(">")
            rest, into = rest[:at], rest[at + 1]
        if only_parsed or name in ONLY_PARSED:
            parse(name, rest)
            return
        self.hub.name = next((w for w in rest if w.startswith("YOUR-NAME/")), self.hub.name)
        self.lend(name, rest)
        result = self.run(name, *rest, *self.fewer.get(name, ()))
        assert result.code == 0, (words, result.err)
        if into is not None:
            target = Path(into).expanduser()
            if into.startswith("~"):  # whoever uses that shell has its folders
                target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(result.out)

    def lend(self, name: str, words: list[str]) -> None:
        """What a page takes for granted: packs and the source of another page."""
        for word in words:
            if word == "FLUX.2-klein-4B" and not Path(word).exists():
                shutil.copytree("my-finetune", word)
            if name in ("generate", "verify", "score", "publish") and word == "packs":
                if not Path(word).exists():
                    assert self.run("convert", "mini-klein", "--mode", "ternary",
                                    "-f", "bonsai,mlx", "-o", "packs").code == 0  # fmt: skip

    def download(self, words: list[str]) -> None:
        """`hf download`: the stand-in lies where the page wants it."""
        assert any(e.name == "hf" for e in entry_points(group="console_scripts"))
        assert words[0] == "download" and words[2] == "--local-dir", words
        shutil.copytree("my-finetune", words[3])


def parse(name: str, words: list[str]) -> None:
    """The command has these options."""
    cli.commands[name].make_context(name, list(words))


def check_extras(words: list[str]) -> None:
    """`pip install -e '.[a,b]'`: the package has these extras."""
    assert words[0] == "install", words
    extras = re.search(r"\.\[([a-z,]+)\]$", words[-1])
    known = project()["optional-dependencies"]
    assert extras and set(extras[1].split(",")) <= set(known), words


def project() -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_blocks_are_fenced_and_say_their_language():
    for page in pages():
        text = (ROOT / page).read_text()
        assert {b.language for b in blocks(page)} <= LANGUAGES, page
        assert text.count("```") == 2 * len(blocks(page)), page
        programs = "bonsai-quant|make|pip|python3?|hf|git|torchrun"
        assert not re.search(rf"^    (?:{programs}) ", text, flags=re.M), page


def test_few_blocks_are_not_run():
    reasons = [b.reason for p in pages() for b in blocks(p) if b.reason]
    assert len(reasons) == NOT_RUN, reasons


def test_every_command_is_in_the_table_of_the_readme():
    text = (ROOT / "README.md").read_text()
    for name in cli.commands:
        assert re.search(rf"^\| .*`{name}\b", text, flags=re.M), name


def test_options_in_tables_are_those_of_the_command():
    rows = re.findall(r"^\| `([a-z]+)[^|]*\| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    for name, text in rows:
        if name in cli.commands:
            known = {o for p in cli.commands[name].params for o in p.opts}
            assert set(re.findall(r"`(--?[a-z-]+)`", text)) <= known, name


@pytest.mark.heavy
def test_the_first_picture_is_right(tmp_path, run):
    """With the pack that ships, as first-picture.md has it, and judged by the checker."""
    import numpy as np
    from PIL import Image

    from bonsai_quant.evaluation.scenes.checker import check
    from bonsai_quant.evaluation.scenes.scene import Meaning, Want
    from bonsai_quant.evaluation.scenes.world import WORLDS

    page = blocks("docs/first-picture.md")
    words = next(w for b in page if b.language == "bash" for w in b.commands if "generate" in w)
    picture = tmp_path / "circle.png"
    assert run(*words[1:-1], picture).code == 0
    wanted = Meaning("position", (Want("circle", "red"), Want("square", "blue")), "left")
    assert check(np.asarray(Image.open(picture)), wanted, WORLDS["small"]).passed
