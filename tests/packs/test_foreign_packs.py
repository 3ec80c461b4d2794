"""The six layouts that others publish: everything works on them, and damage is found."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx.core")

import torch
from safetensors.torch import load_file, save_file

from bonsai_quant import convert, diff, export, generate, inspect, verify
from bonsai_quant.core.errors import BadInput, BonsaiError
from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.formats import FORMAT_NAMES
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.mlx.runner import MlxRunner
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.storage.containers import torchzip_reader
from bonsai_quant.verification.kernels.gemlite_process import run_child
from tests.support import models, published
from tests.support.published import LAYOUTS, publish, release, write_manifest

LAYER = "transformer_blocks.0.attn.to_q"
WEIGHTS = {
    "mlx": "transformer-packed-mflux/diffusion_pytorch_model.safetensors",
    "gemlite": "transformer-gemlite-int{bits}/state_dict.pt",
    "unpacked": "transformer/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(scope="module", params=["ternary", "binary"])
def made(request, standin, tmp_path_factory) -> SimpleNamespace:
    """One model in the three layouts of others, and our own conversion of its dense weights."""
    root = tmp_path_factory.mktemp(request.param)
    model = release(standin / "transformer", request.param)
    repos = {k: publish(root / k, k, model) for k in LAYOUTS}
    convert(
        str(repos["unpacked"] / "transformer"), mode=model.mode, formats="bonsai", out=root / "ours"
    )
    return SimpleNamespace(model=model, mode=model.mode, repos=repos, ours=root / "ours/bonsai")


@pytest.fixture(params=LAYOUTS)
def repo(request, made):
    return made.repos[request.param]


@pytest.fixture
def copy(made, tmp_path):
    """copy(layout) -> a copy to be damaged, and its weight file."""

    def of(layout):
        shutil.copytree(made.repos[layout], tmp_path / layout)
        return tmp_path / layout, tmp_path / layout / weights_path(layout, made.model)

    return of


def weights_path(layout, model) -> str:
    return WEIGHTS[layout].format(bits=model.bits)


def finer(model) -> int:
    """Kept values that fp16 does not hold, as torch counts them."""
    return sum(int((w.float() != w.half().float()).sum()) for w in model.kept.values())


def failures(verdict):
    return [(c.level, c.detail) for c in verdict.checks if c.status == "failed"]


def test_inspect_tells_what_they_are(made, repo):
    (found,) = inspect(repo)
    facts = dict(found.facts)
    assert found.kind == "pack"
    assert (facts["format"], facts["mode"]) == (repo.name, made.mode)
    assert facts["packed"].startswith(f"{len(made.model.packed)} layers, ")
    assert facts["kept"].startswith(f"{len(made.model.kept)} tensors, ")
    assert f"{made.mode} g128 (bf16 master)" in facts["manifest"]


def test_weights_are_the_ones_that_were_published(made, repo):
    pack = open_pack(repo)
    for t in pack.info.packed:
        parts = pack.parts(t)
        found = pack.format.dense(pack.layer(t, parts), parts, 0, t.shape[0])
        assert np.array_equal(found, made.model.packed[t.linear].dense.float().numpy())
    for t in pack.info.kept:
        exact = made.model.kept[t.name].float()
        assert np.abs(pack.kept(t) - exact.numpy()).max() <= 2.0**-25


def test_verify_passes_and_says_what_it_could_check(made, repo, standin):
    verdict = verify(repo, against=str(standin))
    file, codes, likeness = verdict.checks
    assert [c.status for c in verdict.checks] == ["passed"] * 3
    assert "files of another program's manifest, " in file.detail
    assert f"; {finer(made.model)} kept values are finer than fp16" in codes.detail
    assert "no recipe to repeat; every tensor resembles the source's" in likeness.detail


def test_the_three_layouts_agree(made, tmp_path):
    for name, repo in made.repos.items():
        shutil.copytree(repo, tmp_path / name)
    subjects = [c.subject for c in verify(tmp_path).checks if c.status == "passed"]
    assert subjects[3:] == ["mlx", "gemlite = mlx", "unpacked = mlx"]


def test_they_are_the_same_as_our_own_conversion(made, repo):
    assert diff(repo, made.ours).same
    assert diff(made.ours, repo).same


@pytest.mark.parametrize("target", FORMAT_NAMES)
def test_exports_are_equal_bit_for_bit_and_verify(made, tmp_path, target):
    if target not in models.FORMATS[made.mode]:
        pytest.skip(f"{target} holds no {made.mode} pack")
    written = {}
    for name, repo in made.repos.items():
        manifest = export(repo, format=target, out=tmp_path / name)
        assert not verify(tmp_path / name).failed
        assert f"; {finer(made.model)} kept values were" in manifest.recipe["description"]
        assert "solver" not in manifest.recipe
        assert (manifest.source.id, manifest.source.files) == (None, [])
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        written[name] = [(p.relative_to(tmp_path / name), p.read_bytes()) for p in files]
    assert written["mlx"] == written["gemlite"]
    # Dense weights do not tell the scale of a group of zeros, which ternary ones may have.
    assert (written["unpacked"] == written["mlx"]) == (
        target == "unpacked" or made.mode == "binary"
    )
    assert all("= mlx" in c.subject for c in verify(tmp_path).checks[-2:])
    assert diff(tmp_path / "mlx", made.ours).same
    assert diff(tmp_path / "unpacked", tmp_path / "mlx").same
    again = export(tmp_path / "mlx", format=target, out=tmp_path / "again")
    assert "solver" not in again.recipe
    facts = dict(inspect(tmp_path / "again")[0].facts)
    assert (facts["solver"], facts["source"]) == ("unknown", "unknown")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_pictures_are_those_of_our_own_pack(made, standin, tmp_path, monkeypatch, backend):
    """The text encoder is not theirs, and takes longest to load: any captions do."""
    captions = np.random.default_rng(0).standard_normal((1, 20, 192), dtype=np.float32)
    for runner in (MlxRunner, TorchRunner):
        monkeypatch.setattr(runner, "encode", lambda *_: captions)
    for module in ("torch", "mlx"):
        monkeypatch.setattr(f"bonsai_quant.runners.{module}.runner.give_back", lambda: None)

    def painted(place):
        out = tmp_path / f"{place.name}.png"
        generate(
            place, ["a red circle"], out=out, size="64x64", steps=1, backend=backend,
            pipeline=str(standin),
        )  # fmt: skip
        return pixels(out)

    mine = painted(made.ours)
    assert mine.std() > 1
    for repo in made.repos.values():
        assert np.array_equal(painted(repo), mine)


def pixels(path):
    from PIL import Image

    return np.array(Image.open(path))


@pytest.mark.heavy
def test_steps_of_theirs_can_be_proved(made, standin):
    repo = made.repos["gemlite" if made.mode == "ternary" else "unpacked"]
    verdict = verify(repo, level="step", pipeline=str(standin), backends=("torch",))
    assert not verdict.failed
    assert {c.level for c in verdict.checks if c.status == "passed"} == {"file", "codes", "step"}


def test_a_stub_of_an_index_does_not_make_a_pipeline(made, standin, tmp_path):
    pipeline = locate(str(made.repos["gemlite"]), pipeline=str(standin))
    assert (pipeline.pack is not None, pipeline.folder) == (True, standin)
    whole = tmp_path / "whole"
    shutil.copytree(made.repos["gemlite"], whole)
    for part in ("text_encoder-hqq-4bit/tokenizer", "vae"):
        (whole / part).mkdir(parents=True)
    pipeline = locate(str(whole))
    assert (pipeline.pack is not None, pipeline.folder, pipeline.distilled) == (True, whole, True)


def test_a_pipeline_on_a_grid_stays_a_pipeline(made, standin, tmp_path):
    folder = tmp_path / "trained"
    shutil.copytree(standin, folder)
    shutil.copytree(made.repos["unpacked"] / "transformer", folder / "transformer",
                    dirs_exist_ok=True)  # fmt: skip
    assert (locate(str(folder)).pack, locate(str(folder)).folder) == (None, folder)


def test_an_ordinary_checkpoint_stays_a_checkpoint(standin, tmp_path):
    shutil.copytree(standin / "transformer", tmp_path / "transformer")
    for manifest in (None, {"model_version": "full precision"}):
        if manifest:
            write_manifest(tmp_path, manifest)
        assert find_packs(tmp_path) == []
        assert inspect(tmp_path)[0].kind == "checkpoint"


def test_dense_weights_on_a_grid_need_no_manifest(made, copy):
    folder, _ = copy("unpacked")
    (folder / "manifest.json").unlink()
    assert dict(inspect(folder)[0].facts)["mode"] == made.mode
    file, codes = verify(folder).checks
    assert (file.status, codes.status) == ("not run", "passed")


def edit(path, change):
    """Change the tensors of a file and save it anew, with the library of its kind."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)
        return
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def put(name, at, value):
    def change(state):
        state[name].view(torch.int32 if state[name].dtype == torch.uint32 else state[name].dtype)[
            at
        ] = value

    return change


