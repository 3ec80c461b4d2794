"""A packed transformer as an ONNX graph, made from what a pack holds and nothing else."""

from .model import render

__all__ = ["render"]
