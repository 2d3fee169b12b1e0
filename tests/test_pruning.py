"""Labels scored in rounds: finished ones as in full, dropped ones within the bound, on widely drawn weights."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import progress
from handful.engine.attention import gathered_attention, masked_attention
from handful.engine.base import Base
from handful.engine.graft import Graft
from handful.engine.pruning import Pruning
from handful.engine.scoring import label_scores, normalise
from handful.errors import PromptError
from handful.examples import EncodedExample, Task
from handful.methods import METHODS
from handful.prompts import resolve
from handful.results import StudyFolder
from handful.spec import build_member, member_dict, read_study
from handful.study import run_study
from handful.training import TrainingSpec
from test_engine import ANSWERS, draw_examples, one_by_one, relative, varlen_by_hand
from test_methods import on_encoder
from toys import FAST, PLAIN, make_toy_model, toy_base

LENGTHS = [1, 40, 3, 17, 29, 8]


def draw_answers(seed: int, count: int = 16) -> tuple[tuple[int, ...], ...]:
    """Answers of one to five tokens over few tokens, so that many begin alike and some begin others."""
    rng = np.random.default_rng(seed)
    drawn = [tuple(rng.integers(20, 24, rng.integers(1, 6)).tolist()) for _ in range(count)]
    return tuple(dict.fromkeys(drawn))


def pruning(nats: float, examples: Sequence[EncodedExample], offset: np.ndarray | None = None) -> Pruning:
    num_labels = len(examples[0].answers)
    return Pruning(nats, np.zeros(num_labels) if offset is None else offset)


def scored(
    base: Base, examples: Sequence[EncodedExample], how: Pruning, graft: Graft | None = None, budget: int = 128
) -> tuple[np.ndarray, dict[str, float]]:
    """(scores, amounts told)."""
    base.token_budget = budget
    with progress.recording() as journal:
        scores = label_scores(base, examples, graft or Graft(), how)
    return scores, journal.amounts


def agree(ours: np.ndarray, full: np.ndarray, how: Pruning) -> int:
    """Checks all that pruning promises; gives the number of labels that were not finished."""
    rounding = 1e-5 * np.abs(full).max()
    finished = np.abs(ours - full) < rounding
    best = (full + how.offset).max(axis=1, keepdims=True)
    assert (ours >= full - rounding).all(), "a dropped label has an upper bound"
    assert (finished | (ours + how.offset <= best - how.nats + rounding)).all(), "only hopeless ones are dropped"
    off = np.abs(np.exp(normalise(ours + how.offset)) - np.exp(normalise(full + how.offset))).max()
    assert off <= how.probability_bound + 2 * rounding
    return int((~finished).sum())


@pytest.mark.parametrize("kind", FAST)
def test_finished_labels_are_exact_and_dropped_ones_within_the_bound(kind: str) -> None:
    base = toy_base(kind)
    dropped = dict.fromkeys((25.0, 10.0), 0)
    for seed in range(4):
        examples = draw_examples(LENGTHS, answers=draw_answers(seed))
        full = label_scores(base, examples, Graft())
        for nats in dropped:
            ours, told = scored(base, examples, pruning(nats, examples))
            off = agree(ours, full, pruning(nats, examples))
            dropped[nats] += off
            assert (told["skipped_answer_tokens"] > 0) == (off > 0)
    assert 0 < dropped[25.0] < dropped[10.0]


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("budget", [16, 4096])
def test_without_a_threshold_nothing_is_skipped(kind: str, budget: int) -> None:
    base = toy_base(kind)
    examples = draw_examples(LENGTHS, answers=draw_answers(5))
    ours, told = scored(base, examples, pruning(float("inf"), examples), budget=budget)
    assert told["skipped_answer_tokens"] == 0 < told["answer_tokens"]
    assert relative(ours, one_by_one(base.model, examples)) < 1e-5


def test_the_bound_holds_for_numbers() -> None:
    """Any scores, any rise of the hopeless ones up to the threshold: no model and no rounding between."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        how = Pruning(rng.uniform(1, 30), np.zeros(rng.integers(2, 80)))
        full = np.sort(rng.normal(0, 20, len(how.offset)))[None, ::-1]
        line = full[0, 0] - how.nats
        ours = np.where(full > line, full, rng.uniform(full, np.maximum(full, line)))
        p, q = np.exp(normalise(full)), np.exp(normalise(ours))
        assert np.abs(p - q).max() <= how.probability_bound * (1 + 1e-9) + 1e-15
        kept = full > line
        assert (q[kept] <= p[kept] * (1 + 1e-12)).all()
        assert (q[kept] * (1 + how.probability_bound) >= p[kept] * (1 - 1e-12)).all()
        assert (np.maximum(p, q)[~kept] <= np.exp(-how.nats) * (1 + 1e-9)).all()


