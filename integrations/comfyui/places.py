"""Where a pack is: a file, a folder, or a repo on the Hugging Face Hub."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from pathlib import Path

from .pack_file import FORMAT, PackError

PACKED = "diffusion-model-*-packed.safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def packed_file(pack: str, made: Path) -> Path:
    """The `comfyui-packed` file of a pack, made where the pack is in another format.

    pack: a path, or `org/name[@revision]`.  made: a folder for files that are made.
    Raises PackError where there is none.
    """
    place = Path(pack.strip()).expanduser()
    if pack.strip() and place.is_file():
        return place
    if pack.strip() and place.is_dir():
        return _in_folder(place, made)
    if HUB_ID.fullmatch(pack.strip()):
        return _on_hub(pack.strip(), made)
    raise PackError(f"{pack!r}: is no file, no folder, and no Hub id such as org/name")


def _in_folder(folder: Path, made: Path) -> Path:
    found = sorted(folder.glob(PACKED))
    if len(found) > 1:
        raise PackError(f"{folder}: holds {len(found)} packed files. Give one of them")
    return found[0] if found else _exported(folder, made)


def _on_hub(place: str, made: Path) -> Path:
    """The repo's packed file alone, where it has one; else the whole pack."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    repo, _, revision = place.partition("@")
    at = HfApi().model_info(repo, revision=revision or None)
    names = [f.rfilename for f in at.siblings or ()]
    found = [n for n in names if fnmatch.fnmatch(n, PACKED)]
    if len(found) == 1:
        return Path(hf_hub_download(repo, found[0], revision=at.sha))
    return _in_folder(Path(snapshot_download(repo, revision=at.sha)), made)


def _exported(folder: Path, made: Path) -> Path:
    """The pack in the format of this node, made once for each state of the folder."""
    try:
        import bonsai_quant
    except ImportError as e:
        raise PackError(
            f"{folder}: holds no {PACKED}. Install the package bonsai-quant to read other formats, "
            f"or run `bonsai-quant export {folder} -f {FORMAT} -o OUT`"
        ) from e
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    state = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    out = made / hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    if not out.is_dir():
        made.mkdir(parents=True, exist_ok=True)
        try:
            bonsai_quant.export(folder, format=FORMAT, out=out)
        except Exception as e:
            raise PackError(f"{folder}: cannot be exported: {e}") from e
    return next(out.glob(PACKED))
