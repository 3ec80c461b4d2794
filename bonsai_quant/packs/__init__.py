"""The quantized side: a folder in one format, with a manifest."""
