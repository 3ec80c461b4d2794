"""Train the text encoder: a small Qwen3 that understands captions, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from bonsai_quant.evaluation.scenes.grammar import draw_prompt, vocabulary
from bonsai_quant.evaluation.scenes.scene import Meaning, Prompt
from bonsai_quant.evaluation.scenes.world import RELATIONS, SIZES, TONES, World

from .run import Run, device, schedule
from .sizes import Size

PAD, UNKNOWN = "<|endoftext|>", "<unk>"
SPECIAL = (PAD, UNKNOWN, "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""What a prompt of FLUX.2 Klein looks like to Qwen3."""

LAYERS = (9, 18, 27)
"""Hidden states that the pipeline gives to the transformer."""

ENDING = 5
"""Tokens of the template after the caption; they have seen all of it and must tell what it says."""


def tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token a word, in any case; other signs are left out, other words are unknown."""
    words = (*SPECIAL, "user", "assistant", *vocabulary(world))
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    core.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    core.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[.,;:!?]"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token="<|im_end|>",
        padding_side="right",
        chat_template=TEMPLATE,
    )


def build(size: Size, tokens: int) -> Qwen3ForCausalLM:
    """Qwen3 with 28 layers, so that layers 9, 18 and 27 are there, and embeddings of std 1."""
    config = Qwen3Config(
        vocab_size=tokens,
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=size.width // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=3,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    for layer in model.model.layers:
        # As many additions to the stream as there are layers: each starts small.
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            part.weight.data.mul_((2 * config.num_hidden_layers) ** -0.5)
    nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    return model


def encode(
    texts: list[str], model: Qwen3ForCausalLM, words: PreTrainedTokenizerFast, length: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """[n, length, 3 * width] hidden states of captions, as the pipeline makes them; the tokens."""
    chats = [
        words.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        for text in texts
    ]
    tokens = words(
        chats, return_tensors="pt", padding="max_length", truncation=True, max_length=length
    ).to(device())
    states = model.model(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return torch.cat([states[i] for i in LAYERS], -1), tokens


@torch.no_grad()
def captions_of(texts: list[str], size: Size, out: Path) -> torch.Tensor:
    """[n, words, joint] on the CPU or GPU: hidden states of captions, by the trained encoder."""
    model = Qwen3ForCausalLM.from_pretrained(out / "text_encoder").to(device()).eval()
    words = AutoTokenizer.from_pretrained(out / "tokenizer")
    parts = [texts[i : i + 256] for i in range(0, len(texts), 256)]
    return torch.cat([encode(part, model, words, size.words)[0] for part in parts])


def empty_caption(size: Size, out: Path) -> torch.Tensor:
    """[1, words, joint]: what guidance steers away from."""
    return captions_of([""], size, out)


class Questions(nn.Module):
    """What is asked of the hidden states: shape, colour, size and number of both things, and more.

    answers: one number for each question; 0 where the caption does not say.
    """

    def __init__(self, world: World, width: int) -> None:
        super().__init__()
        kinds = (world.shapes, world.colours, SIZES, range(1, world.most + 1))
        self.choices = [list(k) for k in (*kinds, *kinds, RELATIONS, tuple(TONES))]
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, sum(len(c) + 1 for c in self.choices))

    def answers(self, meaning: Meaning) -> list[int]:
        """The right ones."""
        first, second = (*meaning.wants, None)[:2]
        facts: list[object] = []
        for want in (first, second):
            facts += [want.shape, want.colour, want.size, want.count] if want else [None] * 4
        facts += [meaning.relation, meaning.tone]
        return [
            0 if f is None else 1 + c.index(f) for f, c in zip(facts, self.choices, strict=True)
        ]

    def forward(
        self, states: torch.Tensor, answers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """states [n, width], answers [n, questions] -> mean cross entropy, share of right ones."""
        parts = self.ask(self.norm(states)).split([len(c) + 1 for c in self.choices], -1)
        losses = [nn.functional.cross_entropy(p, a) for p, a in zip(parts, answers.T, strict=True)]
        right = [(p.argmax(-1) == a).float().mean() for p, a in zip(parts, answers.T, strict=True)]
        return torch.stack(losses).mean(), torch.stack(right).mean()


def train(size: Size, out: Path, seed: int) -> None:
    """Train the last tokens to know what the caption says, and every token to guess the next."""
    torch.manual_seed(seed)
    stage, words = size.encoder, tokenizer(size.world)
    model = build(size, len(words)).to(device())
    asks = nn.ModuleList(Questions(size.world, size.width) for _ in LAYERS).to(device())
    both = [*model.parameters(), *asks.parameters()]
    optimizer = torch.optim.AdamW(both, stage.rate, (0.9, 0.95), weight_decay=0.01)
    rate = schedule(stage.steps)
    run = Run(out / "encoder", stage.steps, seed, model=model, asks=asks, optimizer=optimizer)
    for step in run:
        rng = np.random.default_rng((seed, 3, step))
        captions = [draw_prompt(size.world, rng) for _ in range(stage.batch)]
        loss, right = _loss(model, asks, words, captions, size.words)
        optimizer.param_groups[0]["lr"] = stage.rate * rate(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both, 1.0)
        optimizer.step()
        run.note(loss=loss, right=right)
    model.eval().save_pretrained(out / "text_encoder")
    words.save_pretrained(out / "tokenizer")


def _loss(
    model: Qwen3ForCausalLM,
    asks: nn.ModuleList,
    words: PreTrainedTokenizerFast,
    captions: list[Prompt],
    length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    states, tokens = encode([c.text for c in captions], model, words, length)
    answers = torch.tensor([asks[0].answers(c.meaning) for c in captions], device=states.device)
    mask = tokens["attention_mask"]
    ends, rows = mask.sum(1), torch.arange(len(captions), device=states.device)
    losses, rights = [], []
    for ask, layer in zip(asks, states.chunk(len(LAYERS), -1), strict=True):
        for back in range(1, ENDING + 1):
            loss, right = ask(layer[rows, ends - back], answers)
            losses.append(loss)
            rights.append(right)
    logits = model.lm_head(model.model.norm(states.chunk(len(LAYERS), -1)[-1]))[:, :-1]
    targets = tokens["input_ids"][:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    guess = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return torch.stack(losses).mean() + 0.1 * guess, torch.stack(rights).mean()
