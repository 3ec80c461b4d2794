"""Publishing when the Hub, the network or the process fails."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from huggingface_hub import constants

from bonsai_quant.core.errors import HubConflict, HubDenied, HubMismatch, HubUnavailable
from tests.faults.harness import in_child
from tests.support.fakehub import FOREVER, TOKEN, drop, page, stall, status, use
from tests.support.writehub import WriteHub, lost

from .conftest import REPO, WEIGHTS, listed, on_hub, send


@pytest.fixture(scope="module")
def counted(original):
    """The requests of one publication, by way of a run that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch, WriteHub(REPO) as hub:
        use(hub.url, patch)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        assert in_child(lambda: send(original) and None).status == 0
        return list(hub.requests)


@pytest.mark.heavy
@pytest.mark.parametrize("create_pr", [False, True])
def test_killed_at_every_request_and_run_again(pack, cache, counted, monkeypatch, create_pr):
    """SIGKILL as each request arrives, and as each is answered; then the same command again."""
    whole = listed(pack)
    for moment in ("before", "after"):
        for k in range(len(counted) + 4 * create_pr):
            with WriteHub(REPO) as hub:
                if create_pr:
                    hub.create()
                use(hub.url, monkeypatch)
                dead = killed_at(hub, k, moment, lambda: send(pack, create_pr=create_pr) and None)
                branches = ["main", "refs/pr/1"] if create_pr else ["main"]
                for branch in branches:  # nothing that looks complete and is not
                    seen = on_hub(hub, branch) if branch in hub.branches else {}
                    assert seen in ({}, whole)
                setattr(hub, moment, lambda request: None)
                assert in_child(lambda: send(pack, create_pr=create_pr) and None).status == 0
                assert len(hub.made) == 1, (moment, k)
                assert on_hub(hub, branches[-1]) == whole
                assert len(hub.requests_open) == create_pr
                size = len(whole[WEIGHTS])
                assert hub.sent <= 2 * size, "large files go again only when they did not arrive"
                if not dead:
                    break


def killed_at(hub: WriteHub, k: int, moment: str, work) -> bool:
    """Kill a child at the k-th request; -> whether it had so many."""
    reading, writing = os.pipe()

    def child() -> None:
        os.write(writing, str(os.getpid()).encode())
        work()

    count = iter(range(10**6))

    def kill(request: str) -> None:
        if next(count) == k:
            os.kill(int(os.read(reading, 20)), signal.SIGKILL)

    setattr(hub, moment, kill)
    code = in_child(child).status
    os.close(reading), os.close(writing)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize(
    ("pattern", "faults", "error", "text"),
    [
        ("POST .*/create", [status(403, "no right")], HubDenied, "no right"),
        ("POST .*/preupload", [status(403, "read only")], HubDenied, "read only"),
        ("POST .*/commit/", [status(401)], HubDenied, "401"),
        ("POST .*/commit/", [status(412)], HubConflict, "changed while"),
        ("POST .*/commit/", [status(404, X_Error_Code="RepoNotFound")], HubConflict, "404|not on"),
        ("POST .*/create", [status(429, Retry_After="3600")], HubUnavailable, "wait 3600 s"),
        ("POST .*/commit/", [status(503)] * 9, HubUnavailable, "503"),
        ("POST .*/batch", [page] * 9, HubUnavailable, "not a Hub"),
        ("GET .*/whoami", [page] * 3, HubUnavailable, "not a Hub"),
        ("PUT .*", [status(403)] * 99, HubUnavailable, "store answered 403"),
        ("POST .*/verify", [status(422)], HubMismatch, "other bytes"),
    ],
)
def test_what_the_hub_refuses(pack, remote, pattern, faults, error, text):
    remote.fault(pattern, *faults)
    with pytest.raises(error, match=text) as caught:
        send(pack)
    assert TOKEN not in str(caught.value)
    assert remote.made == []


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("GET .*/whoami", status(503)),
        ("POST .*/create", drop),
        ("POST .*/create", lost),
        ("POST .*/preupload", status(500)),
        ("POST .*/batch", status(502)),
        ("PUT .*", status(500)),
        ("PUT .*", status(403)),
        ("POST .*/verify", drop),
        ("POST .*/commit/", status(504)),
        ("POST .*/commit/", status(429, Retry_After="1")),
        ("POST .*/commit/", status(429, Retry_After="soon")),
        ("POST .*/commit/", drop),
        ("POST .*/commit/", lost),
        ("GET .*/revision/", status(503)),
    ],
)
def test_what_passes_by_itself(pack, remote, pattern, fault):
    remote.fault(pattern, fault)
    send(pack)
    assert len(remote.made) == 1
    assert on_hub(remote) == listed(pack)


def test_a_lost_answer_makes_no_second_request(pack, remote):
    remote.create()
    remote.fault("POST .*/discussions", lost)
    remote.fault("POST .*/commit/", lost)
    made = send(pack, create_pr=True)
    assert made.ref == "refs/pr/1"
    assert (len(remote.requests_open), len(remote.made)) == (1, 1)
    assert on_hub(remote) == {} and on_hub(remote, made.ref) == listed(pack)


def test_a_hub_that_never_answers(pack, remote, monkeypatch):
    monkeypatch.setattr(constants, "DEFAULT_REQUEST_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    remote.fault("GET .*/models/", stall, times=FOREVER)
    before = time.monotonic()
    with pytest.raises(HubUnavailable):
        send(pack)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("kind", ["closed", "no TLS"])
def test_no_hub_at_all(pack, remote, monkeypatch, kind):
    address = remote.url.removeprefix("http://")
    use({"closed": "http://127.0.0.1:1", "no TLS": f"https://{address}"}[kind], monkeypatch)
    with pytest.raises(HubUnavailable, match="could not be reached"):
        send(pack)


def test_an_upload_in_parts_of_which_one_fails(pack, remote):
    remote.chunk = 1000
    remote.fault("PUT .*/3$", status(403))
    send(pack)
    assert on_hub(remote) == listed(pack)


def test_a_quota_is_passed_on_escaped(pack, remote, run):
    error = {"code": 403, "message": f"quota of {TOKEN} \x1b[31mexceeded"}

    def refuse(handler):
        asked = json.loads(handler.payload)["objects"]
        handler.say({"objects": [o | {"error": error} for o in asked]})

    remote.fault("POST .*/batch", refuse)
    result = run("publish", pack, REPO, "--license", "mit")
    assert result.code == 8
    assert "exceeded" in result.err and TOKEN not in result.err and "\x1b" not in result.err


def test_the_first_401_ends_it(pack, remote):
    remote.fault("GET .*/whoami", status(401))
    with pytest.raises(HubDenied, match="invalid or expired"):
        send(pack)
    assert [r for r in remote.requests if "harness" not in r] == ["GET /api/whoami-v2"]


def test_a_hub_that_stores_other_bytes(pack, remote):
    remote.corrupt = WEIGHTS
    with pytest.raises(HubMismatch, match=rf"{WEIGHTS}: has another hash.*delete the repo"):
        send(pack)
