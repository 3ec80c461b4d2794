"""LoRA adapters, added to the full-precision weights before they are solved."""

from .adapter import Adapter, open_adapters

__all__ = ["Adapter", "open_adapters"]
