"""A careful forward pass with transformers: sorted by length, logits at the last position only.

The first token of each answer is compared, over the whole vocabulary. As users write it, prompts are padded on the
left and masked. --no-mask pads on the right instead, where a causal model never looks, so that attention needs no
mask, and gives the head each prompt's last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocol import Job, Stopwatch, in_batches, load, parser, read_job, write_result


def score(
    job: Job, model: Any, tokenizer: Any, size: int, is_masked: bool = True
) -> tuple[list[list[int]], list[float]]:
    """(prompts in token ids, log-probability of the last answer less that of the first). size: rows in one batch."""
    import torch

    prompts: list[list[int]] = tokenizer([entry["prompt"] for entry in job["test"]])["input_ids"]
    answers = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in job["answers"]]
    tokenizer.padding_side = "left" if is_masked else "right"
    margins = [0.0] * len(prompts)
    for batch in in_batches(len(prompts), size, lambda number: len(prompts[number])):
        inputs = tokenizer.pad({"input_ids": [prompts[number] for number in batch]}, return_tensors="pt")
        with torch.no_grad():
            logits = _masked(model, inputs) if is_masked else _unmasked(model, inputs)
            found = logits.float().log_softmax(dim=-1)[:, answers]
        for number, row in zip(batch, found.tolist(), strict=True):
            margins[number] = row[-1] - row[0]
    return prompts, margins


def _masked(model: Any, inputs: Any) -> Any:
    """[rows, vocabulary] logits after left-padded prompts."""
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**inputs, position_ids=positions, logits_to_keep=1, use_cache=False).logits[:, -1]


def _unmasked(model: Any, inputs: Any) -> Any:
    """[rows, vocabulary] logits after right-padded prompts."""
    import torch

    last = inputs["attention_mask"].sum(-1) - 1
    hidden = model.get_decoder()(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
    return model.get_output_embeddings()(hidden[torch.arange(len(last)), last])


def main(argv: Sequence[str] | None = None) -> None:
    """Does one job."""
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--no-mask", action="store_true")
    args = arguments.parse_args(argv)
    job = read_job(args.job)
    model, tokenizer = load(job)
    with Stopwatch() as clock:
        prompts, margins = score(job, model, tokenizer, args.batch, not args.no_mask)
    write_result(args.result, clock.seconds, prompts, margins=margins)


if __name__ == "__main__":
    main()
