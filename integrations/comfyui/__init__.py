"""Nodes for ComfyUI that run packs of bonsai-quant with the weights as codes.

ComfyUI reads NODE_CLASS_MAPPINGS. Its own modules are imported when a node runs.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
