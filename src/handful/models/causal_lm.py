"""Any Hugging Face causal language model: a name on the hub, a folder, or the base that ships.

Loads safetensors only and runs no code from the checkpoint. fp32 on a CPU, bf16 on a GPU, unless the study
says otherwise. Knows nothing of methods or prompts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from handful.engine.base import Base, PathCheck
from handful.engine.check import check_path
from handful.engine.memory import keep_freed_memory_where_plenty
from handful.errors import ModelError, first_line
from handful.identity import ESTIMATED
from handful.models.checkpoint import check_folder, content_hash, find, load_tokenizer, read_config
from handful.models.shapes import KNOWN

SHIPPED = ("reviews-llama-5m",)
"""Bases inside the package, by name."""


@dataclass(frozen=True)
class CausalLM:
    """A causal LM. checkpoint: a folder, a shipped name or a hub name. revision: a hub commit, or the hash
    of a folder's files; filled when left out. dtype: of the weights.
    """

    name: ClassVar[str] = "causal_lm"
    speaks: ClassVar[bool] = True

    checkpoint: str = "reviews-llama-5m"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    folder: str | None = field(default=None, metadata={"where": True})

    def resolve(self, device: str = "auto") -> CausalLM:
        """The same base by content. Raises ModelError when there is no such model or it cannot be loaded."""
        return self._resolved(device, with_weights=True)

    def outline(self, device: str = "auto") -> CausalLM:
        """For a plan: as `resolve`, without weights; of a known base that cannot be had, what the shipped table tells.

        Raises ModelError for any other.
        """
        try:
            return self._resolved(device, with_weights=False)
        except ModelError:
            if self.checkpoint not in KNOWN:
                raise
        return dataclasses.replace(self, revision=ESTIMATED, dtype=self._dtype(device), folder=None)

    def _resolved(self, device: str, with_weights: bool) -> CausalLM:
        folder, name, commit = self._find(with_weights)
        check_folder(folder, name, with_weights)
        revision = commit or content_hash(folder)
        if commit is None and self.revision is not None and revision != self.revision:
            raise ModelError(
                f"the model {self.checkpoint!r} has revision {revision}, the study asks for {self.revision}: "
                "take that revision's files, or leave revision out"
            )
        return dataclasses.replace(
            self, checkpoint=name, revision=revision, dtype=self._dtype(device), folder=str(folder)
        )

    def _dtype(self, device: str) -> Literal["auto", "float32", "bfloat16", "float16"]:
        if self.dtype != "auto":
            return self.dtype
        # bf16 without bf16 units is four times slower than fp32, so a CPU gets fp32.
        return "bfloat16" if device != "cpu" and torch.cuda.is_available() else "float32"

    def context_length(self) -> int | None:
        """Tokens, from the configuration; None where the architecture sets no bound."""
        config = self._text_config()
        for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
            if isinstance(config.get(key), int):
                return int(config[key])
        return None

    def shape(self) -> dict[str, Any]:
        """The configuration of the text model, as plain data."""
        return self._text_config()

    def load_tokenizer(self) -> Any:
        """The tokenizer alone, None for an outline from the shipped table. Raises ModelError when there is none."""
        if self.revision == ESTIMATED:
            return None
        return load_tokenizer(self._folder(), self.checkpoint)

    def load(self, device: str = "cpu") -> Base:
        """Weights and tokenizer on a device, with the packed way checked. Raises ModelError."""
        from transformers import AutoModelForCausalLM

        keep_freed_memory_where_plenty()
        tokenizer = self.load_tokenizer()
        dtype: torch.dtype = getattr(torch, self.dtype if self.dtype != "auto" else "float32")
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self._folder(), dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:
            raise ModelError(
                f"the model {self.checkpoint!r} cannot be loaded as a causal language model: {first_line(error)}"
            ) from None
        model, told = loaded
        absent = sorted({*told["missing_keys"], *(str(key[0]) for key in told["mismatched_keys"])})
        if absent:
            # transformers would draw them at random and go on
            raise ModelError(
                f"the model {self.checkpoint!r} lacks {len(absent)} of its weights, such as {absent[0]}: it was saved "
                "from another architecture, or without its language model head. Save it from AutoModelForCausalLM"
            )
        model.to(device).eval()
        config = model.config.get_text_config()
        embeddings = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > embeddings:
            raise ModelError(
                f"the tokenizer of {self.checkpoint!r} has {len(tokenizer)} tokens, its model only {embeddings} "
                "embeddings: they do not belong together"
            )
        facts = {
            "architecture": config.model_type,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "num_layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "vocabulary": embeddings,
            "sliding_window": sliding_window(config),
            "checkpoint": self.checkpoint,
        }
        base = Base(model, tokenizer, torch.device(device), PathCheck(False, "unchecked"), self.context_length(), facts)
        base.path = check_path(base, dtype)
        return base

    def _find(self, with_weights: bool = True) -> tuple[Path, str, str | None]:
        """(folder, name, hub commit or None). Downloads from the hub when it is no folder."""
        if self.folder is not None:
            return Path(self.folder), self.checkpoint, None
        return find(self.checkpoint, self.revision, SHIPPED, with_weights=with_weights)

    def _folder(self) -> Path:
        return Path(self.folder) if self.folder is not None else self._find()[0]

    def _text_config(self) -> dict[str, Any]:
        if self.revision == ESTIMATED:
            return KNOWN[self.checkpoint].as_config()
        config = read_config(self._folder(), self.checkpoint)
        text = config.get("text_config")
        return text if isinstance(text, dict) else config


def sliding_window(config: Any) -> int | None:
    """The window of the layers that have one, None where every layer sees everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return int(window)
