"""How strong a LoRA is: its factor alpha / r, and the three places where files say what alpha is.

kohya stores one number beside each module; diffusers puts peft's settings into the file's metadata;
peft itself writes adapter_config.json beside the file. A file without any of them has alpha = r.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Annotated

import pydantic

from bonsai_quant.core.errors import BadInput, Unsupported, first_problem
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import Header
from bonsai_quant.storage.strict_json import strict_json

METADATA = "lora_adapter_metadata"
CONFIG = "adapter_config.json"

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


class Settings(pydantic.BaseModel):
    """What peft's settings say of strength. alpha_pattern: by the end of a module's name."""

    model_config = pydantic.ConfigDict(frozen=True)
    peft_type: str = "LORA"
    lora_alpha: Positive
    alpha_pattern: dict[str, Positive] = {}
    use_rslora: bool = False

    def factor(self, linear: str, rank: int) -> float:
        """alpha / r of a module, or alpha / sqrt(r) where the training was rank-stabilized."""
        alpha = next((a for p, a in self.alpha_pattern.items() if _ends(p, linear)), None)
        return (alpha or self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def _ends(pattern: str, linear: str) -> bool:
    """peft's patterns are regular expressions; these are names, after `^` whole ones."""
    if pattern.startswith("^"):
        return linear == pattern[1:]
    return linear == pattern or linear.endswith(f".{pattern}")


def read_settings(header: Header, *, peft: bool) -> tuple[Settings | None, str | None]:
    """The settings of a file, from its metadata or, where peft wrote it, from beside it.

    -> the settings, and the sha256 of adapter_config.json where they are from there.
    """
    if METADATA in header.metadata:
        return _parse(header.metadata[METADATA].encode(), header.path), None
    config = header.path.parent / CONFIG
    if not peft or not config.exists():
        return None, None
    text = fs.read_small(config)
    return _parse(text, config), hashlib.sha256(text).hexdigest()


def _parse(text: bytes, path: Path) -> Settings:
    try:
        settings_json = strict_json(text)
        plain = {str(k).removeprefix("transformer."): v for k, v in dict(settings_json).items()}
        settings = Settings.model_validate(plain)
    except pydantic.ValidationError as e:
        raise BadInput(first_problem(e), where=str(path), hint="fetch the LoRA again") from e
    except (ValueError, TypeError) as e:
        what = f"the settings are not JSON: {e}"
        raise BadInput(what, where=str(path), hint="fetch the LoRA again") from e
    if settings.peft_type != "LORA":
        what = f"is a {settings.peft_type[:40]} adapter; LoRA is read"
        raise Unsupported(what, where=str(path), hint="merge it with the program that made it")
    if odd := next((p for p in settings.alpha_pattern if not re.fullmatch(r"\^?[\w.]+", p)), ""):
        what = f"has the alpha pattern {odd[:80]!r}; names of modules are read"
        raise Unsupported(what, where=str(path), hint="merge it with the program that made it")
    return settings
