"""bonsai-quant: full-precision FLUX.2 Klein to 1-bit and ternary packs, proved right.

Every command of the command line but `path` and `completion` is a function here.
"""

from bonsai_quant.cli.demo import demo
from bonsai_quant.cli.doctor import doctor
from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.convert import convert
from bonsai_quant.conversion.export import export
from bonsai_quant.conversion.plan import plan
from bonsai_quant.core.version import __version__
from bonsai_quant.evaluation.score import score
from bonsai_quant.packs.diff import diff
from bonsai_quant.packs.inspect import inspect
from bonsai_quant.publishing.publish import plan_publication, publish
from bonsai_quant.publishing.pull import pull
from bonsai_quant.publishing.report import report
from bonsai_quant.runners.generate import generate
from bonsai_quant.training.calibrate import calibrate
from bonsai_quant.training.distill import distill
from bonsai_quant.training.fold import fold
from bonsai_quant.training.recover import recover
from bonsai_quant.training.tune import tune
from bonsai_quant.verification.verify import verify

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
    "tune",
    "verify",
]
