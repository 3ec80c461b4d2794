"""Trained packs beside their source: those that ship pass every level, and damaged ones are found.

All faults are planted in one copy of a pack, each in a tensor of its own, and its manifest is made
to agree. So one comparison shows them all, and what is whole must not be named.
"""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from bonsai_quant import verify
from bonsai_quant.conversion.plan import plan
from bonsai_quant.core.progress import no_progress
from bonsai_quant.packs.read import open_pack
from bonsai_quant.sources.shipped import DATA
from bonsai_quant.verification.likeness import compare
from tests.support import damage
from tests.support.forge import exchange, resign

MODES = ("ternary", "binary")
BLOCK, FIRST, SECOND = "transformer_blocks.", "transformer_blocks.0.", "transformer_blocks.1."
SINGLE = "single_transformer_blocks."
HOSTS = {
    "scales halved": f"{FIRST}attn.to_q",
    "scales of a row halved": f"{FIRST}attn.to_k",
    "two groups exchanged": f"{FIRST}attn.to_v",
    "two rows exchanged": f"{FIRST}attn.to_out.0",
    "two blocks of columns exchanged": f"{FIRST}attn.add_q_proj",
    "a row inverted": f"{FIRST}attn.add_k_proj",
    "a group inverted": f"{FIRST}attn.add_v_proj",
    "all signs inverted": f"{FIRST}attn.to_add_out",
    "scales shuffled": f"{FIRST}ff.linear_in",
    "scales all the same": f"{FIRST}ff.linear_out",
    "a tenth of the codes blank": f"{FIRST}ff_context.linear_in",
    "a tenth of the rows blank": f"{FIRST}ff_context.linear_out",
    "codes shifted by a column": f"{SECOND}ff.linear_in",
    "transposed": f"{SECOND}attn.to_out.0",
    "a group's scale times 100": f"{SECOND}ff.linear_out",
    "bits in the reverse order": f"{SECOND}ff_context.linear_in",
}
"""Fault of one packed layer -> the layer that has it."""
PAIRS = {
    "query and key exchanged": (f"{SECOND}attn.to_q", f"{SECOND}attn.to_k"),
    "two layers exchanged": (f"{SINGLE}0.attn.to_out", f"{SINGLE}1.attn.to_out"),
}
CODES_OF_ANOTHER = (f"{SECOND}attn.add_q_proj", f"{SECOND}attn.add_v_proj")
CHANGED = f"{SINGLE}2.attn.to_qkv_mlp_proj"
KEPT = {
    "scaled": ("proj_out.weight", lambda v, _: v * 2, "times as large"),
    "zeroed": ("x_embedder.weight", lambda v, _: v * 0, "has a cosine of 0.000"),
    "rows shuffled": ("context_embedder.weight", lambda v, r: r.permutation(v), "has a cosine of"),
    "two rows exchanged": ("single_stream_modulation.linear.weight",
                           lambda v, _: v[[1, 0, *range(2, len(v))]], "row 0: is not"),
    "a row scaled": ("norm_out.linear.weight",
                     lambda v, _: v * np.where(np.arange(len(v)) == 9, 4, 1)[:, None], "row 9: is"),
    "a norm shuffled": (f"{SINGLE}0.attn.norm_q.weight", lambda v, r: r.permutation(v), "correl"),
    "a norm scaled": (f"{SINGLE}1.attn.norm_q.weight", lambda v, _: v * 2, "differs"),
    "a norm zeroed": (f"{SINGLE}2.attn.norm_q.weight", lambda v, _: v * 0, "differs"),
}  # fmt: skip
"""Fault of a kept tensor -> its name, what is done, and what must be said."""
NORMS = (f"{SINGLE}3.attn.norm_q.weight", f"{SINGLE}3.attn.norm_k.weight")
OF_ANOTHER_BLOCK = (f"{FIRST}attn.norm_q.weight", f"{SECOND}attn.norm_q.weight")


def planned(mode):
    return plan("mini-klein", mode=mode, transformer_only=True)


