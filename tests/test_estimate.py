"""Estimates against what they estimate: parameters of real models, tokens that really run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handful.estimate import Shape, estimate
from handful.results import StudyFolder
from handful.spec import StudySpec, read_study
from handful.study import plan_study, run_study
from toys import SHAPES, make_toy_model, toy_model

STUDY = """
name = "estimated"
[fixed]
data = {{ name = "reviews", test_size = 30 }}
model = {{ checkpoint = "{model}" }}
training = {{ epochs = 1, batch_size = 8 }}
[grid]
method = [{methods}]
num_labels = [64]
[execution]
device = "cpu"
threads = 1
token_budget = 1024
"""


def make_study(folder: Path, methods: str) -> StudySpec:
    model = make_toy_model(folder / "toy")
    target = folder / "study.toml"
    target.write_text(STUDY.format(model=model, methods=methods), encoding="utf-8")
    return read_study(str(target))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox", "bloom"])
def test_parameters_are_counted_from_the_configuration(kind: str) -> None:
    assert kind in SHAPES
    model = toy_model(kind)
    config = model.config.to_dict()
    if kind in ("gpt2", "bloom"):
        # The toys set these for all; these two architectures do not read them, nor do their files name them.
        del config["intermediate_size"], config["num_key_value_heads"]
    shape = Shape.of(config)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    # gpt2's learned positions are the one matrix that is neither a layer's nor the vocabulary's.
    counted = sum(matrix.numel() for matrix in matrices if matrix.shape[0] != config.get("n_positions"))
    assert shape.parameters == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    "method", ['"zero_shot"', '"lora"', '{ name = "prompt_tuning", num_virtual_tokens = 12 }']
)
def test_tokens_are_those_that_run(tmp_path: Path, method: str) -> None:
    study = make_study(tmp_path, method)
    folder = StudyFolder(tmp_path / "out")
    estimated = estimate(plan_study(study), folder, study.execution, measure_seconds=0.01)
    (run,) = estimated.pending
    run_study(study, folder.path)
    record = folder.record(run.spec.spec_id)
    assert record is not None and record.status == "finished", record
    amounts: dict[str, Any] = record.execution["amounts"]
    happened = amounts.get("train_tokens", 0) + amounts["scored_tokens"]
    assert run.train_tokens + run.test_tokens == pytest.approx(happened, rel=0.15)

    again = estimate(plan_study(study), folder, study.execution, measure_seconds=0.01)
    assert not again.pending
    assert (again.seconds, again.memory_bytes) == (0.0, 0)


def test_training_costs_more_than_scoring_and_all_weights_more_than_some(tmp_path: Path) -> None:
    study = make_study(tmp_path, '"zero_shot", "lora", "full", "tfidf"')
    folder = StudyFolder(tmp_path / "out")
    estimated = estimate(plan_study(study), folder, study.execution, measure_seconds=0.01)
    seconds = {run.spec.method.name: run.seconds for run in estimated.runs}
    memory = {run.spec.method.name: run.memory_bytes for run in estimated.runs}
    assert seconds["tfidf"] < seconds["lora"] < seconds["full"]
    assert seconds["zero_shot"] < seconds["lora"]
    assert memory["zero_shot"] < memory["lora"] < memory["full"]
    assert estimated.seconds == pytest.approx(estimated.load_seconds + sum(seconds.values()))
    assert not (tmp_path / "out").exists()


LLAMA_2_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def test_a_known_model() -> None:
    shape = Shape.of(LLAMA_2_7B)
    assert shape.parameters == pytest.approx(6.74e9, rel=0.01)
    assert shape.forward_flops(1000, 0, 0) == 2 * 1000 * shape.layer_parameters
