"""Quality, recovered: calibrate, fold, distill."""
