"""The pack that a command is given: a path, a shipped name, or an id on the Hub."""

from __future__ import annotations

import os

from bonsai_quant.core.errors import HubConflict, HubDenied, HubUnavailable
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.hub.listing import find_cached, split_id
from bonsai_quant.publishing.pulled_packs import pulled_pack
from bonsai_quant.sources.components import INDEX


def local_pack(place: str, progress: Progress = no_progress) -> str:
    """A path or name as it is; of a pack on the Hub, the folder where it is, pulled if need be."""
    if not _is_on_the_hub(place):
        return place
    try:
        return str(pulled_pack(place, progress=progress))
    except (HubConflict, HubDenied, HubUnavailable) as e:
        e.hint = f"{e.hint}; or check the path, for there is no such folder here"
        raise


def _is_on_the_hub(place: str) -> bool:
    """Whether it can only be meant as a Hub id of something that is not in the Hub's own cache."""
    named = split_id(place)
    if named is None or os.path.lexists(place) or os.path.lexists(place.partition("/")[0]):
        return False
    cached = find_cached(*named)
    return cached is None or not (cached / INDEX).exists()
