"""Train a rounded model to do what the original does: from prompts alone, without any pictures."""

from .room import needed
from .work import Distilled, distill, prepare

__all__ = ["Distilled", "distill", "needed", "prepare"]
