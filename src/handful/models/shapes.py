"""Shapes of well-known bases, for plans where neither a network nor a model is at hand.

The numbers are those of the config.json files on the hub, the token rates were counted (TOKENIZERS). A plan made
from them is marked as estimated; nothing that runs ever reads this table. Knows nothing of how costs are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOKENIZERS: Mapping[str, float] = {
    "llama-2": 246.0,
    "llama-3": 221.8,
    "qwen": 222.9,
    "gemma-3": 224.3,
    "smollm2": 231.2,
    "bert": 230.0,
}
"""Tokens per 1,000 characters of film reviews. Counted on every tenth training review of IMDB (2,500 reviews of 1,287
characters on average, line breaks for <br />) with each family's own tokenizer: 316.7 tokens a review for Llama-2,
285.5 for Llama-3.1, 287.0 for Qwen3, 288.7 for Gemma 3, 297.6 for SmolLM2. The last one, BERT's, is a guess between
them."""

LLAMA_2, LLAMA_3, GEMMA = "the Llama 2 licence", "the Llama 3 licence", "the Gemma terms"


LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "emb_dim")
"""What configurations call their number of layers, and the width of a row."""


def number_of(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """What a configuration gives under the first of the names that it knows; None where it knows none."""
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)


@dataclass(frozen=True)
class KnownShape:
    """A base in numbers. heads: of the queries; key_value_heads: of keys and values. width, head_width, mlp_width: of a
    row, of one head, of the MLP's inside. context: in tokens. tokenizer: a key of TOKENIZERS. terms: what has to be
    accepted on the hub before it can be downloaded, "" for nothing. is_gated: the MLP multiplies two branches.
    """

    layers: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    context: int
    tokenizer: str
    ties_embeddings: bool = False
    is_gated: bool = True
    terms: str = ""

    def as_config(self) -> dict[str, Any]:
        """The same under the names of a config.json."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.mlp_width,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "hidden_act": "silu" if self.is_gated else "gelu",
            "tie_word_embeddings": self.ties_embeddings,
        }

    @property
    def tokens_per_character(self) -> float:
        """Of film reviews in English."""
        return TOKENIZERS[self.tokenizer] / 1000


def _llama_2(layers: int, width: int, heads: int, key_value_heads: int, mlp_width: int) -> KnownShape:
    return KnownShape(
        layers, width, heads, key_value_heads, 128, mlp_width, 32_000, 4096, "llama-2", terms=LLAMA_2
    )


def _llama_3(
    layers: int, width: int, heads: int, head_width: int, mlp_width: int, ties_embeddings: bool = False
) -> KnownShape:
    return KnownShape(
        layers, width, heads, 8, head_width, mlp_width, 128_256, 131_072, "llama-3", ties_embeddings, terms=LLAMA_3
    )


def _qwen_3(layers: int, width: int, heads: int, mlp_width: int, ties_embeddings: bool = True) -> KnownShape:
    return KnownShape(layers, width, heads, 8, 128, mlp_width, 151_936, 40_960, "qwen", ties_embeddings)


def _smollm_2(layers: int, width: int, heads: int, key_value_heads: int, mlp_width: int) -> KnownShape:
    return KnownShape(layers, width, heads, key_value_heads, 64, mlp_width, 49_152, 8192, "smollm2", True)


def _gemma_3(layers: int, width: int, mlp_width: int) -> KnownShape:
    return KnownShape(layers, width, 4, 1, 256, mlp_width, 262_144, 32_768, "gemma-3", True, terms=GEMMA)


_SIZES: Mapping[tuple[str, ...], KnownShape] = {
    ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf"): _llama_2(32, 4096, 32, 32, 11_008),
    ("meta-llama/Llama-2-13b-chat-hf", "meta-llama/Llama-2-13b-hf"): _llama_2(40, 5120, 40, 40, 13_824),
    ("meta-llama/Llama-2-70b-chat-hf", "meta-llama/Llama-2-70b-hf"): _llama_2(80, 8192, 64, 8, 28_672),
    ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B"): _llama_3(16, 2048, 32, 64, 8192, True),
    ("meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-3B"): _llama_3(28, 3072, 24, 128, 8192, True),
    ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"): _llama_3(32, 4096, 32, 128, 14_336),
    ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B"): _llama_3(80, 8192, 64, 128, 28_672),
    ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"): _smollm_2(30, 576, 9, 3, 1536),
    ("HuggingFaceTB/SmolLM2-360M", "HuggingFaceTB/SmolLM2-360M-Instruct"): _smollm_2(32, 960, 15, 5, 2560),
    ("HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B-Instruct"): _smollm_2(24, 2048, 32, 32, 8192),
    ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base"): _qwen_3(28, 1024, 16, 3072),
    ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B-Base"): _qwen_3(28, 2048, 16, 6144),
    ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B-Base"): _qwen_3(36, 2560, 32, 9728),
    ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"): _qwen_3(36, 4096, 32, 12_288, False),
    ("google/gemma-3-270m", "google/gemma-3-270m-it"): _gemma_3(18, 640, 2048),
    ("google/gemma-3-1b-pt", "google/gemma-3-1b-it"): _gemma_3(26, 1152, 6912),
    # The positions of its encoder are 512; it was trained on texts of 256 tokens, of which one is the end token.
    ("sentence-transformers/all-MiniLM-L6-v2",): KnownShape(
        6, 384, 12, 12, 32, 1536, 30_522, 255, "bert", True, is_gated=False
    ),
}

KNOWN: Mapping[str, KnownShape] = {name: shape for names, shape in _SIZES.items() for name in names}
"""Name on the hub -> shape."""
