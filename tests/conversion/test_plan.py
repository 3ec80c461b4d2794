"""Detection, the fate of every tensor, recipes, and where settings come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bonsai_quant import plan
from bonsai_quant.conversion.plan import explain
from bonsai_quant.conversion.settings import load_recipe
from bonsai_quant.core.errors import BadInput, Unsupported, UsageError
from bonsai_quant.core.recipe import Recipe, parse_recipe
from bonsai_quant.core.schema import PackInfo, PackTensor, StoredTensor
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.quantization.solvers import SOLVERS
from bonsai_quant.sources.families import flux2
from bonsai_quant.sources.families.model import Model
from bonsai_quant.training.recipe import load_recovery
from tests.support import models

KLEIN_4B = ((5, 20), {"h": 3072, "i": 128, "o": 128, "j": 7680, "t": 256, "d": 128, "m": 9216})
KLEIN_9B = ((8, 24), {"h": 4096, "i": 128, "o": 128, "j": 12288, "t": 256, "d": 128, "m": 12288})


def detected(size, layout="diffusers", path="model") -> Model:
    """A model of that size from names and shapes alone, without a file."""
    specs, _ = flux2.dense_specs(*size)
    stored = {s.name: StoredTensor(s, path, 0) for s in specs}
    return flux2.detect(stored, path)


@pytest.mark.parametrize(("size", "name", "packed", "kept"), [
    (KLEIN_4B, "flux2-klein-4b", 100, 69),
    (KLEIN_9B, "flux2-klein-9b", 144, 89),
    (models.TINY, "flux2", 16, 17),
])  # fmt: skip
def test_sizes_are_recognised_from_shapes(size, name, packed, kept):
    model = detected(size)
    assert model.base == name
    assert sum(t.packable for t in model.tensors) == packed
    assert sum(not t.packable for t in model.tensors) == kept


def test_the_real_sizes_have_the_published_bytes():
    model = detected(KLEIN_4B)
    weights = {k: sum(_size(t) for t in model.tensors if t.packable is k) for k in (True, False)}
    assert weights == {True: 3_680_501_760, False: 195_042_816}
    files = {(m, f): _layout(model, m, f) for m, named in models.FORMATS.items() for f in named}
    assert files["ternary", "mlx"].data_bytes == 1_425_226_752
    assert files["binary", "mlx"].data_bytes == 965_164_032
    assert files["ternary", "gemlite"].data_bytes == 1_540_242_432 + 100 * 56
    assert files["binary", "gemlite"].data_bytes == 1_080_179_712 + 100 * 56
    assert files["ternary", "bonsai"].size <= 1_186_000_000
    assert files["binary", "bonsai"].size <= 909_000_000
    norms = 60 * 128 * 2  # in 32 bits
    assert files["binary", "gguf"].data_bytes == 517_570_560 + 390_085_632 + norms


def _layout(model, mode, format_name):
    tensors = tuple(
        PackTensor(t.name, t.shape, mode if t.packable else "keep") for t in model.tensors
    )
    return FORMATS[format_name].layout(PackInfo(model.base, mode, model.config, tensors))


def _size(t):
    n = 1
    for d in t.shape:
        n *= d
    return n


@pytest.mark.heavy
def test_diffusers_class_on_the_meta_device_agrees():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    for size in (KLEIN_4B, models.TINY):
        _, config = flux2.dense_specs(*size)
        with torch.device("meta"):
            made = diffusers.Flux2Transformer2DModel.from_config(config)
        theirs = {n: tuple(p.shape) for n, p in made.state_dict().items()}
        assert theirs == {t.name: t.shape for t in detected(size).tensors}


@pytest.mark.heavy
def test_diffusers_reads_the_original_layout_the_same_way(tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    weights = models.tensors()
    file = models.save_original(tmp_path / "original.safetensors", weights)
    models.save_folder(tmp_path / "folder", weights)
    loaded = diffusers.Flux2Transformer2DModel.from_single_file(
        str(file), config=str(tmp_path / "folder"), torch_dtype=torch.float32
    )
    for name, tensor in loaded.state_dict().items():
        assert (tensor.numpy() == weights[name].astype("float32")).all(), name


def test_settings_say_where_they_come_from(tiny, monkeypatch, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("mode: binary\nsolver: absmean\n")
    monkeypatch.setenv("BONSAI_QUANT_THREADS", "3")
    work = plan(str(tiny), recipe=recipe, mode="ternary")
    found = {s.name: (s.value, s.origin.split()[0]) for s in work.settings}
    assert found["mode"] == ("ternary", "flag")
    assert found["solver"] == ("absmean", "recipe")
    assert found["threads"] == ("3", "environment")


def test_explain_names_the_rule_and_the_source_rows(tmp_path, run):
    path = models.save_original(tmp_path / "original.safetensors", models.tensors())
    planned = explain(plan(str(path), mode="ternary"), "transformer_blocks.0.attn.to_k")
    (piece,) = planned.pieces
    assert (piece.stored.spec.name, piece.start, piece.stop) == (
        "double_blocks.0.img_attn.qkv.weight", 128, 256)  # fmt: skip
    result = run("plan", path, "--mode", "ternary", "--explain", "norm_out.linear")
    assert "layers outside blocks are kept" in result.out
    assert "final_layer.adaLN_modulation.1.weight, rows 64 to" not in result.out
    assert result.out.count("final_layer.adaLN_modulation.1.weight") == 2
    wrong = run("plan", path, "--mode", "ternary", "--explain", "norm_outt.linear")
    assert (wrong.code, "did you mean 'norm_out.linear'" in wrong.err) == (2, True)


@pytest.mark.parametrize(("text", "message"), [
    ("mode: ternary\nsolvr: exact\n", "unknown key 'solvr'; did you mean 'solver'?"),
    ("mode: trinary\n", "mode"),
    ("mode: ternary\nsolver: exat\n", "did you mean 'exact'?"),
    ("mode: ternary\ngroup_size: 64\n", "group_size"),
    ("solver: exact\n", "mode"),
    ("mode: ternary\nlayers: [{match: x, actoin: keep}]\n", "did you mean 'action'?"),
])  # fmt: skip
def test_mistakes_in_recipes_are_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as e:
        load_recipe(path)
    assert message in str(e.value)
    assert "recipe.yaml" in str(e.value)


def test_a_recipe_made_by_a_program_is_checked_too(tiny):
    with pytest.raises(UsageError, match="unknown solver 'exat'; did you mean 'exact'"):
        plan(str(tiny), recipe=Recipe(mode="ternary", solver="exat"))


@pytest.mark.parametrize("layers", [(), ({"match": "*attn*", "action": "binary"},)])
def test_a_solver_must_know_every_mode_asked_for(tiny, monkeypatch, layers):
    one_mode = replace(SOLVERS["exact"], modes=("binary",) if not layers else ("ternary",))
    monkeypatch.setitem(SOLVERS, "exact", one_mode)
    with pytest.raises(UsageError, match="solver 'exact' cannot make .* layers"):
        plan(str(tiny), recipe=parse_recipe({"mode": "ternary", "layers": layers}, "here"))


@pytest.mark.parametrize("text", ["mode: ternary\nmode: binary\n", "[1, 2]", "a: [", "\x00"])
def test_files_that_are_not_recipes(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises((BadInput, UsageError), match=r"recipe\.yaml"):
        load_recipe(path)


def test_patterns_that_match_nothing_suggest_a_layer(tiny):
    layers = [{"match": "transformer_blocks.0.attn.to_w", "action": "keep"}]
    recipe = parse_recipe({"mode": "ternary", "layers": layers}, "here")
    with pytest.raises(UsageError, match=r"did you mean 'transformer_blocks\.0\.attn\.to_"):
        plan(str(tiny), recipe=recipe)


def test_a_ternary_layer_does_not_fit_a_binary_pack(tiny):
    layers = [{"match": "transformer_blocks.0.*", "action": "ternary"}]
    with pytest.raises(UsageError, match="cannot hold a ternary layer"):
        plan(str(tiny), recipe=parse_recipe({"mode": "binary", "layers": layers}, "here"))


def test_the_recipe_of_another_base_is_refused(tiny):
    recipe = parse_recipe({"mode": "binary", "base": "flux2-klein-4b"}, "here")
    with pytest.raises(BadInput, match="the recipe is for flux2-klein-4b"):
        plan(str(tiny), recipe=recipe)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")))
def test_shipped_recipes_are_legal(path):
    said = load_recovery(path.stem, None)
    assert said.recipe.mode in ("ternary", "binary")
    trains = said.calibration or said.distillation
    if path.stem in ("klein-4b-ternary", "klein-4b-binary", "klein-4b-mixed"):
        assert not trains
        assert load_recipe(path.stem) == said.recipe
    else:
        assert trains


def test_odd_group_widths_are_all_listed(tmp_path):
    size = (models.TINY[0], models.TINY[1] | {"m": 130})
    source = models.save_folder(tmp_path / "odd", models.tensors(size), size)
    with pytest.raises(Unsupported) as e:
        plan(str(source), mode="ternary")
    assert str(e.value).count("in = 130") == 2
    assert str(e.value).count("in = 258") == 2


def test_json_holds_the_whole_plan(tiny, run):
    result = run("plan", tiny, "--mode", "binary", "--format", "bonsai,unpacked", "--json")
    data = json.loads(result.out)
    assert (data["schema_version"], data["mode"]) == (1, "binary")
    assert data["formats"] == ["bonsai", "unpacked"]
    assert len(data["tensors"]) == data["counts"]["packed"] + data["counts"]["kept"]
    assert data["output_bytes"] == sum(f["size"] for f in data["files"])
