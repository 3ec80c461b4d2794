"""Loaded before any test: the numeric libraries read how many threads to start only once.

The models here are so small that more threads only wait for one another, in each worker.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
