"""How a picture was made, as its PNG file says it: for this program, and for other readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage.containers.png_text import read_texts
from bonsai_quant.storage.strict_json import strict_json

KEYWORD = "bonsai-quant"
"""Of the text with the facts as JSON."""
PARAMETERS = "parameters"
"""Of the text that AUTOMATIC1111's web UI, and what reads its pictures, looks for."""
SHOWN = {
    "prompt": "prompt",
    "seed": "seed",
    "size": "size",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "model": "model",
    "mode": "mode",
    "format": "format",
    "source": "source",
    "weights_sha256": "weights sha256",
    "lora": "lora",
    "runner": "runner",
    "computes": "computes in",
    "made_by": "made by",
}
"""Facts in the order in which people see them, and their names there."""


def texts(facts: dict[str, Any]) -> dict[str, str]:
    """The texts of a PNG: keyword -> text."""
    return {
        PARAMETERS: _parameters(facts),
        KEYWORD: json.dumps(facts, ensure_ascii=True, sort_keys=True),
    }


def _parameters(facts: dict[str, Any]) -> str:
    """The prompt, and a line of `Key: value` pairs, as that web UI writes them."""
    pairs = {
        "Steps": facts["num_inference_steps"],
        "Sampler": "Euler",
        "CFG scale": facts["guidance_scale"],
        "Seed": facts["seed"],
        "Size": f"{facts['width']}x{facts['height']}",
        "Model hash": (facts.get("weights_sha256") or "")[:10],
        "Model": facts["model"],
        "Version": facts["made_by"],
    }
    line = ", ".join(f"{k}: {_quoted(v)}" for k, v in pairs.items() if v != "")
    return f"{facts['prompt']}\n{line}"


def _quoted(value: object) -> str:
    """In quotes where a reader would take a part of it for the next pair."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def read_facts(path: Path) -> dict[str, Any]:
    """What this program wrote into a picture; a whole file, or it is refused."""
    text = read_texts(path).get(KEYWORD)
    if text is None:
        raise BadInput(
            "does not say how it was painted",
            where=str(path),
            hint="give a picture of `bonsai-quant generate` that no other program has rewritten",
        )
    try:
        facts = strict_json(text.encode())
        right = isinstance(facts, dict) and all(
            isinstance(facts[k], kind)
            for kind, keys in ((str, ("prompt",)), (int, ("seed", "width", "height")))
            for k in keys
        )
    except (ValueError, KeyError):
        right = False
    if not right:
        raise BadInput(f"its text {KEYWORD} is not what this program writes", where=str(path))
    return dict(facts)


def shown_facts(path: Path) -> tuple[tuple[str, str], ...]:
    """The same for people to read; of another program's picture, the text of its parameters."""
    found = read_texts(path)
    if KEYWORD not in found and PARAMETERS in found:
        return ((PARAMETERS, found[PARAMETERS]),)
    facts = read_facts(path)
    facts["size"] = f"{facts['width']}x{facts['height']}"
    if facts.get("lora"):
        facts["lora"] = ", ".join(_lora(a) for a in facts["lora"])
    return tuple((name, str(facts[k])) for k, name in SHOWN.items() if facts.get(k) is not None)


def _lora(record: Any) -> str:
    """FILE:SCALE, as it was typed."""
    if not isinstance(record, dict):
        return str(record)
    return f"{record.get('name')}:{record.get('scale')}"
