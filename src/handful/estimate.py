"""What a study will cost before it runs: tokens, time and memory of every run that is still to do.

Encodes a sample of the texts with the base's own tokenizer, counts arithmetic from the base's configuration,
and measures how fast this machine multiplies matrices of that shape. Loads no weights, writes nothing, and
knows no method by name: it asks each for its passes and its extra tokens. Meant to be right within a factor
of two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from handful.data import load_dataset
from handful.engine.packing import MIN_SHARED_TOKENS, common_prefix, num_inner
from handful.examples import EncodedExample, Example, Split
from handful.models.model import Model
from handful.prompts import encode
from handful.results import StudyFolder
from handful.run import RunSettings
from handful.spec import ExecutionSpec, RunSpec
from handful.study import Plan, default_settings, pending_runs

# The two shares were measured with the base that ships (docs/benchmarks.md). The fixed times below them are guesses,
# checked only in sum: the studies listed there.
SCORING_EFFICIENCY = 0.65
"""Share of the matrix-product rate that a forward pass reaches, its attention and norms included."""
TRAINING_EFFICIENCY = 0.5
"""The same for forward and backward together."""
LAYER_SECONDS = 4e-4
"""Fixed time of one layer in one forward pass, however few its tokens."""
UPDATE_SECONDS = 0.004
"""Fixed time of one optimizer step."""
RUN_SECONDS = 0.4
"""Fixed time of one run: attach, save, write the record."""
LOAD_SECONDS = 4.0
"""Libraries, and the check of the packed way, once per base."""
LOAD_BYTES_PER_SECOND = 1e9
ENCODE_TOKENS_PER_SECOND = 3e5
"""Of the tokenizer; a study encodes each text once per prompt."""
CHARACTERS_PER_SECOND = 2e6
"""Of a method without a base: counting words and fitting a linear classifier."""

ACTIVATION_UNITS = 17
"""Numbers per token, layer and unit of width that a backward pass needs: 34 bytes in 16 bits (Korthikanti et
al. 2022, without attention matrices)."""
PROCESS_BYTES = 0.6e9
"""Python with torch and transformers, on the CPU."""

SAMPLE_TEXTS = 256
MEASURED_ROWS = 2048
MEASURE_SECONDS = 2.0
BRIEFLY = 0.3
"""Seconds of measuring where only proportions matter."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class RunEstimate:
    """One distinct run. train_tokens, test_tokens: tokens that run through the base, prefixes and virtual
    tokens included, selection counted with training; 0 without a base. All zero when it is done already.
    """

    spec: RunSpec
    is_done: bool
    train_tokens: int = 0
    test_tokens: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """A study. load_seconds: bases and texts, once. flops_per_second: the largest, 0 without a base."""

    runs: tuple[RunEstimate, ...]
    settings: RunSettings
    load_seconds: float
    flops_per_second: float

    @property
    def pending(self) -> tuple[RunEstimate, ...]:
        """The runs that are still to do."""
        return tuple(run for run in self.runs if not run.is_done)

    @property
    def seconds(self) -> float:
        """All that is still to do."""
        return self.load_seconds + sum(run.seconds for run in self.pending)

    @property
    def memory_bytes(self) -> int:
        """The largest need of a single run."""
        return max((run.memory_bytes for run in self.pending), default=0)