def test_bound_of_77_labels() -> None:
    assert Pruning(25.0, np.zeros(77)).probability_bound == pytest.approx(1.0555e-9, rel=1e-3)


def test_77_labels_of_several_tokens_against_one_by_one() -> None:
    rng = np.random.default_rng(3)
    answers = tuple((*rng.integers(20, 30, rng.integers(1, 6)).tolist(), n + 30) for n in range(77))
    base = toy_base("qwen2")
    examples = draw_examples([12, 30], answers=answers)
    expected = one_by_one(base.model, examples)
    for nats in (25.0, 10.0):
        ours, told = scored(base, examples, pruning(nats, examples), budget=4096)
        assert agree(ours, expected, pruning(nats, examples)) > 0 and told["skipped_answer_tokens"] > 0


def test_changing_one_text_moves_no_other() -> None:
    base = toy_base("qwen3")
    examples = draw_examples([9, 20, 31, 14], answers=draw_answers(1))
    changed = list(examples)
    changed[1] = EncodedExample("x", (*examples[1].tokens[:-3], 301, 302, 303), examples[1].answers, 0, {})
    before, _ = scored(base, examples, pruning(10.0, examples), budget=4096)
    after, _ = scored(base, changed, pruning(10.0, examples), budget=4096)
    assert np.abs(after - before)[1].max() > 1e-3
    assert np.abs(after - before)[[0, 2, 3]].max() < 1e-5 * np.abs(before).max()


def test_offsets_decide_what_is_hopeless() -> None:
    base = toy_base("llama")
    examples = draw_examples(LENGTHS, answers=draw_answers(2))
    full = label_scores(base, examples, Graft())
    offset = np.random.default_rng(0).normal(0, 15, full.shape[1])
    how = pruning(15.0, examples, offset)
    with_offset, _ = scored(base, examples, how)
    without, _ = scored(base, examples, pruning(15.0, examples))
    assert agree(with_offset, full, how) > 0
    assert not np.array_equal(with_offset, without)


@pytest.mark.parametrize("virtual", [0, 5])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 0), (2, 4)])
def test_virtual_tokens_and_edited_rows(virtual: int, first: int, last: int) -> None:
    base = toy_base("llama")
    torch.manual_seed(1)
    prefix, shift = torch.randn(virtual, 32), torch.randn(2, 32)
    graft = Graft(
        prefix_embeddings=(lambda: prefix) if virtual else None, num_virtual=virtual,
        edit=(lambda layer, rows, is_last: rows + shift[int(is_last)] * (layer + 1)) if first + last else None,
        first_rows=first, last_rows=last,
    )  # fmt: skip
    examples = draw_examples([6, *LENGTHS[1:]], answers=draw_answers(3))
    full = label_scores(base, examples, graft)
    if first + last or virtual:
        assert relative(full, label_scores(base, examples, Graft())) > 1e-3
    for nats in (float("inf"), 10.0):
        ours, _ = scored(base, examples, pruning(nats, examples), graft)
        assert (agree(ours, full, pruning(nats, examples)) > 0) == (nats == 10.0)


