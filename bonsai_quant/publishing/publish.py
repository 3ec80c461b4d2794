"""A pack to the Hub: proved first, one commit with the manifest's files, then compared."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core import numbers
from bonsai_quant.core.errors import BadInput, HubDenied, UsageError, VerificationFailed
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.hub.listing import Commit, resolve, split_id
from bonsai_quant.hub.repo import check_login, find_or_open_request, open_repo
from bonsai_quant.hub.upload import Local, check_remote, is_there, put, read_remote
from bonsai_quant.packs.card import Evidence, render_card
from bonsai_quant.packs.deployment import DEPLOYMENTS
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.manifest import (
    BESIDE,
    GALLERY,
    Manifest,
    is_of_this_program,
    validate_manifest,
)
from bonsai_quant.packs.manifest import NAME as MANIFEST
from bonsai_quant.packs.pipeline import missing_components
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.sources.license import CARD, License, named
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import strict_json
from bonsai_quant.verification.verify import verify

from .evidence import read_evidence, read_score
from .secrets import check_secrets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be on the Hub. left_out: other files in the pack's folder, which stay here."""

    repo: str
    pack: Pack
    files: tuple[Local, ...]
    card: str
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


@dataclass(frozen=True, slots=True)
class Published:
    """What is there now. made: whether this run made the commit.  ref: of a pull request, or ""."""

    publication: Publication
    commit: str
    ref: str
    made: bool


def plan_publication(
    pack: str | Path,
    repo: str,
    *,
    report: str | Path | None = None,
    score: str | Path | None = None,
    license: str | None = None,
    incomplete: bool = False,
    progress: Progress = no_progress,
) -> Publication:
    """Verify the pack, write its card, and list what would be sent. Asks nothing of the Hub.

    repo: `owner/name`.  report: a folder that `report` made of this pack, quoted on the card.
    score: a file with what `score --json` printed of it.
    license: the id, where the source's card says none.
    incomplete: accept a pack without the other parts that its clients need.
    """
    if split_id(repo) is None or "@" in repo:
        raise UsageError(f"{repo[:200]!r} is no repo of the Hub", hint="give OWNER/NAME")
    opened, manifest = _the_pack(Path(pack))
    _check_verified(opened.folder, progress)
    if not incomplete:
        _check_complete(opened)
    evidence = read_evidence(Path(report), manifest) if report is not None else None
    card = render_card(
        manifest,
        repo=repo,
        license=_license(manifest, license),
        evidence=evidence,
        score=read_score(Path(score), manifest) if score is not None else None,
    )
    files = _files(opened.folder, manifest, card, evidence)
    check_secrets((f.path, f.content) for f in files)
    names = {f.path for f in files} | set(BESIDE)
    return Publication(repo, opened, files, card, tuple(_others(opened.folder, names)))


def publish(
    pack: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    into_existing: bool = False,
    report: str | Path | None = None,
    score: str | Path | None = None,
    license: str | None = None,
    incomplete: bool = False,
    progress: Progress = no_progress,
) -> Published:
    """Publish a pack's folder as a repo of the Hub; running it again after anything goes on.

    private: of a new repo; of one that is there already it must be so.  revision: a branch.
    create_pr: in a pull request, one and the same for the same pack.
    into_existing: leave files of others where they are.
    The other arguments are those of `plan_publication`. The pack here is never changed.
    """
    if create_pr and revision:
        raise UsageError("a pull request has a branch of its own", hint="leave --revision out")
    publication = plan_publication(
        pack, repo, report=report, score=score, license=license, incomplete=incomplete,
        progress=progress,
    )  # fmt: skip
    try:
        return _send(publication, private, revision or "", create_pr, into_existing, progress)
    except HubDenied as e:
        e.hint = e.hint.replace("may read it", "may write to it")
        raise


