"""The mathematics: weights to codes and scales, and back. numpy and numba alone."""
