"""How labels are spent: who trains, who selects, what is chosen, and on what."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import torch

from handful.data import load_dataset
from handful.engine.graft import ParameterGroup
from handful.errors import SpecError
from handful.examples import Encoded, EncodedExample, Task
from handful.methods.featured import PENALTIES
from handful.protocols import PROTOCOLS, Budget, Holdout, Paper
from handful.protocols.budget import cross_validate, folds
from handful.report.markdown import render
from handful.report.setup import setup_sentences
from handful.report.tables import epochs_table
from handful.results import StudyFolder
from handful.spec import build_member, member_dict, read_study
from handful.study import plan_study, run_study
from handful.summary import summarise
from handful.summary.rows import OWN_PENALTIES, _num_tried
from handful.training import Curve, Settled, TrainingSpec, marks, optimise
from toys import make_toy_model

TASK = Task(("a", "b"), ("a", "b"), (), ())


def texts(counts: Sequence[int], prefix: str = "t") -> list[EncodedExample]:
    return [
        EncodedExample(f"{prefix}{label}-{index}", (4, 5), ((6,), (7,)), label, {})
        for label, count in enumerate(counts)
        for index in range(count)
    ]


def encoded(train: Sequence[EncodedExample], selection: Sequence[EncodedExample] = ()) -> Encoded:
    return Encoded(TASK, tuple(train), tuple(selection), tuple(texts((3, 3), "test")))


@dataclass
class FakeMethod:
    """Says of the held-out texts what it is told: losses [looks] of every fit in turn, spread: their deviation."""

    losses: list[list[float]]
    spread: float = 0.3
    fitted: list[tuple[list[str], list[str], Any]] = field(default_factory=list)

    def __call__(self) -> FakeMethod:
        return self

    def __enter__(self) -> FakeMethod:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        return None

    def fit(
        self, train: Sequence[EncodedExample], selection: Sequence[EncodedExample], training: Any, seed: int
    ) -> Curve:
        told = self.losses[len(self.fitted)]
        self.fitted.append(([e.id for e in train], [e.id for e in selection], training))
        updates = marks(training.num_updates(len(train)), len(told))
        return Curve(
            tuple(
                {"update": update, "selection_log_loss": loss, "selection_log_loss_sd": self.spread}
                for update, loss in zip(updates, told, strict=True)
            )
        )


# -- the budget --------------------------------------------------------------------------------------------------


def test_folds_are_a_partition_alike_for_any_order_and_even_in_every_label() -> None:
    train = texts((41, 20))
    parts = folds(train)
    assert sorted(index for part in parts for index in part) == list(range(61))
    for part in parts:
        counts = Counter(train[index].label for index in part)
        assert abs(counts[0] - 41 / 4) < 1 and abs(counts[1] - 20 / 4) < 1
    mixed = [train[index] for index in np.random.default_rng(0).permutation(61)]
    by_name = [{train[index].id for index in part} for part in parts]
    assert [{mixed[index].id for index in part} for part in folds(mixed)] == by_name


def test_every_start_is_held_to_the_same_splits() -> None:
    train, training = texts((31, 30)), TrainingSpec(epochs=4, learning_rate=0.1)
    starts = [FakeMethod([[0.7, 0.6, 0.6, 0.6]] * 4) for _ in range(2)]
    for seed, method in enumerate(starts):
        cross_validate(training, train, method, seed)
    assert [held for _, held, _ in starts[0].fitted] == [held for _, held, _ in starts[1].fitted]


def test_cross_validation_pools_texts_and_takes_the_shortest_within_one_standard_error() -> None:
    train, training = texts((31, 30)), TrainingSpec(epochs=4, learning_rate=0.1)
    losses = [[0.70, 0.62, 0.55, 0.50], [0.72, 0.61, 0.50, 0.52], [0.69, 0.60, 0.55, 0.51], [0.71, 0.59, 0.53, 0.54]]
    method = FakeMethod(losses)
    found = cross_validate(training, train, method, 7)
    sizes = np.array([len(part) for part in folds(train)])
    pooled = (sizes[:, None] * np.array(losses)).sum(0) / 61
    assert found["log_loss"] == pytest.approx(pooled.tolist())
    # All texts' losses: a fold's mean and spread on each of its texts, with the variance over 61 texts.
    within = 61 * 0.3**2 + (sizes * (np.array(losses)[:, 3] - pooled[3]) ** 2).sum()
    error = math.sqrt(within / 60 / 61)
    assert found["standard_error"] == pytest.approx(error)
    assert pooled.argmin() == 3 and pooled[2] <= pooled[3] + error < pooled[1]
    assert (found["chosen_share"], found["best_share"]) == (0.75, 1.0)
    for (inside, held, settled), part in zip(method.fitted, folds(train), strict=True):
        assert held == [train[index].id for index in part] and not set(held) & set(inside)
        assert len(inside) + len(held) == 61 and settled.evaluations == 4


@pytest.mark.parametrize(
    ("counts", "held", "fits"),
    [((25, 25), 0, 0), ((26, 25), 0, 4), ((250, 250), 0, 4), ((251, 250), 100, 0), ((60, 7), 0, 0), ((900, 7), 0, 0),
     ((6000, 6000), 1000, 0)],
)  # fmt: skip
def test_the_budget_by_number_of_labels(counts: tuple[int, int], held: int, fits: int) -> None:
    assert Budget().selection_size(counts) == held
    method = FakeMethod([[0.7, 0.6, 0.6, 0.6]] * 4)
    training = TrainingSpec(epochs=2)
    data = encoded(texts(counts)[held:], texts(counts)[:held])
    settled, found = Budget().settle(training, data, method, 0)
    assert len(method.fitted) == fits
    assert Budget().texts(data) == (data.train, data.selection)
    if fits:
        assert settled.stop == found["cross_validation"]["chosen_share"] and "one standard error" in settled.rule
    elif held:
        assert (settled.patience, settled.evaluations) == (2, 8) and not found and "not trained on" in settled.rule
    else:
        assert settled == training and not found
    assert Budget().settle(None, data, method, 0) == (None, {})


def test_a_refit_trains_on_all_labels_for_as_long_as_the_held_out_ones_asked() -> None:
    train, held = texts((201, 200)), texts((50, 50), "held")
    data, method = encoded(train, held), FakeMethod([[0.9, 0.6, 0.5, 0.55, 0.6]])
    settled, found = Budget(refit=True).settle(TrainingSpec(epochs=2, batch_size=8), data, method, 0)
    ((inside, outside, stopping),) = method.fitted
    assert (inside, outside) == ([text.id for text in train], [text.id for text in held])
    assert (stopping.patience, stopping.evaluations, stopping.stop) == (2, 8, 1.0)
    # 101 updates: the third of eight looks is after 38 of them.
    assert found["hold_out"]["chosen_share"] == settled.stop == 38 / 101
    assert found["hold_out"]["log_loss"] == [0.9, 0.6, 0.5, 0.55, 0.6]
    assert settled.patience is None and "all labels" in settled.rule
    assert Budget(refit=True).texts(data) == ([*train, *held], [])
    assert member_dict(Budget()) == {"name": "budget", "watch_test": False}
    assert member_dict(Budget(refit=True)) == {"name": "budget", "watch_test": False, "refit": True}


def test_what_a_plan_counts() -> None:
    """Texts that are looked at over all training, at 150, 600 and 40 labels, of which 120 of 600 are held out."""
    asked = ((2, 150, 0, 9), (2, 600, 120, 9), (2, 40, 0, 9))
    assert [Budget().texts_looked_at(*numbers) for numbers in asked] == [600, 960, 0]
    assert [Budget(watch_test=True).texts_looked_at(*numbers) for numbers in asked] == [618, 8 * 129, 18]
    assert [Budget(watch_test=True, refit=True).texts_looked_at(*numbers) for numbers in asked] == [618, 978, 18]
    assert [Holdout(watch_test=True).texts_looked_at(*numbers) for numbers in asked] == [18, 258, 18]
    assert [Paper().texts_looked_at(*numbers) for numbers in asked] == [18] * 3
    assert [Budget(refit=True).fits(number) for number in (40, 150, 600)] == [1.0, 4.0, 1.0 + 600 / 480]


def test_default_seeds_and_the_plan(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "text,label\n" + "".join(f"text number {index},{'ab'[index % 2]}\n" for index in range(900)), "utf-8"
    )
    study = tmp_path / "s.toml"
    study.write_text(
        f"""name = "s"
