"""Packs on their way to and from the Hub, as text for people and as plain data for programs."""

from __future__ import annotations

from typing import Any

from bonsai_quant.core import numbers
from bonsai_quant.hub.client import page_of
from bonsai_quant.publishing.publish import Publication, Published
from bonsai_quant.publishing.pull import Pulled

from .answer import Answer, Table

SHOWN = 10
"""Files left behind that are named one by one."""


def listed(publication: Publication) -> Answer:
    """What would be sent, and the card as it would read."""
    text: list[str | Table] = [
        f"{publication.repo} would get",
        _files(publication),
        *_left_out(publication),
        "",
        "README.md:",
        publication.card,
    ]
    return Answer(text, _data(publication) | {"card": publication.card})


def published(result: Published) -> Answer:
    """What is there now."""
    publication = result.publication
    done = "published" if result.made else "already published"
    text = [
        f"{done}: {page_of(publication.repo)}, commit {result.commit}",
        *(
            [f"pull request: {page_of(publication.repo)}/discussions/{_number(result)}"]
            if result.ref
            else []
        ),
        f"{len(publication.files)} files, {numbers.size(publication.size)}, "
        "each compared with what the Hub holds",
        *_left_out(publication),
    ]
    more = {
        "commit": result.commit,
        "ref": result.ref,
        "made": result.made,
        "url": page_of(publication.repo),
    }
    return Answer("\n".join(text), _data(publication) | more)


def pulled(result: Pulled) -> Answer:
    """What came down, and what to do with it."""
    m = result.manifest
    kind = f"{m.mode} {m.format} pack of {m.base}" if m else "files of another program's pack"
    text = [
        f"{result.out}: {kind}, {result.files} files, {numbers.size(result.size)}",
        f"from {result.repo} at commit {result.commit}; every file has its announced hash",
    ]
    data = {
        "out": str(result.out),
        "repo": result.repo,
        "commit": result.commit,
        "files": result.files,
        "size": result.size,
        "manifest": m.model_dump(mode="json") if m else None,
    }
    return Answer("\n".join(text), data)


def _files(publication: Publication) -> Table:
    rows = [(f"  {f.path}", numbers.size(f.size), f.sha256[:16]) for f in publication.files]
    return Table([*rows, ("  in all", numbers.size(publication.size))], (1,))


def _left_out(publication: Publication) -> list[str]:
    if not publication.left_out:
        return []
    names, more = ", ".join(publication.left_out[:SHOWN]), len(publication.left_out) - SHOWN
    return [f"stay here, not of the pack: {names}" + (f" and {more} more" if more > 0 else "")]


def _data(publication: Publication) -> dict[str, Any]:
    files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in publication.files]
    return {"repo": publication.repo, "files": files, "left_out": list(publication.left_out)}


def _number(result: Published) -> str:
    return result.ref.rpartition("/")[2]
