"""Train a rounded model to do what the original does: from prompts alone, without any pictures."""

from .work import Distilled, distill

__all__ = ["Distilled", "distill"]
