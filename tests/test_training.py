"""Training: against a plain loop over plain transformers, and the rules of a step."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from handful.engine.base import Base
from handful.engine.graft import Graft, ParameterGroup
from handful.errors import RunError, SpecError
from handful.identity import spec_id
from handful.methods.lora import LoRA
from handful.training import Recipe, TrainingSpec, _steps, fit_graft, rate_factor
from test_methods import ANSWERS, TASK, TEST, TRAIN, make
from toys import toy_base

SPEC = TrainingSpec(batch_size=4, learning_rate=1e-2, updates=5, loss="answer", schedule="linear", warmup=0.2)


def last_layer_graft(base: Base, rate: float = 1e-2) -> Graft:
    base.model.requires_grad_(False)
    weight = base.model.model.layers[-1].mlp.down_proj.weight.requires_grad_(True)
    return Graft([ParameterGroup([weight], rate)])


def trained(budget: int, training: TrainingSpec = SPEC, offset: np.ndarray | None = None) -> torch.Tensor:
    base = toy_base("llama")
    base.token_budget = budget
    graft = last_layer_graft(base)
    fit_graft(base, graft, TRAIN, [], training, 11, np.zeros(3) if offset is None else offset)
    return graft.parameters[0].tensors[0].detach().clone()


@pytest.mark.parametrize("loss", ["answer", "labels"])
def test_updates_are_those_of_a_plain_loop(loss: str) -> None:
    """AdamW, schedule, clipping and loss, written out with plain transformers one text at a time."""
    training = dataclasses.replace(SPEC, loss=loss)
    offset = np.array([0.3, -0.1, -0.2])
    ours = trained(4096, training, offset)
    base = toy_base("llama")
    weight = last_layer_graft(base).parameters[0].tensors[0]
    optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.0)
    for step, members in enumerate(_steps(len(TRAIN), 4, 5, 11)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * [0.5, 1.0, 0.75, 0.5, 0.25][step]
        losses = []
        for index in members:
            example = TRAIN[index]
            scores = []
            for answer in ANSWERS:
                logits = base.model(input_ids=torch.tensor([example.tokens + answer])).logits[0].log_softmax(-1)
                scores.append(sum(logits[place - len(answer) - 1, token] for place, token in enumerate(answer)))
            together = torch.stack(scores)
            if loss == "answer":
                losses.append(-together[example.label])
            else:
                biased = together + torch.tensor(offset, dtype=torch.float32)
                losses.append(torch.nn.functional.cross_entropy(biased[None], torch.tensor([example.label])))
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert float((ours - weight).abs().max()) < 2e-4 * float(weight.abs().max())


def test_micro_batches_are_one_batch() -> None:
    whole, parts = trained(4096), trained(1)
    assert float((whole - parts).abs().max()) < 2e-4 * float(whole.abs().max())


def test_a_step_is_exactly_batch_size_sequences_and_an_epoch_every_text_once() -> None:
    steps = list(_steps(10, 4, 5, seed=3))
    assert all(len(step) == 4 for step in steps)
    seen = [index for step in steps for index in step]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] != list(range(10))
    assert steps == list(_steps(10, 4, 5, seed=3)) != list(_steps(10, 4, 5, seed=4))


def test_number_of_updates() -> None:
    assert TrainingSpec(epochs=2, batch_size=8).num_updates(50) == 13
    assert TrainingSpec(updates=7, batch_size=8).num_updates(50) == 7


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 2 / 3, 1 / 3]), ("cosine", [0.5, 1, 0.75, 0.25])],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    training = TrainingSpec(schedule=schedule, warmup=0.25)
    assert [rate_factor(step, 4, training) for step in range(4)] == pytest.approx(expected)


def test_epochs_and_updates_are_never_both() -> None:
    with pytest.raises(SpecError, match="never both"):
        TrainingSpec(epochs=1, updates=2)


@pytest.mark.parametrize("knobs", [{"batch_size": 0}, {"warmup": 1.0}, {"learning_rate": -1.0}, {"max_grad_norm": 0.0}])
def test_impossible_values_are_refused(knobs: dict) -> None:
    with pytest.raises(SpecError, match=next(iter(knobs))):
        TrainingSpec(**knobs)


def test_a_loss_that_is_not_a_number_ends_the_run() -> None:
    base = toy_base("llama")
    graft = last_layer_graft(base, rate=float("nan"))
    with pytest.raises(RunError, match="diverged"):
        fit_graft(base, graft, TRAIN, [], SPEC, 1, np.zeros(3))


def test_a_loss_that_explodes_ends_the_run() -> None:
    base = toy_base("llama")
    graft = Graft([ParameterGroup([base.model.lm_head.weight], 1e4)])
    training = dataclasses.replace(SPEC, warmup=0.0, updates=30, schedule="constant")
    with pytest.raises(RunError, match="Lower the learning rate"):
        fit_graft(base, graft, TRAIN, [], training, 1, np.zeros(3))


def test_selection_keeps_the_best_epoch() -> None:
    from handful.engine.scoring import label_scores, normalise
    from handful.evaluation import log_loss

    base = toy_base("llama")
    graft = last_layer_graft(base, rate=3e-2)
    training = dataclasses.replace(SPEC, updates=None, epochs=4, schedule="constant")
    curve = fit_graft(base, graft, TRAIN[:12], TRAIN[12:], training, 1, np.zeros(3))
    losses = [point["selection_log_loss"] for point in curve.points]
    assert len(losses) == 4 and curve.chosen_by == "selection log-loss"
    assert curve.chosen_update == curve.points[int(np.argmin(losses))]["update"]
    kept = normalise(label_scores(base, TRAIN[12:], graft))
    assert log_loss(kept, np.array([e.label for e in TRAIN[12:]])) == pytest.approx(min(losses), rel=1e-6)


def test_dropout_is_seeded_by_the_cell_and_not_by_what_ran_before() -> None:
    base = toy_base("llama")
    scores = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        torch.rand(100 * noise)
        with make("lora", dropout=0.5, learning_rate=1e-2).attach(base, TASK, seed=1) as tuned:
            tuned.fit(TRAIN, [], SPEC, seed=2)
            scores.append(tuned.predict(TEST))
    assert np.array_equal(scores[0], scores[1])
    with make("lora", dropout=0.0, learning_rate=1e-2).attach(base, TASK, seed=1) as tuned:
        tuned.fit(TRAIN, [], SPEC, seed=2)
        assert not np.array_equal(tuned.predict(TEST), scores[0])


def test_a_recipes_hash_is_that_of_what_it_says() -> None:
    """It stands in records, so it is pinned: a knob that other recipes get must not move it."""
    assert LoRA.recipe.hash == "c7c8ec3da02fcb03"
    said = {"learning_rate": 0.1, "loss": "labels", "epochs": [["100", 9], ["inf", 3]]}
    recipe = Recipe(learning_rate=0.1, loss="labels", epochs=((100, 9), (math.inf, 3)))
    assert recipe.hash == spec_id({"recipe": said})
    by_number = dataclasses.replace(recipe, learning_rates=((50, 0.1), (math.inf, 0.2)))
    assert by_number.hash == spec_id({"recipe": said | {"learning_rates": [["50", 0.1], ["inf", 0.2]]}})


def test_recipe_precedence() -> None:
    recipe = Recipe(learning_rate=0.1, loss="labels", epochs=((100, 9), (math.inf, 3)))
    cell = {"training": {}, "num_labels": 50}
    assert recipe.fill(cell, None) == {"learning_rate": 0.1, "epochs": 9, "loss": "labels"}
    assert recipe.fill({**cell, "num_labels": 500}, 0.2)["epochs"] == 3
    asked = {"training": {"learning_rate": 0.3, "updates": 5, "loss": "answer"}, "num_labels": 50}
    assert recipe.fill(asked, None) == {"learning_rate": 0.3, "updates": 5, "loss": "answer"}
    assert recipe.fill(asked, 0.2)["learning_rate"] == 0.2
