"""What the shell offers: the scripts, and the protocol that they speak."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from bonsai_quant.conversion.settings import shipped, shipped_recipes

PROGRAM = "from bonsai_quant.cli.main import main; main()"


def offered(words: str) -> list[str]:
    """Ask as the script for bash does: `type,value` for each thing that may stand last."""
    typed = words.split(" ")
    protocol = {"_BONSAI_QUANT_COMPLETE": "bash_complete", "COMP_WORDS": words,
                "COMP_CWORD": str(len(typed) - 1)}  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | protocol
    answer = subprocess.run([sys.executable, "-c", PROGRAM], env=environment,
                            capture_output=True, text=True)  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_asks_this_program(run, shell):
    result = run("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert f"_BONSAI_QUANT_COMPLETE={shell}_complete" in result.out
    assert "bonsai-quant" in result.out
    data = json.loads(run("completion", shell, "--json").out)
    assert (data["shell"], data["script"]) == (shell, result.out.removesuffix("\n"))


def test_an_unknown_shell_is_a_mistake(run):
    result = run("completion", "tcsh")
    assert (result.code, result.out) == (2, "")
    assert "unknown shell 'tcsh'" in result.err


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_reads_its_script(run, tmp_path):
    (tmp_path / "script").write_text(run("completion", "bash").out)
    code = f". {tmp_path / 'script'} && complete -p bonsai-quant"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("bonsai-quant")


@pytest.mark.parametrize(("words", "expected"), [
    ("bonsai-quant con", ["plain,convert"]),
    ("bonsai-quant completion f", ["plain,fish"]),
    ("bonsai-quant convert --mo", ["plain,--mode"]),
    ("bonsai-quant convert --mode ", ["plain,ternary", "plain,binary"]),
    ("bonsai-quant convert mini", ["file,mini", "plain,mini-klein"]),
    ("bonsai-quant convert --solver w", ["plain,weighted"]),
    ("bonsai-quant calibrate --solver ", ["plain,weighted", "plain,gptq"]),
    ("bonsai-quant convert -f g", ["plain,gemlite", "plain,gguf"]),
    ("bonsai-quant export mini-klein-t", ["file,mini-klein-t", "plain,mini-klein-ternary"]),
    ("bonsai-quant verify packs --level k", ["plain,kernel"]),
    ("bonsai-quant verify packs --backend g", ["plain,gemlite"]),
    ("bonsai-quant generate packs --backend a", ["plain,auto"]),
    ("bonsai-quant score mini-klein-b", ["file,mini-klein-b", "plain,mini-klein-binary"]),
    ("bonsai-quant recover --recipe mini-klein-b",
     ["file,mini-klein-b", "plain,mini-klein-binary"]),
])  # fmt: skip
def test_names_are_offered(words, expected):
    assert offered(words) == expected


def test_every_shipped_recipe_is_offered():
    names = shipped_recipes()
    assert "klein-4b-ternary" in names
    assert all(shipped(name) for name in names)
    assert offered("bonsai-quant convert --recipe ")[1:] == [f"plain,{name}" for name in names]


def test_the_module_says_how_it_was_started():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "bonsai_quant"]
    plain = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True)
    assert plain.stdout.startswith("Usage: python -m bonsai_quant [OPTIONS] COMMAND")
    version = subprocess.run(
        [*command, "--version"], env=environment, capture_output=True, text=True
    )
    assert version.stdout.startswith("bonsai-quant, version ")
