"""A plug-in: importing it lets diffusers load packs of the format `diffusers`.

    import bonsai_quant.diffusers
    from diffusers import Flux2KleinPipeline
    pipeline = Flux2KleinPipeline.from_pretrained("packs/diffusers")

The codes stay packed in memory. LoRAs are loaded and taken off again with PEFT, as ever.
"""

from __future__ import annotations

from . import register
from .open import open_pipeline

register.register()

__all__ = ["open_pipeline"]
