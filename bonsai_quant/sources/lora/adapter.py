"""A LoRA file -> what it adds to each tensor of a model. Checked whole before any work begins."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.errors import BadInput, Unsupported, UsageError, printable
from bonsai_quant.core.schema import Delta, Piece
from bonsai_quant.sources.families import Model
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import parse_header

from .alpha import CONFIG, Settings, read_settings
from .modules import Module, gather
from .names import PEFT_PREFIX
from .values import read_alpha, read_factor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An opened LoRA file. identity: as `fs.identity`.  scale: what was asked for.

    config: sha256 of the adapter_config.json that says how strong it is.  alpha: who says it.
    modules: how many of the file's are the model's.  ignored: names that are not.
    deltas: tensor -> what is added to it.
    """

    path: Path
    identity: tuple[int, int, int, int]
    size: int
    sha256: str
    scale: float
    config: str | None
    alpha: str
    modules: int
    ignored: tuple[str, ...]
    deltas: Mapping[str, Delta]

    def summary(self) -> str:
        """How much of it is used, and how strongly."""
        matched = f"{self.modules} of {self.modules + len(self.ignored)} modules matched"
        return f"{matched}, scale {self.scale:g}, alpha {self.alpha}"

    def check_unchanged(self) -> None:
        """Refuse when another file has taken its place since it was opened."""
        fd, info = fs.open_regular(self.path)
        os.close(fd)
        if fs.identity(info) != self.identity:
            raise BadInput(
                "changed during the run",
                where=str(self.path),
                hint="let nothing write to the LoRA, and run again",
            )


def open_adapters(
    asked: Sequence[str] | str, model: Model, *, partial: bool
) -> tuple[Adapter, ...]:
    """asked: FILE or FILE:SCALE. Sorted by hash, so that their order on the command line is free.

    partial: leave out what is not the model's, such as the text encoder's, instead of refusing.
    """
    given = [asked] if isinstance(asked, str) else asked
    opened = [_open(*parse(text), model, partial) for text in given]
    for a in opened:
        log.info("lora %s: %s", printable(a.path), a.summary())
    opened.sort(key=lambda a: a.sha256)
    for a, b in zip(opened, opened[1:], strict=False):
        if a.sha256 == b.sha256:
            raise UsageError(
                f"{a.path} and {b.path} are the same LoRA",
                hint="give it once, with the sum of the scales",
            )
    return tuple(opened)


def parse(text: str) -> tuple[Path, float]:
    """FILE[:SCALE] -> both. The file may have colons in its name."""
    head, colon, tail = text.rpartition(":")
    whole, scaled = os.path.lexists(text), bool(colon) and os.path.lexists(head)
    if not scaled:
        return Path(text), 1.0
    if whole:
        raise UsageError(
            f"{text[:300]} and {head[:300]} are both files", hint=f"say which: {text[:300]}:1"
        )
    try:
        scale = float(tail)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UsageError(
            f"{tail[:80]!r} is not a scale for {head[:300]}",
            hint=f"give a number, as in --lora {head[:300]}:0.8",
        )
    return Path(head), scale


def _open(path: Path, scale: float, model: Model, partial: bool) -> Adapter:
    fd, info = fs.open_regular(path)
    try:
        header = parse_header(fd, info.st_size, path)
        modules, ignored = gather(header, model)
        if ignored and not partial:
            raise _unmatched(path, ignored, len(modules))
        peft = any(t.spec.name.startswith(PEFT_PREFIX) for t in header.tensors)
        settings, config = read_settings(header, peft=peft)
        strengths = {m.linear: _strength(fd, m, settings) for m in modules}
        for m in modules:
            for factor in (m.down, m.up):
                read_factor(fd, factor)  # refuses what is not finite
        size, sha256 = fs.sha256_fd(fd, path)
    finally:
        os.close(fd)
    return Adapter(
        path=path,
        identity=fs.identity(info),
        size=size,
        sha256=sha256,
        scale=scale,
        config=config,
        alpha=_origin(modules, settings, config),
        modules=len(modules),
        ignored=ignored,
        deltas=dict(d for m in modules for d in _deltas(m, scale * strengths[m.linear])),
    )


def _strength(fd: int, module: Module, settings: Settings | None) -> float:
    """alpha / r, from wherever the file says it."""
    given = settings.factor(module.linear, module.rank) if settings else None
    if module.alpha is None:
        return 1.0 if given is None else given
    stored = read_alpha(fd, module.alpha) / module.rank
    if given is not None and not math.isclose(given, stored, rel_tol=1e-2):  # 16 bits may hold it
        raise BadInput(
            f"gives alpha / rank = {stored:g}, and the file's settings {given:g}",
            where=(module.alpha.path, f"tensor {module.alpha.spec.name}"),
            hint="fetch the LoRA again",
        )
    return stored


def _origin(modules: Sequence[Module], settings: Settings | None, config: str | None) -> str:
    if any(m.alpha for m in modules):
        return "from its tensors"
    if settings is None:
        return "not given: the rank"
    return f"from {CONFIG}" if config else "from its metadata"


def _deltas(module: Module, factor: float) -> Iterator[tuple[str, Delta]]:
    """What a module adds to each tensor that it is for."""
    path = module.up.path
    for tensor in sorted({s.tensor for s in module.shares}):
        mine = (s for s in module.shares if s.tensor == tensor)
        up = tuple(Piece(module.up, s.start, s.stop, s.at) for s in mine)
        yield tensor, Delta(path, module.down, up, factor)


def _unmatched(path: Path, ignored: Sequence[str], matched: int) -> Unsupported:
    some = ", ".join(ignored[:3]) + (", ..." if len(ignored) > 3 else "")
    return Unsupported(
        f"has {len(ignored)} modules that are not the transformer's ({some}), and {matched} that "
        "are",
        where=str(path),
        hint="pass --lora-partial to leave them out",
    )
