"""What a study will cost before it runs: tokens, time and memory of every run that is still to do.

Encodes a sample of the texts with the base's own tokenizer, counts arithmetic from the base's configuration,
and measures how fast this machine multiplies matrices of that shape. Where a base is not here (its revision is
ESTIMATED), lengths come from the texts' characters, its shape from the table that ships, and times are those of one
NVIDIA H200, scaled from what was measured there. Loads no weights, writes nothing, and knows no method by name: it asks
each for its passes and its extra tokens. Meant to be right within a factor of two.
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
from handful.identity import ESTIMATED
from handful.models.model import Model
from handful.models.placement import FOUR_BITS
from handful.models.shapes import KNOWN, LAYERS, WIDTH, number_of
from handful.prompts import Field, encode
from handful.prompts.prompt import full_answers
from handful.results import StudyFolder
from handful.run import RunSettings
from handful.spec import ExecutionSpec, RunSpec
from handful.statistics import smallest_difference
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

DEVICE = "one NVIDIA H200"
RATES = ((6.476e9, 41_237, 14_466), (12.688e9, 22_217, 8_208), (68.450e9, 4_439, 2_073))
"""What DEVICE did on Llama-2's shapes in bf16 (docs/benchmarks.md): parameters of all layers together, tokens a second
scored, and trained with an adapter. The last line was extrapolated there from 2 and 6 layers to 80. Other sizes are
scaled from the nearest by FLOPs per token, as if they kept the device as busy."""
LAUNCH_SECONDS = 0.18 / 32
"""Of one layer in one training step, however little there is to compute: the CPU took 180 ms to launch a step of 32
layers (docs/benchmarks.md). What keeps small bases from being as fast as their FLOPs."""
GPU_TOKENS = 16_384
"""Tokens in one pack on a GPU; so many were run there."""
SMALL_BASE = 1.5e9
"""Parameters up to which a base that is not here is reckoned for this machine too."""
CHAT_TOKENS = 40
"""What a model's own chat template writes around a message: roles, a default system message, a date. A guess."""

GPU_BYTES = 80e9
GPU_USABLE = 0.85
"""Share of a GPU's memory for weights and activations: the rest goes to the driver's context, to fragments, and to
layers that do not divide evenly over several GPUs."""
GPU_COUNTS = (1, 2, 4, 8, 16)
LONG_TEXT = 1024
"""Tokens of a long review: the least that has to go through in one pack."""
DISAGREEMENT = 0.06
"""Assumed share of test texts that one of two methods answers rightly and the other wrongly: two of 95 % accuracy whose
errors are independent have 9.5 %, two with the same errors none."""
SEED_SD = 0.01
"""Assumed spread from seed to seed of the difference between two methods: sqrt(2) times that of one, for which the
cells of a row in the paper's Table 3, which differ in dropout alone, stand in (0.4 to 0.9 points)."""

