"""Faults that a pack may have while its manifest says that all is well."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.quantization import packing
from bonsai_quant.quantization.grid import round_to_grid

GROUP = 128


@dataclass
class Layer:
    """A packed layer to be changed. codes: [out, in], each -1, 0 or 1.  scales: [out, in / 128]."""

    codes: np.ndarray
    scales: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """A view of the codes: [out, in / 128, 128]."""
        return self.codes.reshape(*self.scales.shape, GROUP)


def read(pack: Pack, name: str) -> Layer:
    """name: of the linear."""
    tensor = next(t for t in pack.info.tensors if t.linear == name)
    layer = pack.layer(tensor)
    codes = packing.unpack(layer.codes, layer.bits).astype(np.int8)
    return Layer(codes - 1 if layer.bits == 2 else 2 * codes - 1, layer.scales.copy())


def write(pack: Pack, name: str, new: Layer) -> None:
    """In the place of what stands there."""
    tensor = next(t for t in pack.info.tensors if t.linear == name)
    layer = pack.layer(tensor)
    packed = pack_codes(new.codes, layer.bits)
    scales, _ = round_to_grid(new.scales.astype(np.float64))
    encoded = pack.format.encode(replace(layer, codes=packed, scales=scales.astype(np.float16)))
    for part, data in zip((".codes", ".scales"), encoded, strict=True):
        overwrite(pack, f"{name}{part}", data)


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """-1, 0 and 1 as they are held in memory."""
    codes = codes + 1 if bits == 2 else (codes + 1) // 2
    return packing.pack(np.ascontiguousarray(codes).astype(np.uint8), bits)


def overwrite(pack: Pack, stored_name: str, data: np.ndarray) -> None:
    """The bytes of a stored tensor."""
    stored = pack.stored[stored_name]
    data = np.ascontiguousarray(data)
    assert data.nbytes == stored.spec.nbytes
    with Path(stored.path).open("r+b") as f:
        f.seek(stored.offset)
        f.write(data.tobytes())


def halve_scales(layer, rng):
    layer.scales /= 2
    return "of the source is in it"


def halve_a_row(layer, rng):
    layer.scales[100] /= 2
    return "row 100: its scales are"


def exchange_groups(layer, rng):
    for x in (layer.groups, layer.scales):
        x[[20, 90], [0, 1]] = x[[90, 20], [1, 0]]
    return ("row 20, group 0: is row 90, group 1", "row 90, group 1: is row 20, group 0")


def exchange_rows(layer, rng):
    for x in (layer.codes, layer.scales):
        x[[20, 90]] = x[[90, 20]]
    return ("row 20: is row 90 of the source", "row 90: is row 20 of the source")


def exchange_columns(layer, rng):
    layer.codes[:, :64] = np.roll(layer.codes[:, :64], 32, axis=1)
    return ("columns 0 to 15", "columns 16 to 31", "columns 32 to 47", "columns 48 to 63")


def change_codes(share):
    def change(layer, rng):
        legal = np.array([-1, 0, 1] if (layer.codes == 0).any() else [-1, 1])
        chosen = rng.random(layer.codes.shape) < share
        others = np.stack([legal[legal != c] for c in legal])
        pick = rng.integers(0, others.shape[1], layer.codes.shape)
        new = others[np.searchsorted(legal, layer.codes), pick]
        layer.codes = np.where(chosen, new, layer.codes).astype(np.int8)
        return ("of the source's", "of the source is in it")

    return change


def invert_a_row(layer, rng):
    layer.codes[33] *= -1
    return "row 33: is not the source's"


def invert_a_group(layer, rng):
    layer.groups[33, 1] *= -1
    return "row 33, group 1: is not the source's"


def invert(layer, rng):
    layer.codes *= -1
    return "has a cosine of -0."


def shuffle_scales(layer, rng):
    layer.scales = rng.permutation(layer.scales.ravel()).reshape(layer.scales.shape)
    return "its scales follow neither"


def equal_scales(layer, rng):
    layer.scales[:] = np.median(layer.scales)
    return "its scales follow neither"


def blank_codes(layer, rng):
    least = 0 if (layer.codes == 0).any() else -1
    layer.codes[rng.random(layer.codes.shape) < 0.1] = least
    return "the code zero" if least == 0 else "out of balance"


def blank_rows(layer, rng):
    layer.codes[: len(layer.codes) // 10] = 0 if (layer.codes == 0).any() else -1
    return "row "


def shift_columns(layer, rng):
    layer.codes = np.roll(layer.codes, 1, axis=1)
    return "has a cosine of "


def transpose(layer, rng):
    layer.codes = layer.codes.T.copy()
    return "has a cosine of "


def enlarge_a_group(layer, rng):
    layer.scales[40, 1] *= 100
    return "row 40, group 1: scale "


def reverse_bits(layer, rng):
    each = 5 if (layer.codes == 0).any() else 8
    n = layer.codes.shape[1] // each * each
    parts = layer.codes[:, :n].reshape(len(layer.codes), -1, each)
    layer.codes[:, :n] = parts[..., ::-1].reshape(len(layer.codes), n)
    return "has a cosine of "


ALONE = {
    "scales halved": halve_scales,
    "scales of a row halved": halve_a_row,
    "two groups exchanged": exchange_groups,
    "two rows exchanged": exchange_rows,
    "two blocks of columns exchanged": exchange_columns,
    "a row inverted": invert_a_row,
    "a group inverted": invert_a_group,
    "all signs inverted": invert,
    "scales shuffled": shuffle_scales,
    "scales all the same": equal_scales,
    "a tenth of the codes blank": blank_codes,
    "a tenth of the rows blank": blank_rows,
    "codes shifted by a column": shift_columns,
    "transposed": transpose,
    "a group's scale times 100": enlarge_a_group,
    "bits in the reverse order": reverse_bits,
}
"""Faults of one packed layer: a function that changes it, and says what must be found."""
CHANGED = {"ternary": 0.01, "binary": 0.2}
"""Share of codes that are changed at random and seen: see `verification.likeness.limits`."""


def plant(folder: Path, name: str, change, seed: int = 0) -> tuple[str, ...]:
    """Change one packed layer of a pack; -> what must be said of it, any of these."""
    pack = open_pack(folder)
    layer = read(pack, name)
    said = change(layer, np.random.default_rng(seed))
    write(pack, name, layer)
    return (said,) if isinstance(said, str) else said
