"""Learn what the inputs of every layer look like, on the model's own way to pictures."""

from .calibrate import Calibrated, calibrate

__all__ = ["Calibrated", "calibrate"]