SAMPLE_TEXTS = 256
MEASURED_ROWS = 2048
MEASURE_SECONDS = 2.0
BRIEFLY = 0.3
"""Seconds of measuring where only proportions matter."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class RunEstimate:
    """One distinct run. train_tokens, test_tokens: tokens that run through the base, prefixes and virtual
    tokens included, selection counted with training; 0 without a base. step_tokens: of one training step, or of all
    that is scored where nothing is trained. All zero when it is done already.
    """

    spec: RunSpec
    is_done: bool
    train_tokens: int = 0
    test_tokens: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0
    step_tokens: int = 0

    @property
    def is_estimated(self) -> bool:
        """Whether its base or its texts are not here, so that the tables that ship stand in for them."""
        return ESTIMATED in (getattr(self.spec.model, "revision", None), self.spec.data.revision)


@dataclass(frozen=True)
class BaseNeeds:
    """What one base needs on GPUs of 80 GB. bf16_bytes, four_bit_bytes: of the weights and of the largest pack of any
    run, as a GPU would take it; None where 4 bits cannot be trained. bf16_least, four_bit_least: with one long text for
    a pack. gpus, four_bit_gpus: how many hold that, None for more than sixteen. seconds: of its pending runs, loading
    included; of a stand-in on DEVICE, and seconds_here on this machine, where it is small enough. terms: what is to be
    accepted before its download.
    """

    checkpoint: str
    parameters: int
    is_estimated: bool
    bf16_bytes: int
    bf16_least: int
    gpus: int | None
    four_bit_bytes: int | None
    four_bit_least: int | None
    four_bit_gpus: int | None
    seconds: float
    seconds_here: float | None = None
    terms: str = ""


@dataclass(frozen=True)
class Power:
    """What the study can tell apart: the smallest difference in accuracy found with 80 % power at the 5 % level, by
    `statistics.smallest_difference` on its fewest test texts and seeds, several where any row has several.

    has_single: some of what it trains has one seed, which says nothing of another.
    """

    num_texts: int
    num_seeds: int
    difference: float
    has_single: bool


@dataclass(frozen=True)
class Estimate:
    """A study. load_seconds: bases and texts, once. flops_per_second: the largest measured, 0 without a base here.
    bases: the language models. power: None where no two runs can be compared.
    """

    runs: tuple[RunEstimate, ...]
    settings: RunSettings
    load_seconds: float
    flops_per_second: float
    bases: tuple[BaseNeeds, ...] = ()
    power: Power | None = None

    @property
    def pending(self) -> tuple[RunEstimate, ...]:
        """The runs that are still to do."""
        return tuple(run for run in self.runs if not run.is_done)

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The bases and data sources that are not here."""
        absent = [run for run in self.runs if run.is_estimated]
        models = [getattr(run.spec.model, "checkpoint", "") for run in absent if _is_outline(run.spec.model)]
        data = [f"the texts of {run.spec.data.name}" for run in absent if run.spec.data.revision == ESTIMATED]
        return tuple(dict.fromkeys([*models, *data]))

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
        width = _first(config, *WIDTH)
        heads = _first(config, "num_attention_heads", "n_head", "n_heads")
        head_width = config.get("head_dim") or width // heads
        activation = str(config.get("hidden_act") or config.get("hidden_activation") or "")
        return cls(
            layers=_first(config, *LAYERS),
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

    def four_bit_bytes(self, number: int = 2) -> float:
        """Of the weights with all layers in NF4, the others with `number` bytes each."""
        return FOUR_BITS * self.layer_parameters + number * (self.parameters - self.layer_parameters)

    def forward_flops(self, tokens: float, context: float, answer_rows: float) -> float:
        """One forward pass over `tokens`, each of which sees `context` tokens on average."""
        layers = tokens * (2 * self.layer_parameters + 4 * self.layers * context * self.attention_width)
        return layers + 2 * answer_rows * self.width * self.vocabulary


def _first(config: Mapping[str, Any], *names: str, otherwise: int | None = None) -> int:
    found = number_of(config, names)
    found = otherwise if found is None else found
    if found is None:
        raise KeyError(f"the configuration names none of {', '.join(names)}")
    return found


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
    stand_in_rates: dict[Model, float] = {}
    loading: dict[Model, float] = {}
    here: dict[Model, float] = {}
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
                if _is_outline(spec.model) and shape.parameters <= SMALL_BASE:
                    briefly = min(measure_seconds, BRIEFLY)
                    stand_in_rates[spec.model] = matrix_flops_per_second(shape, spec.model, settings, briefly)
                elif not _is_outline(spec.model):
                    rates[spec.model] = matrix_flops_per_second(shape, spec.model, settings, measure_seconds)
                num_bytes = shape.parameters * (2 if _is_outline(spec.model) else _number_bytes(spec.model))
                loading[spec.model] = LOAD_SECONDS + num_bytes / LOAD_BYTES_PER_SECOND
                load_seconds += loading[spec.model]
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
            runs.append(_with_base(spec, shape, lengths[key], settings, rates.get(spec.model)))
            if spec.model in stand_in_rates:
                local = _with_base(spec, shape, lengths[key], settings, stand_in_rates[spec.model])
                here[spec.model] = here.get(spec.model, loading[spec.model]) + local.seconds
    bases = _bases(runs, loading, here)
    return Estimate(tuple(runs), settings, load_seconds, max(rates.values(), default=0.0), bases, _power(plan))


def _is_outline(model: Model) -> bool:
    return getattr(model, "revision", None) == ESTIMATED


def _bases(
    runs: Sequence[RunEstimate], loading: Mapping[Model, float], here: Mapping[Model, float]
) -> tuple[BaseNeeds, ...]:
    """The needs of each language model with a pending run, in their order."""
    needs = []
    for model, load_seconds in loading.items():
        if not model.speaks:
            continue
        own = [run for run in runs if not run.is_done and run.spec.model == model]
        shape = Shape.of(model.shape())
        bf16, four_bits = 2.0 * shape.parameters, shape.four_bit_bytes()

        def total(weights: float, tokens: int, shape: Shape = shape, own: list[RunEstimate] = own) -> float:
            return max(_gpu_bytes(run, shape, weights, tokens) for run in own)

        trains_all = any(run.spec.method.passes() > 2 for run in own)
        checkpoint = str(getattr(model, "checkpoint", model.name))
        needs.append(
            BaseNeeds(
                checkpoint=checkpoint,
                parameters=shape.parameters,
                is_estimated=_is_outline(model),
                bf16_bytes=round(total(bf16, GPU_TOKENS)),
                bf16_least=round(total(bf16, LONG_TEXT)),
                gpus=_gpus(total(bf16, LONG_TEXT)),
                four_bit_bytes=None if trains_all else round(total(four_bits, GPU_TOKENS)),
                four_bit_least=None if trains_all else round(total(four_bits, LONG_TEXT)),
                four_bit_gpus=None if trains_all else _gpus(total(four_bits, LONG_TEXT)),
                seconds=load_seconds + sum(run.seconds for run in own),
                seconds_here=here.get(model),
                terms=KNOWN[checkpoint].terms if checkpoint in KNOWN and _is_outline(model) else "",
            )
        )
    return tuple(needs)


def _gpu_bytes(run: RunEstimate, shape: Shape, weights: float, tokens: int) -> float:
    """Of a run in bf16 on a GPU, `weights` taking so many bytes, with packs of at most `tokens`."""
    return weights + _working_bytes(shape, run.spec.method.passes(), min(tokens, run.step_tokens), number=2)


def _gpus(num_bytes: float) -> int | None:
    return next((count for count in GPU_COUNTS if num_bytes <= count * GPU_USABLE * GPU_BYTES), None)


def _power(plan: Plan) -> Power | None:
    """Of the fewest test texts and the fewest seeds of any row of the table; None for a study of one run, and without
    two test texts."""
    specs = plan.distinct
    num_texts = min(map(_num_test, specs), default=0)
    if len(specs) < 2 or num_texts < 2:
        return None
    samples: dict[str, set[int]] = {}
    for spec in specs:
        if spec.num_labels:
            kind = [part for name, part in sorted(spec.as_dict().items()) if name not in ("seed", "init_seed")]
            samples.setdefault(repr(kind), set()).add(spec.seed)
    counts = [len(seeds) for seeds in samples.values()]
    num_seeds = min((count for count in counts if count > 1), default=1)
    return Power(num_texts, num_seeds, smallest_difference(num_texts, num_seeds, DISAGREEMENT, SEED_SD), 1 in counts)


def measure_lengths(spec: RunSpec, tokenizer: Any) -> Lengths:
    """Encodes up to SAMPLE_TEXTS texts of each side in the spec's prompt."""
    dataset = load_dataset(spec.data)
    sample = (*_spread(dataset.train), *_spread(dataset.test))
    characters = _mean([sum(map(len, example.fields.values())) for example in sample])
    if tokenizer is None and _is_outline(spec.model):
        return _lengths_by_characters(spec, sample, characters)
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


def _lengths_by_characters(spec: RunSpec, sample: Sequence[Example], characters: float) -> Lengths:
    """For a base without its tokenizer: as many tokens per character everywhere as in film reviews, a word of an answer
    for a token.
    """
    dataset = load_dataset(spec.data)
    rate = KNOWN[str(getattr(spec.model, "checkpoint", ""))].tokens_per_character
    messages = spec.prompt.messages(dataset.label_names, dataset.field_names)
    pieces = spec.prompt.pieces(dataset.label_names, dataset.field_names) if not messages else [
        piece for message in messages for piece in message.content
    ]  # fmt: skip
    first = next((place for place, piece in enumerate(pieces) if isinstance(piece, Field)), len(pieces))

    def literal(some: Sequence[str | Field]) -> float:
        return rate * sum(len(piece) for piece in some if isinstance(piece, str))

    shared = round(literal(pieces[:first]) + (CHAT_TOKENS if messages else 0)) + 1  # the begin token
    slots = [piece.name for piece in pieces if isinstance(piece, Field)]
    limit = math.inf if spec.prompt.max_tokens is None else spec.prompt.max_tokens - shared
    own = [
        min(rate * sum(len(example.fields[slot]) for slot in slots) + literal(pieces[first:]), limit)
        for example in sample
    ]
    inner = [len(answer.split()) - 1 for answer in full_answers(spec.prompt, dataset.label_names)] if (
        spec.prompt.asks
    ) else []  # fmt: skip
    return Lengths(characters, shared, _mean(own), _mean(inner), float(sum(inner)))


def stated_rates(shape: Shape) -> tuple[float, float]:
    """Tokens per second that DEVICE scores and trains: the nearest shape's in RATES, scaled by FLOPs per token."""
    own = shape.layer_parameters
    layers, scored, trained = min(RATES, key=lambda line: abs(math.log(line[0] / own)))
    return scored * layers / own, trained * layers / own


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
        # So few of a large shape that a slow machine is not held up.
        at_once = max(1, min(8, round(1e11 / (2.0 * MEASURED_ROWS * shape.width * shape.mlp_width))))
        while (taken := time.perf_counter() - start) < seconds or times == 0:
            for _ in range(at_once):
                product = left @ right
            _finish(product)
            times += at_once
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
    spec: RunSpec, shape: Shape, lengths: Lengths, settings: RunSettings, flops_per_second: float | None
) -> RunEstimate:
    """flops_per_second: as measured here, None for DEVICE's stated throughput."""
    budget = settings.token_budget if flops_per_second is not None else GPU_TOKENS
    scored_per_second, trained_per_second = stated_rates(shape)
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
    room = max(budget - root, own)

    def scoring(num_texts: float) -> tuple[float, float]:
        """(tokens, seconds)"""
        packs = math.ceil(num_texts * (own + lengths.test_answer) / room)
        tokens = num_texts * (own + lengths.test_answer) + packs * root
        if flops_per_second is None:
            return tokens, max(tokens / scored_per_second, packs * shape.layers * LAUNCH_SECONDS / 3)
        flops = shape.forward_flops(tokens, context, num_texts * (1 + lengths.test_answer))
        return tokens, flops / flops_per_second / SCORING_EFFICIENCY + packs * shape.layers * LAYER_SECONDS

    test_tokens, seconds = scoring(_num_test(spec))
    train_tokens = 0.0
    step_tokens = test_tokens
    passes = spec.method.passes()
    if passes and spec.training is not None:
        num_selection = _num_selection(spec)
        num_train = max(spec.num_labels - num_selection, 1)
        updates, batch = spec.training.num_updates(num_train), spec.training.batch_size
        epochs = max(1, updates * batch // num_train)
        updates = round(updates * spec.protocol.fits(spec.num_labels))
        packs = math.ceil(batch * (own + lengths.train_answer) / room)
        per_update = batch * (own + lengths.train_answer) + packs * root
        step_tokens = per_update
        train_tokens = updates * per_update
        if flops_per_second is None:
            # An adapter's forward and backward make two passes; all weights make a third.
            one = max(per_update / trained_per_second, packs * shape.layers * LAUNCH_SECONDS) * passes / 2
            seconds += updates * (one + UPDATE_SECONDS)
        else:
            flops = updates * shape.forward_flops(per_update, context, batch) * passes
            seconds += flops / flops_per_second / TRAINING_EFFICIENCY
            seconds += updates * (packs * shape.layers * LAYER_SECONDS * passes + UPDATE_SECONDS)
        looked_at = spec.protocol.texts_looked_at(epochs, spec.num_labels, num_selection, _num_test(spec))
        selected_tokens, selected_seconds = scoring(looked_at)
        train_tokens += selected_tokens
        seconds += selected_seconds
    memory = _memory_bytes(spec, shape, settings, passes, min(budget, step_tokens))
    seconds += RUN_SECONDS
    return RunEstimate(spec, False, round(train_tokens), round(test_tokens), seconds, memory, round(step_tokens))


def _memory_bytes(spec: RunSpec, shape: Shape, settings: RunSettings, passes: float, tokens: float) -> int:
    on_gpu = _is_outline(spec.model)
    number = 2 if on_gpu else _number_bytes(spec.model)
    is_quantised = getattr(spec.model, "quantization", "none") != "none"
    total = shape.four_bit_bytes(number) if is_quantised else float(shape.parameters * number)
    total += (PROCESS_BYTES if settings.device == "cpu" and not on_gpu else 0.0)
    return round(total + _working_bytes(shape, passes, tokens, number))


def _working_bytes(shape: Shape, passes: float, tokens: float, number: int) -> float:
    """What a pack of so many tokens needs beside the weights, `number` bytes each."""
    if passes:
        working = tokens * shape.layers * shape.width * ACTIVATION_UNITS * number
    else:
        working = tokens * (4 * shape.width + 3 * shape.mlp_width) * number
    if passes > 2:
        # The copy that restores the base and its gradients; two moments of Adam in float32, and where the base has
        # 16 bits float32 masters and their gradients.
        working += 2 * shape.parameters * number + (2 if number == 4 else 4) * 4 * shape.parameters
    return float(working)


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
