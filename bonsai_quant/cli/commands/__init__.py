"""One file for each group of commands; a new command is a function there and a name in COMMANDS."""

from click import Command

from .completion import completion
from .conversion import convert, export, plan
from .hub import publish, pull
from .packs import diff, inspect, report, verify
from .pictures import demo, doctor, generate, score
from .training import calibrate, distill, fold, recover

COMMANDS: tuple[Command, ...] = (
    convert, plan, export, inspect, verify, generate, report, diff, doctor, score, demo,
    calibrate, fold, distill, recover, publish, pull, completion,
)  # fmt: skip
