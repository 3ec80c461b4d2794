"""The pickle inside a `.pt` file, read by an allow-list: it is walked, never run.

A pickle is a program. This walks its opcodes on a small stack of inert records: names are compared,
nothing is imported or called, and an opcode that torch.save does not need for a flat dict of
tensors is an error. What is accepted here, torch.load(weights_only=True) accepts as well, given the
CPU as map_location; hence no protocol 4 or 5, whose FRAME and MEMOIZE opcodes torch refuses.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, Unsupported

from . import torchpickle as known
from .torchpickle import MAX_RANK, PickledTensor, Storage

MAX_OPS = 4_000_000
"""Opcodes walked: 36 for each of 100,000 tensors."""
DEVICES = re.compile(r"cpu|cuda:[0-9]{1,2}", re.ASCII)
"""Where a tensor was when it was saved. Its bytes are the same."""
MAX_MARKS = 8
"""Open MARKs; torch.save nests three."""
HINT = "do not load it; save the tensors anew with torch.save, as a flat dict on the CPU"
FLAT = "save one flat dict, such as dict(model.state_dict())"
HINTS = {"BUILD": FLAT, "EMPTY_LIST": FLAT}

_HOOKS = object()
"""The empty OrderedDict of backward hooks that every tensor carries."""


def read_pickle(text: bytes, path: Path) -> dict[str, PickledTensor]:
    """Tensors of the flat dict that `text`, data.pkl of the file `path`, describes."""
    machine = _Machine(text)
    try:
        machine.run()
    except _Refused as e:
        what, hint = (*e.args, HINT)[:2]
        raise BadInput(what, where=(path, f"data.pkl at byte {machine.at}"), hint=hint) from None
    if machine.root is None or machine.outer or machine.stack != [machine.root]:
        raise Unsupported("holds no flat dict of tensors", where=(path, "data.pkl"), hint=FLAT)
    return machine.tensors


class _Global(str):
    """A name on the stack. It stays a name."""


class _Refused(Exception):
    """What is wrong with the opcode at hand, and a hint if not the usual one."""


@dataclass(slots=True)
class _Machine:
    """A pickle machine, cut down. at: byte of the opcode at hand.  root: token of the dict.

    outer: the stacks below each open MARK.
    """

    text: bytes
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    root: object | None = None
    storages: dict[str, Storage] = field(default_factory=dict)
    tensors: dict[str, PickledTensor] = field(default_factory=dict)

    def run(self) -> None:
        """Walk all opcodes; the first has to be PROTO, and the last byte STOP."""
        if not self.text.startswith(b"\x80"):
            raise _Refused("does not start with a protocol number")
        try:
            for count, (op, arg, at) in enumerate(pickletools.genops(self.text)):
                self.at = at or 0
                self.step(op.name, arg)
                if count >= MAX_OPS:
                    raise _Refused(f"has more than {MAX_OPS} opcodes")
        except IndexError:
            raise _Refused("takes more from the stack than there is") from None
        except ValueError as e:  # of genops: an unknown opcode, or too few bytes for one
            raise _Refused(f"is not a pickle: {str(e)[:200]}") from None
        if self.at + 1 != len(self.text):
            raise _Refused(f"ends {len(self.text) - self.at - 1} bytes before its member does")

    def step(self, op: str, arg: object) -> None:
        """One opcode: push its argument, or look up what else it does."""
        if op in PUSHED:
            self.stack.append(arg)
        elif op in ACTIONS:
            ACTIONS[op](self, arg)
        else:
            raise _Refused(f"has the opcode {op}, which no dict of plain tensors needs",
                           HINTS.get(op, HINT))  # fmt: skip

    def proto(self, arg: int) -> None:
        """torch.save writes 2; 3 differs in opcodes for bytes only."""
        if self.at or arg not in (2, 3):
            raise _Refused(f"is pickle protocol {arg}, or changes to it",
                           "save it with the default pickle_protocol of torch.save")  # fmt: skip

    def glob(self, arg: str) -> None:
        """A name, if it is allowed; its raw bytes too, since genops resolves escapes in them."""
        raw = b"c" + arg.replace(" ", "\n").encode() + b"\n"
        if arg not in known.GLOBALS or not self.text.startswith(raw, self.at):
            raise _Refused(f"names {arg[:80]!r}, which no dict of plain tensors needs")
        self.stack.append(_Global(arg))

    def mark(self, _arg: None) -> None:
        """Start a new stack on top of this one."""
        if len(self.outer) == MAX_MARKS:
            raise _Refused(f"nests more than {MAX_MARKS} marks")
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Everything since the last MARK."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def push(self, value: object) -> None:
        """Put a value on the stack of the innermost open MARK."""
        self.stack.append(value)

    def pack(self, count: int) -> None:
        """Replace the last `count` values by a tuple of them."""
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, arg: int) -> None:
        """Remember the last value."""
        self.memo[arg] = self.stack[-1]

    def get(self, arg: int) -> None:
        """Push a remembered value."""
        if arg not in self.memo:
            raise _Refused(f"fetches memo {arg}, where nothing was put")
        self.stack.append(self.memo[arg])

    def new_dict(self, _arg: None) -> None:
        """The dict itself: the first object of all."""
        if self.root is not None or self.stack or self.outer:
            raise _Refused("holds more than one flat dict", FLAT)
        self.root = object()
        self.stack.append(self.root)

    def set_items(self, items: list[Any]) -> None:
        """Add names and tensors to the dict."""
        if self.root is None or self.stack != [self.root] or self.outer or len(items) % 2:
            raise _Refused("sets an item of something else than the dict")
        for name, tensor in zip(items[::2], items[1::2], strict=True):
            if type(name) is not str or not isinstance(tensor, PickledTensor):
                kinds = f"{type(name).__name__} to {type(tensor).__name__}"
                raise _Refused(f"holds an item of {kinds}, not a name and a tensor")
            if name in self.tensors:
                raise _Refused(f"has the tensor {name[:80]!r} twice")
            self.tensors[name] = tensor

    def reduce(self, arg: None) -> None:
        """Put in place of a function and its arguments what it would return."""
        args, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Global or type(args) is not tuple:
            raise _Refused("calls something that is not a function")
        if function == known.ORDERED and not args and not self.stack and not self.outer:
            self.new_dict(arg)
        elif function == known.ORDERED and not args:
            self.stack.append(_HOOKS)
        elif function == known.REBUILD:
            self.stack.append(_tensor(args))
        elif function == known.PARAMETER:
            self.stack.append(_parameter(args))
        else:
            raise _Refused(f"calls {function} with {len(args)} arguments")

    def storage(self, _arg: None) -> None:
        """The record that a persistent id stands for."""
        storage = _storage(self.stack.pop())
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.numel) != (storage.dtype, storage.numel):
            raise _Refused(f"takes storage {storage.key[:20]!r} for {first.numel} x {first.dtype} "
                           f"and for {storage.numel} x {storage.dtype}")  # fmt: skip
        self.stack.append(storage)


def _storage(pid: object) -> Storage:
    """Of the persistent id ('storage', class, key, device, numel)."""
    if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
        raise _Refused("has a persistent id that is not a storage")
    _, kind, key, device, numel = pid
    if type(kind) is not _Global or type(key) is not str or type(numel) is not int:
        raise _Refused("has a storage of wrong types")
    if kind not in known.STORAGE_DTYPE:
        raise _Refused(f"has a storage of class {kind}")
    if type(device) is not str or not DEVICES.fullmatch(device):
        raise _Refused("has a tensor on another device than the CPU or a CUDA GPU")
    return Storage(known.STORAGE_DTYPE[kind], key, numel)


def _is_ints(value: object) -> bool:
    """Length first: one long tuple could be fetched from the memo a million times."""
    return type(value) is tuple and len(value) <= MAX_RANK and all(type(v) is int for v in value)


def _tensor(args: tuple[Any, ...]) -> PickledTensor:
    """Of (storage, start, shape, stride, requires_grad, hooks)."""
    if len(args) != 6:
        raise _Refused(f"rebuilds a tensor from {len(args)} arguments, not 6")
    storage, start, shape, stride, grad, hooks = args
    if not isinstance(storage, Storage) or type(start) is not int or hooks is not _HOOKS:
        raise _Refused("rebuilds a tensor from wrong arguments")
    if not _is_ints(shape) or not _is_ints(stride):
        raise _Refused(f"has a shape or stride that is not at most {MAX_RANK} integers")
    _check_gradient(storage, grad)
    return PickledTensor(storage, start, shape, stride)


def _parameter(args: tuple[Any, ...]) -> PickledTensor:
    """Of (tensor, requires_grad, hooks)."""
    if len(args) != 3 or not isinstance(args[0], PickledTensor) or args[2] is not _HOOKS:
        raise _Refused("rebuilds a parameter from wrong arguments")
    _check_gradient(args[0].storage, args[1])
    return args[0]


def _check_gradient(storage: Storage, grad: object) -> None:
    if type(grad) is not bool or (grad and storage.dtype not in known.FLOATS):
        raise _Refused(f"has a {storage.dtype} tensor whose requires_grad cannot be")


Action = Callable[[_Machine, Any], None]
PUSHED = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"))
"""Opcodes whose argument is the value."""
ACTIONS: dict[str, Action] = {
    "PROTO": _Machine.proto, "GLOBAL": _Machine.glob, "STOP": lambda *_: None,
    "MARK": _Machine.mark, "EMPTY_DICT": _Machine.new_dict,
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "BINPUT": _Machine.put, "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get, "LONG_BINGET": _Machine.get,
    "REDUCE": _Machine.reduce, "BINPERSID": _Machine.storage,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
}  # fmt: skip
