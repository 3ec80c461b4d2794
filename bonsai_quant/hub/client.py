"""One call to the Hub: temporary failures are tried again, and every failure is one line."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bonsai_quant.core.errors import (
    HubMismatch,
    HubUnavailable,
    UsageError,
)
from bonsai_quant.core.version import TOOL, __version__

from .failures import AGAIN, asked_pause, explain, not_a_hub

log = logging.getLogger(__name__)

PAUSES_S = (1.0, 2.0)
"""Waits before the second and the third try."""
LONGEST_PAUSE_S = 30
"""A Hub that asks for a longer wait is given up."""
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
        raise not_a_hub(path)
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
            failure, asked = explain(e, place), asked_pause(e)
            given_up = isinstance(e, LocalEntryNotFoundError)  # the client was patient already
        given_up |= asked > LONGEST_PAUSE_S or not isinstance(failure, HubUnavailable)
        if pause is None or given_up:
            raise failure from None
        log.info("%s; trying again", failure)
        time.sleep(max(pause, asked))
    raise AssertionError("unreachable")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the client from logging what we say ourselves, and from drawing bars into our line."""
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
    if not hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not hidden:
            enable_progress_bars()
