"""Which files of a commit on the Hub a source needs."""

from __future__ import annotations

import logging

from bonsai_quant.core.errors import BadInput
from bonsai_quant.hub.listing import SHA256, WEIGHTS, Commit, Remote

from .components import INDEX, is_component_file
from .shards import INDEX_SUFFIX

log = logging.getLogger(__name__)
MAX_SIZE = 1 << 40
MAX_COPIED = 256 << 20
"""Bytes of a tokenizer's file, the largest that is neither weights nor read whole."""
MAX_SMALL = 16 << 20
"""Bytes of a config or an index; the limit of `fs.read_small`."""
CONFIG = "config.json"


def choose(commit: Commit) -> tuple[Remote, ...]:
    """The files of a commit that make its transformer: weights, index, config, of one folder."""
    inside = [f for f in commit.files if f.path.startswith("transformer/")]
    inside = [f for f in inside if f.path.count("/") == 1]
    at_root = [f for f in commit.files if "/" not in f.path]
    n_inside, n_at_root = (sum(f.name.endswith(WEIGHTS) for f in s) for s in (inside, at_root))
    if not n_inside and not n_at_root:
        raise BadInput(
            "holds no .safetensors file in transformer/ nor at its root",
            where=commit.place,
            hint="name the repo of a FLUX.2 checkpoint",
        )
    if n_inside and n_at_root:
        log.info("%s: transformer/ is read, the weights at the root are not", commit.place)
    chosen = [f for f in (inside if n_inside else at_root) if _is_needed(f)]
    weights = [f for f in chosen if f.name.endswith(WEIGHTS)]
    if len(weights) > 1 and not any(f.name.endswith(INDEX_SUFFIX) for f in chosen):
        raise BadInput(
            f"holds several weight files and no index: {', '.join(f.path for f in weights)}",
            where=commit.place,
            hint="fetch the one to convert and give its path",
        )
    for file in chosen:
        _check_file(file, commit.place)
    return tuple(sorted(chosen, key=lambda f: f.path))


def choose_components(commit: Commit) -> tuple[Remote, ...]:
    """The files of the pipeline's other components, with the index that names their classes."""
    chosen = [f for f in commit.files if f.path == INDEX or is_component_file(f.path)]
    for file in chosen:
        _check_file(file, commit.place, MAX_SMALL if is_read(file) else MAX_COPIED)
    return tuple(sorted(chosen, key=lambda f: f.path))


def choose_papers(commit: Commit) -> tuple[Remote, ...]:
    """What says under which licence the weights are: a card may cite it."""
    named = ("LICENSE", "README.md")
    chosen = [f for f in commit.files if "/" not in f.path and f.path.startswith(named)]
    for file in chosen:
        _check_file(file, commit.place)
    return tuple(sorted(chosen, key=lambda f: f.path))


def is_read(file: Remote) -> bool:
    """Whether planning reads a file whole: configs and indices."""
    return file.name in (CONFIG, INDEX) or file.name.endswith(INDEX_SUFFIX)


def _is_needed(file: Remote) -> bool:
    return file.name == CONFIG or file.name.endswith((WEIGHTS, INDEX_SUFFIX))


def _check_file(file: Remote, shown: str, most: int = MAX_SMALL) -> None:
    most = MAX_SIZE if file.name.endswith(WEIGHTS) else most
    if not isinstance(file.size, int) or not 0 <= file.size <= most:
        raise BadInput(
            f"the Hub says {file.size} bytes; 0 to {most} are read", where=(shown, file.path)
        )
    if file.sha256 and not (isinstance(file.sha256, str) and SHA256.fullmatch(file.sha256)):
        raise BadInput("the Hub gives no legal sha256", where=(shown, file.path))
