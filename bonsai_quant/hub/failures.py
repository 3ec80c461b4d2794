"""What a failure of the Hub or its client means: one of our errors, in a line without tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bonsai_quant.core.errors import (
    BonsaiError,
    EnvironmentFault,
    HubConflict,
    HubDenied,
    HubMismatch,
    HubUnavailable,
)

PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses that may be gone the next time."""
LOGIN = (
    "accept the licence on the model's page and log in with `hf auth login`, "
    "or set HF_TOKEN to a token that may read it"
)
AGAIN = "check the network and HF_ENDPOINT, then run again"
MAX_MESSAGE = 200


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Turn an answer that the client cannot read into an error: what answers is not a Hub."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except HTTPError:  # some of them are ValueErrors too
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise not_a_hub(place) from None


def not_a_hub(place: str) -> HubUnavailable:
    """The error for an answer that is not a Hub's: a login page, say."""
    return HubUnavailable("what answers is not a Hub", where=place, hint=AGAIN)


def asked_pause(e: Exception) -> int:
    """Seconds that the Hub asked to wait (Retry-After), 0 when it did not."""
    text = e.response.headers.get("Retry-After", "") if hasattr(e, "response") else ""
    return int(text) if text.isdecimal() else 0


def explain(e: Exception, place: str) -> BonsaiError:
    """An exception of the Hub's client as one of ours."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    if isinstance(e, LocalEntryNotFoundError) and isinstance(e.__cause__, Exception):
        e = e.__cause__
    if isinstance(e, BonsaiError):
        return e
    if isinstance(e, HfHubHTTPError):
        return _answered(e, place)
    if isinstance(e, OfflineModeIsEnabled):
        return HubUnavailable(
            "is not complete in the cache, and HF_HUB_OFFLINE is set",
            where=place,
            hint="unset HF_HUB_OFFLINE and run again",
        )
    if isinstance(e, OSError) and e.errno:
        return EnvironmentFault(
            f"could not be stored: {e.strerror}",
            where=(place, e.filename or ""),
            hint="check the cache folder (HF_HOME): its space and permissions",
        )
    if "Consistency check" in str(e):
        return HubMismatch("was delivered with another size", where=place, hint="run again")
    what = f"could not be reached: {type(e).__name__}: {scrubbed(e)}"
    return HubUnavailable(what, where=place, hint=AGAIN)


def _answered(e: Any, place: str) -> BonsaiError:
    """The meaning of a status."""
    status, message = e.response.status_code, scrubbed(e.server_message or "")
    what = f"the Hub answered {status}" + (f": {message}" if message else "")
    if status in (401, 403):  # 401 also answers for what does not exist
        hint = f"check the name, {LOGIN}" if status == 401 else LOGIN
        return HubDenied(what, where=place, hint=hint)
    if status in PASSING or status > 500:
        asked = asked_pause(e)
        hint = f"wait {asked} s and run again" if asked else "run again later"
        return HubUnavailable(what, where=place, hint=hint)
    if e.response.headers.get("X-Error-Code") == "RevisionNotFound":
        return HubConflict("the Hub has no such revision", where=place, hint="check the revision")
    if status == 412:
        what = "changed while this run was working, so nothing was written"
        return HubConflict(what, where=place, hint="look at what changed, then run again")
    if status == 404:
        hint = "check the name; if a path was meant, nothing is there"
        return HubConflict("is not on the Hub", where=place, hint=hint)
    return HubConflict(what, where=place, hint="check the name and the revision")


def scrubbed(text: object) -> str:
    """The first line of a foreign message, short and without tokens."""
    from huggingface_hub import get_token

    line = next((x.strip() for x in str(text).splitlines() if x.strip()), "")
    line = line.replace(get_token() or "\n", "***")
    return re.sub(r"\bhf_\w+|\bBearer\s+\S+", "***", line, flags=re.IGNORECASE)[:MAX_MESSAGE]
