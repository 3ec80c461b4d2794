"""Runs in a process of its own: an afternoon with the node in ComfyUI, on the CPU.

    python comfyui_session.py FOLDER

FOLDER/request.json: `engine`, `node`, `packed`, `dense`, `lora` (files), `key` (a packed weight's).
FOLDER/inputs.npz as for benchmarks/clients/comfyui_child.py. Written: velocities and latents to
FOLDER/answers.npz, what is told in words to FOLDER/answers.json.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.clients import comfyui_child as child


def main(folder: Path) -> None:
    """Answer the request."""
    import torch

    request = json.loads((folder / "request.json").read_text())
    engine, node = Path(request["engine"]), Path(request["node"])
    child.enter(engine, node)
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    nodes = load_nodes(engine, node, Path(request["packed"]).parent)
    words = {"workflow": problems(json.loads((node / "workflow.json").read_text()))}
    arrays = sample_all(request, inputs["captions"])
    model = nodes["BonsaiQuantLoad"]().load(Path(request["packed"]).name)[0]
    patched = child.with_loras(model, [(request["lora"], 0.8)])
    arrays |= offload(model, patched, inputs)
    arrays["by few rows"] = by_few_rows(patched, inputs)
    arrays["merged"] = merge(request["dense"], model, inputs)
    words |= refusals(patched, request["key"])
    np.savez(folder / "answers.npz", **arrays)
    (folder / "answers.json").write_text(json.dumps(words))


def load_nodes(engine: Path, node: Path, models: Path) -> dict:
    """ComfyUI's nodes and ours, loaded as ComfyUI loads them."""
    import folder_paths
    import nodes

    for kind in ("diffusion_models", "loras"):
        folder_paths.add_model_folder_path(kind, str(models))
    for name in ("nodes_flux", "nodes_custom_sampler"):
        path = str(engine / f"comfy_extras/{name}.py")
        assert asyncio.run(nodes.load_custom_node(path, module_parent="comfy_extras"))
    assert asyncio.run(nodes.load_custom_node(str(node)))
    return nodes.NODE_CLASS_MAPPINGS


def problems(workflow: dict) -> list[str]:
    """What ComfyUI's own check finds wrong in a workflow, but for files that are not here."""
    import execution

    _, error, outputs, nodes = asyncio.run(execution.validate_prompt("1", workflow, None))
    files = {"name", "clip_name", "vae_name"}
    found = [e for node in nodes.values() for e in node["errors"]
             if (e["type"], e["extra_info"].get("input_name") in files)
             != ("value_not_in_list", True)]  # fmt: skip
    lost = [] if nodes or outputs else [str(error)]
    return lost + [f"{e['type']}: {e['message']} {e['details']}" for e in found]


def sample_all(request: dict, captions) -> dict[str, np.ndarray]:
    """Four steps by ComfyUI's own sampler: packed and dense, without, with, without the LoRA."""
    import comfy.sd
    import torch
    from nodes import NODE_CLASS_MAPPINGS as nodes

    packed = nodes["BonsaiQuantLoad"]().load(Path(request["packed"]).name)[0]
    dense = comfy.sd.load_diffusion_model(request["dense"], model_options={"dtype": torch.float32})
    name, made = Path(request["lora"]).name, {}
    for kind, model in (("packed", packed), ("dense", dense)):
        with_lora = nodes["LoraLoaderModelOnly"]().load_lora_model_only(model, name, 0.8)[0]
        made[f"{kind} before"] = sample(model, captions)
        made[f"{kind} with"] = sample(with_lora, captions)
        made[f"{kind} after"] = sample(model, captions)
    return made


def sample(model, captions) -> np.ndarray:
    """The latents of the workflow's nodes. captions: [n, tokens, width], of which the first."""
    size = {"width": 128, "height": 96}
    sampled = call(
        "SamplerCustomAdvanced",
        noise=call("RandomNoise", noise_seed=3),
        guider=call("BasicGuider", model=model, conditioning=[[captions[:1], {}]]),
        sampler=call("KSamplerSelect", sampler_name="euler"),
        sigmas=call("Flux2Scheduler", steps=4, **size),
        latent_image=call("EmptyFlux2LatentImage", batch_size=1, **size),
    )
    return sampled["samples"].float().numpy()


def call(name: str, **inputs):
    """The first output of a node."""
    from nodes import NODE_CLASS_MAPPINGS

    cls = NODE_CLASS_MAPPINGS[name]
    out = getattr(cls(), cls.FUNCTION)(**inputs)
    return (out if isinstance(out, tuple) else out.result)[0]


def offload(model, patched, inputs) -> dict[str, np.ndarray]:
    """Velocities with a LoRA while ComfyUI moves layers in and out, and then without it."""
    import torch

    def velocity() -> np.ndarray:
        times = inputs["sigma"].float().expand(len(inputs["z"])).contiguous()
        with torch.inference_mode():
            return model.model.diffusion_model(
                inputs["z"], times, inputs["captions"], y=None, guidance=None
            ).numpy()

    made, cpu = {"loaded": child.velocity(patched, **inputs)}, torch.device("cpu")
    patched.partially_unload(cpu, 2_000_000)
    assert patched.model.model_lowvram
    made["some unloaded"] = velocity()
    patched.partially_load(cpu, 1_000_000)
    made["some loaded again"] = velocity()
    patched.detach()
    patched.patch_model(device_to=cpu, lowvram_model_memory=500_000)
    made["little memory"] = velocity()
    patched.detach()
    return made | {"taken off": child.velocity(model, **inputs)}


def by_few_rows(patched, inputs) -> np.ndarray:
    """The velocity with a LoRA, no layer decoded at once, as those of the real model are not."""
    layers = sys.modules[type(patched.model.diffusion_model.img_in).__module__]
    before, layers.WEIGHTS_AT_ONCE = layers.WEIGHTS_AT_ONCE, 100 * 256
    found = child.velocity(patched, **inputs)
    layers.WEIGHTS_AT_ONCE = before
    return found


def merge(dense: str, packed, inputs) -> np.ndarray:
    """Half of a dense model and half of the packed one, as ComfyUI's merging nodes do it."""
    merged = child.load(dense, "float32").clone()
    for key, patch in packed.get_key_patches("diffusion_model.").items():
        merged.add_patches({key: patch}, 0.5, 0.5)
    return child.velocity(merged, **inputs)


def refusals(patched, key: str) -> dict[str, str]:
    """What is said where codes would be taken for weights."""

    def said(act) -> str:
        try:
            act()
        except RuntimeError as e:
            return str(e)
        return ""

    save = partial(patched.patch_weight_to_device, key, return_weight=True)
    hook = partial(patched.patch_hook_weight_to_device, None, {key: []}, key, {}, None)
    return {"save": said(save), "hook": said(hook)}


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main(Path(sys.argv[1]))
