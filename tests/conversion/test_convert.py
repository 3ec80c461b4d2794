"""The same bytes from every way to the same model, and packs that say what the source says."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from bonsai_quant import convert, plan
from bonsai_quant.conversion import stream as pipeline
from bonsai_quant.conversion.planned_files import MEASURED
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization import packing as bits
from bonsai_quant.quantization.solvers import solve
from tests.support import models

ABOUT = ("manifest.json", "README.md")
"""What says where a pack is from."""


def hashes(out, *, manifests=True):
    """Relative path -> sha256 of every file below `out`."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and (manifests or p.name not in ABOUT)
    }


@pytest.fixture(scope="module", params=["ternary", "binary"])
def golden(request, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("golden") / "out"
    mode = request.param
    convert(str(tiny), mode=mode, out=out, formats=models.FORMATS[mode], threads=1)
    return mode, hashes(out), hashes(out, manifests=False)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_a_byte(golden, tiny, tmp_path, threads):
    mode, expected, _ = golden
    out, formats = tmp_path / "out", models.FORMATS[mode]
    convert(str(tiny), mode=mode, out=out, formats=formats, threads=threads)
    assert hashes(tmp_path / "out") == expected


@pytest.mark.parametrize("block", [1000, 70_000])
def test_block_sizes_do_not_change_a_byte(golden, tiny, tmp_path, block, monkeypatch):
    mode, expected, _ = golden
    monkeypatch.setattr(pipeline, "BLOCK", block)
    convert(str(tiny), mode=mode, out=tmp_path / "out", formats=models.FORMATS[mode])
    assert hashes(tmp_path / "out") == expected


@pytest.mark.heavy
def test_another_process_on_another_day_gives_the_same_bytes(golden, tiny, tmp_path):
    mode, expected, _ = golden
    code = (
        "import time; time.time = lambda: 4e9\n"
        "from bonsai_quant.cli.main import main\n"
        f"main(['convert', {str(tiny)!r}, '--mode', {mode!r}, '-o', {str(tmp_path / 'out')!r},"
        f"'--format', {','.join(models.FORMATS[mode])!r}])"
    )
    environment = {"PYTHONHASHSEED": "7", "PATH": "/usr/bin", "LC_ALL": "C"}
    paths = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | paths)
    assert hashes(tmp_path / "out") == expected


@pytest.mark.parametrize("shards", [2, 5])
def test_sharded_checkpoints_give_the_same_bytes(golden, tmp_path, shards):
    mode, _, expected = golden
    source = models.save_folder(tmp_path / "sharded", models.tensors(), shards=shards)
    convert(str(source), mode=mode, out=tmp_path / "out", formats=models.FORMATS[mode])
    assert hashes(tmp_path / "out", manifests=False) == expected


def test_the_original_layout_gives_the_same_bytes(golden, tmp_path):
    mode, _, expected = golden
    source = models.save_original(tmp_path / "original.safetensors", models.tensors())
    convert(str(source), mode=mode, out=tmp_path / "out", formats=models.FORMATS[mode])
    assert hashes(tmp_path / "out", manifests=False) == expected


def test_float32_of_the_same_values_gives_the_same_weight_files(golden, tmp_path):
    mode, _, expected = golden
    wide = {n: w.astype(np.float32) for n, w in models.tensors().items()}
    source = models.save_folder(tmp_path / "wide", wide)
    convert(str(source), mode=mode, out=tmp_path / "out", formats=models.FORMATS[mode])
    found = hashes(tmp_path / "out", manifests=False)
    assert [p for p in found if found[p] != expected[p]] == [
        f"{f}/layers.csv" for f in sorted(models.FORMATS[mode])
    ]


def test_an_unpacked_export_converts_to_the_same_codes(packs, tmp_path):
    dense = packs.out / "unpacked" / "transformer"
    again = convert(str(dense), mode=packs.mode, out=tmp_path / "again", formats=packs.formats)
    assert again.manifests["bonsai"].measured.lossless
    assert all(s.relative_error in (0, None) for s in again.layers)
    for format_name in packs.formats:
        one, two = open_pack(packs.out / format_name), open_pack(tmp_path / "again" / format_name)
        assert one.path.read_bytes() == two.path.read_bytes()


def test_codes_and_scales_are_the_solvers(packs):
    source = load_file(packs.source / "diffusion_pytorch_model.safetensors")
    pack = open_pack(packs.out / "bonsai")
    for tensor in pack.info.packed:
        layer = pack.layer(tensor)
        solved = solve(source[tensor.name].view(np.uint16), "exact", packs.mode)
        assert np.array_equal(layer.codes, solved.codes)
        assert np.array_equal(layer.scales, solved.scales)
    for tensor in pack.info.kept:
        assert np.array_equal(
            pack.kept(tensor).astype(np.float32),
            source[tensor.name].astype(np.float32).astype(np.float16).astype(np.float32),
        )


