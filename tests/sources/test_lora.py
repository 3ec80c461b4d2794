"""A pack with a LoRA is the pack of the merged checkpoint, whoever wrote the LoRA and however."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bonsai_quant import convert, diff, export, plan, verify
from bonsai_quant.conversion import stream as pipeline
from bonsai_quant.conversion.plan import explain
from bonsai_quant.conversion.resume import purpose
from bonsai_quant.core.errors import BadInput, Unsupported, UsageError
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.sources.families import flux2
from bonsai_quant.sources.lora.adapter import parse
from bonsai_quant.sources.lora.merge import merged, read_factors
from bonsai_quant.sources.lora.names import spellings
from tests.support import loras, models
from tests.support.loras import STYLES, ones
from tests.support.watching import Watching


def weights_of(out):
    """The bytes of every weight file below `out`."""
    return {p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def golden(pairs, tmp_path_factory):
    """Weight files and layers of the checkpoint that was merged before."""
    folder = tmp_path_factory.mktemp("golden")
    source = models.save_folder(folder / "merged", loras.add(models.tensors(), pairs))
    made = convert(str(source), mode="ternary", out=folder / "out", formats="bonsai,mlx")
    return weights_of(folder / "out"), made.layers


@pytest.fixture(scope="module")
def pack(tiny, lora, tmp_path_factory):
    out = tmp_path_factory.mktemp("pack") / "out"
    convert(str(tiny), mode="ternary", lora=[str(lora)], out=out, formats="bonsai")
    return out


def without_sizes(layers):
    return [[getattr(s, f) for f in s.__slots__ if f != "source_bytes"] for s in layers]


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("style", STYLES)
def test_every_spelling_gives_the_pack_of_the_merged_checkpoint(
    style, layout, pairs, golden, tiny, tmp_path
):
    source = tiny
    if layout == "original":
        source = models.save_original(tmp_path / "original.safetensors", models.tensors())
    lora = STYLES[style](tmp_path / "lora" / "l.safetensors", pairs)
    made = convert(
        str(source), mode="ternary", lora=[str(lora)], out=tmp_path / "out", formats="bonsai,mlx"
    )
    assert weights_of(tmp_path / "out") == golden[0]
    assert without_sizes(made.layers) == without_sizes(golden[1])


def test_binary_kept_layers_and_float16_sources_too(pairs, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("mode: binary\nlayers: [{match: 'transformer_blocks.*', action: keep}]\n")
    lora = STYLES["kohya"](tmp_path / "l.safetensors", pairs)
    weights = {n: w.astype(np.float16) for n, w in models.tensors().items()}
    found = {}
    before = loras.add(weights, pairs, loras.FACTOR / 2)
    for name, source, more in (("lora", weights, [f"{lora}:0.5"]), ("merged", before, [])):
        folder = models.save_folder(tmp_path / name, source)
        out = tmp_path / f"{name}-out"
        convert(str(folder), recipe=recipe, lora=more, out=out, formats="bonsai")
        found[name] = weights_of(out)
    assert found["lora"] == found["merged"]


@pytest.mark.heavy
@pytest.mark.parametrize("style", ["kohya", "diffusers", "bfl", "peft"])
def test_diffusers_reads_the_same_factors(style, tiny, tmp_path):
    """In blocks: its converters leave the last norm's halves as they are. Those of `bfl` and `peft`
    know no alpha."""
    pytest.importorskip("torch")
    from diffusers import Flux2KleinPipeline

    given = loras.pairs(only=loras.in_blocks)
    if style in ("kohya", "diffusers"):
        file = STYLES[style](tmp_path / "l.safetensors", given)
    else:
        tensors = {"bfl": loras.spelled(loras.original(given), "diffusion_model."),
                   "peft": loras.spelled(given, "base_model.model.")}  # fmt: skip
        file = loras.save(tmp_path / "l.safetensors", tensors[style])
    theirs, said = Flux2KleinPipeline.lora_state_dict(str(file), return_lora_metadata=True)
    alpha = said["transformer.lora_alpha"] / said["transformer.r"] if said else 1.0
    work = plan(str(tiny), mode="ternary", lora=[str(file)])
    names = {n.removeprefix("transformer.").rsplit(".lora_", 1)[0] for n in theirs}
    assert names == {t.tensor.linear for t in work.tensors if t.deltas}
    for planned in work.tensors:
        if planned.deltas:
            a, b = (theirs[f"transformer.{planned.tensor.linear}.lora_{x}.weight"].double().numpy()
                    for x in "AB")  # fmt: skip
            ours = read_factors(planned.deltas, planned.tensor.shape)
            product = ours.up.astype(np.float64) @ ours.down.astype(np.float64)
            assert np.array_equal(product, alpha * (b @ a)), planned.tensor.name


@pytest.mark.heavy
@pytest.mark.parametrize("stabilized", [False, True])
def test_what_peft_trains_and_diffusers_saves_is_what_they_fuse(tiny, tmp_path, stabilized):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from diffusers import Flux2Transformer2DModel

    model = Flux2Transformer2DModel.from_pretrained(str(tiny), torch_dtype=torch.float32)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    model.add_adapter(peft.LoraConfig(
        r=4, lora_alpha=6, alpha_pattern={"to_k": 3}, use_rslora=stabilized,
        init_lora_weights=False,
        target_modules=["to_q", "to_k", "to_out.0", "to_qkv_mlp_proj", "linear_in", "proj_out"],
    ))  # fmt: skip
    model.save_lora_adapter(str(tmp_path), weight_name="l.safetensors")
    model.fuse_lora()
    model.unload_lora()
    work = plan(str(tiny), mode="ternary", lora=[str(tmp_path / "l.safetensors")])
    for planned in work.tensors:
        name = planned.tensor.name
        ours, theirs = before[name].numpy(), model.state_dict()[name].numpy()
        assert bool(planned.deltas) == (not np.array_equal(ours, theirs))
        if planned.deltas:
            ours = merged(ours, read_factors(planned.deltas, ours.shape), 0)
            assert np.abs(ours - theirs).max() <= 1e-6


def test_the_product_is_right_at_any_rank_and_width():
    rng = np.random.default_rng(0)
    from bonsai_quant.sources.lora.merge import Factors

    for rows, width, rank in ((1, 1, 4), (3, 1024, 4), (5, 1025, 16), (7, 3000, 128)):
        w, up, down = (rng.standard_normal(s).astype(np.float32)
                       for s in ((rows, width), (rows + 2, rank), (rank, width)))  # fmt: skip
        exact = w.astype(np.float64) + up[2:].astype(np.float64) @ down.astype(np.float64)
        found = merged(w, Factors(up, down), 2)
        assert np.abs(found - exact).max() <= 2e-6 * rank


def random_lora(path, seed=3):
    """Values whose sums are not exact, so that another order would show."""
    rng = np.random.default_rng(seed)
    given = {n: loras.Pair(*(rng.standard_normal(f.shape).astype(np.float32) / 8 for f in p))
             for n, p in loras.pairs(rank=7).items()}  # fmt: skip
    return loras.save(path, loras.spelled(given, "transformer."))


def test_threads_blocks_and_the_order_of_files_do_not_change_a_byte(tiny, tmp_path, monkeypatch):
    asked = [f"{random_lora(tmp_path / f'{s}.safetensors', s)}:0.{s}" for s in (3, 4, 5)]
    for name, files, threads, block in (
        ("a", asked, 1, None), ("b", asked[::-1], 2, None), ("c", asked, 2, 5000)
    ):  # fmt: skip
        if block:
            monkeypatch.setattr(pipeline, "BLOCK", block)
        convert(str(tiny), mode="ternary", lora=files, out=tmp_path / name, threads=threads,
                formats="bonsai")  # fmt: skip
    one, *others = ({p.name: p.read_bytes() for p in (tmp_path / n / "bonsai").iterdir()}
                    for n in "abc")  # fmt: skip
    assert others == [one, one]


def test_deltas_of_several_files_add_up(tiny, tmp_path):
    one, two = loras.pairs(seed=1), loras.pairs(seed=2)
    files = [STYLES["kohya"](tmp_path / "1.safetensors", one),
             STYLES["diffusers"](tmp_path / "2.safetensors", two)]  # fmt: skip
    both = {n: loras.Pair(np.concatenate([one[n].down, two[n].down]),
                          np.concatenate([one[n].up, -two[n].up], 1)) for n in one}  # fmt: skip
    source = models.save_folder(tmp_path / "merged", loras.add(models.tensors(), both))
    convert(str(tiny), mode="ternary", lora=[str(files[0]), f"{files[1]}:-1"],
            out=tmp_path / "a", formats="bonsai")  # fmt: skip
    convert(str(source), mode="ternary", out=tmp_path / "b", formats="bonsai")
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_a_scale_of_zero_changes_nothing(tiny, lora, tmp_path):
    convert(str(tiny), mode="ternary", lora=[f"{lora}:0"], out=tmp_path / "a", formats="bonsai")
    convert(str(tiny), mode="ternary", out=tmp_path / "b", formats="bonsai")
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_plan_and_explain_say_what_is_merged(tiny, lora, run):
    text = run("plan", tiny, "--mode", "ternary", "--lora", f"{lora}:0.5")
    linears = len(loras.pairs())
    assert text.code == 0
    assert f"{linears} of {linears} modules matched, scale 0.5, alpha from its metadata" in text.out
    named = ["plan", tiny, "--mode", "ternary", "--lora", f"{lora}:0.5", "--explain"]
    assert f"{lora}: 0.25 times transformer.proj_out.lora_B" in run(*named, "proj_out").out
    of_a_norm = run(*named, "transformer_blocks.0.attn.norm_q").out.splitlines()
    assert "lora" not in "".join(line for line in of_a_norm if not line.startswith("next: "))
    data = json.loads(run(*named[:-1], "--json").out)
    assert [a["modules"] for a in data["lora"]] == [linears]
    bare = plan(str(tiny), mode="ternary")
    assert plan(str(tiny), mode="ternary", lora=[str(lora)]).memory_bytes > bare.memory_bytes


def test_the_manifest_records_what_was_merged_and_exports_keep_it(pack, lora, run, tmp_path):
    import hashlib

    manifest = json.loads((pack / "bonsai/manifest.json").read_text())
    (said,) = manifest["source"]["lora"]
    assert said == {
        "name": lora.name, "size": lora.stat().st_size, "scale": 1.0, "config": None,
        "sha256": hashlib.sha256(lora.read_bytes()).hexdigest(),
        "modules": len(loras.pairs()), "ignored": 0,
    }  # fmt: skip
    made = export(pack, format="mlx", out=tmp_path / "mlx")
    assert made.source.lora[0].sha256 == said["sha256"]
    assert f"{lora.name}, scale 1" in run("inspect", pack).out
    facts = dict((k, (a, b)) for k, a, b in diff(pack, tmp_path / "mlx").settings)
    assert "lora" not in facts


def test_manifests_of_before_are_read(packs, tmp_path):
    shutil.copytree(packs.out / "bonsai", tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    said = json.loads(path.read_text())
    assert said["source"].pop("lora") == []
    path.write_text(json.dumps(said))
    assert not verify(tmp_path / "old", against=str(packs.source)).failed


def last(verdict):
    return verdict.checks[-1].status, verdict.checks[-1].detail


def test_verify_quantizes_again_with_the_same_lora_only(pack, tiny, lora, tmp_path, run):
    assert not run("verify", pack, "--against", tiny, "--lora", lora).code
    status, detail = last(verify(pack, against=str(tiny)))
    assert (status, "pass --lora" in detail, lora.name in detail) == ("not run", True, True)
    for other in (f"{lora}:0.9", str(random_lora(tmp_path / "other.safetensors"))):
        status, detail = last(verify(pack, against=str(tiny), lora=[other]))
        assert (status, "is not what was merged" in detail) == ("failed", True)
    again = verify(pack, against=str(tiny), lora=str(lora))
    assert last(again) == ("passed", "quantized again: the same codes and values")


def test_a_pack_without_a_lora_is_not_verified_with_one(packs, lora):
    status, _ = last(verify(packs.out / "bonsai", against=str(packs.source), lora=[str(lora)]))
    assert status == "failed"


def test_an_unmerged_pack_that_says_it_is_merged_is_found_out(pack, tiny, lora, tmp_path):
    convert(str(tiny), mode="ternary", out=tmp_path / "out", formats="bonsai")
    path = tmp_path / "out/bonsai/manifest.json"
    said, true = (json.loads(p.read_text()) for p in (path, pack / "bonsai/manifest.json"))
    said["source"]["lora"] = true["source"]["lora"]
    path.write_text(json.dumps(said))
    status, detail = last(verify(tmp_path / "out", against=str(tiny), lora=[str(lora)]))
    assert (status, "expected" in detail or "kept values" in detail) == ("failed", True)


def test_pictures_are_not_compared_with_those_of_an_unmerged_source(standin, tmp_path):
    name = "transformer_blocks.0.attn.to_q"
    out, n = explain(plan(str(standin), mode="ternary"), name).tensor.shape
    pair = loras.Pair(ones(4, n), ones(out, 4) / 256)
    file = loras.save(tmp_path / "l.safetensors", loras.spelled({name: pair}, "transformer."))
    convert(str(standin), mode="ternary", lora=str(file), out=tmp_path / "out", formats="bonsai")
    verdict = verify(tmp_path / "out", level="image", against=str(standin), lora=str(file),
                     backends=("torch",))  # fmt: skip
    for level in ("step", "image"):
        right, source = (c for c in verdict.checks if c.level == level)
        assert (right.status, source.status) == ("passed", "not run")
        assert "is without l.safetensors" in source.detail


def test_an_interrupted_run_goes_on_with_the_same_lora_only(tiny, lora, tmp_path):
    other = STYLES["peft"](tmp_path / "p" / "l.safetensors", loras.pairs())
    asked = [(), [str(lora)], [f"{lora}:0.5"], [str(other)]]
    first = [purpose(plan(str(tiny), mode="ternary", lora=a)) for a in asked]
    (tmp_path / "p" / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 3}')
    first.append(purpose(plan(str(tiny), mode="ternary", lora=asked[-1])))
    assert all(a != b for i, a in enumerate(first) for b in first[:i])


def test_a_lora_that_changes_during_the_run_is_refused(tiny, lora, tmp_path, monkeypatch):
    copy = tmp_path / "l.safetensors"
    shutil.copy(lora, copy)
    once = iter([True])

    def touch(*_):
        if next(once, False):
            shutil.copy(copy, tmp_path / "new")
            (tmp_path / "new").replace(copy)

    with pytest.raises(BadInput, match="changed during the run"):
        convert(
            str(tiny), mode="ternary", lora=[str(copy)], out=tmp_path / "out",
            progress=Watching(touch),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_calibrated_solvers_are_refused(tiny, lora, tmp_path):
    with pytest.raises(Unsupported, match="recipe that keeps every layer and --format unpacked"):
        plan(str(tiny), mode="ternary", solver="gptq", calibration=tmp_path, lora=[str(lora)])


def test_a_recipe_that_keeps_everything_merges_into_a_dense_transformer(tiny, pairs, tmp_path):
    """What the refusal of calibrated solvers says to do."""
    from safetensors.numpy import load_file

    recipe = tmp_path / "r.yaml"
    recipe.write_text("mode: ternary\nlayers: [{match: '*', action: keep}]\n")
    lora = STYLES["bare"](tmp_path / "l.safetensors", pairs)
    convert(str(tiny), recipe=recipe, lora=[str(lora)], out=tmp_path / "out", formats="unpacked")
    folder = tmp_path / "out/unpacked/transformer"
    found = load_file(folder / "diffusion_pytorch_model.safetensors")
    for name, w in loras.add(models.tensors(), pairs).items():
        near = np.abs(found[name].astype(np.float32) - w) <= np.maximum(2.0**-8 * np.abs(w), 2**-17)
        assert near.all(), name
    assert plan(str(folder), mode="ternary").source.model.base == "flux2"


@pytest.mark.parametrize(("text", "files", "expected"), [
    ("l", ["l"], ("l", 1.0)),
    ("l:0.5", ["l"], ("l", 0.5)),
    ("l:-2e-1", ["l"], ("l", -0.2)),
    ("a:b:c", ["a:b:c"], ("a:b:c", 1.0)),
    ("a:b:3", ["a:b"], ("a:b", 3.0)),
    ("l:7", ["l:7"], ("l:7", 1.0)),
    ("l:7:1", ["l", "l:7"], ("l:7", 1.0)),
    ("l:7", ["l", "l:7"], "both files"),
    ("l:strong", ["l"], "not a scale"),
    ("l:nan", ["l"], "not a scale"),
    ("l:inf", ["l"], "not a scale"),
    ("l:", ["l"], "not a scale"),
])  # fmt: skip
def test_files_and_scales(tmp_path, monkeypatch, text, files, expected):
    monkeypatch.chdir(tmp_path)
    for name in files:
        (tmp_path / name).write_bytes(b"")
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            parse(text)
    else:
        path, scale = parse(text)
        assert (str(path), scale) == expected


def test_no_two_linears_are_spelled_alike():
    sizes = {"h": 128, "i": 64, "o": 64, "j": 128, "t": 64, "d": 128, "m": 384}
    specs, _ = flux2.dense_specs((12, 25), sizes, guidance=True)
    model = flux2.detect({s.name: StoredTensor(s, "m", 0) for s in specs}, "m")
    assert {n for s in model.linears.values() for n in (x.tensor for x in s)} == {
        t.name for t in model.tensors if len(t.shape) == 2
    }
    table = spellings(model.linears)
    assert len(table) == 7 * len(model.linears)
