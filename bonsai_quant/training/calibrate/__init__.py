"""Solve every layer by what it reads on the model's own way to pictures."""

from .calibrate import Calibrated, calibrate, calibrated

__all__ = ["Calibrated", "calibrate", "calibrated"]