@pytest.mark.parametrize("form", [masked_attention, gathered_attention])
def test_rounds_by_the_attention_of_other_devices(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = toy_base("llama")
    examples = draw_examples(LENGTHS, answers=draw_answers(6))
    expected, _ = scored(base, examples, pruning(10.0, examples))

    def attend(query, key, value, plan, scale):
        groups = query.shape[1] // key.shape[1]
        return form(query, *(x.repeat_interleave(groups, dim=1) for x in (key, value)), plan, scale)

    monkeypatch.setattr("handful.engine.attention._varlen", varlen_by_hand)
    monkeypatch.setattr("handful.engine.layers.tree_attention", attend)
    ours, told = scored(base, examples, pruning(10.0, examples))
    assert told["skipped_answer_tokens"] > 0 and relative(ours, expected) < 1e-5


@pytest.mark.parametrize("kind", PLAIN)
def test_the_plain_path_scores_in_full(kind: str) -> None:
    base = toy_base(kind)
    examples = draw_examples([4, 11], answers=draw_answers(0, 6))
    ours, told = scored(base, examples, pruning(10.0, examples))
    assert np.array_equal(ours, label_scores(base, examples, Graft())) and "answer_tokens" not in told


def test_texts_longer_than_a_sliding_window_are_scored_in_full() -> None:
    base = toy_base("gemma3")
    examples = draw_examples([1, 90, 3, 51, 49, 47], answers=draw_answers(0))
    full = one_by_one(base.model, examples)
    ours, told = scored(base, examples, pruning(10.0, examples))
    assert agree(ours, full, pruning(10.0, examples)) > 0 and told["skipped_answer_tokens"] > 0
    assert np.abs(ours - full)[1].max() < 1e-5 * np.abs(full).max()


def test_labels_of_one_token_are_scored_as_without() -> None:
    base = toy_base("llama")
    examples = draw_examples(LENGTHS, answers=((5,), (6,)))
    ours, told = scored(base, examples, pruning(10.0, examples))
    assert np.array_equal(ours, label_scores(base, examples, Graft())) and "answer_tokens" not in told


def test_answers_may_differ_from_text_to_text_and_be_empty() -> None:
    base = toy_base("llama")
    kinds = (ANSWERS, ((5, 6, 7), (5, 6), (), (40, 41, 42, 43)), ((9,), (8,), (7,), (6,)))
    examples = [
        EncodedExample(one.id, one.tokens, kinds[number % 3], 0, {})
        for number, one in enumerate(draw_examples([9, 20, 31, 14, 2, 5, 8]))
    ]
    expected = one_by_one(base.model, examples)
    assert relative(label_scores(base, examples, Graft()), expected) < 1e-5
    for nats in (float("inf"), 10.0):
        ours, _ = scored(base, examples, pruning(nats, examples))
        agree(ours, expected, pruning(nats, examples))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "predictions" and not on_encoder(name)])
def test_every_method_predicts_within_the_bound(name: str) -> None:
    base = toy_base("llama")
    base.token_budget = 256
    answers = draw_answers(4, 9)
    labels = tuple(map(str, answers))
    examples = [
        EncodedExample(one.id, one.tokens, answers, number % len(answers), {"text": f"text {number} {number % 2}"})
        for number, one in enumerate(draw_examples([12] * 20))
    ]
    training = TrainingSpec(batch_size=4, learning_rate=1e-2, updates=4, loss="answer")
    found = []
    for nats in (None, 10.0):
        task = Task(labels, labels, examples[:4], examples[:2], (50, 51), prune_nats=nats)
        with METHODS[name]().attach(base, task, seed=1) as tuned:
            tuned.fit(examples, [], training, seed=2)
            found.append(np.exp(tuned.predict(examples)))
            reads_answers = name not in ("tfidf", "linear_probe")
            assert ("probability_bound" in tuned.facts) == (reads_answers and nats is not None)
            if "probability_bound" in tuned.facts:
                assert tuned.facts["probability_bound"] == Pruning(10.0, np.zeros(len(labels))).probability_bound
    assert np.abs(found[0] - found[1]).max() <= Pruning(10.0, np.zeros(len(labels))).probability_bound + 1e-4


