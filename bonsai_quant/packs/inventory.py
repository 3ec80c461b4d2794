"""The tensors of a pack, from the names and shapes in its weight file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import (
    GROUP,
    MODES,
    Action,
    Mode,
    PackTensor,
    StoredTensor,
    TensorSpec,
)
from bonsai_quant.sources.families import detect

from . import on_grid as ongrid
from .manifest import Manifest

log = logging.getLogger(__name__)
MARKS = {"bonsai": ".codes", "mlx": ".scales", "gemlite": ".W_q"}
"""The stored tensor that each packed layer has exactly one of."""


def _inventory(
    name: str, mode: Mode, stored: Mapping[str, StoredTensor], manifest: Manifest | None, path: Path
) -> tuple[Mode, tuple[PackTensor, ...]]:
    """The model's tensors, and the mode that the width of the codes tells."""
    shapes = {n: t.spec.shape for n, t in stored.items()}
    if name == "unpacked":
        return _unpacked_inventory(stored, manifest, path)
    linears = [n.removesuffix(MARKS[name]) for n in shapes if n.endswith(MARKS[name])]
    if not linears:
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    sizes = {n: _shape_of(name, n, shapes, path) for n in linears}
    bits = {b for _, _, b in sizes.values()}
    if len(bits) != 1 or not bits <= {1, 2}:
        raise Unsupported(
            f"mixes code widths {sorted(bits)}",
            where=str(path),
            hint="one width per pack is supported",
        )
    mode = "ternary" if bits == {2} else "binary"
    packed = [
        PackTensor(f"{n}.weight", (out, width), _action(n, mode, manifest))
        for n, (out, width, _) in sizes.items()
    ]
    kept = [
        PackTensor(n, s, "keep")
        for n, s in shapes.items()
        if n.endswith(".weight") and n.removesuffix(".weight") not in sizes
    ]
    return mode, tuple(sorted(packed + kept, key=lambda t: t.name))


def _shape_of(
    name: str, linear: str, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[int, int, int]:
    """(out, in, bits) of a packed layer, from the shapes of its parts."""
    codes = shapes.get(f"{linear}{'.weight' if name == 'mlx' else MARKS[name]}", ())
    scales = shapes.get(f"{linear}.scales", ())
    if len(codes) != 2 or len(scales) != 2:
        raise BadInput(
            "lacks codes or scales of two axes",
            hint="convert again",
            where=(path, f"tensor {linear}"),
        )
    if name == "gemlite":
        codes, scales = codes[::-1], scales[::-1]
    out, n = codes[0], scales[1] * GROUP
    if name == "bonsai":
        return out, n, 1 if codes[1] == n // 8 else 2
    return out, n, codes[1] * (32 if name == "mlx" else 8) // max(n, 1)


def _unpacked_inventory(
    stored: Mapping[str, StoredTensor], manifest: Manifest | None, path: Path
) -> tuple[Mode, tuple[PackTensor, ...]]:
    model = detect(stored, str(path))
    packable = [t.name for t in model.tensors if t.packable]
    if manifest is None:
        found = ongrid.kinds(stored[n] for n in packable)
        mode = ongrid.mode_of(found.values())
        chosen: dict[str, Action] = {n: "keep" if k == "dense" else mode for n, k in found.items()}
        if off := [n for n, a in chosen.items() if a == "keep"]:
            log.warning("%s: %d layers are on no grid, and kept: %s, ...", path, len(off), off[0])
    else:
        mode, chosen = manifest.mode, _chosen(manifest, packable)
    return mode, tuple(
        PackTensor(t.name, t.shape, chosen.get(t.name, "keep")) for t in model.tensors
    )


def _chosen(manifest: Manifest, packable: list[str]) -> dict[str, Action]:
    """What the recipe did with every tensor that can be packed."""
    from bonsai_quant.core.recipe import Recipe, apply_overrides

    recipe = Recipe.model_validate(manifest.recipe)
    rules = apply_overrides(recipe, [n.removesuffix(".weight") for n in packable])
    return {n: rules.get(n.removesuffix(".weight"), (manifest.mode, ""))[0] for n in packable}


def _action(linear: str, mode: Mode, manifest: Manifest | None) -> Mode:
    """A binary layer in a ternary pack looks ternary; only the recipe tells."""
    import fnmatch

    action: Mode = mode
    for rule in manifest.recipe.get("layers", []) if manifest else []:
        if fnmatch.fnmatch(linear, rule["match"]) and rule["action"] in MODES:
            action = rule["action"]
    return action


def _dense_view(tensors: tuple[PackTensor, ...], path: Path) -> dict[str, StoredTensor]:
    """The model's tensors as a checkpoint would hold them, for the base to recognise."""
    return {t.name: StoredTensor(TensorSpec(t.name, "BF16", t.shape), path, 0) for t in tensors}
