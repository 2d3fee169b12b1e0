"""handful: trains LoRA on a job's reviews, or scores its test reviews with the base, as a study's cell does.

The rate of matrix products is measured in the same process right before and right after, because a machine's speed
moves within a minute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gemm
from protocol import Job, Stopwatch, parser, read_job, write_result


def train(job: Job, base: Any) -> tuple[float, list[Sequence[int]], dict[str, Any]]:
    """(seconds, prompts in token ids, details)"""
    import peft  # noqa: F401  (imports are nobody's seconds here)

    from handful.methods import LoRA
    from handful.prompts import encode
    from handful.training import TrainingSpec

    split, prompt = _split(job, "train")
    method = LoRA(
        rank=job["rank"], alpha=job["alpha"], dropout=job["dropout"], targets=tuple(job["targets"]),
        learning_rate=job["learning_rate"],
    )  # fmt: skip
    training = TrainingSpec(
        batch_size=job["batch_size"], learning_rate=job["learning_rate"], epochs=job["epochs"], loss="answer"
    )
    with Stopwatch() as clock:
        encoded = encode(split, prompt, base.tokenizer)
        with method.attach(base, encoded.task, seed=job["seed"]) as tuned:
            curve = tuned.fit(encoded.train, (), training, seed=job["seed"])
    prompts = [example.tokens for example in encoded.train]
    return clock.seconds, prompts, {"loss": curve.points[-1]["train_loss"]}


def score(job: Job, base: Any) -> tuple[float, list[Sequence[int]], dict[str, Any]]:
    """(seconds, prompts in token ids, details)"""
    from handful.methods import ZeroShot
    from handful.prompts import encode

    split, prompt = _split(job, "test")
    with Stopwatch() as clock:
        encoded = encode(split, prompt, base.tokenizer)
        with ZeroShot().attach(base, encoded.task, seed=job["seed"]) as tuned:
            scores = tuned.predict(encoded.test)
    prompts = [example.tokens for example in encoded.test]
    return clock.seconds, prompts, {"margins": (scores[:, 1] - scores[:, 0]).tolist()}


def _split(job: Job, side: str) -> tuple[Any, Any]:
    """The job's reviews as handful's data sources give them, and the prompt that made the others' texts."""
    from handful.examples import Example, Split
    from handful.prompts import Alpaca

    examples = tuple(Example(str(n), {"text": entry["text"]}, entry["label"]) for n, entry in enumerate(job[side]))
    sides = {"train": (), "selection": (), "test": (), side: examples}
    split = Split(("negative", "positive"), ("text",), **sides, pool=(), revision="")
    return split, Alpaca(max_tokens=job["max_tokens"])


def main(argv: Sequence[str] | None = None) -> None:
    """Does one job."""
    arguments = parser(__doc__)
    arguments.add_argument("--work", choices=("train", "score"), required=True)
    args = arguments.parse_args(argv)
    # What the command `handful` sets for itself before it imports torch.
    from handful import cli

    for name, value in getattr(cli, "QUIET_LIBRARIES", {}).items():
        os.environ.setdefault(name, value)
    from handful import models
    from handful.engine.budget import fitting_budget

    job = read_job(args.job)
    base = models.resident(models.CausalLM(checkpoint=job["model"]).resolve("cpu"), "cpu")
    base.token_budget = fitting_budget(base)
    sizes = base.network.config.hidden_size, base.network.config.intermediate_size
    before = gemm.measure(*sizes)
    seconds, prompts, details = (train if args.work == "train" else score)(job, base)
    rates = gemm.between(before, gemm.measure(*sizes))
    write_result(args.result, seconds, prompts, engine=str(base.path), gemm=rates, **details)


if __name__ == "__main__":
    main()
