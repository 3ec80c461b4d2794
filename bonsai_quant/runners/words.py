"""Prompts as the text encoder sees them: through the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .loading import loading


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder."""
    from transformers import AutoTokenizer

    with loading("transformers", folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def chats(words: Any, prompts: Sequence[str]) -> list[str]:
    """Each prompt as one message to an assistant that does not think aloud."""
    return [
        words.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        for text in prompts
    ]


def token_counts(words: Any, prompts: Sequence[str]) -> list[int]:
    """Tokens of each prompt with its template."""
    return [len(ids) for ids in words(chats(words, prompts))["input_ids"]]
