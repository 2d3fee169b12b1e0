"""transformers Trainer + peft on the benchmark's prompts, as their users run them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers

from gpu_ground import ALPHA, LEARNING_RATE, RANK, Measured, Sample, Settings, free_memory, timed
from handful.examples import EncodedExample


@dataclass
class TrainerPeer:
    """transformers Trainer + peft as its users run it, on the same network; it is left as it was found.

    per_pass: sequences in one forward pass, halved when memory runs out, with as many more of them in an
    optimizer step.
    """

    network: Any
    settings: Settings
    checkpointing: bool
    per_pass: int

    def train(self, sample: Sample, into: Measured) -> None:
        """One epoch; building the Trainer is not timed. Raises torch.OutOfMemoryError at one sequence."""
        while not self._fits(sample, into):
            free_memory()
            self.per_pass //= 2
        free_memory()  # a Trainer refers to itself, so that only the collector takes it away
        note = f"{self.per_pass} sequences per pass: more ran out of memory"
        if self.per_pass < self.settings.batch_size and note not in into.notes:
            into.notes.append(note)

    def _fits(self, sample: Sample, into: Measured) -> bool:
        try:
            self._train(sample, into)
        except torch.OutOfMemoryError:
            # Tried again by the caller: within this block the traceback would still hold the tensors.
            if self.per_pass == 1:
                raise
            return False
        return True

    def _train(self, sample: Sample, into: Measured) -> None:
        network, seed = self.network, self.settings.seed
        use_cache = network.config.use_cache
        torch.manual_seed(seed)
        lora = peft.LoraConfig(
            task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=self.settings.dropout,
            target_modules=["q_proj", "v_proj"],
        )  # fmt: skip
        model = peft.get_peft_model(network, lora)
        try:
            with tempfile.TemporaryDirectory() as folder:
                trainer = transformers.Trainer(
                    model=model,
                    args=self._arguments(folder),
                    train_dataset=[_supervised(prompt) for prompt in sample.prompts],
                    data_collator=_pad,
                )
                trainer.remove_callback(transformers.PrinterCallback)  # prints its own figures to stdout
                timed(self.settings.device, into, lambda: float(trainer.train().training_loss))
        finally:
            model.unload()
            if hasattr(network, "peft_config"):
                del network.peft_config
            network.gradient_checkpointing_disable()
            network.config.use_cache = use_cache
            network.eval().requires_grad_(False)

    def _arguments(self, folder: str) -> transformers.TrainingArguments:
        on_gpu = self.settings.device.type == "cuda"
        # transformers 5.23 has another name for it and warns of the old one
        known = transformers.TrainingArguments.__dataclass_fields__
        kind = "activation" if "activation_checkpointing" in known else "gradient"
        checkpointing = {
            f"{kind}_checkpointing": self.checkpointing,
            f"{kind}_checkpointing_kwargs": {"use_reentrant": False},
        }
        return transformers.TrainingArguments(
            output_dir=folder, num_train_epochs=1, learning_rate=LEARNING_RATE, warmup_steps=0, seed=self.settings.seed,
            per_device_train_batch_size=self.per_pass,
            gradient_accumulation_steps=self.settings.batch_size // self.per_pass,
            train_sampling_strategy="group_by_length", bf16=on_gpu, use_cpu=not on_gpu, **checkpointing,
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip


def _supervised(prompt: EncodedExample) -> dict[str, list[int]]:
    """A prompt with its answer, the loss at the answer alone."""
    answer = list(prompt.answers[prompt.label])
    tokens = list(prompt.tokens)
    return {"input_ids": tokens + answer, "labels": [-100] * len(tokens) + answer}


def _pad(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Right-padded tensors with their mask."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[name] + [filler] * (width - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}