[fixed]
data = {{ name = "table_file", path = "{tmp_path / "t.csv"}", test_size = 100 }}
model = {{ checkpoint = "{make_toy_model(tmp_path / "toy")}" }}
prompt = {{ name = "cloze", answers = {{ a = "good", b = "bad" }} }}
protocol = "budget"
[grid]
method = ["lora", "tfidf", "zero_shot"]
num_labels = [50, 150, 600]
""",
        "utf-8",
    )
    plan = plan_study(read_study(str(study)))
    runs = Counter((spec.method.name, spec.num_labels) for spec in plan.distinct)
    assert runs == {
        ("lora", 50): 10, ("lora", 150): 5, ("lora", 600): 3,
        ("tfidf", 50): 10, ("tfidf", 150): 5, ("tfidf", 600): 3, ("zero_shot", 0): 1,
    }  # fmt: skip
    # What does not train chooses nothing: the same run under any protocol.
    named = {spec.method.name: spec.as_dict().get("protocol") for spec in plan.distinct}
    assert named == {"lora": {"name": "budget", "watch_test": False}, "tfidf": None, "zero_shot": None}
    study.write_text(study.read_text("utf-8").replace('"budget"', '"budgets"'), "utf-8")
    with pytest.raises(SpecError, match="Did you mean 'budget'"):
        read_study(str(study))


# -- how training obeys ------------------------------------------------------------------------------------------


def trained(training: TrainingSpec, losses: Sequence[float] = ()) -> tuple[Curve, list[float]]:
    """A weight that moves at each update: the curve, and what the weight was after each. losses: of a selection text,
    look by look.
    """
    weight = torch.zeros(1)
    seen: list[float] = []
    looks = iter(losses)

    def step(members: Sequence[int], seed: int) -> float:
        if weight.grad is not None:
            seen.append(float(weight))
        weight.grad = -torch.ones(1)
        return 1.0

    def scores() -> np.ndarray:
        loss = next(looks)
        return np.array([[-loss, math.log(1 - math.exp(-loss))]])

    curve = optimise(
        [ParameterGroup([weight], 0.1)], 16, step, [0] if losses else [], scores, training, 3,
        lambda examples: np.log(np.tile([0.6, 0.4], (len(examples), 1))),
    )  # fmt: skip
    return curve, [*seen, float(weight)]


def test_stopping_early_is_the_beginning_of_the_whole_run() -> None:
    training = TrainingSpec(batch_size=4, epochs=3)
    _, whole = trained(training)
    curve, seen = trained(Settled.of(training, stop=0.5, rule="so"))
    assert len(whole) == 12 and seen == whole[:6]
    assert (curve.chosen_update, curve.chosen_by) == (6, "so")


def test_looks_are_spread_evenly_and_patience_ends_it() -> None:
    training = TrainingSpec(batch_size=4, epochs=3)
    losses = [0.9, 0.5, 0.6, 0.7]
    curve, _ = trained(Settled.of(training, evaluations=4), losses)
    assert [point["update"] for point in curve.points] == [3, 6, 9, 12] == marks(12, 4)
    assert (curve.chosen_update, curve.chosen_by) == (6, "selection log-loss")
    curve, _ = trained(Settled.of(training, evaluations=4, patience=1), losses)
    assert [point["update"] for point in curve.points] == [3, 6, 9] and curve.chosen_update == 6
    curve, _ = trained(Settled.of(training, watched=tuple(texts((3, 1)))))
    assert [point["test_accuracy"] for point in curve.points] == [0.75] * 3


def test_early_stop_acts_within_a_recipe_of_two_epochs() -> None:
    data = encoded(texts((201, 200)), texts((50, 50), "held"))
    settled, _ = Budget().settle(TrainingSpec(batch_size=4, epochs=2), data, FakeMethod([]), 0)
    assert settled is not None
    curve, _ = trained(settled, [0.9, 0.5, 0.6, 0.7])
    assert [point["update"] for point in curve.points] == [1, 2, 3, 4] and curve.chosen_update == 2
    assert curve.chosen_by == "held-out log-loss, the held-out texts not trained on"


# -- whole studies -----------------------------------------------------------------------------------------------


def test_what_the_selection_chooses_and_what_the_test_would_have(tmp_path: Path) -> None:
    """One study, both protocols: each record's accuracy is that of the epoch its own texts chose."""
    words = ("fine", "poor")
    rows = [
        f"this was {words[index % 2]} number {index * 7 % 31},{'ab'[(index + (index % 5 == 0)) % 2]}"
        for index in range(140)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    study = tmp_path / "s.toml"
    study.write_text(
        f"""name = "s"
claims = [["lora", "tfidf"]]
[fixed]
data = {{ name = "table_file", path = "{tmp_path / "t.csv"}", test_size = 60 }}
model = {{ checkpoint = "{make_toy_model(tmp_path / "toy")}" }}
prompt = {{ name = "cloze", answers = {{ a = "good", b = "bad" }} }}
training = {{ epochs = 4 }}
[[grid]]
method = ["tfidf"]
num_labels = [60]
seed = [0, 1]
[[grid]]
method = [{{ name = "lora", learning_rate = 0.02 }}]
protocol = [{{ name = "holdout", watch_test = true }}, "paper", {{ name = "budget", watch_test = true }}]
num_labels = [60]
seed = [0, 1]
[execution]
device = "cpu"
threads = 1
""",
        "utf-8",
    )
    outcome = run_study(read_study(str(study)), tmp_path / "out")
    assert (outcome.finished, outcome.failed) == (8, 0)
    disagree = 0
    for name in outcome.folder.plan()["cells"]:
        record = outcome.folder.record(name["spec_id"])
        assert record is not None
        if record.spec["method"]["name"] == "tfidf":
            continue
        points, kept = record.curve["points"], record.curve["chosen_update"]
        by_update = {point["update"]: point for point in points}
        measured = record.metrics["accuracy"]
        protocol = record.spec.get("protocol", {"name": "holdout"})["name"]
        best = max(points, key=lambda point: point["test_accuracy"])
        assert measured == pytest.approx(by_update[kept]["test_accuracy"])
        if protocol == "paper":
            assert kept == best["update"] and record.curve["chosen_by"] == "best test epoch (paper's protocol)"
            assert len(record.sample["train_ids"]) == 60 and record.sample["selection_ids"] == []
        elif protocol == "holdout":
            assert kept == min(points, key=lambda point: point["selection_log_loss"])["update"]
            assert len(record.sample["selection_ids"]) == 12
            disagree += measured < best["test_accuracy"]
        else:
            found = record.learned["cross_validation"]
            assert kept == math.ceil(found["chosen_share"] * 30) and len(record.sample["train_ids"]) == 60
            assert record.curve["chosen_by"].startswith("four splits")
    assert disagree, "the draw must be one where they disagree, or this shows little"

    summary = summarise(outcome.folder)
    paper = "lora, best test epoch (paper's protocol)"
    assert [row.label for row in summary.rows if row.on_test] == [paper]
    assert [[row.on_test for row in rows] for rows in summary.groups] == [[False, False, False], [True]]
    by_label = {row.label: row for row in summary.rows}
    assert by_label[paper].num_tried == (4, 4) and by_label["lora protocol=budget watch_test=true"].num_tried == (4, 4)
    # The paper's row is compared with nothing of ours, and no claim is about it.
    assert by_label[paper].cells[60].is_best and by_label[paper].cells[60].versus_no_labels == ()
    ours = {f"lora protocol={name} watch_test=true" for name in ("holdout", "budget")}
    assert {claim.first for claim in summary.claims} == ours
    assert any("never claimed" in note for note in summary.notes)
    page = render(summary)
    cells = {line[0]: line[-2:] for line in epochs_table(summary)[1]}
    assert cells[paper][1].endswith("kept by it") and cells[paper][0][0].isdigit()
    last, oracle = cells["lora protocol=budget watch_test=true"]
    assert last == "\N{EN DASH} (the kept one)" and oracle.endswith("never used")
    assert paper in page and "Settings that a run tried" in page and "1: tfidf" in page


NUMBERS = (40, 64, 520)


@pytest.fixture(scope="module")
def regressions(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, dict[str, str]]:
    """A study of regressions under two protocols at NUMBERS, and its texts by id."""
    folder = tmp_path_factory.mktemp("regressions")
    words = ("fine lovely good", "poor awful bad")
    rows = [f"it was {words[(i + (i % 4 == 0)) % 2].split()[i // 2 % 3]} number {i * 7 % 31}" for i in range(620)]
    table = folder / "t.csv"
    table.write_text("text,label\n" + "".join(f"{row},{'ab'[i % 2]}\n" for i, row in enumerate(rows)), "utf-8")
    study = folder / "s.toml"
    study.write_text(
        f"""name = "s"
[fixed]
data = {{ name = "table_file", path = "{table}", test_size = 60, remove_duplicates = false }}
model = {{ checkpoint = "{make_toy_model(folder / "toy")}" }}
prompt = {{ name = "cloze", answers = {{ a = "good", b = "bad" }} }}
seed = 0
[grid]
method = ["tfidf", {{ name = "tfidf", inverse_penalty = "cross_validated" }}, "linear_probe"]
protocol = ["holdout", "budget", {{ name = "budget", refit = true }}, "paper"]
num_labels = {list(NUMBERS)}
[execution]
device = "cpu"
threads = 1
""",
        "utf-8",
    )
    outcome = run_study(read_study(str(study)), folder / "out")
    assert outcome.failed == 0
    dataset = load_dataset(build_member("data", {"name": "table_file", "path": str(table), "test_size": 60}, []))
    return outcome.folder, {text.id: text for text in (*dataset.train, *dataset.test)}


def test_penalties_are_chosen_as_updates_are(regressions: tuple[StudyFolder, dict[str, Any]]) -> None:
    """Against scikit-learn: C is fixed at 40 labels, chosen over four splits at 64, over the held-out texts at 520."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    folder, by_id = regressions
    penalties = (0.01, 0.1, 1.0, 10.0)

    def fitted(ids: Sequence[str], penalty: float) -> Any:
        counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = make_pipeline(counts, LogisticRegression(C=penalty, max_iter=2000))
        return model.fit([by_id[name].fields["text"] for name in ids], [by_id[name].label for name in ids])

    def losses(ids: Sequence[str], held: Sequence[str], penalty: float) -> np.ndarray:
        found = fitted(ids, penalty).predict_log_proba([by_id[name].fields["text"] for name in held])
        return -found[np.arange(len(held)), [by_id[name].label for name in held]]

    seen = []
    for cell in folder.plan()["cells"]:
        asked, record = cell["asked"], folder.record(cell["spec_id"])
        assert record is not None
        if asked["method"].get("name") != "tfidf" or asked.get("protocol", {}).get("name") != "budget":
            continue
        if record.spec["method"]["inverse_penalty"] != "cross_validated":
            continue
        train, held = record.sample["train_ids"], record.sample["selection_ids"]
        refit = record.spec["protocol"].get("refit", False)
        chosen, used, shares = 10.0, train, None
        if asked["num_labels"] == 64:
            parts = folds([EncodedExample(name, (), (), by_id[name].label, {}) for name in train])
            pooled = np.array([
                np.concatenate([
                    losses([name for i, name in enumerate(train) if i not in part], [train[i] for i in part], penalty)
                    for part in parts
                ])
                for penalty in penalties
            ])
            best = pooled.mean(1).argmin()
            error = pooled[best].std(ddof=1) / 8
            chosen = penalties[int(np.argmax(pooled.mean(1) <= pooled[best].mean() + error))]
            shares = record.learned["cross_validation"]["shares"]
            assert record.learned["cross_validation"]["inverse_penalties"] == pytest.approx(penalties)
            assert record.learned["cross_validation"]["log_loss"] == pytest.approx(pooled.mean(1).tolist(), abs=1e-6)
            assert chosen != penalties[-1] or best != 3, "the draw must be one where there is something to choose"
        elif asked["num_labels"] == 520:
            means = [losses(train, held, penalty).mean() for penalty in penalties]
            chosen = penalties[int(np.argmin(means))]
            used = [*train, *held] if refit else train
            assert (len(train), len(held)) == (416, 104)
            points = record.learned["hold_out"]["log_loss"] if refit else [
                point["selection_log_loss"] for point in record.curve["points"]]  # fmt: skip
            assert points == pytest.approx(means, abs=1e-6)
            if refit:
                assert record.learned["hold_out"]["inverse_penalties"] == pytest.approx(penalties)
        predictions = folder.predictions(cell["spec_id"])
        expected = fitted(used, chosen).predict_log_proba([by_id[name].fields["text"] for name in predictions.ids])
        assert np.abs(predictions.log_probabilities - expected).max() < 1e-6
        assert record.learned["inverse_penalty"] == pytest.approx(chosen)
        seen.append((asked["num_labels"], refit, shares is not None))
    assert sorted(seen) == sorted((number, refit, number == 64) for number in NUMBERS for refit in (False, True))


def test_other_protocols_leave_regressions_as_they_are(regressions: tuple[StudyFolder, dict[str, Any]]) -> None:
    folder, _ = regressions
    named: dict[tuple[str, Any], set[str]] = {}
    for cell in folder.plan()["cells"]:
        spec = cell["spec"]
        protocol = spec.get("protocol", {"name": "none"})
        named.setdefault((spec["method"]["name"], spec["method"]["inverse_penalty"]), set()).add(protocol["name"])
        assert "training" not in spec and protocol["name"] in ("none", "budget")
    # A number is no choice, so no protocol has one to make.
    assert named == {
        ("tfidf", 10.0): {"none"},
        ("tfidf", "cross_validated"): {"none", "budget"},
        ("linear_probe", "cross_validated"): {"none", "budget"},
    }


def test_every_setting_that_was_tried_is_counted(regressions: tuple[StudyFolder, dict[str, Any]]) -> None:
    summary = summarise(regressions[0])
    tried = {}
    for row in summary.rows:
        protocol = row.spec.get("protocol", {"name": "none"})["name"]
        tried[row.method, row.spec["method"]["inverse_penalty"], protocol] = row.num_tried
    assert tried == {
        ("tfidf", 10.0, "none"): (1, 1),
        ("tfidf", "cross_validated", "none"): (9, 9), ("tfidf", "cross_validated", "budget"): (1, 4),
        ("linear_probe", "cross_validated", "none"): (9, 9), ("linear_probe", "cross_validated", "budget"): (1, 4),
    }  # fmt: skip
    # What chooses by itself reads all N; only a protocol with something to choose holds any out.
    assert summary.protocol.splits == {40: ((40, 0),), 64: ((64, 0),), 520: ((520, 0), (416, 104))}
    page = render(summary)
    for rule in ("the held-out texts not trained on", "then all labels trained on", "closed form"):
        assert rule in page


def test_the_setup_says_how_penalties_were_chosen(regressions: tuple[StudyFolder, dict[str, Any]]) -> None:
    folder, _ = regressions
    summary = summarise(folder)
    text = " ".join(setup_sentences(summary))
    for words in (
        "Protocol: budget (watch test no)",
        "The update or penalty that is kept was chosen by: closed form at 40 labels, four splits' log-loss, one "
        "standard error at 64 labels, held-out log-loss, the held-out texts not trained on at 520 labels, of 1 to 4 "
        "penalties",
        "Penalties that a regression chose from, by log-loss over folds of its own: ",
    ):
        assert words in text, text
    told = [sentence for sentence in setup_sentences(summary) if sentence.startswith("linear_probe: ")]
    assert told and not any("cross_validated" in sentence for sentence in told)
    probe = next(row for row in summary.rows if row.method == "linear_probe" and "protocol" in row.spec)
    records = {number: folder.record(cell.runs[0].spec_id) for number, cell in probe.cells.items()}
    used = {number: record.learned["inverse_penalty"] for number, record in records.items() if record}
    assert used[40] == 1.0, "the recipe's"
    for number, penalty in used.items():
        assert any(re.search(rf"\b{penalty:g}( at ([\d,]+ and )*{number}\b|\.$)", sentence) for sentence in told), told


def test_how_many_penalties_were_tried_is_what_the_record_says(
    regressions: tuple[StudyFolder, dict[str, Any]]
) -> None:
    records = [record for record in regressions[0].records().values() if "protocol" not in record.spec]
    own = [record for record in records if record.spec["method"]["inverse_penalty"] == "cross_validated"]
    assert {record.learned["num_penalties"] for record in own} == {len(PENALTIES)}
    assert {record.learned["num_penalties"] for record in records if record not in own} == {1}
    assert _num_tried(replace(own[0], learned={**own[0].learned, "num_penalties": 5})) == 5
    # Records of before name the penalty alone.
    learned = {name: value for name, value in own[0].learned.items() if name != "num_penalties"}
    assert _num_tried(replace(own[0], learned=learned)) == OWN_PENALTIES == len(PENALTIES)


def test_every_protocol_is_listed_by_its_name() -> None:
    assert {name: member.name for name, member in PROTOCOLS.items()} == {n: n for n in ("budget", "holdout", "paper")}
    assert isinstance(PROTOCOLS["paper"](), Paper) and isinstance(PROTOCOLS["holdout"](), Holdout)
