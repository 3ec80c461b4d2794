"""Train a model to be ternary or binary: it learns from itself in full precision."""

from .distill import Distilled, carry_out, distill, prepare
from .job import DistillationJob
from .memory_need import needed

__all__ = ["Distilled", "DistillationJob", "carry_out", "distill", "needed", "prepare"]
