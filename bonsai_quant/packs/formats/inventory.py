"""What a weight file holds of a model, told from the names and shapes of its tensors."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.recipe import Recipe, apply_overrides
from bonsai_quant.core.schema import MODES, Action, Mode, PackTensor, StoredTensor
from bonsai_quant.packs import on_grid
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.sources.families import Model, detect
from bonsai_quant.sources.families.model import ModelTensor

from .original import rows_of

log = logging.getLogger(__name__)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """mode: of the pack.  stored: name -> where its bytes are.  tensors: the model's, by name."""

    mode: Mode
    stored: Mapping[str, StoredTensor]
    tensors: tuple[PackTensor, ...]


def by_name(tensors: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    """Stored tensors by their names."""
    return {t.spec.name: t for t in tensors}


def packed_inventory(
    stored: Mapping[str, StoredTensor],
    path: Path,
    manifest: Manifest | None,
    *,
    mark: str,
    codes: str,
    size: Callable[[Shape, Shape], tuple[int, int, int]],
) -> Inventory:
    """The inventory of a file whose packed layers have codes and `.scales`.

    mark: the ending of the stored tensor that each packed layer, and nothing else, has one of.
    codes: the ending of the codes.  size: shapes of codes and scales -> (out, in, bits).
    """
    shapes = {n: t.spec.shape for n, t in stored.items()}
    linears = [n.removesuffix(mark) for n in shapes if n.endswith(mark)]
    if not linears:
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    sizes: dict[str, tuple[int, int, int]] = {}
    for linear in linears:
        both = shapes.get(f"{linear}{codes}", ()), shapes.get(f"{linear}.scales", ())
        if [len(shape) for shape in both] != [2, 2]:
            raise BadInput(
                "lacks codes or scales of two axes",
                hint="convert again",
                where=(path, f"tensor {linear}"),
            )
        sizes[linear] = size(*both)
    mode = mode_of_bits({bits for _, _, bits in sizes.values()}, path)
    packed = [
        PackTensor(f"{n}.weight", (out, width), action_of(n, mode, manifest))
        for n, (out, width, _) in sizes.items()
    ]
    kept = [
        PackTensor(n, s, "keep")
        for n, s in shapes.items()
        if n.endswith(".weight") and n.removesuffix(".weight") not in sizes
    ]
    return Inventory(mode, stored, tuple(sorted(packed + kept, key=lambda t: t.name)))


def mode_of_bits(bits: set[int], path: Path) -> Mode:
    """Of a pack, from the widths of its codes. Raises Unsupported unless it is one, 1 or 2."""
    if len(bits) != 1 or not bits <= {1, 2}:
        raise Unsupported(
            f"mixes code widths {sorted(bits)}",
            where=str(path),
            hint="one width per pack is supported",
        )
    return "ternary" if bits == {2} else "binary"


def action_of(linear: str, mode: Mode, manifest: Manifest | None) -> Mode:
    """A binary layer in a ternary pack looks ternary; only the recipe tells."""
    action: Mode = mode
    for rule in manifest.recipe.get("layers", []) if manifest else []:
        if fnmatch.fnmatch(linear, rule["match"]) and rule["action"] in MODES:
            action = rule["action"]
    return action


def dense_inventory(
    stored: Mapping[str, StoredTensor], path: Path, manifest: Manifest | None
) -> Inventory:
    """The inventory of dense weights: the recipe tells what is packed, else the weights do."""
    model = detect(stored, str(path))
    mode, tensors = dense_tensors(model, path, manifest)
    return Inventory(mode, stored, tensors)


def dense_tensors(
    model: Model, path: Path, manifest: Manifest | None
) -> tuple[Mode, tuple[PackTensor, ...]]:
    """Mode and tensors of a pack that is a model of dense weights, in any layout."""
    packable = [t.name for t in model.tensors if t.packable]
    if manifest is None:
        kinds = on_grid.kinds(_first_piece(t) for t in model.tensors if t.packable)
        mode = on_grid.mode_of(kinds.values())
        actions: dict[str, Action] = {n: "keep" if k == "dense" else mode for n, k in kinds.items()}
        if off := [n for n, a in actions.items() if a == "keep"]:
            log.warning("%s: %d layers are on no grid, and kept: %s, ...", path, len(off), off[0])
    else:
        mode, actions = manifest.mode, _recipe_actions(manifest, packable)
    tensors = (PackTensor(t.name, t.shape, actions.get(t.name, "keep")) for t in model.tensors)
    return mode, tuple(tensors)


def _first_piece(tensor: ModelTensor) -> StoredTensor:
    piece = tensor.pieces[0]
    return rows_of(piece.stored, tensor.name, piece.start, piece.stop)


def _recipe_actions(manifest: Manifest, packable: list[str]) -> dict[str, Action]:
    """What the recipe did with every tensor that can be packed."""
    recipe = Recipe.model_validate(manifest.recipe)
    rules = apply_overrides(recipe, [n.removesuffix(".weight") for n in packable])
    return {n: rules.get(n.removesuffix(".weight"), (manifest.mode, ""))[0] for n in packable}
