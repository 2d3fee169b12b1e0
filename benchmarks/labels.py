"""What 77 labels of several tokens cost in scoring, against two of one token: all finished, and pruned.

    HANDFUL_DATA=FOLDER python benchmarks/labels.py                     the base that ships
    HANDFUL_DATA=FOLDER python benchmarks/labels.py --base 15m          random weights at the 15M shape
    HANDFUL_DATA=FOLDER python benchmarks/labels.py --updates 300       after so many updates of all weights

FOLDER holds banking77/train.csv and banking77/test.csv (columns text and category). Labels are scored by their names,
"card_arrival" as "card arrival". Everything is run in turn in each round; texts/s are medians of the rounds. With
--updates the base is first trained on the training side (batch 16, loss over the vocabulary).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from handful import models, progress
from handful.engine.base import Base, PathCheck
from handful.engine.check import check_path
from handful.engine.graft import Graft
from handful.engine.pruning import Pruning
from handful.engine.scoring import label_scores, normalise
from handful.examples import Encoded, EncodedExample, Example, Split
from handful.methods import METHODS
from handful.models.causal_lm import CausalLM
from handful.prompts import encode
from handful.prompts.cloze import Cloze
from handful.training import TrainingSpec
from report import table

SHIPPED = "reviews-llama-5m"
ENDING = "This is about"
TWO = ((5,), (6,))
"""Two labels of one token each; which tokens does not matter to the cost."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=SHIPPED, help="a folder, a name, or 15m")
    parser.add_argument("--texts", type=int, default=216, help="test texts, spread over all labels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nats", type=float, nargs="+", default=[25.0], help="thresholds of the pruned rows")
    parser.add_argument("--updates", type=int, default=0, help="of all weights, before anything is measured")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--token-budget", type=int, default=4096)
    told = parser.parse_args(arguments)
    torch.set_num_threads(told.threads)
    base = random_15m() if told.base == "15m" else models.resident(CausalLM(told.base), "cpu")
    base.token_budget = told.token_budget
    encoded = intents(base, told.texts, 16 * told.updates)
    with ExitStack() as stack:
        graft = Graft()
        if told.updates:
            tuned = stack.enter_context(METHODS["full"]().attach(base, encoded.task, 0))
            training = TrainingSpec(
                batch_size=16, learning_rate=told.learning_rate, updates=told.updates, loss="answer"
            )
            tuned.fit(encoded.train, [], training, 0)
            base.network.requires_grad_(False)  # as a frozen base is run
        print(measured(base, graft, encoded.test, told.nats, told.rounds))


def random_15m() -> Base:
    """Llama, 6 layers, width 288, vocabulary 32,000; the tokenizer is that of the base that ships."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    facts = {
        "architecture": "llama", "num_layers": 6, "width": 288, "vocabulary": 32000, "sliding_window": None,
        "checkpoint": "15m",
    }  # fmt: skip
    network: Any = LlamaForCausalLM(config).eval().requires_grad_(False)
    base = Base(network, CausalLM(SHIPPED).load_tokenizer(), torch.device("cpu"), PathCheck(False, ""), 2048, facts)
    base.path = check_path(base, torch.float32)
    return base


def intents(base: Base, num_test: int, num_train: int) -> Encoded:
    """Every n-th text of either side of BANKING77, whose rows stand label by label."""
    folder = Path(os.environ.get("HANDFUL_DATA", ".")) / "banking77"
    sides, named = {}, set()
    for side, number in (("train", num_train), ("test", num_test)):
        with (folder / f"{side}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        places = np.unique(np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int))
        sides[side] = [rows[place] for place in places]
        named |= {row["category"] for row in rows}
    names = tuple(sorted(named))
    drawn = {
        side: tuple(
            Example(f"{side}-{n}", {"text": row["text"]}, names.index(row["category"])) for n, row in enumerate(rows)
        )
        for side, rows in sides.items()
    }
    prompt = Cloze(ending=ENDING, answers={name: name.replace("_", " ") for name in names})
    return encode(Split(names, ("text",), drawn["train"], (), drawn["test"], (), ""), prompt, base.tokenizer)


def measured(
    base: Base, graft: Graft, examples: Sequence[EncodedExample], thresholds: Sequence[float], rounds: int
) -> str:
    """The table, after one round that is not counted."""
    num_labels = len(examples[0].answers)
    two = [dataclasses.replace(example, answers=TWO) for example in examples]
    ways: dict[str, tuple[Sequence[EncodedExample], Pruning | None]] = {
        "2 labels of one token": (two, None),
        f"{num_labels} labels, all finished": (examples, None),
    }
    for nats in thresholds:
        ways[f"{num_labels} labels, pruned at {nats:g} nats"] = (examples, Pruning(nats, np.zeros(num_labels)))
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    amounts: dict[str, dict[str, float]] = {}
    scores: dict[str, np.ndarray] = {}
    for number in range(rounds + 1):
        for way, (texts, pruning) in ways.items():
            with progress.recording() as journal:
                start = time.perf_counter()
                scores[way] = label_scores(base, texts, graft, pruning)
                if number:
                    speeds[way].append(len(texts) / (time.perf_counter() - start))
            amounts[way] = journal.amounts
    slow, full, *_ = ways
    lines = []
    for way, (_, pruning) in ways.items():
        ratios = [mine / theirs for mine, theirs in zip(speeds[slow], speeds[way], strict=True)]
        told = amounts[way]
        skipped = "-"
        if "answer_tokens" in told:
            skipped = f"{100 * told['skipped_answer_tokens'] / told['answer_tokens']:.1f} %"
        moved = "-"
        if pruning is not None:
            off = np.abs(np.exp(normalise(scores[way])) - np.exp(normalise(scores[full]))).max()
            moved = f"{off:.0e} ({pruning.probability_bound:.0e})"
        lines.append(
            (way, f"{median(speeds[way]):.1f} ({min(speeds[way]):.1f} to {max(speeds[way]):.1f})",
             f"{median(ratios):.1f}", f"{told['scored_tokens'] / len(examples):.0f}", skipped, moved)
        )  # fmt: skip
    right = np.mean(scores[full].argmax(axis=1) == [example.label for example in examples])
    header = (
        "", "texts/s", "time against 2 labels", "tokens a text", "answer tokens skipped", "probability moved (bound)"
    )  # fmt: skip
    return table(header, lines) + f"\n\n{len(examples)} texts, accuracy of the full scores {100 * right:.1f} %."


if __name__ == "__main__":
    main()
