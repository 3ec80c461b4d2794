"""Packs on their way to and from the Hub, as text for people and as plain data for programs."""

from __future__ import annotations

from typing import Any

from bonsai_quant.core.text import columns, megabytes
from bonsai_quant.hub.client import page_of
from bonsai_quant.publishing.publish import Publication, Published
from bonsai_quant.publishing.pull import Pulled

from .answer import Answer

SHOWN = 10
"""Files left behind that are named one by one."""


def listed(what: Publication) -> Answer:
    """What would be sent, and the card as it would read."""
    text = [f"{what.repo} would get", _files(what), *_left_out(what), "", "README.md:", what.card]
    return Answer("\n".join(text), _data(what) | {"card": what.card})


def published(made: Published) -> Answer:
    """What is there now."""
    what = made.what
    done = "published" if made.made else "already published"
    text = [
        f"{done}: {page_of(what.repo)}, commit {made.commit}",
        *([f"pull request: {page_of(what.repo)}/discussions/{_number(made)}"] if made.ref else []),
        f"{len(what.files)} files, {megabytes(what.size)}, each compared with what the Hub holds",
        *_left_out(what),
    ]
    more = {"commit": made.commit, "ref": made.ref, "made": made.made, "url": page_of(what.repo)}
    return Answer("\n".join(text), _data(what) | more)


def pulled(made: Pulled) -> Answer:
    """What came down, and what to do with it."""
    m = made.manifest
    kind = f"{m.mode} {m.format} pack of {m.base}" if m else "files of another program's pack"
    text = [
        f"{made.out}: {kind}, {made.files} files, {megabytes(made.size)}",
        f"from {made.repo} at commit {made.commit}; every file has its announced hash",
        f"next: bonsai-quant verify {made.out}",
    ]
    data = {
        "out": str(made.out),
        "repo": made.repo,
        "commit": made.commit,
        "files": made.files,
        "size": made.size,
        "manifest": m.model_dump(mode="json") if m else None,
    }
    return Answer("\n".join(text), data)


def _files(what: Publication) -> str:
    rows = [(f"  {f.path}", f"{f.size:,} bytes", f.sha256[:16]) for f in what.files]
    return columns([*rows, ("  in all", f"{what.size:,} bytes")], (1,))


def _left_out(what: Publication) -> list[str]:
    if not what.left_out:
        return []
    names, more = ", ".join(what.left_out[:SHOWN]), len(what.left_out) - SHOWN
    return [f"stay here, not of the pack: {names}" + (f" and {more} more" if more > 0 else "")]


def _data(what: Publication) -> dict[str, Any]:
    files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in what.files]
    return {"repo": what.repo, "files": files, "left_out": list(what.left_out)}


def _number(made: Published) -> str:
    return made.ref.rpartition("/")[2]
