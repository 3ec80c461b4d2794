"""The modules of a LoRA file: pairs of factors, each for some rows of a model's tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.sources.families import Model
from bonsai_quant.sources.families.model import Share
from bonsai_quant.storage.containers.safetensors import Header

from .names import Kind, spellings, take_apart

ANOTHER_SIZE = "use a LoRA of this size of the model"


@dataclass(frozen=True, slots=True)
class Module:
    """One linear's pair. linear: in the base's table.  down: [r, in].  up: [out, r].

    alpha: one number, where the file has it.  shares: which rows of `up` belong to which tensor.
    """

    linear: str
    shares: tuple[Share, ...]
    down: StoredTensor
    up: StoredTensor
    alpha: StoredTensor | None

    @property
    def rank(self) -> int:
        """Inner width of the product."""
        return self.down.spec.shape[0]


def gather(header: Header, model: Model) -> tuple[tuple[Module, ...], tuple[str, ...]]:
    """The modules, sorted by name, and the names of those that the model does not have."""
    known = spellings(model.linears)
    factors_of: dict[str, dict[Kind, StoredTensor]] = {}
    others = set()
    for t in header.tensors:
        part = take_apart(t.spec.name)
        linear = known.get(part.module)
        if linear is None:
            others.add(part.module)
        elif part.kind == "other":
            raise Unsupported(
                f"is {part.what}; pairs of lora_A and lora_B are merged",
                where=(t.path, f"tensor {t.spec.name}"),
                hint="merge it into the checkpoint with the program that made it",
            )
        elif before := factors_of.setdefault(linear, {}).get(part.kind):
            _bad(t, f"is {before.spec.name} once more")
        else:
            factors_of[linear][part.kind] = t
    if not factors_of:
        raise _no_match(header.path, model, others)
    modules = tuple(_module(name, factors_of[name], model) for name in sorted(factors_of))
    _check_apart(modules)
    return modules, tuple(sorted(others))


def _no_match(path: Path, model: Model, others: Iterable[str]) -> BadInput | Unsupported:
    if not others:
        return BadInput("holds no tensors", where=str(path), hint="fetch the LoRA again")
    some = ", ".join(sorted(others)[:3])
    return Unsupported(
        f"names no module of {model.base}; it has {some}",
        where=str(path),
        hint="give a LoRA of this model's transformer",
    )


def _module(linear: str, factors: dict[Kind, StoredTensor], model: Model) -> Module:
    for kind, other in (("down", "lora_A"), ("up", "lora_B")):
        if kind not in factors:
            _bad(next(iter(factors.values())), f"stands without its {other}")
    shares = model.linears[linear]
    module = Module(linear, shares, factors["down"], factors["up"], factors.get("alpha"))
    width = next(t.shape[1] for t in model.tensors if t.name == shares[0].tensor)
    _check_shapes(module, width, max(s.stop for s in shares))
    return module


def _check_shapes(module: Module, n_in: int, n_out: int) -> None:
    down, up = module.down.spec.shape, module.up.spec.shape
    for stored in (module.down, module.up):
        if len(stored.spec.shape) != 2:
            raise Unsupported(
                f"has shape {list(stored.spec.shape)}; factors of linears have two axes",
                where=(stored.path, f"tensor {stored.spec.name}"),
                hint="merge it into the checkpoint with the program that made it",
            )
    if down[0] < 1 or down[1] != n_in:
        _bad(module.down, f"has shape {list(down)}, expected [rank, {n_in}]", ANOTHER_SIZE)
    if up != (n_out, down[0]):
        _bad(module.up, f"has shape {list(up)}, expected [{n_out}, {down[0]}]", ANOTHER_SIZE)


def _check_apart(modules: Iterable[Module]) -> None:
    """A fused linear and its parts are the same rows under two names."""
    owner: dict[str, Module] = {}
    for module in modules:
        for share in module.shares:
            other = owner.setdefault(share.tensor, module)
            if other is not module:
                _bad(module.up, f"is for rows that {other.up.spec.name} is for too")


def _bad(stored: StoredTensor, what: str, hint: str = "fetch the LoRA again") -> NoReturn:
    raise BadInput(what, where=(stored.path, f"tensor {stored.spec.name}"), hint=hint)
