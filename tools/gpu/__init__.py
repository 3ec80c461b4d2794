"""What `tools/gpu_check.py` measures on a card, piece by piece."""