@dataclass(frozen=True)
class Shape:
    """A decoder in numbers, from its configuration; grouped heads counted, experts not."""

    layers: int
    width: int
    mlp_width: int
    attention_width: int
    key_value_width: int
    vocabulary: int
    is_gated: bool
    ties_embeddings: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From `Model.shape()`, whichever names the architecture uses. Raises KeyError on an unknown one."""
        width = _first(config, "hidden_size", "n_embd", "d_model", "dim", "emb_dim")
        heads = _first(config, "num_attention_heads", "n_head", "n_heads")
        head_width = config.get("head_dim") or width // heads
        activation = str(config.get("hidden_act") or config.get("hidden_activation") or "")
        return cls(
            layers=_first(config, "num_hidden_layers", "n_layer", "n_layers"),
            width=width,
            mlp_width=_first(config, "intermediate_size", "n_inner", "ffn_dim", "hidden_dim", otherwise=4 * width),
            attention_width=heads * head_width,
            key_value_width=(config.get("num_key_value_heads") or heads) * head_width,
            vocabulary=_first(config, "vocab_size"),
            is_gated=activation in ("silu", "swish", "gelu_pytorch_tanh"),
            ties_embeddings=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def layer_parameters(self) -> int:
        """Of all layers together, norms left out."""
        attention = 2 * self.width * (self.attention_width + self.key_value_width)
        return self.layers * (attention + (3 if self.is_gated else 2) * self.width * self.mlp_width)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        embeddings = self.width * self.vocabulary
        return self.layer_parameters + embeddings * (1 if self.ties_embeddings else 2)

    def forward_flops(self, tokens: float, context: float, answer_rows: float) -> float:
        """One forward pass over `tokens`, each of which sees `context` tokens on average."""
        layers = tokens * (2 * self.layer_parameters + 4 * self.layers * context * self.attention_width)
        return layers + 2 * answer_rows * self.width * self.vocabulary


def _first(config: Mapping[str, Any], *names: str, otherwise: int | None = None) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    if otherwise is None:
        raise KeyError(f"the configuration names none of {', '.join(names)}")
    return otherwise


@dataclass(frozen=True)
class Lengths:
    """Means over a sample of texts. shared: first tokens that all prompts have in common; own: the rest.
    train_answer, test_answer: answer tokens that run besides the prompt.
    """

    characters: float
    shared: int = 0
    own: float = 0.0
    train_answer: float = 0.0
    test_answer: float = 0.0


def estimate(
    plan: Plan, folder: StudyFolder, execution: ExecutionSpec, measure_seconds: float = MEASURE_SECONDS
) -> Estimate:
    """Every distinct run of the plan; what `folder` holds already costs nothing.

    measure_seconds: how long to multiply matrices for, per shape. Raises HandfulError as running would.
    """
    settings = default_settings(execution, folder.execution())
    pending = {spec.spec_id for spec in pending_runs(plan, folder)}
    lengths: dict[tuple[Any, ...], Lengths] = {}
    tokenizers: dict[Model, Any] = {}
    rates: dict[Model, float] = {}
    load_seconds = 0.0
    runs = []
    for spec in plan.distinct:
        if spec.spec_id not in pending:
            runs.append(RunEstimate(spec, is_done=True))
            continue
        shape = Shape.of(spec.model.shape()) if spec.model.shape() else None
        if spec.model not in tokenizers:
            tokenizers[spec.model] = spec.model.load_tokenizer()
            if shape is not None:
                rates[spec.model] = matrix_flops_per_second(shape, spec.model, settings, measure_seconds)
                num_bytes = shape.parameters * _number_bytes(spec.model)
                load_seconds += LOAD_SECONDS + num_bytes / LOAD_BYTES_PER_SECOND
        # Data and prompts may hold tables, which have no hash: their text stands for them.
        key = (repr(spec.data), spec.model, repr(spec.prompt))
        if key not in lengths:
            lengths[key] = measure_lengths(spec, tokenizers[spec.model])
            if shape is not None:
                num_texts = len(load_dataset(spec.data).test) + spec.num_labels
                tokens = lengths[key].shared + lengths[key].own
                load_seconds += num_texts * tokens / ENCODE_TOKENS_PER_SECOND
        if shape is None:
            runs.append(_without_base(spec, lengths[key]))
        else:
            runs.append(_with_base(spec, shape, lengths[key], settings, rates[spec.model]))
    return Estimate(tuple(runs), settings, load_seconds, max(rates.values(), default=0.0))


def measure_lengths(spec: RunSpec, tokenizer: Any) -> Lengths:
    """Encodes up to SAMPLE_TEXTS texts of each side in the spec's prompt."""
    dataset = load_dataset(spec.data)
    sample = (*_spread(dataset.train), *_spread(dataset.test))
    characters = _mean([sum(map(len, example.fields.values())) for example in sample])
    if tokenizer is None:
        return Lengths(characters)
    split = Split(dataset.label_names, dataset.field_names, (), (), sample, (), dataset.revision)
    encoded: Sequence[EncodedExample] = encode(split, spec.prompt, tokenizer).test
    shared = common_prefix([example.tokens for example in encoded])
    inner = [[len(answer) - 1 for answer in example.answers if answer] for example in encoded]
    return Lengths(
        characters=characters,
        shared=shared,
        own=_mean([len(example.tokens) - shared for example in encoded]),
        train_answer=_mean([_mean(answers) for answers in inner]),
        test_answer=_mean([num_inner(example.answers) for example in encoded]),
    )


