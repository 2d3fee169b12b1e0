"""FAMILY of methods: what is learned from the labelled texts.

The next one: a frozen dataclass with the methods of `method.Method` in a file of its own, and a line in
METHODS. No other file mentions its knobs or its name.
"""

from __future__ import annotations

from typing import Any

from handful.methods.embedding import Embedding
from handful.methods.encoder import Encoder
from handful.methods.full import Full
from handful.methods.in_context import InContext
from handful.methods.linear_probe import LinearProbe
from handful.methods.lora import LoRA
from handful.methods.loreft import LoReFT
from handful.methods.predictions import Predictions
from handful.methods.prompt_tuning import PromptTuning
from handful.methods.tfidf import Tfidf
from handful.methods.zero_shot import ZeroShot

METHODS: dict[str, type[Any]] = {
    "zero_shot": ZeroShot,
    "in_context": InContext,
    "prompt_tuning": PromptTuning,
    "lora": LoRA,
    "loreft": LoReFT,
    "full": Full,
    "linear_probe": LinearProbe,
    "tfidf": Tfidf,
    "embedding": Embedding,
    "encoder": Encoder,
    "predictions": Predictions,
}
