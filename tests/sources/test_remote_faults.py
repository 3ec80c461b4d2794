"""A Hub that refuses, fails, stalls or asks for a token: each with its error and what to do."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from bonsai_quant import plan
from bonsai_quant.core.errors import HubConflict, HubDenied, HubUnavailable, UsageError
from bonsai_quant.hub import client
from bonsai_quant.sources import remote as remote_source
from bonsai_quant.sources.open import open_source
from tests.support.fakehub import FOREVER, TOKEN, FakeHub, body, drop, page, stall, status, use

from .conftest import NAME, OPTIONS, WEIGHTS

GATED = {"X_Error_Code": "GatedRepo"}
ERRORS = {
    "401": (status(401, "Invalid username or password."), HubDenied, "hf auth login"),
    "403": (status(403, f"Forbidden for {TOKEN}\nBearer {TOKEN}"), HubDenied, "HF_TOKEN"),
    "gated": (status(403, "You are not in the authorized list.", **GATED), HubDenied, "licence"),
    "404": (status(404, X_Error_Code="RepoNotFound"), HubConflict, "is not on the Hub"),
    "410": (status(410), HubConflict, "410"),
    "500": (status(500), HubUnavailable, "500"),
    "503": (status(503), HubUnavailable, "run again"),
    "429": (status(429, Retry_After="3600"), HubUnavailable, "wait 3600 s"),
    "drop": (drop, HubUnavailable, "could not be reached"),
    "page": (page, HubUnavailable, "not a Hub"),
    "nonsense": (body(b"[1, 2]"), HubUnavailable, "not a Hub"),
}


@pytest.mark.parametrize("at", ["GET /api/", "GET .*resolve.*/config.json", f"GET .*{WEIGHTS}"])
@pytest.mark.parametrize("name", ERRORS)
def test_failures_while_asking(remote, files, tmp_path, at, name):
    fault, kind, text = ERRORS[name]
    remote.commit(files)
    remote.fault(at, fault, times=FOREVER)
    with pytest.raises(kind, match=text) as stop:
        plan(NAME, **OPTIONS)
    assert stop.type is kind
    assert TOKEN not in str(stop.value)
    assert "\n" not in str(stop.value)
    assert stop.value.__suppress_context__ or not stop.value.__context__
    assert len(remote.requests) < 12


@pytest.mark.parametrize("at", ["GET /api/", f"GET .*{WEIGHTS}"])
def test_a_hub_that_never_answers(remote, files, at, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    remote.commit(files)
    remote.fault(at, stall, times=FOREVER)
    with pytest.raises(HubUnavailable, match="could not be reached: ReadTimeout"):
        open_source(NAME)


def test_unknown_revision(remote, files):
    remote.commit(files)
    with pytest.raises(HubConflict, match="no such revision"):
        open_source(NAME, revision="v9")


@pytest.mark.parametrize("fault", [status(500), status(429, Retry_After="0"), drop])
@pytest.mark.parametrize("at", ["GET /api/", f"GET .*{WEIGHTS}", "GET .*config.json"])
def test_what_passes_by_itself_is_tried_again(remote, files, at, fault):
    remote.commit(files)
    remote.fault(at, fault, None, fault)
    assert open_source(NAME).hub_id == NAME


@pytest.mark.parametrize("fault", [drop, status(503)], ids=["drop", "503"])
def test_a_download_goes_on_after_a_fault(remote, files, tmp_path, fault, monkeypatch):
    remote.commit(files)
    source = open_source(NAME)
    remote.fault(f"GET .*{WEIGHTS}", fault)
    assert remote_source.download(source).files[0].path.is_file()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(status(403), HubDenied), (status(404, X_Error_Code="EntryNotFound"), HubConflict),
     (status(503), HubUnavailable), (drop, HubUnavailable)],
)  # fmt: skip
def test_failures_of_a_download(remote, files, tmp_path, fault, kind, monkeypatch):
    remote.commit(files)
    source = open_source(NAME)
    remote.fault(f"GET .*{WEIGHTS}", fault, times=FOREVER)
    with pytest.raises(kind) as stop:
        remote_source.download(source)
    assert stop.type is kind
    assert not source.files[0].path.exists()


def test_no_hub_at_all(cache, monkeypatch):
    use("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(HubUnavailable, match="could not be reached: ConnectError"):
        open_source(NAME)


@pytest.mark.parametrize("url", ["ftp://hub.example", "hub.example", "https://[bad", ""])
def test_an_endpoint_that_is_no_address(cache, monkeypatch, url):
    use(url, monkeypatch)
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        open_source(NAME)


@pytest.mark.parametrize(("url", "warned"), [("http://hub.example", True),
                                             ("https://hub.example", False),
                                             ("http://127.0.0.1:1", False)])  # fmt: skip
def test_a_token_in_clear_is_warned_about(cache, monkeypatch, caplog, url, warned):
    use(url, monkeypatch)
    client.check_endpoint()
    assert ("in clear" in caplog.text) == warned
    assert TOKEN not in caplog.text


def test_the_token_stays_with_the_hub(remote, files, cache):
    sha = remote.commit(files)
    with FakeHub(host="localhost") as cdn:
        remote.cdn, cdn.commits[sha] = cdn, files
        source = remote_source.download(open_source(NAME))
        assert all(f.path.is_file() for f in source.files)
        assert any("GET" in r for r in cdn.requests)
        assert not any(k.lower() == "authorization" for h in cdn.headers for k in h)
    assert all(h.get("authorization") == f"Bearer {TOKEN}" for h in remote.headers)
