"""A pipeline folder like mini-klein's, with random weights: what stock diffusers loads and runs."""

from __future__ import annotations

import json
from pathlib import Path

BENCHMARK = {
    "world": "small",
    "height": 64,
    "width": 64,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "max_sequence_length": 20,
}
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def save_pipeline(folder: Path, *, seed: int = 0, heads: int = 2, blocks=(2, 4)) -> Path:
    """Parts of mini-klein's shapes, in 16 bits, and its benchmark.json."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = _tokenizer()
        pipe = Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=_autoencoder().bfloat16(),
            text_encoder=_text_encoder(len(words)).bfloat16(),
            tokenizer=words,
            transformer=_transformer(heads, blocks).bfloat16(),
            is_distilled=True,
        )
        pipe.save_pretrained(folder)
    (folder / "benchmark.json").write_text(json.dumps(BENCHMARK))
    return folder


def _transformer(heads: int, blocks: tuple[int, int]):
    from diffusers import Flux2Transformer2DModel

    model = Flux2Transformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=128,
        num_layers=blocks[0],
        num_single_layers=blocks[1],
        in_channels=64,
        joint_attention_dim=192,
        mlp_ratio=3.0,
        guidance_embeds=False,
    )
    for weight in model.parameters():
        weight.data.mul_(2.0 if weight.ndim == 2 else 1.0)  # or prompts would hardly matter
    return model


def _autoencoder():
    from diffusers import AutoencoderKLFlux2

    model = AutoencoderKLFlux2(
        block_out_channels=(12, 24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    )
    model.bn.running_mean.normal_()  # buffers, which must survive saving as the weights do
    model.bn.running_var.uniform_(0.5, 2.0)
    return model


def _text_encoder(n_words: int):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=n_words,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=3,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.model.embed_tokens.weight.data.normal_()  # or the words would hardly matter
    return model


def _tokenizer():
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from bonsai_quant.evaluation.scenes.grammar import vocabulary
    from bonsai_quant.evaluation.scenes.world import SMALL

    words = (*SPECIAL, "user", "assistant", *vocabulary(SMALL))
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        padding_side="right",
        chat_template=TEMPLATE,
    )


def draw_truth(monkeypatch, wrong) -> None:
    """Let the torch runner draw what captions say, instead of painting.

    wrong: place -> the share of pictures that show another caption, chosen by prompt and seed.
    """
    import numpy as np

    from bonsai_quant.evaluation.scenes.draw import draw
    from bonsai_quant.evaluation.scenes.grammar import prompts
    from bonsai_quant.evaluation.scenes.layout import compose
    from bonsai_quant.evaluation.scenes.world import SMALL

    known = {p.text: p.meaning for s in ("dev", "test")
             for p in prompts(SMALL, s, per_category=100)}  # fmt: skip
    others = list(known.values())

    def paint(pipe, texts, seeds, settings, *, batch=32):
        made = []
        for text, seed in zip(texts, seeds, strict=True):
            rng = np.random.default_rng(seed)
            lies = rng.random() < wrong(pipe)
            meaning = others[rng.integers(len(others))] if lies else known[text]
            made.append(draw(compose(meaning, SMALL, rng), settings.height))
        return np.stack(made)

    monkeypatch.setattr("bonsai_quant.runners.torch.dense.open_pipeline", lambda place, **_: place)
    monkeypatch.setattr("bonsai_quant.runners.torch.dense.paint_dense", paint)
