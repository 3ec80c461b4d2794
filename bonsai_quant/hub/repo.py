"""A repo to publish in: whether this user may, whether it is there, and who can see it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bonsai_quant.core.errors import HubConflict, HubDenied, HubUnavailable
from bonsai_quant.core.version import TOOL

from . import client, failures
from .listing import check_id

log = logging.getLogger(__name__)

TOKENS = "https://huggingface.co/settings/tokens"
"""Where a user makes tokens."""
WRITE = f"log in with `hf auth login`, or set HF_TOKEN to a token that may write ({TOKENS})"


@dataclass(frozen=True, slots=True)
class Repo:
    """A model's repo that is there. private: whether only its owners see it."""

    name: str
    private: bool


def check_login() -> str:
    """The user's name; HubDenied without a token that the Hub knows. Nothing is sent before."""
    from huggingface_hub import get_token

    if client.offline():
        raise HubUnavailable(
            "HF_HUB_OFFLINE is set", where="publish", hint="unset it, and run again"
        )
    client.check_endpoint(writes=True)
    if not get_token():
        raise HubDenied("no token for the Hub", where="publish", hint=WRITE)

    def call() -> str:
        with failures.understood("the Hub"):
            return str(client.api().whoami()["name"])

    try:
        return client.patiently(call, "the Hub")
    except HubDenied:
        what = "the token is invalid or expired"
        raise HubDenied(what, where="the Hub", hint=WRITE) from None


def open_repo(name: str, *, private: bool) -> Repo:
    """The repo, created when it does not exist; refused when its visibility is another one."""
    check_id(name, "")

    def call() -> Repo:
        with failures.understood(name):
            return _find(name) or _create(name, private)

    repo = client.patiently(call, name)
    if repo.name != name:
        raise HubConflict(f"is now called {repo.name}", where=name, hint=f"publish to {repo.name}")
    if repo.private != private:
        asked, is_now = ("private", "public") if private else ("public", "private")
        raise HubConflict(
            f"exists already and is {is_now}, not {asked}",
            where=name,
            hint="choose another name, change it on its settings page, or "
            + ("leave --private out" if private else "pass --private"),
        )
    return repo


def find_or_open_request(name: str, user: str, title: str) -> str:
    """The ref of this user's open pull request of that title; a new one when there is none.

    It is looked for before every try: an answer that was lost must not lead to a second one.
    """

    def call() -> int:
        with failures.understood(name):
            theirs = client.api().get_repo_discussions(
                name, author=user, discussion_type="pull_request", discussion_status="open"
            )
            for each in theirs:
                if each.title == title and each.author == user:
                    return int(each.num)
            return int(client.api().create_pull_request(name, title, description=f"By {TOOL}.").num)

    return f"refs/pr/{client.patiently(call, name)}"


def _find(name: str) -> Repo | None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = client.api().model_info(name, timeout=client.timeout_s())
    except RepositoryNotFoundError as e:  # a gated one is among these, and is there
        if e.response.status_code == 404:
            return None
        raise
    return Repo(str(info.id), bool(info.private))


def _create(name: str, private: bool) -> Repo:
    """Make the repo. `exist_ok` would take a repo of others for success."""
    from huggingface_hub.errors import HfHubHTTPError

    log.info("%s: making a %s repo", name, "private" if private else "public")
    try:
        client.api().create_repo(name, private=private, exist_ok=False)
    except HfHubHTTPError as e:
        if e.response.status_code != 409:
            raise
    repo = _find(name)  # 409: somebody, or an earlier try of ours, was faster
    if repo is None:
        raise HubConflict("was made, and is not there", where=name, hint="look at it, run again")
    return repo