@pytest.fixture(scope="module", params=MODES)
def damaged(request, tmp_path_factory):
    """A pack with every fault. said: by tensor, what any of must be found.  problems: what was."""
    folder = tmp_path_factory.mktemp(request.param) / "pack"
    shutil.copytree(DATA / f"mini-klein-{request.param}", folder)
    said = {}
    for fault, name in HOSTS.items():
        said[f"{name}.weight"] = damage.plant(folder, name, damage.ALONE[fault])
    change = damage.change_codes(damage.CHANGED[request.param])
    said[f"{CHANGED}.weight"] = damage.plant(folder, CHANGED, change)
    for a, b in PAIRS.values():
        for part in ("codes", "scales"):
            exchange(folder, f"{a}.{part}", f"{b}.{part}")
    pack, rng = open_pack(folder), np.random.default_rng(0)
    ours, theirs = (damage.read(pack, name) for name in CODES_OF_ANOTHER)
    damage.write(pack, CODES_OF_ANOTHER[0], damage.Layer(theirs.codes, ours.scales))
    kept = {t.name: pack.kept(t) for t in pack.info.kept}
    for name, change, words in KEPT.values():
        damage.overwrite(pack, name, change(kept[name], rng).astype(np.float16))
        said[name] = (words,)
    exchange(folder, *NORMS)
    damage.overwrite(pack, OF_ANOTHER_BLOCK[0], kept[OF_ANOTHER_BLOCK[1]])
    resign(folder)
    problems = compare(open_pack(folder), planned(request.param), 2, no_progress).problems
    return SimpleNamespace(folder=folder, said=said, problems=problems, mode=request.param)


def assert_found(damaged, name):
    assert any(words in damaged.problems[name] for words in damaged.said[name]), damaged.problems


@pytest.mark.parametrize("mode", MODES)
def test_packs_that_ship_pass_against_their_source(mode):
    file, codes, likeness = verify(f"mini-klein-{mode}", against="mini-klein").checks
    assert [c.status for c in (file, codes, likeness)] == ["passed"] * 3
    assert "every tensor resembles the source's" in likeness.detail
    assert likeness.figures["groups_off"] == 2


@pytest.mark.heavy
@pytest.mark.parametrize("mode", MODES)
def test_packs_that_ship_pass_every_level(mode):
    verdict = verify(f"mini-klein-{mode}", against="mini-klein", level="image", backends=["torch"])
    assert not verdict.failed
    passed = {c.level for c in verdict.checks if c.status == "passed"}
    assert {"file", "codes", "step", "image"} <= passed


@pytest.mark.parametrize("fault", HOSTS)
def test_a_fault_of_a_layer_is_found_at_its_place(damaged, fault):
    assert_found(damaged, f"{HOSTS[fault]}.weight")


def test_codes_that_were_changed_at_random_are_found(damaged):
    assert_found(damaged, f"{CHANGED}.weight")


@pytest.mark.parametrize("fault", PAIRS)
def test_layers_that_changed_places_are_both_found(damaged, fault):
    for name in PAIRS[fault]:
        assert "has a cosine of" in damaged.problems[f"{name}.weight"]


def test_codes_of_another_layer_are_found(damaged):
    assert "has a cosine of" in damaged.problems[f"{CODES_OF_ANOTHER[0]}.weight"]


@pytest.mark.parametrize("fault", KEPT)
def test_a_fault_of_a_kept_tensor_is_found(damaged, fault):
    assert_found(damaged, KEPT[fault][0])


def test_norms_that_changed_places_are_found(damaged):
    for name, other in (NORMS, NORMS[::-1]):
        assert f"resembles {other} of the source" in damaged.problems[name]


def test_a_norm_of_another_block_is_found(damaged):
    assert damaged.problems[OF_ANOTHER_BLOCK[0]]


def test_what_is_whole_is_not_named(damaged):
    pairs = {f"{n}.weight" for pair in PAIRS.values() for n in pair}
    alone = {f"{CODES_OF_ANOTHER[0]}.weight", OF_ANOTHER_BLOCK[0], *NORMS}
    assert damaged.problems.keys() == damaged.said.keys() | pairs | alone


def test_verify_fails_at_the_level_codes_and_names_the_first(damaged):
    file, codes, likeness = verify(damaged.folder, against="mini-klein").checks
    assert [c.status for c in (file, codes, likeness)] == ["passed", "passed", "failed"]
    first = min(damaged.problems)
    assert likeness.detail.startswith(f"{first}: {damaged.problems[first]}; and ")
