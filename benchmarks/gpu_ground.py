"""What the GPU benchmark stands on: Llama shapes with random weights, prompts as long as real reviews, a clock.

Knows nothing of what is compared. Weights are drawn on the device, so no copy passes through the CPU.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from flops import Shape
from handful import progress
from handful.engine.base import Base, PathCheck
from handful.engine.check import check_path
from handful.examples import EncodedExample
from imdb_lengths import draw

RANK, ALPHA = 8, 16
LEARNING_RATE = 1e-4
"""LoRA on queries and values, ours and the peer's."""


@dataclass(frozen=True)
class Model:
    """What is measured. budgets: tokens in one forward pass when scoring and when training (without
    checkpointing, so bounded by the memory of 80 GB). instruction, text (mean), marker: tokens of a prompt.
    """

    name: str
    shape: Shape
    score_budget: int
    train_budget: int
    instruction: int = 60
    text: int = 300
    marker: int = 10
    warm_reviews: int = 32


MODELS = {
    "7b": Model("7b", Shape(32, 4096, 11008, 32, 32, 128, 32000), 16384, 8192),
    "13b": Model("13b", Shape(40, 5120, 13824, 40, 40, 128, 32000), 16384, 4096),
    "70b": Model("70b", Shape(80, 8192, 28672, 64, 8, 128, 32000), 16384, 2048),
    "toy": Model("toy", Shape(4, 64, 176, 4, 4, 16, 512), 512, 512, 12, 30, 3, 8),
    "toy-70b": Model("toy-70b", Shape(12, 128, 384, 8, 2, 16, 512), 512, 512, 12, 30, 3, 8),
}


@dataclass(frozen=True)
class Settings:
    """What the command line says. reviews: at most so many, fewer where `deadline` (of time.perf_counter)
    would not hold. limit: longest text in tokens, 0 for none.
    """

    model: Model
    device: torch.device
    reviews: int
    batch_size: int
    token_budget: int | None
    limit: int
    dropout: float
    repeats: int
    minutes: float
    seed: int
    deadline: float = math.inf

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: a CPU without bf16 units would take four times as long with them."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    @property
    def is_toy(self) -> bool:
        """Whether only the running is to be seen, not a figure."""
        return self.model.name.startswith("toy")


@dataclass(frozen=True)
class Sample:
    """Prompts, and the arithmetic they need. text_tokens: without instruction and marker."""

    prompts: list[EncodedExample]
    instruction: int
    text_tokens: int

    @property
    def own(self) -> list[int]:
        """Tokens of each prompt after the instruction."""
        return [len(prompt.tokens) - self.instruction for prompt in self.prompts]


def draw_sample(settings: Settings, count: int) -> Sample:
    """`count` prompts of random token ids with real lengths; gold labels alternate."""
    model, shape = settings.model, settings.model.shape
    generator = np.random.default_rng(settings.seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(generator.integers(3, shape.vocabulary, length).tolist())

    instruction, marker = tokens(model.instruction), tokens(model.marker)
    answers = ((5,), (7,))
    lengths = draw(count, model.text, settings.seed).tolist()
    if settings.limit:
        lengths = [min(length, settings.limit) for length in lengths]
    prompts = [
        EncodedExample(str(index), instruction + tokens(length) + marker, answers, index % 2, {})
        for index, length in enumerate(lengths)
    ]
    return Sample(prompts, model.instruction, sum(lengths))


def make_network(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int, spread: float = 0.02) -> Any:
    """A frozen Llama with random weights of standard deviation `spread`, drawn where it is to stay."""
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, head_dim=shape.head_width,
        num_key_value_heads=shape.key_value_heads, max_position_embeddings=4096, rms_norm_eps=1e-5,
        initializer_range=spread, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    with device:
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return network.eval().requires_grad_(False)


def make_base(network: Any, name: str, token_budget: int) -> Base:
    """The network as the engine sees a loaded one, its path checked."""
    config, weights = network.config, next(network.parameters())
    facts = {
        "architecture": config.model_type, "num_parameters": sum(p.numel() for p in network.parameters()),
        "num_layers": config.num_hidden_layers, "width": config.hidden_size, "vocabulary": config.vocab_size,
        "sliding_window": None, "checkpoint": f"random-llama-{name}",
    }  # fmt: skip
    context = config.max_position_embeddings
    base = Base(network, None, weights.device, PathCheck(False, "unchecked"), context, facts, token_budget)
    base.path = check_path(base, network.get_input_embeddings().weight.dtype)
    return base


def fresh_base(settings: Settings, token_budget: int) -> Base:
    """The model of the settings in full."""
    network = make_network(settings.model.shape, settings.device, settings.dtype, settings.seed)
    return make_base(network, settings.model.name, token_budget)


def cast(network: Any, dtype: torch.dtype) -> None:
    """Turns the weights, and only them: rotary frequencies stay in fp32, as a loaded model has them."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


def to_nf4(network: Any) -> None:
    """The decoder's linear layers in 4 bits, computing in the dtype they had; embeddings and head stay as they are."""
    import bitsandbytes

    for layer in network.model.layers:
        for name, linear in [pair for pair in layer.named_modules() if isinstance(pair[1], nn.Linear)]:
            device, dtype = linear.weight.device, linear.weight.dtype
            short = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, False, dtype, quant_type="nf4", device="meta"
            )
            short.weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
            parent, _, own = name.rpartition(".")
            setattr(layer.get_submodule(parent), own, short.to(device))  # moving it there is what quantises
            if short.weight.quant_state is None:
                raise RuntimeError("bitsandbytes did not quantise a layer: it is too old, or lacks this device")
    network.is_loaded_in_4bit = True  # peft asks for this before it puts adapters on 4-bit layers


@dataclass
class Measured:
    """Several runs of the same work. peak_bytes: of device memory, the base included; None on a CPU.

    loss: mean training loss. notes: what the engine told, such as a halved token budget.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    loss: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def timed(device: torch.device, into: Measured, work: Callable[[], float | None]) -> None:
    """Runs `work` once and adds its seconds, peak memory, loss and notes."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    with progress.recording() as journal:
        into.loss = work()
    if on_gpu:
        torch.cuda.synchronize(device)
        into.peak_bytes = max(into.peak_bytes or 0, torch.cuda.max_memory_allocated(device))
    into.seconds.append(time.perf_counter() - start)
    into.notes += [note for note in journal.notes if note not in into.notes]


def product_rate(device: torch.device, dtype: torch.dtype, m: int, k: int, n: int, seconds: float) -> float:
    """FLOP/s of [m, k] x [k, n] on random numbers (zeros would run faster): the median of short bursts."""
    left = torch.randn(m, k, device=device, dtype=dtype)
    right = torch.randn(k, n, device=device, dtype=dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    # Long enough that the call and the wait around it do not count.
    burst = min(1000, max(1, int((2e13 if device.type == "cuda" else 1e9) / (2.0 * m * k * n))))
    bursts = Measured()
    end = time.perf_counter() + seconds
    while len(bursts.seconds) < 4 or time.perf_counter() < end:
        timed(device, bursts, lambda: _multiply(left, right, out, burst))
    return 2.0 * m * k * n * burst / statistics.median(bursts.seconds[1:])  # the first burst warms up


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, times: int) -> None:
    for _ in range(times):
        torch.mm(left, right, out=out)


def square_rate(settings: Settings) -> float:
    """FLOP/s of a large square product: what a FLOP share is a share of, measured anew in every section."""
    size, seconds = (256, 0.05) if settings.is_toy else (8192, 1.5)
    return product_rate(settings.device, settings.dtype, size, size, size, seconds)


def free_memory() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
