"""Prompt tuning (Lester et al. 2021): V trained vectors stand before every prompt, through peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from handful.engine.base import Base
from handful.engine.graft import Graft, ParameterGroup
from handful.errors import SpecError
from handful.examples import Task
from handful.methods.grafted import Grafted, GraftTuned, Start, check_start, start_prior, without_path
from handful.methods.method import Given
from handful.training import Recipe

RECIPE = Recipe(learning_rate=1e-2, loss="labels", epochs=((200, 5), (1000, 4), (float("inf"), 2)))


@dataclass(frozen=True)
class PromptTuning(Grafted):
    """Trained vectors before the prompt, the base frozen.

    init: "text" repeats the embeddings of a sentence that says the task, "vocabulary" takes those of random
    tokens, "random" draws normal ones of the embeddings' spread.
    """

    name: ClassVar[str] = "prompt_tuning"
    recipe: ClassVar[Recipe] = RECIPE

    num_virtual_tokens: int = 20
    init: Literal["text", "vocabulary", "random"] = "vocabulary"
    start: Start = "raw"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.num_virtual_tokens < 1:
            problems.append(f"num_virtual_tokens must be at least 1, got {self.num_virtual_tokens}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills the recipe."""
        training = RECIPE.fill(cell, self.learning_rate)
        check_start(self.start, training)
        knobs = {
            "name": self.name, "num_virtual_tokens": self.num_virtual_tokens, "init": self.init,
            "start": self.start, "learning_rate": training.pop("learning_rate"),
        }  # fmt: skip
        return {**cell, "method": knobs, "training": training}

    def check(self, given: Given) -> None:
        """Raises SpecError too when the virtual tokens do not fit."""
        super().check(given)
        if given.context_length is not None and given.max_tokens is not None:
            room = given.context_length - given.max_tokens
            if self.num_virtual_tokens > room:
                left = given.context_length - self.num_virtual_tokens
                way_out = "fewer of them" if left < 64 else f"max_tokens = {left} in the prompt, or fewer of them"
                raise SpecError(
                    f"num_virtual_tokens = {self.num_virtual_tokens} do not fit: the context holds "
                    f"{given.context_length} tokens and prompts may have {given.max_tokens}. Give {way_out}"
                )

    def extra_tokens(self) -> int:
        """Virtual tokens before a prompt."""
        return self.num_virtual_tokens

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> GraftTuned:
        """A prompt encoder of peft's beside the base; the base itself is not touched."""
        import peft

        placed: list[Any] = []

        def make() -> Graft:
            network = base.network
            model: Any
            if saved is not None:
                model = peft.PeftModel.from_pretrained(network, saved)
            else:
                config = peft.PromptTuningConfig(
                    task_type="CAUSAL_LM", num_virtual_tokens=self.num_virtual_tokens,
                    prompt_tuning_init=peft.PromptTuningInit.RANDOM,
                )  # fmt: skip
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    model = peft.get_peft_model(network, config)  # on 16-bit bases its adapters are fp32
                    with torch.no_grad():
                        model.prompt_encoder["default"].embedding.weight.copy_(self._start(base, task))
                # peft writes the path on this machine, which says nothing elsewhere
                model.peft_config["default"].base_model_name_or_path = base.facts["checkpoint"]
            placed.append(model)
            model.eval()
            trained = [parameter.requires_grad_(True) for parameter in model.prompt_encoder.parameters()]
            return Graft(
                parameters=[ParameterGroup(trained, self.learning_rate or RECIPE.learning_rate)],
                prefix_embeddings=lambda: model.get_prompt(batch_size=1)[0],
                num_virtual=self.num_virtual_tokens,
            )

        def write(folder: Path) -> None:
            # Asked for the embeddings, peft would look the base up on the hub.
            placed[0].save_pretrained(folder, save_embedding_layers=False)
            without_path(folder / "README.md", base)

        prior = start_prior(self.start, base, task, reads_graft=True)
        return GraftTuned(base, task, make, write, prior, saved, is_adapter=True)

    def _start(self, base: Base, task: Task) -> Tensor:
        """[virtual, width] from the generator as it stands."""
        weight: Tensor = base.network.get_input_embeddings().weight
        count = self.num_virtual_tokens
        if self.init == "random":
            return torch.randn(count, weight.shape[1]) * weight.std().item()
        if self.init == "vocabulary":
            return weight[torch.randint(0, weight.shape[0], (count,))]
        tokens = list(task.text_tokens)
        repeated = (tokens * (count // len(tokens) + 1))[:count]
        return weight[torch.tensor(repeated)]
