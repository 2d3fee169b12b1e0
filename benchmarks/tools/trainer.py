"""transformers Trainer with peft's LoRA, the way its users write it: prompts masked out of the labels.

"Grouped by length" is what Trainer makes of a user's thousands of texts: it sorts 50 batches at a time. Of a few dozen
texts its own sampler sorts no more than one batch, which groups nothing, so the order is made here by Trainer's own
function with those 50.

--score adds what a script for one cell of a study does next, in its kindest form: the careful forward pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protocol import Job, Stopwatch, load, parser, read_job, write_result


def tokenize(job: Job, tokenizer: Any) -> Any:
    """A data set with input ids, and as labels the answer's tokens alone."""
    from datasets import Dataset

    def both(entry: dict[str, Any]) -> dict[str, Any]:
        prompt = tokenizer(entry["prompt"])["input_ids"]
        answer = tokenizer(entry["answer"], add_special_tokens=False)["input_ids"]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "length": len(prompt + answer)}

    rows = [{"prompt": entry["prompt"], "answer": entry["answer"]} for entry in job["train"]]
    return Dataset.from_list(rows).map(both, remove_columns=["prompt", "answer"])


@dataclass(frozen=True)
class AnswerRows:
    """A collator that pads on the left and asks the model for logits at the answer alone.

    Labels are cut to the rows that have logits, so the loss is the same; the vocabulary head runs on two rows of
    each review instead of on all.
    """

    tokenizer: Any

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tensors, and a number that the model takes by its own name."""
        import torch

        self.tokenizer.padding_side = "left"
        inputs = dict(self.tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"))
        kept = 1 + max(sum(label != -100 for label in row["labels"]) for row in rows)
        labels = torch.tensor([row["labels"][-kept:] for row in rows])
        return {**inputs, "labels": labels, "logits_to_keep": kept}


def collator_of(name: str, tokenizer: Any) -> Any:
    """padded: on the right, with logits everywhere. flattened: all rows in one, without padding. answer: AnswerRows."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    if name == "flattened":
        return DataCollatorWithFlattening()
    return AnswerRows(tokenizer) if name == "answer" else DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)


def train(
    job: Job, model: Any, tokenizer: Any, output: str, micro: int, collator: str, order: str, **options: Any
) -> tuple[Any, Any, float]:
    """(trained model, data set, mean loss). micro: rows in one forward pass. options: of TrainingArguments."""
    import peft
    from transformers import Trainer, TrainingArguments

    class Grouped(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return grouped_order(data["length"], job["batch_size"], job["seed"])

    data = tokenize(job, tokenizer)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=job["rank"], lora_alpha=job["alpha"], lora_dropout=job["dropout"],
        target_modules=job["targets"],
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    arguments = TrainingArguments(
        output_dir=output,
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=job["batch_size"] // micro,
        learning_rate=job["learning_rate"],
        seed=job["seed"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    chosen = collator_of(collator, tokenizer)
    kind = Grouped if order == "group_by_length" else Trainer
    trainer = kind(model=adapted, args=arguments, train_dataset=data, data_collator=chosen)
    loss = trainer.train().training_loss
    return adapted, data, loss


def grouped_order(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """Every index once, as Trainer groups many texts: 50 batches sorted at a time, the longest text first."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = get_length_grouped_indices(list(lengths), batch_size, mega_batch_mult=50, generator=generator)
    return order


def import_all() -> None:
    """Imports what training needs: that is nobody's seconds."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments  # noqa: F401


def prompts_of(data: Any) -> list[list[int]]:
    """The prompts' token ids, without their answers."""
    return [
        [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100] for row in data
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Does one job."""
    arguments = parser(__doc__)
    arguments.add_argument("--order", choices=("random", "group_by_length"), default="random")
    arguments.add_argument("--micro", type=int, help="rows in one forward pass; else the batch size")
    arguments.add_argument("--collator", choices=("padded", "flattened", "answer"), default="padded")
    arguments.add_argument("--attention", default="sdpa", help="attn_implementation of transformers")
    arguments.add_argument("--compile", action="store_true", help="torch.compile, by Trainer's own option")
    arguments.add_argument("--score", action="store_true", help="score the job's test reviews afterwards")
    args = arguments.parse_args(argv)
    job = read_job(args.job)
    model, tokenizer = load(job)
    model.set_attn_implementation(args.attention)
    micro = args.micro or job["batch_size"]
    import_all()
    with tempfile.TemporaryDirectory() as output, Stopwatch() as clock:
        adapted, data, loss = train(
            job, model, tokenizer, output, micro, args.collator, args.order, torch_compile=args.compile
        )
    details: dict[str, Any] = {"loss": loss}
    if args.score:
        from forward import score

        with Stopwatch() as scoring:
            adapted.eval()
            details["margins"] = score(job, adapted.get_base_model(), tokenizer, job["batch_size"])[1]
        details["score_seconds"] = scoring.seconds
    write_result(args.result, clock.seconds, prompts_of(data), **details)


if __name__ == "__main__":
    main()