def drop(state):
    del state["norm_out.linear.weight"]


def add(state):
    state[f"{LAYER}.meta_scale"] = torch.ones(1)


def off_grid(state):
    """A binary group keeps one magnitude: only a third one is wrong in both modes."""
    state[f"{LAYER}.weight"][2, 5] *= 1.5


DAMAGE = {
    "code 3": ("mlx", put(f"{LAYER}.weight", (2, 1), -1), "row 2, column 16: code 3"),
    "bias": ("mlx", put(f"{LAYER}.biases", (2, 0), 0.5), "row 2, group 0: bias is 0.5"),
    "scale nan": ("mlx", put(f"{LAYER}.scales", (2, 0), np.nan), "row 2, group 0: scale nan"),
    "missing": ("mlx", drop, "lacks 1 tensors: norm_out.linear.weight"),
    "kept inf": ("mlx", put("proj_out.weight", (1, 2), np.inf), "inf does not fit 16 bits"),
    "gemlite code 3": ("gemlite", put(f"{LAYER}.W_q", (1, 2), 255), "row 2, column 4: code 3"),
    "gemlite zero": ("gemlite", put(f"{LAYER}.zeros", (0, 2), 0), "row 2, group 0: zero is 0"),
    "gemlite scale nan": ("gemlite", put(f"{LAYER}.scales", (0, 2), np.nan), "scale nan"),
    "gemlite scale 0": ("gemlite", put(f"{LAYER}.scales", (0, 2), 0), "scale 0 is not a positive"),
    "gemlite scale of fp32": (
        "gemlite", put(f"{LAYER}.scales", (0, 2), 0.0123456789), "row 2, group 0: scale 0.0"),
    "gemlite scale below the grid": (
        "gemlite", put(f"{LAYER}.scales", (0, 2), 2.0**-16), "row 2, group 0: scale"),
    "gemlite missing": ("gemlite", drop, "lacks 1 tensors: norm_out.linear.weight"),
    "gemlite extra": ("gemlite", add, "meta_scale: has no place in this format, and clients"),
    "unpacked": ("unpacked", off_grid, "is not 0 or the group's scale"),
    "unpacked missing": ("unpacked", drop, "norm_out"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_by_the_manifest_and_without_it(made, copy, case):
    layout, change, words = DAMAGE[case]
    if "code 3" in case and made.mode == "binary":
        pytest.skip("every code of one bit is legal")
    folder, path = copy(layout)
    edit(path, change)
    ((level, detail),) = failures(verify(folder))
    assert (level, path.name in detail, "the manifest says" in detail) == ("file", True, True)
    with pytest.raises(BonsaiError):
        export(folder, format="bonsai", out=folder.parent / "out")
    (folder / "manifest.json").unlink()
    if case == "unpacked missing":  # then it is no known model at all
        with pytest.raises(BadInput, match=words):
            inspect(folder)
        return
    ((level, detail),) = failures(verify(folder))
    assert level == "codes"
    assert words in detail


def test_a_damaged_group_does_not_make_a_layer_a_kept_one(made, copy):
    """Wherever it is: also where the groups are that tell what the layer is."""
    folder, path = copy("unpacked")

    def change(state):
        state[f"{LAYER}.weight"][0, :20] = torch.arange(20) / 32

    edit(path, change)
    (folder / "manifest.json").unlink()
    assert f"{LAYER}.weight" in {t.name for t in open_pack(folder).info.packed}
    ((_, detail),) = failures(verify(folder))
    assert f"{LAYER}.weight: row 0" in detail


def test_layers_left_dense_are_kept_and_named(made, copy, caplog):
    folder, path = copy("unpacked")

    def change(state):
        state[f"{LAYER}.weight"].copy_(torch.randn(state[f"{LAYER}.weight"].shape))

    edit(path, change)
    (folder / "manifest.json").unlink()
    assert not failures(verify(folder))
    assert f"1 layers are on no grid, and kept: {LAYER}.weight" in caplog.text


@pytest.mark.heavy
def test_gemlite_scales_may_be_fp16_and_tensors_may_have_been_on_a_gpu(made, copy, monkeypatch):
    folder, path = copy("gemlite")
    (folder / "manifest.json").unlink()
    monkeypatch.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
    torch.save(published.gemlite_state(made.model, scales=torch.float16), path)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)  # it is what a GPU's owner saves
    assert diff(folder, made.ours).same
    assert not failures(verify(folder, level="kernel", layers=1))


WIDE = ((1, 1), {"h": 256, "i": 128, "o": 128, "j": 128, "t": 64, "d": 128, "m": 256})
"""gemlite stores layers of a single group in another way."""


@pytest.mark.heavy
def test_files_of_what_gemlite_itself_packed_are_read(tmp_path):
    source = models.save_folder(tmp_path / "transformer", models.tensors(WIDE), WIDE)
    made = [release(source, mode) for mode in ("ternary", "binary")]
    answer = run_child([t for model in made for t in to_pack(model)], timeout_s=300)
    if answer.status != "passed":
        pytest.skip(f"gemlite does not run here: {answer.reason}")
    outputs = iter(answer.outputs)
    for model in made:
        state = {
            f"{name}.{leaf}": torch.from_numpy(array)
            for name in model.packed
            for leaf, array in next(outputs).items()
        }
        folder = publish(tmp_path / model.mode, "gemlite", model, manifest=False)
        torch.save(state | model.kept, folder / weights_path("gemlite", model))
        mlx = publish(tmp_path / f"{model.mode}-mlx", "mlx", model, manifest=False)
        assert not failures(verify(folder))
        assert diff(folder, mlx).same


def to_pack(model) -> list:
    """Tasks for gemlite's pack(): the weight is (code - zero) * scale."""
    step, zero = (1, 1.0) if model.mode == "ternary" else (2, 0.5)
    return [
        {"codes": layer.codes.numpy(), "scales": step * layer.s.numpy(),
         "zeros": np.full(layer.s.shape, zero, np.float32), "bits": np.array(model.bits)}
        for layer in model.packed.values()
    ]  # fmt: skip


def test_kept_tensors_may_be_wider(made, copy):
    folder, path = copy("gemlite")
    (folder / "manifest.json").unlink()
    kept = {n: w.float() for n, w in made.model.kept.items()}
    torch.save(published.gemlite_state(made.model) | kept, path)
    assert not failures(verify(folder))
    assert diff(folder, made.ours).same


def test_our_own_packs_are_read_as_strictly_as_before(made, tmp_path):
    """What may be different in packs of others is damage in one of this program."""
    from tests.support.forge import resign

    export(made.repos["gemlite"], format="gemlite", out=tmp_path / "out")
    path = tmp_path / "out" / weights_path("gemlite", made.model)
    edit(path, put("proj_out.weight", (0, 0), 1e-9))
    resign(tmp_path / "out")
    ((_, detail),) = failures(verify(tmp_path / "out"))
    assert "element 0: 9.96806e-10 is not a number of both" in detail


CONFIGS = {
    "layers": ({"num_layers": 7}, "says num_layers = 7"),
    "rope": ({"axes_dims_rope": "os.system"}, "axes_dims_rope = os.system"),
    "eps": ({"eps": None}, "eps = None"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_is_refused(copy, case):
    change, words = CONFIGS[case]
    folder, path = copy("mlx")
    config = path.parent / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(BadInput, match=words):
        open_pack(folder)


def listing(*entries):
    return {"model_version": "x", "files": list(entries)}


WEIGHT = {"remote_path": WEIGHTS["mlx"], "sha256": "0" * 64}
STRANGE = {
    "a list": ([1, 2], "not run"),
    "files is a dict": ({"files": {"a": 1}}, "not run"),
    "no files": ({"files": []}, "not run"),
    "an entry is text": (listing("README.md"), "not run"),
    "path is a number": (listing({"path": 7, "size": 1}), "not run"),
    "size is text": (listing({"path": "README.md", "size": "12"}), "not run"),
    "size is negative": (listing({"path": "README.md", "size": -1}), "not run"),
    "size is true": (listing({"path": "README.md", "size": True}), "not run"),
    "hash is short": (listing({"path": "README.md", "sha256": "abc"}), "not run"),
    "nothing to check": (listing({"path": "README.md"}), "not run"),
    "twice": (listing(WEIGHT, WEIGHT), "not run"),
    "too many": (listing(*({"path": f"f{i}", "size": i} for i in range(10_001))), "not run"),
    "weights not listed": (listing({"path": "NOTICE.md", "size": 9}), "not run"),
    "parent": (listing({"path": "../secret", "sha256": "0" * 64}), "failed"),
    "hidden parent": (listing({"path": "a/../../secret", "size": 6}), "failed"),
    "absolute": (listing({"path": "/etc/passwd", "size": 1}), "failed"),
    "backslash": (listing({"path": "..\\secret", "size": 6}), "failed"),
    "escape": (listing({"path": "\x1b[2K", "size": 6}), "failed"),
    "long": (listing({"path": "a" * 5000, "size": 6}), "failed"),
    "nul": (listing({"path": "a\0b", "size": 6}), "failed"),
    "link": (listing({"path": "link", "size": 6}), "failed"),
    "through a link": (listing({"path": "up/secret", "size": 6}), "failed"),
    "fifo": (listing({"path": "fifo", "size": 0}), "failed"),
    "a folder": (listing({"path": "transformer-packed-mflux", "size": 1}), "failed"),
    "missing": (listing({"path": "tokenizer.json", "size": 1}), "failed"),
    "wrong size": (listing({"path": "NOTICE.md", "size": 10}), "failed"),
    "wrong hash": (listing(WEIGHT), "failed"),
    "huge": ('{"files": []}' + " " * (17 << 20), "failed"),
    "deep": ("[" * 100_000, "failed"),
    "a key twice": ('{"files": [], "files": []}', "failed"),
    "right size": (listing({"name": "NOTICE.md", "bytes": 9}), "not run"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_manifests_of_others_are_never_trusted(copy, case, tmp_path, monkeypatch):
    """Nothing outside of the folder is opened, nothing crashes, and the rest is still checked."""
    said, status = STRANGE[case]
    folder, _ = copy("mlx")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    (folder / "manifest.json").write_text(said if isinstance(said, str) else json.dumps(said))
    opened = watch(monkeypatch)
    verdict = verify(folder)
    assert verdict.checks[0].status == status, verdict.checks[0].detail
    assert "\x1b" not in verdict.checks[0].detail
    if not isinstance(said, str):
        inspect(folder)
    outside = [p for p in opened if not os.path.realpath(p).startswith(str(folder))]
    assert outside == []
    try:
        export(folder, format="bonsai", out=tmp_path / "out")
    except BonsaiError:
        assert status == "failed"


def watch(monkeypatch):
    """Names of all files that are opened for reading from now on."""
    from bonsai_quant.storage import fs

    names, right = [], fs.open_regular

    def noting(path):
        names.append(path)
        return right(path)

    for module in (fs, torchzip_reader.fs):
        monkeypatch.setattr(module, "open_regular", noting)
    return names


def test_a_snapshot_in_the_hub_cache_is_checked_through_its_links(made, tmp_path):
    root = tmp_path / "models--a--b"
    snapshot, blobs = root / "snapshots" / ("1" * 40), root / "blobs"
    blobs.mkdir(parents=True)
    source = made.repos["mlx"]
    for i, path in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        blob = blobs / f"{i:064x}"
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert [c.status for c in verify(snapshot).checks] == ["passed", "passed"]
