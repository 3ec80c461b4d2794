"""One file for each kind of command; a new command is a function there and a name in GROUPS."""

from click import Command

from .completion import completion
from .conversion import convert, export, plan
from .distillation import distill, tune
from .hub import publish, pull
from .packs import diff, inspect, report, verify
from .pictures import demo, doctor, generate, score
from .shipped import path
from .training import calibrate, fold, recover

GROUPS: dict[str, tuple[Command, ...]] = {
    "Start here": (demo, doctor, path, completion),
    "Make packs": (plan, convert, export),
    "Prove them": (verify, inspect, diff),
    "Look at pictures": (generate, score, report),
    "Win quality back": (recover, calibrate, tune, distill, fold),
    "Share packs": (publish, pull),
}
"""The commands as `--help` shows them: titles, and the order of a first session."""
