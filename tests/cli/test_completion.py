"""What the shell offers: the scripts, and the protocol that they speak."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from bonsai_quant.cli.main import main
from bonsai_quant.conversion.settings import shipped, shipped_recipes

PROGRAM = "from bonsai_quant.cli.main import main; main()"


def protocol(words: str) -> dict[str, str]:
    """The variables by which bash's script asks what may stand last."""
    return {"_BONSAI_QUANT_COMPLETE": "bash_complete", "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" "))}  # fmt: skip


@pytest.fixture
def offered(capsysbinary, monkeypatch):
    """Ask as that script does: `type,value` for each thing that may stand last."""

    def ask(words: str) -> list[str]:
        for name, value in protocol(words).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as stop:
            main([])
        answer = capsysbinary.readouterr()
        assert (stop.value.code, answer.err) == (0, b"")
        return answer.out.decode().splitlines()

    return ask


def test_a_process_of_its_own_answers_the_shell():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True,
                            env=environment | protocol("bonsai-quant con"))  # fmt: skip
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "plain,convert\n", "")


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
    ("bonsai-quant convert -f gguf-", ["plain,gguf-pq2_0", "plain,gguf-ptq1_0"]),
    ("bonsai-quant export mini-klein-t", ["file,mini-klein-t", "plain,mini-klein-ternary"]),
    ("bonsai-quant verify packs --level k", ["plain,kernel"]),
    ("bonsai-quant verify packs --backend g", ["plain,gemlite"]),
    ("bonsai-quant generate packs --backend a", ["plain,auto"]),
    ("bonsai-quant score mini-klein-b", ["file,mini-klein-b", "plain,mini-klein-binary"]),
    ("bonsai-quant recover --recipe mini-klein-b",
     ["file,mini-klein-b", "plain,mini-klein-binary"]),
])  # fmt: skip
def test_names_are_offered(offered, words, expected):
    assert offered(words) == expected


def test_every_shipped_recipe_is_offered(offered):
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
