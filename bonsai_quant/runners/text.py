"""Prompts as the text encoder sees them: through the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput


@contextmanager
def loading(library: str, folder: Path) -> Iterator[None]:
    """BadInput, with the folder's name, for every error of a library that reads it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise BadInput(
            f"{library} cannot load it: {one_line(e)}",
            where=str(folder),
            hint="fetch the pipeline again",
        ) from e


def one_line(e: Exception) -> str:
    """The beginning of a message, without its line breaks."""
    return " ".join(str(e).split())[:300]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder."""
    from transformers import AutoTokenizer

    with loading("transformers", folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def chats(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Each prompt as one message to an assistant that does not think aloud."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        for text in prompts
    ]


def token_counts(tokenizer: Any, prompts: Sequence[str]) -> list[int]:
    """Tokens of each prompt with its template."""
    return [len(ids) for ids in tokenizer(chats(tokenizer, prompts))["input_ids"]]
