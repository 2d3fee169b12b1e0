"""Any Hugging Face causal language model: a name on the hub, a folder, or the base that ships.

Loads safetensors only and runs no code from the checkpoint. fp32 on a CPU, bf16 on a GPU, unless the study
says otherwise. Knows nothing of methods or prompts.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from handful.engine.base import Base, PathCheck, Placement
from handful.engine.check import check_path
from handful.engine.memory import keep_freed_memory_where_plenty
from handful.errors import ModelError, first_line
from handful.identity import ESTIMATED
from handful.models.checkpoint import check_folder, content_hash, find, load_tokenizer, read_config
from handful.models.placement import Asked, Decision, Place, decide, device_map, measured, sizes_of, skeleton
from handful.models.shapes import KNOWN

SHIPPED = ("reviews-llama-5m",)
"""Bases inside the package, by name."""


@dataclass(frozen=True)
class CausalLM:
    """A causal LM. checkpoint: a folder, a shipped name or a hub name. revision: a hub commit, or the hash
    of a folder's files; filled when left out. dtype: of the weights, and of what is computed with them. quantization:
    "nf4" rounds the layers' linear maps to 4 bits (Dettmers et al. 2023, QLoRA, without double quantisation), which
    changes every number; it needs bitsandbytes.
    """

    name: ClassVar[str] = "causal_lm"
    speaks: ClassVar[bool] = True

    checkpoint: str = "reviews-llama-5m"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "nf4"] = field(default="none", metadata={"later": True})
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
        if with_weights:
            self._check_quantization()
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

    def _check_quantization(self) -> None:
        if self.quantization == "nf4" and util.find_spec("bitsandbytes") is None:
            raise ModelError(
                "quantization = \"nf4\" needs bitsandbytes, which is not here: pip install 'handful[nf4]', or give "
                'quantization = "none"'
            )

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

    def load(self, device: str = "cpu", placement: Asked = "auto") -> Base:
        """Weights and tokenizer on a device, or spread from it on, with the packed way checked. Raises ModelError."""
        self._check_quantization()
        keep_freed_memory_where_plenty()
        tokenizer = self.load_tokenizer()
        dtype: torch.dtype = getattr(torch, self.dtype if self.dtype != "auto" else "float32")
        try:
            bare = skeleton(self._folder(), dtype)
        except Exception as error:
            raise self._unloadable(error) from None
        is_quantised = self.quantization != "none"
        sizes = sizes_of(bare, self.context_length(), is_quantised)
        rooms = measured(device, placement, sizes)
        decision = decide(placement, sizes, rooms, self.checkpoint, is_quantised)
        try:
            loaded = self._read(bare, decision, rooms.main, dtype)
        except Exception as error:
            raise self._unloadable(error) from None
        model, told = loaded
        absent = sorted({*told["missing_keys"], *(str(key[0]) for key in told["mismatched_keys"])})
        if absent:
            # transformers would draw them at random and go on
            raise ModelError(
                f"the model {self.checkpoint!r} lacks {len(absent)} of its weights, such as {absent[0]}: it was saved "
                "from another architecture, or without its language model head. Save it from AutoModelForCausalLM"
            )
        if decision.layers is None and not is_quantised:
            model.to(device)
        model.eval()
        config = model.config.get_text_config()
        embeddings = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > embeddings:
            raise ModelError(
                f"the tokenizer of {self.checkpoint!r} has {len(tokenizer)} tokens, its model only {embeddings} "
                "embeddings: they do not belong together"
            )
        facts = {
            "architecture": config.model_type,
            "num_parameters": sum(map(_count, model.parameters())),
            "num_layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "vocabulary": embeddings,
            "sliding_window": sliding_window(config),
            "checkpoint": self.checkpoint,
        }
        place = _device(rooms.main) if decision.layers is not None else torch.device(device)
        base = Base(model, tokenizer, place, PathCheck(False, "unchecked"), self.context_length(), facts)
        base.placement = _placement(decision, rooms.main)
        base.path = check_path(base, dtype)
        return base

    def _unloadable(self, error: Exception) -> ModelError:
        return ModelError(
            f"the model {self.checkpoint!r} cannot be loaded as a causal language model: {first_line(error)}"
        )

    def _read(self, bare: Any, decision: Decision, main: Place, dtype: torch.dtype) -> tuple[Any, Any]:
        """(model, what transformers tells of its loading). Raises what transformers raises."""
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        options: dict[str, Any] = {}
        if decision.layers is not None:
            options["device_map"] = device_map(bare, decision.layers, main)
        elif self.quantization == "nf4":
            options["device_map"] = {"": main}  # it is quantised on the way there
        if self.quantization == "nf4":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False,
                bnb_4bit_compute_dtype=dtype,
            )  # fmt: skip
        offloaded = tempfile.mkdtemp(prefix="handful-") if "disk" in (decision.layers or ()) else None
        # It warns of what was decided here.
        talkative = logging.getLogger("accelerate.big_modeling")
        level = talkative.level
        talkative.setLevel(logging.ERROR)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self._folder(), dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
                offload_folder=offloaded, **options,
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(offloaded or "", ignore_errors=True)
            raise
        finally:
            talkative.setLevel(level)
        model, told = loaded
        if offloaded is not None:
            weakref.finalize(model, shutil.rmtree, offloaded, ignore_errors=True)
        # peft would distribute the model anew by it.
        model.__dict__.pop("hf_device_map", None)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # Else the first pass without gradients rounds the scales to bf16, and scores before and after training
                # are those of two models.
                module.support_avx512bf16_for_cpu = False
        return model, told

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


def _placement(decision: Decision, main: Place) -> Placement:
    """As the engine sees it: what lies in memory or on disk runs on the first device."""
    if decision.layers is None:
        return Placement(decision.why)
    homes = tuple(_device(place if isinstance(place, int) else main) for place in decision.layers)
    away = {number for number, place in enumerate(decision.layers) if place != main and not isinstance(place, int)}
    return Placement(decision.why, homes, frozenset(away))


def _device(place: Place) -> torch.device:
    return torch.device("cuda", place) if isinstance(place, int) else torch.device("cpu")


def _count(parameter: torch.nn.Parameter) -> int:
    """How many numbers; of a quantised weight, those that it stands for."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def sliding_window(config: Any) -> int | None:
    """The window of the layers that have one, None where every layer sees everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return int(window)
