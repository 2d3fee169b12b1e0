"""What every measured tool has in common: it reads a job, does it with the clock running, writes a result.

    python TOOL.py JOB RESULT [OPTIONS]

The clock starts when libraries and model are loaded and one review has passed through the model, and it runs from
texts to a trained adapter or to scores, tokenising included, for every tool alike. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Job = dict[str, Any]
"""As `jobs.py` writes it: settings, the model's folder, and reviews with prompt, answer and label."""


class Stopwatch:
    """`with Stopwatch() as clock: ...`, then clock.seconds."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every tool takes; a tool adds its own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("job", type=Path, help="JSON as jobs.py writes it")
    made.add_argument("result", type=Path, help="JSON to write")
    return made


def read_job(path: Path) -> Job:
    """The whole job."""
    job: Job = json.loads(path.read_text(encoding="utf-8"))
    return job


def write_result(path: Path, seconds: float, prompts: Sequence[Sequence[int]], **details: Any) -> None:
    """seconds: of the work. prompts: the token ids that this tool made of them, to see that all have the same."""
    result = {"seconds": seconds, "reviews": len(prompts), "tokens": sum(map(len, prompts)), **details}
    path.write_text(json.dumps(result), encoding="utf-8")


def load(job: Job) -> tuple[Any, Any]:
    """(model, tokenizer) by transformers, in fp32, after one review has passed through."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    with torch.no_grad():
        model(**tokenizer(job["test"][0]["prompt"], return_tensors="pt"), use_cache=False)
    return model, tokenizer


def in_batches(number: int, size: int, order_by: Callable[[int], Any] | None = None) -> list[list[int]]:
    """The numbers below `number`, `size` at a time, in their order or sorted."""
    order = sorted(range(number), key=order_by) if order_by is not None else list(range(number))
    return [order[first : first + size] for first in range(0, number, size)]
