"""What `generate` is asked for on the command line: prompts, seeds and settings, from anywhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.evaluation.scenes.words import warning
from bonsai_quant.packs.picture_facts import read_facts
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.runners.prompts import (
    RANDOM,
    check_prompts,
    parse_prompts,
    parse_seeds,
    read_prompts,
)

STDIN = "-"
MAX_STDIN = 16 << 20
"""Bytes."""
log = logging.getLogger(__name__)


def generate_arguments(
    *,
    prompts: Sequence[str],
    file: str | None,
    seeds: Sequence[str],
    count: int | None,
    like: str | None,
    **options: Any,
) -> dict[str, Any]:
    """The arguments of `generate`. file: of prompts, - for standard input.

    like: a picture whose prompt, seed, size and steps stand for those that are not given.
    """
    if options["resume"] and any(RANDOM in word for word in seeds):
        raise UsageError("--resume with --seed random", hint="give the seeds of the first run")
    texts = [*prompts, *_prompts_of(file)]
    words = list(seeds)
    if like is not None:
        facts = read_facts(Path(like))
        texts = texts or [facts["prompt"]]
        words = words or [str(facts["seed"])]
        options["size"] = options["size"] or f"{facts['width']}x{facts['height']}"
        options["steps"] = options["steps"] or facts.get("num_inference_steps")
        if facts.get("lora") and not options["lora"]:
            log.warning("%s was painted with a LoRA: name that with --lora", like)
        if facts.get("images_sha256") and not options["images"]:
            log.warning("%s was made from another picture: name that with --image", like)
    return {"prompts": check_prompts(texts), "seeds": parse_seeds(words, count), **options}


def _prompts_of(file: str | None) -> list[str]:
    if file is None:
        return []
    if file != STDIN:
        found = read_prompts(Path(file))
    else:
        data = sys.stdin.buffer.read(MAX_STDIN + 1)
        if len(data) > MAX_STDIN:
            raise BadInput(f"is more than {MAX_STDIN} bytes", where="standard input")
        found = parse_prompts(data, "standard input")
    if not found:
        raise BadInput("holds no prompt", where=file, hint="write one a line")
    return found


def warn_of_words(model: str, pipeline: str | None, prompts: Sequence[str]) -> None:
    """Say so when a model that knows a few things is asked for others."""
    if line := warning(locate(model, pipeline=pipeline), prompts):
        log.warning("%s", line)
