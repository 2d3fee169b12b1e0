"""Toy bases for tests: real architectures from their configs, tiny, with weights drawn wide.

At the usual initial range an exactness check proves nothing (a Gemma-2 without its softcap differs by
1e-7), so weights are drawn with initializer_range 0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from handful.engine.base import Base, PathCheck
from handful.engine.check import check_path
from handful.models.causal_lm import sliding_window

VOCABULARY = 384
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
    "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    # Both kinds of layer: they turn positions by different angles.
    "gemma3": (
        "gemma3_text",
        {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gemma2": ("gemma2", {"sliding_window": 64}),
    "gpt2": ("gpt2", {"n_positions": 4096, "n_embd": 32, "n_layer": 3, "n_head": 4}),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None}),
    "bloom": ("bloom", {"n_layer": 3, "n_head": 4}),
}
"""Test name -> (config.model_type, what differs from the small shape)."""

FAST = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3")
PLAIN = ("gemma2", "gpt2", "gpt_neox", "bloom")


def toy_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A fresh causal LM in float32, in evaluation mode."""
    model_type, own = SHAPES[kind]
    config = CONFIG_MAPPING[model_type](**{**_SMALL, **own, **changes})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def toy_tokenizer(texts: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most VOCABULARY tokens that puts <s> before a text."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = texts or ["the film was a very good film, it was great", "the film was not good, it was terrible"] * 8
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def make_toy_model(folder: Path, kind: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Saves a toy model with its tokenizer as a Hugging Face folder; gives the folder."""
    toy_model(kind, seed, **changes).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def toy_encoder(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """Saves a toy encoder with a tokenizer that closes a text with </s>; gives the folder."""
    from transformers import AutoModel

    own = {"bert": {}, "roberta": {"pad_token_id": 3}, "modernbert": {"local_attention": 32}}[kind]
    config = CONFIG_MAPPING[kind](
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.2, **{"pad_token_id": 3, **own},
    )  # fmt: skip
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = toy_tokenizer()
    tokenizer.sep_token, tokenizer.cls_token = "</s>", "<s>"
    tokenizer.save_pretrained(folder)
    return folder


def toy_base(kind: str, seed: int = 0, **changes: Any) -> Base:
    """A toy model as the engine sees it, with its path checked; its tokenizer is `toy_tokenizer`."""
    model = toy_model(kind, seed, **changes)
    config = model.config
    facts = {
        "architecture": config.model_type, "num_layers": config.num_hidden_layers, "width": config.hidden_size,
        "vocabulary": config.vocab_size, "sliding_window": sliding_window(config), "checkpoint": f"toy-{kind}",
    }  # fmt: skip
    base = Base(model, toy_tokenizer(), torch.device("cpu"), PathCheck(False, "unchecked"), 4096, facts)
    base.path = check_path(base, torch.float32)
    return base
