"""What is measured: tools, how each is started, and how much work it gets. Plain data, needs nothing but Python.

Each peer stands here as its users run it, and once more in the best configuration that was found for it by trying:
rows per forward pass, order, checkpointing, masks, and how glibc handles memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from environments import MAIN

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""glibc gives large blocks back to the system and asks for them again at every step, unless told not to."""


@dataclass(frozen=True)
class Tool:
    """script: in benchmarks/tools. environment: see environments.py. variables: set for its process."""

    title: str
    script: str
    options: tuple[str, ...] = ()
    environment: str = "trainer"
    variables: Mapping[str, str] = field(default_factory=dict)
    is_quick: bool = False


OURS = "handful"
RANDOM, GROUPED = "Trainer + peft, random order", "Trainer + peft, grouped by length"
GENERATE, FORWARD, HARNESS = "generate, 5 tokens", "careful forward pass", "lm-evaluation-harness"

TRAINING = (
    Tool(OURS, "ours", ("--work", "train"), MAIN, is_quick=True),
    Tool(RANDOM, "trainer", is_quick=True),
    Tool(GROUPED, "trainer", ("--order", "group_by_length"), is_quick=True),
    Tool("Trainer + peft, best found", "trainer", ("--micro", "1", "--collator", "answer"), variables=KEEP_MEMORY),
    Tool("TRL SFTTrainer", "sft", environment="trl"),
    Tool("TRL SFTTrainer, best found", "sft", ("--micro", "1", "--no-checkpointing"), "trl", KEEP_MEMORY),
)

SCORING = (
    Tool(OURS, "ours", ("--work", "score"), MAIN, is_quick=True),
    Tool(GENERATE, "generate", is_quick=True),
    Tool("generate, best found", "generate", ("--sorted",), variables=KEEP_MEMORY),
    Tool(FORWARD, "forward", is_quick=True),
    Tool("careful forward pass, best found", "forward", ("--no-mask", "--batch", "1"), variables=KEEP_MEMORY),
    Tool(HARNESS, "harness", environment="lm_eval", is_quick=True),
    Tool("lm-evaluation-harness, best found", "harness", ("--batch", "4"), "lm_eval", KEEP_MEMORY),
)


@dataclass(frozen=True)
class Amounts:
    """Reviews to train on and to score in each measurement."""

    train: int
    test: int


FULL = {"15m": Amounts(train=48, test=128), "135m": Amounts(train=16, test=32)}
QUICK = {"15m": Amounts(train=16, test=48)}


@dataclass(frozen=True)
class Target:
    """What is wanted on two cores. figure: "seconds" or "peak_bytes", a tool's over handful's; or "share", per cent
    of the measured matrix-product rate."""

    section: str
    shape: str
    figure: str
    wanted: float
    tool: str = OURS


TARGETS = (
    Target("train", "15m", "seconds", 6.0, RANDOM),
    Target("train", "15m", "seconds", 4.0, GROUPED),
    Target("train", "15m", "peak_bytes", 5.0, RANDOM),
    Target("train", "15m", "share", 55.0),
    Target("score", "15m", "seconds", 4.0, GENERATE),
    Target("score", "15m", "seconds", 1.4, FORWARD),
    Target("score", "15m", "seconds", 6.0, HARNESS),
    Target("score", "15m", "share", 70.0),
    Target("train", "135m", "seconds", 3.5, RANDOM),
    Target("train", "135m", "seconds", 2.5, GROUPED),
    Target("train", "135m", "peak_bytes", 3.0, RANDOM),
    Target("train", "135m", "share", 70.0),
    Target("score", "135m", "seconds", 2.8, GENERATE),
    Target("score", "135m", "seconds", 1.25, FORWARD),
    Target("score", "135m", "seconds", 4.0, HARNESS),
    Target("score", "135m", "share", 85.0),
    Target("study", "15m", "wall_seconds", 6.0),
)
