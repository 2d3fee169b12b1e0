"""Batched `generate` of five tokens after left-padded prompts, the label read from the generated text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocol import Job, Stopwatch, in_batches, load, parser, read_job, write_result

NEW_TOKENS = 5


def classify(job: Job, model: Any, tokenizer: Any, size: int, is_sorted: bool) -> tuple[list[list[int]], list[int]]:
    """(prompts in token ids, label or -1 per review). size: rows in one batch."""
    import torch

    texts = [entry["prompt"] for entry in job["test"]]
    tokenizer.padding_side = "left"
    labels = [-1] * len(texts)
    prompts: list[list[int]] = [[] for _ in texts]
    for batch in in_batches(len(texts), size, (lambda n: len(texts[n])) if is_sorted else None):
        inputs = tokenizer([texts[n] for n in batch], padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            made = model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        new = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, number in enumerate(batch):
            said = [label for label, answer in enumerate(job["answers"]) if answer.strip() in new[row].lower()]
            labels[number] = said[0] if len(said) == 1 else -1
            prompts[number] = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()
    return prompts, labels


def main(argv: Sequence[str] | None = None) -> None:
    """Does one job."""
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--sorted", action="store_true", help="texts of about equal length in one batch")
    args = arguments.parse_args(argv)
    job = read_job(args.job)
    model, tokenizer = load(job)
    with Stopwatch() as clock:
        prompts, labels = classify(job, model, tokenizer, args.batch, args.sorted)
    write_result(args.result, clock.seconds, prompts, labels=labels)


if __name__ == "__main__":
    main()