def test_layers_csv_says_what_the_weights_say(packs):
    source = load_file(packs.source / "diffusion_pytorch_model.safetensors")
    dense = load_file(packs.out / "unpacked/transformer/diffusion_pytorch_model.safetensors")
    rows = {r["name"]: r for r in csv.DictReader((packs.out / "bonsai/layers.csv").open())}
    assert list(rows) == sorted(source)
    for name, w in source.items():
        row, w = rows[name], w.astype(np.float64)
        d = dense[name].astype(np.float64)
        if row["action"] == "keep":
            assert int(row["inexact"]) == np.count_nonzero(w != d)
            continue
        assert float(row["relative_error"]) == pytest.approx(
            np.linalg.norm(w - d) / np.linalg.norm(w), rel=1e-4
        )
        assert float(row["cosine"]) == pytest.approx(
            (w * d).sum() / np.linalg.norm(w) / np.linalg.norm(d), rel=1e-4
        )
        assert float(row["zero_share"]) == pytest.approx(np.mean(d == 0), abs=1e-6)
        assert float(row["scale_max"]) == pytest.approx(np.abs(d).max(), rel=1e-8)


def test_the_plan_predicts_every_byte(packs):
    work = plan(str(packs.source), mode=packs.mode, formats=packs.formats)
    planned = {f"{f.format}/{f.path}": f.size for f in work.files if f.exact}
    found = {str(p.relative_to(packs.out)): p.stat().st_size
             for p in packs.out.rglob("*") if p.is_file()}  # fmt: skip
    measured = {f"{f}/{n}" for f in packs.formats for n in MEASURED}
    assert planned == {p: n for p, n in found.items() if p not in measured}


def test_the_manifest_lists_every_file_with_its_hash(packs):
    for format_name in packs.formats:
        folder = packs.out / format_name
        manifest = json.loads((folder / "manifest.json").read_text())
        listed = {f["path"]: (f["size"], f["sha256"]) for f in manifest["files"]}
        found = {p: (len((folder / p).read_bytes()), h) for p, h in hashes(folder).items()
                 if p not in ABOUT}  # fmt: skip
        assert listed == found
        assert [f["remote_path"] for f in manifest["files"]] == sorted(listed)
        assert (manifest["format"], manifest["mode"]) == (format_name, packs.mode)
        source = packs.source / manifest["source"]["files"][0]["name"]
        assert manifest["source"]["files"][0]["sha256"] == hashlib.sha256(
            source.read_bytes()).hexdigest()  # fmt: skip


def test_recipes_keep_layers_and_mix_modes(tiny, tmp_path):
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(
        "mode: ternary\nlayers:\n"
        "  - {match: 'transformer_blocks.*.attn.to_q', action: keep}\n"
        "  - {match: 'single_transformer_blocks.1.*', action: binary}\n"
    )
    merged = ("gguf", "comfyui-packed")  # q, k and v are one tensor there, of one type
    formats = [f for f in models.FORMATS["ternary"] if not f.startswith(merged)]
    made = convert(str(tiny), recipe=recipe, out=tmp_path / "out", formats=formats)
    assert made.manifests["mlx"].counts.kept == 9 + 4 + 2 * 2 + 1
    pack = open_pack(tmp_path / "out" / "mlx")
    actions = {t.linear: t.action for t in pack.info.tensors}
    assert actions["transformer_blocks.0.attn.to_q"] == "keep"
    assert actions["single_transformer_blocks.1.attn.to_out"] == "binary"
    for tensor in pack.info.packed:
        codes = set(np.unique(bits.unpack(pack.layer(tensor).codes, 2)))
        assert codes == ({0, 2} if tensor.action == "binary" else {0, 1, 2})


def test_a_model_of_another_spread_is_measured_not_assumed(tmp_path):
    rng = np.random.default_rng(0)
    weights = {n: (w.astype(np.float32) * rng.choice([0.1, 3], w.shape)).astype(ml_dtypes.bfloat16)
               for n, w in models.tensors().items()}  # fmt: skip
    source = models.save_folder(tmp_path / "source", weights)
    error = {m: convert(str(source), mode=m, out=tmp_path / m, formats="bonsai").manifests["bonsai"]
             .measured.relative_error for m in ("ternary", "binary")}  # fmt: skip
    assert 0 < error["ternary"] < error["binary"] < 1