# -- in a study ----------------------------------------------------------------------------------------


def test_what_is_not_asked_for_is_not_in_a_spec() -> None:
    problems: list[str] = []
    plain = build_member("prompt", {"name": "cloze"}, problems)
    asked = build_member("prompt", {"name": "cloze", "prune_nats": 25}, problems)
    assert not problems and "prune_nats" not in member_dict(plain)
    assert member_dict(asked) == {**member_dict(plain), "prune_nats": 25.0}


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"name": "cloze", "prune_nats": 3.0}, "prune_nats must be at least 10, got 3: take 25"),
        ({"name": "plain", "prune_nats": 25.0}, "prune_nats means nothing here"),
    ],
)
def test_what_cannot_be_meant_is_refused(section: dict, why: str) -> None:
    with pytest.raises(PromptError, match=why):
        resolve(build_member("prompt", section, []), ("a", "b"), ("text",), None)


def test_the_record_holds_mode_bound_and_what_was_skipped(tmp_path: Path) -> None:
    names = ("card arrival", "card linking", "card not working", "exchange rate", "exchange charge")
    rows = [f"where is it number {index} of mine,{names[index % 5]}" for index in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    model = make_toy_model(tmp_path / "model")
    (tmp_path / "study.toml").write_text(
        f"""
        name = "intents"
        [fixed]
        data = {{ name = "table_file", path = "{tmp_path / 'texts.csv'}", test_size = 10 }}
        model = {{ checkpoint = "{model}" }}
        method = "zero_shot"
        [grid]
        prompt = ["cloze", {{ name = "cloze", prune_nats = 10 }}]
        [execution]
        device = "cpu"
        threads = 1
        save = "none"
        """
    )
    study = read_study(str(tmp_path / "study.toml"))
    assert run_study(study, tmp_path / "out").finished == 2
    folder = StudyFolder(tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    exact, pruned = (folder.record(cell["spec_id"]) for cell in plan["cells"])
    assert exact is not None and pruned is not None
    assert "prune_nats" not in exact.spec["prompt"] and pruned.spec["prompt"]["prune_nats"] == 10.0
    bound = pruned.learned["probability_bound"]
    assert bound == 4 * np.exp(-10) and "probability_bound" not in exact.learned
    assert 0 < pruned.execution["amounts"]["skipped_answer_tokens"] < pruned.execution["amounts"]["answer_tokens"]
    both = [folder.predictions(record.spec_id) for record in (exact, pruned)]
    assert np.abs(np.exp(both[0].log_probabilities) - np.exp(both[1].log_probabilities)).max() < bound + 1e-4


BANKING = Path(os.environ.get("HANDFUL_DATA", "")) / "banking77" / "test.csv"


@pytest.mark.skipif(not BANKING.is_file(), reason="HANDFUL_DATA names no folder with banking77/")
def test_banking77_on_the_base_that_ships() -> None:
    import csv

    from handful import models
    from handful.examples import Example, Split
    from handful.prompts import encode

    with BANKING.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = tuple(sorted({row["category"] for row in rows}))
    test = tuple(
        Example(str(n), {"text": row["text"]}, names.index(row["category"])) for n, row in enumerate(rows[::600])
    )
    base = models.resident(build_member("model", {"name": "causal_lm", "checkpoint": "reviews-llama-5m"}, []), "cpu")
    answers = {name: name.replace("_", " ") for name in names}
    prompt = build_member("prompt", {"name": "cloze", "ending": "This is about", "answers": answers}, [])
    examples = encode(Split(names, ("text",), (), (), test, (), ""), prompt, base.tokenizer).test
    expected = one_by_one(base.model, examples)
    whole = label_scores(base, examples, Graft())
    assert np.abs(whole - expected).max() < 1e-5 * np.abs(expected).max()
    for nats in (float("inf"), 25.0):
        ours, _ = scored(base, examples, pruning(nats, examples), budget=4096)
        agree(ours, expected, pruning(nats, examples))
