"""Damage a pack's weights, and make its manifest agree again."""

from __future__ import annotations

import hashlib
import json

from bonsai_quant.packs.read import open_pack


def resign(folder):
    """Make the manifest agree with the files again, as an attacker or a buggy tool would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for f in manifest["files"]:
        data = (folder / f["path"]).read_bytes()
        f["size"], f["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(manifest))


def flip(folder, name, at, mask=0x01):
    """Flip bits of one byte of a stored tensor."""
    stored = open_pack(folder).stored[name]
    with stored.path.open("r+b") as f:
        f.seek(stored.offset + at)
        byte = f.read(1)[0]
        f.seek(stored.offset + at)
        f.write(bytes([byte ^ mask]))


def exchange(folder, a, b):
    """Let two stored tensors of one size change places; each a name, or (name, start, stop)."""
    spans = []
    stored = open_pack(folder).stored
    for what in (a, b):
        name, start, stop = what if isinstance(what, tuple) else (what, 0, None)
        t = stored[name]
        spans.append((t.path, t.offset + start, (t.spec.nbytes if stop is None else stop) - start))
    (path, first, size), (_, second, same) = spans
    assert size == same
    data = bytearray(path.read_bytes())
    x, y = data[first : first + size], data[second : second + size]
    data[first : first + size], data[second : second + size] = y, x
    path.write_bytes(data)


def orphan(folder):
    """Take the manifest away: a pack of which nobody says how it was made."""
    (folder / "manifest.json").unlink()
