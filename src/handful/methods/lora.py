"""LoRA (Hu et al. 2021): W x + (alpha / rank) B A x with W frozen, through peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from handful.engine.base import Base
from handful.engine.graft import Added, Graft, ParameterGroup
from handful.engine.kernels import LowRank
from handful.engine.offload import stand_ins
from handful.errors import RunError, SpecError
from handful.examples import Task
from handful.methods.grafted import Grafted, GraftTuned, Start, check_start, start_prior, without_path
from handful.training import Recipe

RECIPE = Recipe(learning_rate=1e-3, loss="labels", epochs=((200, 5), (1000, 4), (float("inf"), 2)))


@dataclass(frozen=True)
class LoRA(Grafted):
    """Low-rank updates of the attention's matrices.

    targets: names of linear modules; "auto" is the query and value projections, or what peft names for the
    architecture. init of A: "kaiming" (peft's), "gaussian" (standard deviation 1/rank), "normal" (standard
    normal, the paper's); B starts at zero.
    """

    name: ClassVar[str] = "lora"
    recipe: ClassVar[Recipe] = RECIPE

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("auto",)
    init: Literal["kaiming", "gaussian", "normal"] = "kaiming"
    start: Start = "raw"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.rank < 1:
            problems.append(f"rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be from 0 to below 1, got {self.dropout}")
        if not self.targets:
            problems.append('targets must name at least one module, such as targets = ["q_proj", "v_proj"]')
        if self.learning_rate is not None and self.learning_rate <= 0:
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills the recipe."""
        training = RECIPE.fill(cell, self.learning_rate)
        check_start(self.start, training)
        rate = training.pop("learning_rate")
        knobs = {
            "name": self.name, "rank": self.rank, "alpha": float(self.alpha), "dropout": float(self.dropout),
            "targets": list(self.targets), "init": self.init, "start": self.start,
            "learning_rate": rate,
        }  # fmt: skip
        return {**cell, "method": knobs, "training": training}

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> GraftTuned:
        """Adapters on the target modules; undone, the base is bit-identical."""
        import peft

        placed: list[Any] = []

        def make() -> Graft:
            network = base.network
            if saved is not None:
                with stand_ins(network):
                    model = peft.PeftModel.from_pretrained(network, saved, is_trainable=True)
            else:
                config = peft.LoraConfig(
                    task_type="CAUSAL_LM", r=self.rank, lora_dropout=self.dropout,
                    lora_alpha=self.alpha,  # type: ignore[arg-type]
                    target_modules=self._targets(network),
                    init_lora_weights="gaussian" if self.init == "gaussian" else True,
                )  # fmt: skip
                with torch.random.fork_rng(devices=[]), stand_ins(network):
                    torch.manual_seed(seed)
                    model = peft.get_peft_model(network, config)  # on 16-bit bases its adapters are fp32
                    if self.init == "normal":
                        for name, parameter in model.named_parameters():
                            if "lora_A" in name:
                                nn.init.normal_(parameter)
                # peft writes the path on this machine, which says nothing elsewhere
                model.peft_config["default"].base_model_name_or_path = base.facts["checkpoint"]
            placed.append(model)
            model.eval()
            placed_layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
            drops = [m.lora_dropout for m in placed_layers]
            trained = [p for p in model.parameters() if p.requires_grad]

            def switch(on: bool) -> None:
                for drop in drops:
                    drop.train(on)

            return Graft(
                parameters=[ParameterGroup(trained, self.learning_rate or RECIPE.learning_rate)],
                added={m: _added(m) for m in placed_layers if type(m.base_layer) is nn.Linear},
                train_mode=switch,
                undo=lambda: _unload(model),
            )

        def write(folder: Path) -> None:
            # Asked for the embeddings, peft would look the base up on the hub.
            placed[0].save_pretrained(folder, save_embedding_layers=False)
            without_path(folder / "README.md", base)

        prior = start_prior(self.start, base, task, reads_graft=False)
        return GraftTuned(base, task, make, write, prior, saved, is_adapter=True)

    def _targets(self, network: nn.Module) -> list[str]:
        names = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if _linear(module)}
        if self.targets == ("auto",):
            if {"q_proj", "v_proj"} <= names:
                return ["q_proj", "v_proj"]
            from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

            kind = getattr(network.config, "model_type", "")
            if kind in known:
                return list(known[kind])
        missing = [target for target in self.targets if target not in names]
        if missing:
            raise RunError(
                f"the base has no linear module named {', '.join(missing)}; it has {', '.join(sorted(names))}: "
                "name some of them in targets"
            )
        return list(self.targets)


def _added(layer: Any) -> Added:
    """peft's layer as the engine runs it itself."""
    drop = layer.lora_dropout["default"]
    low_rank = LowRank(
        layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"],
        drop.p if isinstance(drop, nn.Dropout) else 0.0,
    )  # fmt: skip
    return Added(layer.base_layer, low_rank)


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _unload(model: Any) -> None:
    with stand_ins(model):
        network = model.unload()
    if hasattr(network, "peft_config"):
        del network.peft_config


