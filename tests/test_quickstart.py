"""The quickstart as a person runs it: it ends in minutes, and learning is visible in its own numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handful.results import Predictions, RunRecord, StudyFolder
from handful.statistics import mcnemar_exact
from handful.summary import summarise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("quickstart")
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "handful", "study", "quickstart", "--output", str(where / "study")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report.html" in done.stdout and "toy" in done.stdout and "--model" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return where / "study"


def cells(folder: Path, method: str) -> dict[tuple[int, int], tuple[RunRecord, Predictions]]:
    study = StudyFolder(folder)
    found = {}
    for name, record in study.records().items():
        assert record.status == "finished", record.reason
        if record.spec["method"]["name"] == method:
            found[record.spec["num_labels"], record.spec["seed"]] = (record, study.predictions(name))
    return found


@pytest.mark.timeout(1200)
def test_learning_is_visible(folder: Path) -> None:
    """LoRA at the largest N beats zero-shot in both seeds, on the same texts (exact McNemar, two-sided)."""
    ((_, without_labels),) = cells(folder, "zero_shot").values()
    tuned = cells(folder, "lora")
    largest = max(num_labels for num_labels, _ in tuned)
    seeds = [predictions for (num_labels, _), (_, predictions) in tuned.items() if num_labels == largest]
    assert len(seeds) == 2
    for predictions in seeds:
        assert predictions.ids == without_labels.ids
        assert predictions.correct.mean() > without_labels.correct.mean()
        assert mcnemar_exact(predictions.correct, without_labels.correct) < 0.05


@pytest.mark.timeout(1200)
def test_every_cell_is_there_and_explains_itself(folder: Path) -> None:
    summary = summarise(StudyFolder(folder))
    assert len(summary.rows) == 4 and summary.columns == (32, 96, 200)
    for method in ("zero_shot", "prompt_tuning", "lora", "tfidf"):
        for (num_labels, _), (record, _) in cells(folder, method).items():
            assert len(record.sample["train_ids"]) + len(record.sample["selection_ids"]) == num_labels
            assert record.sample["num_test"] == 200
            assert {"seconds", "peak_memory_bytes", "versions", "device", "path"} <= record.execution.keys()
            assert record.execution["peak_memory_bytes"] < 2e9
            assert str(folder) not in str(record.as_dict())


@pytest.mark.timeout(1200)
def test_samples_are_nested_and_shared(folder: Path) -> None:
    def drawn(method: str, num_labels: int) -> set[str]:
        record, _ = cells(folder, method)[num_labels, 0]
        return {*record.sample["train_ids"], *record.sample["selection_ids"]}

    assert drawn("lora", 32) < drawn("lora", 96) < drawn("lora", 200)
    assert drawn("lora", 96) == drawn("tfidf", 96) == drawn("prompt_tuning", 96)
