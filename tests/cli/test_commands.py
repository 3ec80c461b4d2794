"""What all commands share, and the commands that other files do not test."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import bonsai_quant
from bonsai_quant import diff, inspect
from bonsai_quant.cli.main import cli
from bonsai_quant.sources.shipped import NAMES, PACKS
from tests.support import models

COMMANDS = ("calibrate", "convert", "demo", "diff", "distill", "doctor", "export", "fold",
            "generate", "inspect", "plan", "publish", "pull", "recover", "report", "score",
            "tune", "verify")  # fmt: skip


def test_every_command_is_a_function_of_the_package():
    assert set(cli.commands) == {*COMMANDS, "completion", "path"}
    for name in COMMANDS:
        assert callable(getattr(bonsai_quant, name))


@pytest.mark.parametrize("command", (*COMMANDS, "completion", "path"))
def test_help_ends_with_an_example(run, command):
    result = run(command, "--help")
    assert result.code == 0
    assert "--json" in result.out
    if command not in ("doctor", "demo"):
        assert f"bonsai-quant {command} " in result.out


def test_starting_imports_nothing_heavy():
    heavy = "numba,torch,mlx,diffusers,transformers,huggingface_hub,gemlite,triton,PIL,matplotlib,"
    heavy += "rich.progress"
    code = (
        "import sys\n"
        "from bonsai_quant.cli.main import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print([m for m in {heavy!r}.split(',') if m in sys.modules])"
    )
    paths = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=paths)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_planning_and_inspecting_import_nothing_heavy(tiny, packs):
    code = (
        "import sys, bonsai_quant\n"
        f"bonsai_quant.plan({str(tiny)!r}, mode='ternary')\n"
        f"bonsai_quant.inspect({str(packs.out)!r})\n"
        "print([m for m in ('numba', 'torch', 'mlx', 'diffusers') if m in sys.modules])"
    )
    paths = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=paths)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["convert", "SRC"], 2, "Missing option '--mode'"),
    (["convert", "SRC", "--mode", "trinary"], 2, "unknown mode 'trinary'"),
    (["convert", "SRC", "--mode", "ternary", "--format", "mlz"], 2, "did you mean 'mlx'?"),
    (["convert", "nowhere", "--mode", "ternary"], 2, "no file, folder or Hub id"),
    (["verify", "nowhere"], 3, "holds no pack"),
    (["inspect", "nowhere"], 3, "no such file"),
    (["convertt"], 2, "No such command"),
    (["plan", "SRC", "--mode", "ternary", "--threads", "0"], 2, "threads"),
    (["plan", "SRC", "--mode", "ternary", "--max-memory", "1000"], 2, "this needs"),
])  # fmt: skip
def test_mistakes_get_one_line_and_a_code(run, tiny, arguments, code, words):
    result = run(*[str(tiny) if a == "SRC" else a for a in arguments])
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_convert_prints_results_and_nothing_on_stderr(run, tiny, tmp_path):
    out = tmp_path / "packs"
    result = run("convert", tiny, "--mode", "binary", "-o", out, "--format", "bonsai,mlx")
    assert (result.code, result.err) == (0, "")
    assert str(out / "mlx") in result.out
    again = run("convert", tiny, "--mode", "binary", "-o", out)
    assert (again.code, "--overwrite" in again.err) == (7, True)
    replaced = run("convert", tiny, "--mode", "ternary", "-o", out, "--overwrite", "--json")
    assert replaced.code == 0
    assert json.loads(replaced.out)["manifests"]["bonsai"]["mode"] == "ternary"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["packs"]


def test_overwrite_spares_folders_that_hold_more_than_packs(run, tiny, packs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    result = run("convert", tiny, "--mode", "binary", "-o", tmp_path / "mine", "--overwrite")
    assert (result.code, "thesis" in str(list((tmp_path / "mine").iterdir()))) == (7, True)


def test_dry_run_writes_nothing(run, tiny, tmp_path):
    result = run("convert", tiny, "--mode", "ternary", "-o", tmp_path / "out", "-n")
    assert result.code == 0
    assert "writes" in result.out
    assert not list(tmp_path.iterdir())


def test_the_default_output_is_named_after_source_and_mode(run, tmp_path, monkeypatch):
    models.save_folder(tmp_path / "klein" / "transformer", models.tensors())
    monkeypatch.chdir(tmp_path)
    assert run("convert", "klein", "--mode", "binary", "--format", "bonsai").code == 0
    assert (tmp_path / "klein-binary/bonsai/manifest.json").exists()


def test_inspect_tells_checkpoints_packs_and_others_apart(packs, tmp_path):
    (checkpoint,) = inspect(packs.source)
    assert (checkpoint.kind, dict(checkpoint.facts)["layout"]) == ("checkpoint", "diffusers")
    found = inspect(packs.out)
    assert [dict(i.facts)["format"] for i in found] == list(packs.formats)
    assert {dict(i.facts)["mode"] for i in found} == {packs.mode}
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3), np.int64)}, tmp_path / "other.safetensors")
    (other,) = inspect(tmp_path / "other.safetensors")
    assert (other.kind, dict(other.facts)["dtypes"]) == ("safetensors", "1 I64")


def test_diff_counts_flips_and_drift(tiny, tmp_path, run):
    import numpy as np

    from bonsai_quant import convert
    from bonsai_quant.packs.read import open_pack
    from bonsai_quant.quantization import packing as bits

    for solver in ("exact", "absmean"):
        convert(str(tiny), mode="ternary", solver=solver, out=tmp_path / solver, formats="bonsai")
    result = diff(tmp_path / "exact", tmp_path / "absmean")
    a, b = (open_pack(tmp_path / s / "bonsai") for s in ("exact", "absmean"))
    for d in result.layers:
        tensor = next(t for t in a.info.tensors if t.name == d.name)
        if not tensor.packed:
            assert d.same
            continue
        x, y = (bits.unpack(p.layer(tensor).codes, 2).astype(int) for p in (a, b))
        s, t = (p.layer(tensor).scales.astype(np.float64) for p in (a, b))
        assert d.flipped == np.count_nonzero(x != y)
        assert d.sign_flips == np.count_nonzero(np.abs(x - y) == 2)
        assert d.scale_drift == pytest.approx(np.abs(t / s - 1).max(), rel=1e-5)
    text = run("diff", tmp_path / "exact", tmp_path / "absmean").out
    assert "solver: exact | absmean" in text
    assert "16 of 33 tensors differ" in text


def test_packs_in_different_formats_do_not_differ(packs):
    assert diff(packs.out / "mlx", packs.out / "gemlite").same


def test_packs_of_different_modes_are_not_compared(tiny, tmp_path, run):
    from bonsai_quant import convert

    for mode in ("ternary", "binary"):
        convert(str(tiny), mode=mode, out=tmp_path / mode, formats="bonsai")
    result = run("diff", tmp_path / "ternary", tmp_path / "binary")
    assert (result.code, "different modes" in result.err) == (4, True)


def test_a_damaged_pack_is_not_exported(packs, tmp_path, run):
    import shutil

    shutil.copytree(packs.out / "bonsai", tmp_path / "bad")
    data = bytearray((tmp_path / "bad/model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad/model.safetensors").write_bytes(data)
    result = run("export", tmp_path / "bad", "--format", "mlx", "-o", tmp_path / "copy")
    assert (result.code, (tmp_path / "copy").exists()) == (5, False)


def test_path_prints_the_folder_of_a_shipped_model_alone(run):
    for name in (*NAMES, *PACKS):
        folder = run("path", name).out.removesuffix("\n")
        assert inspect(folder) == inspect(name)
        assert json.loads(run("path", name, "--json").out)["path"] == folder
    assert [line.split()[0] for line in run("path").out.splitlines()] == [*NAMES, *PACKS]
    wrong = run("path", "mini-klien")
    assert (wrong.code, "did you mean 'mini-klein'" in wrong.err) == (2, True)


def test_path_says_what_is_not_installed(run, monkeypatch, tmp_path):
    monkeypatch.setattr("bonsai_quant.sources.shipped.DATA", tmp_path)
    for name in (*NAMES, *PACKS):
        done = run("path", name)
        assert (done.code, str(tmp_path / name) in done.err) == (6, True)
