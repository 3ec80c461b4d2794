"""The torch runner: diffusers, with weights kept as codes."""
