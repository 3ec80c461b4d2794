"""Train a model to be ternary or binary: it learns from itself in full precision."""

from .distill import Distilled, carry_out, distill, prepare, started_processes
from .fit import Budget, budget_here
from .job import DistillationJob
from .memory_need import in_main_memory, needed

__all__ = [
    "Budget", "Distilled", "DistillationJob", "budget_here", "carry_out", "distill",
    "in_main_memory", "needed", "prepare", "started_processes",
]  # fmt: skip
