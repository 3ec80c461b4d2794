"""Open a source: a path, a shipped name or a Hub id."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from bonsai_quant.core.errors import BadInput, UsageError, nearest, printable
from bonsai_quant.core.shell import command_line

from .checkpoint import Source, read_source
from .components import find_components
from .shipped import NAMES, PACKS, find_shipped

PACKED = ("manifest.json", "*/manifest.json")
"""What lies in packs, and in folders of packs."""

log = logging.getLogger(__name__)


def open_source(
    place: str, *, revision: str | None = None, strict: bool = False, components: bool = False
) -> Source:
    """A path, or `org/name[@revision]` on the Hub, or the bare name of a shipped model.

    components: look for the pipeline's other components, too.
    """
    path = Path(place)
    if place and os.path.lexists(path):
        if revision is not None:
            raise UsageError(f"{place} is a path: --revision is for the Hub", hint="leave it out")
        log.info("%s is a path on this machine", printable(place))
        source = _read(place, path, strict=strict)
        return replace(source, components=find_components(path) if components else None)
    if folder := find_shipped(place):
        if revision is not None:
            raise UsageError(f"{place} has no revisions: they are on the Hub", hint="leave it out")
        log.info("%s comes with this program", place)
        source, others = read_source(folder, strict=strict), None
        if components:
            others = find_components(folder)
        return replace(source, place=place, shipped=place, components=others)
    from bonsai_quant.hub.listing import split_id

    from .remote import fetch

    if name_and_revision := split_id(place):
        name, at = name_and_revision
        if revision and at and revision != at:
            raise UsageError(f"two revisions: {at!r} and --revision {revision!r}", hint="give one")
        return fetch(name, revision or at or None, strict=strict, components=components)
    if place in PACKS:
        raise UsageError(
            f"{place} is a pack: its weights are rounded already",
            hint=f"give a model in full precision, such as {NAMES[0]}",
            typed=place,
            meant=NAMES[:1],
        )
    near = nearest(place, NAMES)
    raise UsageError(
        f"no file, folder or Hub id {place[:300]!r}",
        hint=f"give a path, org/name for the Hub, or {' or '.join(NAMES)}, which comes with this "
        "program",
        typed=place if near else "",
        meant=(near,) if near else (),
    )


def _read(place: str, path: Path, *, strict: bool) -> Source:
    """The source at a path; of packs it says that they are some."""
    try:
        return read_source(path, strict=strict)
    except BadInput as e:
        if not any(True for pattern in PACKED for _ in path.glob(pattern)):
            raise
        raise UsageError(
            "holds packs, whose weights are rounded already",
            where=place,
            hint="give the model in full precision; another format of a pack is written by: "
            f"bonsai-quant export {command_line(place)} --format unpacked -o dense",
        ) from e
