"""The full-precision side: a path, a name or a Hub id becomes a recognised model."""
