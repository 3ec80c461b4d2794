"""One call to the Hub: temporary failures are tried again, and every failure is one line."""

from __future__ import annotations

import ipaddress
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bonsai_quant.core.errors import (
    BonsaiError,
    EnvironmentFault,
    HubConflict,
    HubDenied,
    HubMismatch,
    HubUnavailable,
    UsageError,
)
from bonsai_quant.core.version import TOOL, __version__

log = logging.getLogger(__name__)

PAUSES_S = (1.0, 2.0)
"""Waits before the second and the third try."""
LONGEST_PAUSE_S = 30
"""A Hub that asks for a longer wait is given up."""
PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses that may be gone the next time."""
LOGIN = (
    "accept the licence on the model's page and log in with `hf auth login`, "
    "or set HF_TOKEN to a token that may read it"
)
AGAIN = "check the network and HF_ENDPOINT, then run again"
MAX_MESSAGE = 200
CLIENT_LOGGERS = ("huggingface_hub", "httpx", "httpx2")

T = TypeVar("T")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every request."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def timeout_s() -> float:
    """Seconds without a byte after which a call is given up (HF_HUB_DOWNLOAD_TIMEOUT)."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


def check_endpoint(*, writes: bool = False) -> None:
    """Refuse an HF_ENDPOINT that is no web address; warn when it would carry a token in clear.

    writes: the token may change things, so it is not sent in clear at all.
    """
    from huggingface_hub import constants, get_token

    try:
        parts = urlsplit(constants.ENDPOINT)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError("HF_ENDPOINT is not a web address", hint="unset it, or give https://HOST")
    if parts.scheme == "http" and not _is_loopback(host) and get_token():
        if writes:
            raise UsageError(
                f"HF_ENDPOINT: {host} is not reached by https, and would see the token",
                hint="give https://HOST",
            )
        log.warning("HF_ENDPOINT: %s is not reached by https: the token travels in clear", host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token() -> str:
    """The user's token as the Hub's client finds it, "" where there is none."""
    from huggingface_hub import get_token

    return get_token() or ""


def page_of(repo: str) -> str:
    """The address of a repo's page."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def api() -> Any:
    """The Hub's client, which says who calls."""
    from huggingface_hub import HfApi

    return HfApi(library_name=TOOL, library_version=__version__)


def model_info(name: str, revision: str | None) -> Any:
    """The Hub's answer about a model at a revision: commit and files, with sizes and hashes."""
    return api().model_info(name, revision=revision, files_metadata=True, timeout=timeout_s())


def read_range(name: str, sha: str, path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file at a commit, and hardly more, whatever the server sends."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    if stop <= start:
        return b""
    headers = build_hf_headers(library_name=TOOL, library_version=__version__)
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    data, deadline = bytearray(), time.monotonic() + 6 * timeout_s()
    url = hf_hub_url(name, path, revision=sha)
    with get_session().stream("GET", url, headers=headers, timeout=timeout_s()) as answer:
        hf_raise_for_status(answer)
        _check_commit(answer, sha, path)
        skip = 0 if answer.status_code == 206 else start  # a server may ignore ranges
        for chunk in answer.iter_bytes():
            data += chunk
            if len(data) >= skip + stop - start:
                return bytes(data[skip : skip + stop - start])
            if time.monotonic() > deadline:
                break
    raise HubUnavailable(
        f"ended after {len(data)} of {stop - start} bytes", where=(name, path), hint=AGAIN
    )


def _check_commit(answer: Any, sha: str, path: str) -> None:
    """The Hub names the commit that a file is from; a login page does not."""
    commits = {r.headers.get("X-Repo-Commit") for r in (*answer.history, answer)} - {None}
    if not commits:
        raise HubUnavailable("what answers is not a Hub", where=path, hint=AGAIN)
    if commits != {sha}:
        raise HubMismatch(f"came from commit {commits.pop()}, not {sha}", where=path, hint=AGAIN)


def patiently(call: Callable[[], T], place: str) -> T:
    """The result of `call`, tried three times; after the last try its failure as our error.

    place: `org/name@revision`, for messages. The client's own exception is left out of the chain,
    since it may quote what a server echoed: the token.
    """
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    for pause in (*PAUSES_S, None):
        try:
            with _quietly():
                return call()
        except (HTTPError, OSError, HubUnavailable) as e:
            failure, asked = explain(e, place), _asked_pause(e)
            given_up = isinstance(e, LocalEntryNotFoundError)  # the client was patient already
        given_up |= asked > LONGEST_PAUSE_S or not isinstance(failure, HubUnavailable)
        if pause is None or given_up:
            raise failure from None
        log.info("%s; trying again", failure)
        time.sleep(max(pause, asked))
    raise AssertionError("unreachable")


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Turn an answer that the client cannot read into an error: what answers is not a Hub."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except HTTPError:  # some of them are ValueErrors too
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise HubUnavailable("what answers is not a Hub", where=place, hint=AGAIN) from None


def _asked_pause(e: Exception) -> int:
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
        asked = _asked_pause(e)
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


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the client from logging what we say ourselves, and from bars under --quiet."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    loggers = [logging.getLogger(name) for name in CLIENT_LOGGERS]
    levels = [logger.level for logger in loggers]
    hidden = are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    shown = log.isEnabledFor(logging.WARNING) and sys.stderr.isatty()
    if not shown and not hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not hidden:
            enable_progress_bars()
