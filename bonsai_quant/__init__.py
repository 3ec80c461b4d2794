"""bonsai-quant: full-precision FLUX.2 Klein to 1-bit and ternary packs, proved right.

Every command of the command line is a function here with the same arguments.
"""

from .calibrate import calibrate
from .checks import Checks
from .convert import convert
from .demo import demo
from .diff import diff
from .distill import distill
from .doctor import doctor
from .export import export
from .fold import fold
from .generate import generate
from .inspect import inspect
from .plan import plan
from .publish import plan_publication, publish
from .pull import pull
from .recover import recover
from .report import report
from .score import score
from .verify import verify
from .version import __version__

__all__ = [
    "Checks",
    "__version__",
    "calibrate",
    "convert",
    "demo",
    "diff",
    "distill",
    "doctor",
    "export",
    "fold",
    "generate",
    "inspect",
    "plan",
    "plan_publication",
    "publish",
    "pull",
    "recover",
    "report",
    "score",
    "verify",
]
