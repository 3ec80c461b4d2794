"""The gemlite runner: torch's, with gemlite's own kernels where few rows are multiplied."""