def matrix_flops_per_second(shape: Shape, model: Model, settings: RunSettings, seconds: float) -> float:
    """How fast this machine multiplies [MEASURED_ROWS, width] by [width, mlp width], in the base's dtype."""
    dtype = getattr(torch, _dtype(model))
    left = torch.randn(MEASURED_ROWS, shape.width, device=settings.device).to(dtype)
    right = torch.randn(shape.width, shape.mlp_width, device=settings.device).to(dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        _finish(left @ right)
        start = time.perf_counter()
        times = 0
        while (taken := time.perf_counter() - start) < seconds or times == 0:
            for _ in range(8):
                product = left @ right
            _finish(product)
            times += 8
    finally:
        torch.set_num_threads(threads)
    return 2.0 * MEASURED_ROWS * shape.width * shape.mlp_width * times / taken


def _finish(product: torch.Tensor) -> None:
    """Waits for a device that works on its own."""
    if product.device.type == "cuda":
        torch.cuda.synchronize(product.device)


def _without_base(spec: RunSpec, lengths: Lengths) -> RunEstimate:
    num_texts = spec.num_labels + _num_test(spec)
    seconds = RUN_SECONDS + num_texts * lengths.characters / CHARACTERS_PER_SECOND
    # Words and their counts, as Python objects and sparse rows, take some twenty bytes a character.
    memory = round(PROCESS_BYTES + 20 * num_texts * lengths.characters)
    return RunEstimate(spec, False, seconds=seconds, memory_bytes=memory)


def _with_base(
    spec: RunSpec, shape: Shape, lengths: Lengths, settings: RunSettings, flops_per_second: float
) -> RunEstimate:
    virtual: float = spec.method.extra_tokens()
    before, is_same = spec.method.prompts_before()
    whole = lengths.shared + lengths.own
    added = max(0.0, min(before * whole, (spec.model.context_length() or math.inf) - whole))
    if is_same:
        virtual += added
    shared = lengths.shared if lengths.shared + virtual >= MIN_SHARED_TOKENS else 0
    own = lengths.own + lengths.shared - shared + (0.0 if is_same else added)
    root = shared + virtual
    context = root + own / 2
    room = max(settings.token_budget - root, own)

    def scoring(num_texts: float) -> tuple[float, float]:
        """(tokens, seconds)"""
        packs = math.ceil(num_texts * (own + lengths.test_answer) / room)
        tokens = num_texts * (own + lengths.test_answer) + packs * root
        flops = shape.forward_flops(tokens, context, num_texts * (1 + lengths.test_answer))
        return tokens, flops / flops_per_second / SCORING_EFFICIENCY + packs * shape.layers * LAYER_SECONDS

    test_tokens, seconds = scoring(_num_test(spec))
    train_tokens = 0.0
    packed = min(settings.token_budget, test_tokens)
    passes = spec.method.passes()
    if passes and spec.training is not None:
        num_selection = _num_selection(spec)
        num_train = max(spec.num_labels - num_selection, 1)
        updates, batch = spec.training.num_updates(num_train), spec.training.batch_size
        updates = round(updates * spec.protocol.fits(spec.num_labels))
        packs = math.ceil(batch * (own + lengths.train_answer) / room)
        per_update = batch * (own + lengths.train_answer) + packs * root
        packed = min(settings.token_budget, per_update)
        flops = updates * shape.forward_flops(per_update, context, batch) * passes
        train_tokens = updates * per_update
        seconds += flops / flops_per_second / TRAINING_EFFICIENCY
        seconds += updates * (packs * shape.layers * LAYER_SECONDS * passes + UPDATE_SECONDS)
        selected_tokens, selected_seconds = scoring(num_selection)
        evaluations = max(1, updates * batch // num_train)
        train_tokens += evaluations * selected_tokens
        seconds += evaluations * selected_seconds
    memory = _memory_bytes(spec, shape, settings, passes, packed)
    return RunEstimate(spec, False, round(train_tokens), round(test_tokens), seconds + RUN_SECONDS, memory)


def _memory_bytes(spec: RunSpec, shape: Shape, settings: RunSettings, passes: float, tokens: float) -> int:
    number = _number_bytes(spec.model)
    weights = shape.parameters * number
    total = float(weights) + (PROCESS_BYTES if settings.device == "cpu" else 0.0)
    if passes:
        total += tokens * shape.layers * shape.width * ACTIVATION_UNITS * number
    else:
        total += tokens * (4 * shape.width + 3 * shape.mlp_width) * number
    if passes > 2:
        # The copy that restores the base and its gradients; two moments of Adam in float32, and where the base has
        # 16 bits float32 masters and their gradients.
        total += 2 * weights + (2 if number == 4 else 4) * 4 * shape.parameters
    return round(total)


def _num_selection(spec: RunSpec) -> int:
    """Texts held out, were the labels drawn evenly."""
    num_classes = len(load_dataset(spec.data).label_names)
    return spec.protocol.selection_size([spec.num_labels // num_classes] * num_classes)


def _num_test(spec: RunSpec) -> int:
    dataset = load_dataset(spec.data)
    return len(dataset.test) or max(len(dataset.train) - spec.num_labels, 0)


def _dtype(model: Model) -> str:
    dtype = getattr(model, "dtype", "float32")
    return dtype if dtype in _BYTES else "float32"


def _number_bytes(model: Model) -> int:
    return _BYTES[_dtype(model)]


def _spread(examples: Sequence[Example]) -> Sequence[Example]:
    """Up to SAMPLE_TEXTS examples, evenly over the whole sequence."""
    return examples[:: max(1, math.ceil(len(examples) / SAMPLE_TEXTS))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
