"""What a newcomer mistypes, and the answer: an exit code, what is wrong, and the command meant."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest

from bonsai_quant import convert
from bonsai_quant.cli.main import cli
from bonsai_quant.cli.mending import first_fault
from tests.support import models

PAINT = "generate mini-klein-ternary -p 'a red circle'"
TERNARY = "mini-klein --mode ternary"

TABLE = [
    # Names of commands and options.
    ("convertt mini-klein --mode ternary -o x", 2, "No such command 'convertt'",
     "convert mini-klein --mode ternary -o x"),
    ("verfiy mini-klein-ternary", 2, "'verfiy'", "verify mini-klein-ternary"),
    ("frobnicate", 2, "No such command 'frobnicate'", "see bonsai-quant --help"),
    ("verify mini-klein-ternary --levle codes", 2, "'--levle'",
     "verify mini-klein-ternary --level codes"),
    ("verify mini-klein-ternary --levle=codes", 2, "'--levle'",
     "verify mini-klein-ternary --level=codes"),
    ("plan mini-klein --mode ternary --bogus", 2, "No such option '--bogus'",
     "see bonsai-quant plan --help"),
    ("--level file verify mini-klein-ternary", 2, "'--level'",
     "verify mini-klein-ternary --level file"),
    ("verify mini-klein-ternary -- --level file", 2, "extra arguments",
     "verify mini-klein-ternary --level file"),
    ("doctor everything", 2, "extra argument", "bonsai-quant doctor"),
    # Several mistakes at once are mended at once.
    ("convertt mini-klien --mdoe ternray -f mlz", 2, "'convertt'",
     "convert mini-klein --mode ternary -f mlx"),
    ("recover mini-klein", 2, "--out",
     "recover mini-klein --out packs --recipe mini-klein-ternary"),
    ("convert mini-klein --mode ternary --mode binary -o x", 2, "--mode is given twice", "once"),
    # Names of things.
    ("convert mini-klein --mode ternay -o x", 2, "did you mean 'ternary'?",
     "convert mini-klein --mode ternary -o x"),
    (f"convert {TERNARY} -f mlz -o x", 2, "did you mean 'mlx'?", "-f mlx -o x"),
    (f"convert {TERNARY} -f bonsai,gemlit -o x", 2, "'gemlit'", "-f bonsai,gemlite -o x"),
    (f"convert {TERNARY} --solver gtpq -o x", 2, "'gtpq'", "--solver gptq -o x"),
    ("convert mini-klein --recipe mini-klein-ternry -o x", 2, "unknown recipe",
     "convert mini-klein --recipe mini-klein-ternary -o x"),
    ("convert mini-klein --recipe nowhere.yaml -o x", 2, "unknown recipe 'nowhere.yaml'",
     "klein-4b-ternary"),
    ("convert mini-klien --mode ternary -o x", 2, "unknown model", "convert mini-klein --mode"),
    ("verify mini-klein-terary", 2, "unknown pack", "verify mini-klein-ternary"),
    ("generate mini-klein-ternry -p x", 2, "model or pack", "generate mini-klein-ternary -p x"),
    ("verify mini-klein-ternary --level kernle", 2, "'kernle'", "--level kernel"),
    ("verify mini-klein-ternary --backend mxl", 2, "'mxl'", "--backend mlx"),
    (f"{PAINT} --backend cuda", 2, "'cuda'", "choose auto or torch or gemlite or mlx"),
    ("score mini-klein-ternary --split tset", 2, "'tset'", "--split test"),
    ("fold mini-klein --calibration c --moves heds", 2, "'heds'", "--moves heads"),
    ("calibrate mini-klein --solver exact", 2, "'exact'", "choose weighted or gptq"),
    ("completion basch", 2, "'basch'", "completion bash"),
    (f"plan {TERNARY} --explain proj_ot", 2, "did you mean 'proj_out'?", "--explain proj_out"),
    # What is missing.
    ("verify", 2, "Missing argument 'PACK'", "verify mini-klein-ternary"),
    ("convert mini-klein -o x", 2, "--mode", "convert mini-klein -o x --mode ternary"),
    ("plan mini-klein", 2, "ternary or binary", "plan mini-klein --mode ternary"),
    ("distill mini-klein", 2, "--recipe", "distill mini-klein --recipe mini-klein-ternary"),
    ("calibrate mini-klein --solver gptq", 2, "needs to know the mode", "--mode ternary"),
    ("export mini-klein-ternary", 2, "--format",
     "export mini-klein-ternary --format unpacked --out dense"),
    ("export mini-klein-ternary -f", 2, "requires an argument", "-f unpacked --out dense"),
    ("report mini-klein-ternary", 2, "--out", "report mini-klein-ternary --out report"),
    ("diff mini-klein-ternary", 2, "'B'", "diff mini-klein-ternary packs/bonsai"),
    ("publish packs/mlx", 2, "OWNER/NAME", "publish packs/mlx YOUR-NAME/mini-klein-ternary-mlx"),
    ("generate mini-klein-ternary", 2, "--prompt", "--prompt 'a red circle left of a blue square'"),
    (f"plan {TERNARY} --solver gptq", 2, "needs a calibration",
     "bonsai-quant calibrate mini-klein --mode ternary --solver gptq -o calibration"),
    # Words without their option.
    ("convert mini-klein ternary -o x", 2, "extra argument (ternary)",
     "convert mini-klein --mode ternary -o x"),
    (f"convert {TERNARY} packs", 2, "extra argument", "--out packs"),
    ("generate mini-klein-ternary 'a red circle'", 2, "extra argument",
     "generate mini-klein-ternary --prompt 'a red circle'"),
    # Numbers and sizes.
    (f"{PAINT} --size 100x", 2, "WIDTHxHEIGHT", "--size 96x96"),
    (f"{PAINT} --size 65x65", 2, "multiple of 16", "--size 64x64"),
    (f"{PAINT} --size 64,4096", 2, "from 64 to 2048", "--size 64x2048"),
    (f"{PAINT} --seed abc", 2, "'abc'", "--seed 0"),
    (f"{PAINT} --steps 0", 2, "from 1 to 1000", "--steps 1"),
    (f"{PAINT} --steps 2.5", 2, "whole number", "--steps 1"),
    (f"{PAINT} --max-memory 6XB", 2, "'6XB'", "--max-memory 6GB"),
    (f"convert {TERNARY} --threads 0 -o x", 2, "1 to 256", "--threads 1 -o x"),
    (f"convert {TERNARY} --threads all -o x", 2, "'all'", "--threads 1 -o x"),
    ("verify mini-klein-ternary --layers 0", 2, "at least 1", "--layers 1"),
    ("score mini-klein-ternary --prompts -5", 2, "at least 1", "--prompts 1"),
    ("calibrate mini-klein --at-once 0", 2, "at least 1", "--at-once 1"),
    ("distill mini-klein --recipe mini-klein-ternary --rate fast", 2, "'fast'", "--rate 0.0001"),
    ("demo --seed x", 2, "'x'", "demo --seed 0"),
    # One thing in the place of another.
    ("verify mini-klein", 3, "is a model in full precision, not a pack",
     "bonsai-quant convert mini-klein --mode ternary -o packs"),
    ("verify MODEL", 3, "holds no pack", "bonsai-quant convert"),
    ("verify picture.png", 3, "no folder", "bonsai-quant convert"),
    ("publish mini-klein me/it -n", 3, "not a pack", "bonsai-quant convert mini-klein"),
    ("convert mini-klein-ternary --mode ternary -o x", 2, "is a pack",
     "convert mini-klein --mode ternary -o x"),
    ("convert packs --mode ternary -o x", 2, "holds packs",
     "bonsai-quant export packs --format unpacked -o dense"),
    ("convert notes.txt --mode ternary -o x", 3, "notes.txt", ".safetensors"),
    ("convert mini-klein --recipe notes.txt -o x", 3, "notes.txt", "mend the file"),
    (f"convert {TERNARY} --revision main -o x", 2, "no revisions", "leave it out"),
    ("pull my-model", 2, "no repo", "pull YOUR-NAME/my-model"),
    ("pull me/it@a --revision b", 2, "two revisions", "give one"),
    ("diff mini-klein-ternary mini-klein-binary", 4, "different modes", "packs of one mode"),
    # What is not there, and what is.
    ("verify nowhere", 3, "no such folder", "bonsai-quant convert"),
    ("inspect nowhere", 3, "no such file", "check the path"),
    ("convert nowhere --mode ternary -o x", 2, "no file, folder or Hub id", "mini-klein"),
    (f"convert {TERNARY} --lora nowhere.safetensors -o x", 3, "no such file", "check the path"),
    ("generate mini-klein-ternary --prompts nowhere.txt", 3, "no such file", "check the path"),
    (f"convert {TERNARY} -o packs", 7, "exists already", "--overwrite"),
    (f"convert {TERNARY} -o notes.txt", 7, "not a pack of this program", "with -o"),
    ("report mini-klein-ternary -o picture.png", 7, "is a file", "name a folder with -o"),
    ("generate mini-klein-ternary -p ''", 2, "a prompt is empty", "-p"),
    # The common options may stand before the command.
    ("--json verify nowhere", 3, "no such folder", "bonsai-quant convert"),
]  # fmt: skip


@pytest.fixture
def desk(tiny, packs, tmp_path, monkeypatch):
    """A folder with a model, packs, a text, and what is named like a picture."""
    models.save_folder(tmp_path / "MODEL", models.tensors())
    shutil.copytree(packs.out, tmp_path / "packs")
    (tmp_path / "notes.txt").write_text("a red circle is not a safetensors file")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def packs(tiny, tmp_path_factory):
    """The tiny model in one format."""
    out = tmp_path_factory.mktemp("wrong") / "out"
    return convert(str(tiny), mode="ternary", out=out, formats="bonsai")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("line", "code", "says", "next_step"), TABLE, ids=[t[0] for t in TABLE])
def test_an_answer_says_what_to_type(run, desk, line, code, says, next_step):
    before = sorted(p.name for p in desk.iterdir())
    result = run(*shlex.split(line))
    assert result.code == code, result.err
    what, arrow, step = result.err.strip().rpartition(" -> ")
    assert arrow and len(result.err.splitlines()) == 1
    assert what.startswith("error[")
    assert says in what
    assert next_step in step
    assert sorted(p.name for p in desk.iterdir()) == before


@pytest.mark.parametrize("line", [t[0] for t in TABLE if t[3].split()[0] in cli.commands])
def test_what_is_to_be_typed_can_be_parsed(run, desk, line):
    step = run(*shlex.split(line)).err.strip().rpartition(" -> ")[2]
    program, *words = shlex.split(step)
    assert program == "bonsai-quant"
    assert first_fault(cli, words) is None


@pytest.mark.parametrize("line", ["convertt --json", "verify nowhere --json", "--json verify",
                                  "convert mini-klein --mode x --json"])  # fmt: skip
def test_with_json_an_error_is_an_object(run, desk, line):
    result = run(*shlex.split(line))
    answer = json.loads(result.out)
    error = answer["error"]
    assert answer["schema_version"] == 1
    assert error["code"] == result.code
    assert set(error) == {"code", "kind", "message", "where", "hint"}
    assert result.err.startswith(f"error[{error['kind']}]: ")
    assert error["message"] in result.err and error["hint"] in result.err


def test_without_json_stdout_stays_empty(run, desk):
    assert run("verify", "nowhere").out == ""
    assert run("verify", "nowhere", "--", "--json").out == ""


def test_secrets_are_not_repeated(run):
    result = run("convert", "mini-klein", "--mode", "ternay", "-o", "hf_abcdefghijkl")
    assert (result.code, "hf_abc" in result.err) == (2, False)


def test_good_words_in_other_spellings(run, desk):
    sizes = [("--max-memory", s) for s in ("1GB", "1g", "0.9GiB", "1000000000")]
    for options in (("-f", "Bonsai, MLX"), *sizes):
        result = run("plan", "MODEL", "--mode", "TERNARY", *options)
        assert (result.code, result.err) == (0, "")


def test_common_options_before_the_command(run):
    before, after = run("--json", "inspect", "mini-klein"), run("inspect", "mini-klein", "--json")
    assert (before.code, before.out) == (0, after.out)
    assert json.loads(before.out)["schema_version"] == 1


def test_the_program_alone_prints_its_help(run):
    alone, asked = run(), run("--help")
    assert (alone.code, alone.err) == (0, "")
    assert alone.out == asked.out