def _send(
    publication: Publication, private: bool, revision: str, create_pr: bool, into_existing: bool,
    progress: Progress,
) -> Published:  # fmt: skip
    user = check_login()
    repo = open_repo(publication.repo, private=private)
    digest = next(f.sha256 for f in publication.files if f.path == MANIFEST)
    message = (
        f"Publish {publication.pack.info.mode} {publication.pack.format.name} pack {digest[:12]}"
    )
    if create_pr:
        main = resolve(repo.name, "")
        if not is_there(main, publication.files, _ours(main)):
            revision = find_or_open_request(repo.name, user, message)
    progress.phase(f"sending {len(publication.files)} files, {numbers.size(publication.size)}")
    commit, made = put(
        repo.name,
        revision,
        publication.files,
        message=message,
        ours=_ours,
        into_existing=into_existing,
    )
    progress.phase("comparing with the Hub")
    check_remote(commit, publication.files)
    return Published(publication, commit.sha, revision if create_pr else "", made)


def _the_pack(path: Path) -> tuple[Pack, Manifest]:
    folders = require_packs(path)
    if len(folders) > 1:
        names = ", ".join(str(f.path) for f in folders)
        raise UsageError(
            f"{path} holds {len(folders)} packs, and a repo holds one", hint=f"choose from {names}"
        )
    pack = open_pack(folders[0])
    if pack.manifest is None:
        raise BadInput(
            "was not made by this program, so that nothing says what belongs to it",
            where=str(pack.folder),
            hint="make a pack of your own from it with `bonsai-quant export`",
        )
    return pack, pack.manifest


def _check_verified(folder: Path, progress: Progress) -> None:
    """Nothing is published that does not verify."""
    for check in verify(folder, level="codes", progress=progress).checks:
        if check.status == "failed":
            raise VerificationFailed(
                check.detail, where=(folder, check.level), hint="convert or fetch it again"
            )


def _check_complete(pack: Pack) -> None:
    if pack.format.name not in DEPLOYMENTS:
        return
    if lacks := missing_components(pack.folder):
        raise UsageError(
            f"{pack.folder} has no {', '.join(lacks)}, and clients of its format need them",
            hint="convert a whole pipeline, `export --pipeline SOURCE`, or pass --incomplete",
        )


def _license(manifest: Manifest, asked: str | None) -> License | None:
    """What the user says, else None: the source's own. One of them must say something."""
    if asked is not None:
        return named(asked)
    if manifest.source.license is None:
        raise UsageError(
            "the card of the source names no license",
            hint="ask its authors, then pass --license ID, as the Hub spells it",
        )
    return None


def _files(
    folder: Path, manifest: Manifest, card: str, evidence: Evidence | None
) -> tuple[Local, ...]:
    """The manifest's files, the manifest, and what is about them."""
    contents = {CARD: card.encode(), MANIFEST: fs.read_small(folder / MANIFEST)}
    if evidence and evidence.gallery:
        contents[GALLERY] = evidence.gallery
    listed = [Local(f.path, folder / f.path, f.size, f.sha256) for f in manifest.files]
    whole = [Local(n, b, len(b), hashlib.sha256(b).hexdigest()) for n, b in contents.items()]
    return tuple(sorted((*listed, *whole), key=lambda f: f.path))


def _others(folder: Path, names: Collection[str]) -> list[str]:
    """What lies in the folder and is not to be published."""
    paths = []
    for at, folders, files in os.walk(folder):
        links = [d for d in folders if os.path.islink(os.path.join(at, d))]
        paths += [os.path.relpath(os.path.join(at, n), folder) for n in (*files, *links)]
    return sorted(f for f in paths if f not in names)


def _ours(commit: Commit) -> set[str]:
    """What an earlier publication put into a repo, by the manifest that is there."""
    text = read_remote(commit, MANIFEST)
    try:
        data = None if text is None else strict_json(text)
        if not is_of_this_program(data):
            return set()
        manifest = validate_manifest(data, f"{commit.place}: {MANIFEST}")
    except (ValueError, BadInput):
        return set()
    return {MANIFEST, *BESIDE, *(f.path for f in manifest.files)}
