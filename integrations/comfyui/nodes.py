"""The nodes: a packed file of models/diffusion_models, or any pack by path or Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CATEGORY = "loaders"


class LoadPackedModel:
    """A `comfyui-packed` file from models/diffusion_models."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "A packed model of bonsai-quant. Its weights stay packed; LoRAs apply as usual."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The files that ComfyUI lists."""
        import folder_paths

        return {"required": {"name": (folder_paths.get_filename_list("diffusion_models"),)}}

    def load(self, name: str) -> tuple[Any]:
        """The model. name: as ComfyUI lists it."""
        import folder_paths

        from .loader import load_model

        return (load_model(folder_paths.get_full_path_or_raise("diffusion_models", name)),)


class LoadPackedModelFrom:
    """A pack from elsewhere: a file, a folder, or a repo on the Hub."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "A pack of bonsai-quant by its path, or by its id on the Hugging Face Hub. "
        "Formats other than comfyui-packed need the Python package bonsai-quant."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A path, or org/name[@revision]."""
        return {"required": {"pack": ("STRING", {"default": ""})}}

    def load(self, pack: str) -> tuple[Any]:
        """The model. pack: as typed."""
        import folder_paths

        from .loader import load_model
        from .places import packed_file

        made = Path(folder_paths.get_temp_directory()) / "bonsai-quant"
        return (load_model(str(packed_file(pack, made))),)


NODE_CLASS_MAPPINGS = {
    "BonsaiQuantLoad": LoadPackedModel,
    "BonsaiQuantLoadFrom": LoadPackedModelFrom,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "BonsaiQuantLoad": "Load Packed Model (bonsai-quant)",
    "BonsaiQuantLoadFrom": "Load Packed Model by Path or Hub Id (bonsai-quant)",
}
