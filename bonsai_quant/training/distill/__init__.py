"""Train a rounded model to do what the original does: from prompts alone, without any pictures."""

from .distill import Distilled, distill, prepare
from .memory_need import needed

__all__ = ["Distilled", "distill", "needed", "prepare"]
