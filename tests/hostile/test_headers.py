"""Group A: malformed safetensors files. Each is refused with one line, before any output."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zipfile

import pytest

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage.containers.safetensors import MAX_HEADER, read_header

from .conftest import MATRIX, SINGLE_FILE, mk, save, save_shards, table_of, tiny

GOOD = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
WORD = b"\0\0\0\0"


def one(**changes: object) -> dict:
    return {"a": {k: v for k, v in (GOOD | changes).items() if v is not ...}}


def two(first: list[int], second: list[int]) -> dict:
    shapes = [[(stop - start) // 4] for start, stop in (first, second)]
    return {
        name: {"dtype": "F32", "shape": shape, "data_offsets": span}
        for name, shape, span in zip(("first", "second"), shapes, (first, second), strict=True)
    }


def pair(key: str) -> bytes:
    """A header in which `key` stands twice, as text."""
    text = json.dumps(GOOD)
    return f'{{"{key}":{text},"{key}":{text}}}'.encode()


# id -> file content, texts that the message must hold
MALFORMED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "A1-empty": (b"", ("empty file",)),
    "A2-one-byte": (b"1", ("1 bytes",)),
    "A2-seven-bytes": (b"1234567", ("7 bytes",)),
    "A3-length-0": (struct.pack("<Q", 0), ("length 0",)),
    "A3-length-0-and-body": (struct.pack("<Q", 0) + b"{}", ("length 0",)),
    "A4-header-beyond-file": (mk(b"{}", length=52), ("52", "10", "truncated")),
    "A5-2^63": (struct.pack("<Q", 2**63), (str(2**63),)),
    "A5-2^64-1": (struct.pack("<Q", 2**64 - 1) + bytes(64), (str(2**64 - 1),)),
    "A7-bad-utf8": (mk(b'{"\xff":1}'), ("utf-8",)),
    "A7-utf16": (mk('{"a":1}'.encode("utf-16")), ("not JSON",)),
    "A7-byte-order-mark": (mk(b"\xef\xbb\xbf{}"), ("not JSON",)),
    "A8-not-json": (mk(b"hello"), ("not JSON",)),
    "A8-nan": (mk(b'{"a":NaN}'), ("NaN",)),
    "A8-infinity": (mk(b'{"a":-Infinity}'), ("Infinity",)),
    "A8-comment": (mk(b'{"a":1} // x'), ("not JSON",)),
    "A8-trailing-nul": (mk(b"{}\0\0"), ("not JSON",)),
    "A8-two-objects": (mk(b"{}{}"), ("not JSON",)),
    "A9-list": (mk(b"[]"), ("list",)),
    "A9-string": (mk(b'"a"'), ("str",)),
    "A9-number": (mk(b"3"), ("int",)),
    "A9-null": (mk(b"null"), ("NoneType",)),
    "A10-deep-lists": (mk(b"[" * 5000), ("nested",)),
    "A10-deep-objects": (mk(b'{"a":' * 200_000 + b"1" + b"}" * 200_000), ("nested",)),
    "A11-long-integer": (mk(b'{"a":{"shape":[' + b"9" * 100_000 + b"]}}"), ("not JSON",)),
    "A12-name-twice": (mk(pair("weight"), WORD), ("'weight'", "twice")),
    "A13-metadata-twice": (mk(b'{"__metadata__":{},"__metadata__":{}}'), ("twice",)),
    "A13-dtype-twice": (mk(b'{"a":{"dtype":"F32","dtype":"F16"}}'), ("'dtype'", "twice")),
    "A14-overlap": (mk(two([0, 8], [4, 12]), bytes(12)), ("tensor second", "overlaps", "first")),
    "A14-alias": (mk(two([0, 4], [0, 4]), WORD), ("tensor second", "overlaps", "first")),
    "A15-hole": (mk(two([0, 4], [8, 12]), bytes(12)), ("tensor second", "4 bytes")),
    "A15-hole-in-front": (mk(one(data_offsets=[4, 8]), bytes(8)), ("tensor a", "4 bytes")),
    "A16-tail": (mk(one(), WORD + b"!"), ("1 bytes after",)),
    "A17-one-short": (mk(one(), b"\0\0\0"), ("1 bytes too short", "truncated download?")),
    "A17-half": (mk(one(), b"\0\0"), ("2 bytes too short",)),
    "A17-no-body": (mk(one()), ("4 bytes too short",)),
    "A18-reversed": (mk(one(data_offsets=[4, 0]), WORD), ("tensor a", "reversed")),
    "A18-negative": (mk(one(data_offsets=[-4, 0]), WORD), ("tensor a", "data_offsets")),
    "A18-float": (mk(one(data_offsets=[0, 4.0]), WORD), ("tensor a", "data_offsets")),
    "A18-bool": (mk(one(data_offsets=[False, 4]), WORD), ("tensor a", "data_offsets")),
    "A18-string": (mk(one(data_offsets="04"), WORD), ("tensor a", "data_offsets")),
    "A18-one-item": (mk(one(data_offsets=[4]), WORD), ("tensor a", "data_offsets")),
    "A18-three-items": (mk(one(data_offsets=[0, 4, 8]), WORD), ("tensor a", "data_offsets")),
    "A18-beyond-64-bits": (mk(one(data_offsets=[0, 2**64 + 4]), WORD), ("tensor a",)),
    "A19-shape-too-large": (mk(one(shape=[3]), WORD), ("tensor a", "4 bytes", "12")),
    "A19-shape-too-small": (mk(one(shape=[0]), WORD), ("tensor a", "4 bytes", "0")),
    "A20-overflow": (mk(one(shape=[2**32, 2**32, 4]), WORD), ("tensor a",)),
    "A20-zero-times-huge": (mk(one(shape=[0, 2**62, 2**62], data_offsets=[0, 0])), ("tensor a",)),
    "A20-negative-shape": (mk(one(shape=[-1, -1]), WORD), ("tensor a", "shape")),
    "A20-bool-shape": (mk(one(shape=[True]), WORD), ("tensor a", "shape")),
    "A20-many-axes": (mk(one(shape=[1] * 100), WORD), ("tensor a", "shape")),
    "A21-unknown-dtype": (mk(one(dtype="Q4"), WORD), ("tensor a", "'Q4'")),
    "A21-dtype-number": (mk(one(dtype=4), WORD), ("tensor a", "dtype")),
    "A22-no-shape": (mk(one(shape=...), WORD), ("tensor a", "shape")),
    "A22-no-dtype": (mk(one(dtype=...), WORD), ("tensor a", "dtype")),
    "A22-no-offsets": (mk(one(data_offsets=...), WORD), ("tensor a", "data_offsets")),
    "A22-entry-is-a-list": (mk({"a": [1]}, WORD), ("tensor a",)),
    "A22-entry-is-null": (mk({"a": None}, WORD), ("tensor a",)),
    "A23-metadata-number": (mk({"__metadata__": {"a": 1}}), ("__metadata__",)),
    "A23-metadata-list": (mk({"__metadata__": []}), ("__metadata__",)),
    "A23-metadata-null": (mk({"__metadata__": None}), ("__metadata__",)),
    "A23-nothing-else": (mk({"__metadata__": {}}), ("no tensors",)),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case, refuse, tmp_path):
    content, says = MALFORMED[case]
    path = tmp_path / SINGLE_FILE
    path.write_bytes(content)
    refuse(3, path, path.name, *says, within=2)


@pytest.mark.parametrize("case", [k for k in MALFORMED if k != "A23-nothing-else"])
def test_a_shard_is_read_as_strictly_as_a_lone_file(case, tmp_path, refuse):
    folder = save_shards(tmp_path / "model")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(MALFORMED[case][0])
    refuse(3, folder, shard.name, *MALFORMED[case][1])


NAMES = {
    "A24-empty": "",
    "A24-nul": "a\0b",
    "A24-newline-and-escape": "a\n\x1b[31mFAKE\x1b[0m",
    "A24-right-to-left": "a\u202eb",
    "A24-one-megabyte": "x" * (1 << 20),
    "A24-parent-folders": "../../x",
    "A24-absolute": "/etc/passwd",
    "A24-lone-surrogate": "\ud800",
    "A24-nfc-and-nfd": "\u00e9",
    "A24-percent": "%s%n{0}",
}


@pytest.mark.parametrize("case", NAMES)
def test_names_are_escaped_and_never_paths(case, refuse, tmp_path):
    header = {NAMES[case]: GOOD}
    if case == "A24-nfc-and-nfd":
        header["e\u0301"] = GOOD | {"data_offsets": [4, 8]}
    path = tmp_path / SINGLE_FILE
    path.write_bytes(mk(header, WORD * len(header)))
    line = refuse(4 if NAMES[case].isprintable() and 0 < len(NAMES[case]) < 99 else 3, path)
    assert len(line) < 1000


def test_a5_a_huge_length_allocates_nothing(tmp_path):
    path = tmp_path / SINGLE_FILE
    for length in (2**63, 2**64 - 1, 1 << 40):
        path.write_bytes(struct.pack("<Q", length) + bytes(100))
        tracemalloc.start()
        with pytest.raises(BadInput):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


def test_a6_header_above_the_cap(refuse, tmp_path):
    path = tmp_path / SINGLE_FILE
    path.write_bytes(struct.pack("<Q", 100_000_001) + b"{")
    os.truncate(path, 100_000_100)
    refuse(3, path, path.name, "100000001", str(MAX_HEADER), within=1)


def many_names(last: str = "") -> bytes:
    """A header of just under 16 MiB, of as many empty tensors as fit."""
    entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = [f'"{i}":{entry}' for i in range(280_000)]
    return ("{" + ",".join(text) + last + "}").encode()


@pytest.mark.heavy
@pytest.mark.parametrize("last", ["", ',"279999":{}'], ids=["A6-280000-names", "A12-last-twice"])
def test_a6_many_names_are_read_in_linear_time(last, refuse, tmp_path):
    header = many_names(last)
    assert 0.9 * MAX_HEADER < len(header) < MAX_HEADER
    path = tmp_path / SINGLE_FILE
    path.write_bytes(mk(header))
    refuse(3, path, path.name, "279999" if last else "280000 tensors", within=4)


@pytest.mark.parametrize("pad", [b" ", b"\n\t "], ids=["A25-blank", "A25-blanks"])
def test_a25_leading_blanks_are_read_but_not_written(pad, accept, tmp_path):
    table, body = table_of(tiny())
    path = tmp_path / SINGLE_FILE
    path.write_bytes(mk(pad + json.dumps(table).encode(), body))
    written = accept(path).pack / "model.safetensors"
    assert written.read_bytes()[8:9] == b"{"


def test_a16_a_zip_at_the_end_is_refused(refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, tiny())
    size = path.stat().st_size
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    extra = path.stat().st_size - size
    refuse(3, path, path.name, f"{extra} bytes after the last tensor")


@pytest.mark.parametrize("missing", [1, 1000, 10**6], ids=["A17-1", "A17-1000", "A17-most"])
def test_a17_a_truncated_model_says_how_much_is_missing(missing, refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, tiny())
    os.truncate(path, path.stat().st_size - missing)
    refuse(3, path, path.name, f"{missing} bytes too short", "truncated download?")


@pytest.mark.parametrize("dtype, code", [
    ("F64", 4), ("I64", 4), ("F8_E4M3", 4), ("F8_E5M2", 4), ("U8", 4), ("F4", 4), ("F6_E2M3", 4),
    ("BOOL", 4), ("C64", 4), ("Q4", 3), ("bf16", 3), ("BF16 ", 3),
])  # fmt: skip
def test_a21_known_dtypes_are_unsupported_unknown_ones_wrong(dtype, code, refuse, tmp_path):
    from bonsai_quant.core.schema import DTYPE_BYTES

    table, body = table_of(tiny())
    last = max(table, key=lambda n: table[n]["data_offsets"])
    start, stop = table[last]["data_offsets"]
    size = (stop - start) // 2 * DTYPE_BYTES.get(dtype, 2)
    table[last] |= {"dtype": dtype, "data_offsets": [start, start + size]}
    path = tmp_path / SINGLE_FILE
    path.write_bytes(mk(table, body[:start] + bytes(size)))
    refuse(code, path, path.name, f"tensor {last}", dtype.strip())


def test_a22_an_extra_field_is_a_warning(accept, refuse, tmp_path):
    table, body = table_of(tiny())
    table[MATRIX]["note\x1b[31m"] = 1
    path = tmp_path / SINGLE_FILE
    path.write_bytes(mk(table, body))
    refuse(3, path, path.name, MATRIX, options=("--mode", "ternary", "--strict"))
    lines = accept(path).err.splitlines()
    assert len(lines) == 1 and MATRIX in lines[0] and lines[0].isprintable()


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_a26_zeros_of_the_right_length(mode, refuse, accept, tmp_path):
    table, body = table_of(tiny())
    path = tmp_path / SINGLE_FILE
    path.write_bytes(mk(table))
    os.truncate(path, path.stat().st_size + len(body))
    refuse(3, path, path.name, "tensor ", "all zeros", "--allow-zero", options=("--mode", mode))
    accept(path, "--allow-zero", mode=mode)
