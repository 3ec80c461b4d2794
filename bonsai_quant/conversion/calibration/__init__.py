"""What `calibrate` wrote: moments of inputs in full precision, or the codes that a solver chose."""

from .calibration import Calibration, Guide, open_calibration

__all__ = ["Calibration", "Guide", "open_calibration"]
