"""TRL's SFTTrainer on prompts and completions, in fp32; it adds an end token to each answer by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from protocol import Job, Stopwatch, load, parser, read_job, write_result


def train(job: Job, model: Any, tokenizer: Any, output: str, **options: Any) -> tuple[list[list[int]], float]:
    """(prompts in token ids, mean loss). options: of SFTConfig."""
    import peft
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{"prompt": entry["prompt"], "completion": entry["answer"]} for entry in job["train"]])
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=job["rank"], lora_alpha=job["alpha"], lora_dropout=job["dropout"],
        target_modules=job["targets"],
    )  # fmt: skip
    arguments = SFTConfig(
        output_dir=output,
        num_train_epochs=job["epochs"],
        learning_rate=job["learning_rate"],
        max_length=job["max_tokens"] + 1,  # room for the end token
        seed=job["seed"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        **options,
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=config
    )
    loss = trainer.train().training_loss
    return [_prompt(row) for row in trainer.train_dataset], loss


def _prompt(row: dict[str, Any]) -> list[int]:
    """The tokens of a prepared row that are no part of its completion."""
    own = row["completion_mask"] if "completion_mask" in row else [label != -100 for label in row["labels"]]
    return [token for token, is_answer in zip(row["input_ids"], own, strict=True) if not is_answer]


def main(argv: Sequence[str] | None = None) -> None:
    """Does one job."""
    arguments = parser(__doc__)
    arguments.add_argument("--order", choices=("random", "group_by_length"), default="random")
    arguments.add_argument("--micro", type=int, help="rows in one forward pass; else the batch size")
    arguments.add_argument("--no-checkpointing", action="store_true", help="TRL checkpoints activations by default")
    arguments.add_argument("--padding-free", action="store_true", help="the rows of a batch in one, without padding")
    args = arguments.parse_args(argv)
    job = read_job(args.job)
    model, tokenizer = load(job)
    micro = args.micro or job["batch_size"]
    options: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": job["batch_size"] // micro,
        "train_sampling_strategy": args.order,
    }
    if args.no_checkpointing:
        options["gradient_checkpointing"] = False
    if args.padding_free:
        options["padding_free"] = True
    # What training needs is imported beforehand: that is nobody's seconds.
    import datasets  # noqa: F401
    import peft  # noqa: F401
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    with tempfile.TemporaryDirectory() as output, Stopwatch() as clock:
        prompts, loss = train(job, model, tokenizer, output, **options)
    write_result(args.result, clock.seconds, prompts, loss=loss)


if __name__ == "__main__":
    main()
