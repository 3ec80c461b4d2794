"""What the project measures about itself: run one with `python -m benchmarks.NAME`."""
