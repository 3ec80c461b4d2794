"""The MLX runner: text encoder, transformer and decoder in MLX, on Apple silicon or on a CPU."""
