"""What the report says of evidence: claims and what explores, curves, equivalences, variance, overlap, set-up."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handful.learning_curves import Equivalent, LearningCurve
from handful.report import FORMATS, latex
from handful.report.figures import draw
from handful.report.figures.differences import draw_differences, parts_of
from handful.report.figures.errors import draw_errors, worth_showing
from handful.report.figures.style import looks_of
from handful.report.findings import (
    EXPLORATORY,
    claim_sentences,
    equivalence_sentences,
    explores,
    findings,
    gain_sentences,
    without_curve,
)
from handful.report.setup import setup_sentences
from handful.report.tables import (
    claims_table,
    components_table,
    differences_table,
    epochs_table,
    equivalences_table,
    learning_table,
    overlap_lines,
)
from handful.report.wording import ABSENT, equivalence_words, footnotes, group_titles, labels_words
from handful.statistics import detectable_difference, variance_components
from handful.summary import Equivalence, Summary
from test_summary import LORA, TFIDF, ZERO_SHOT, Study, draws, row_of

COLUMNS = (20, 50, 150, 500)
NUM_TEXTS = 600


def correct(method: str, step: int, seed: int) -> list[int]:
    """tfidf learns: 35, 25, 17, 12 % errors on the same hard texts; lora stays at 17 %."""
    error = (0.35, 0.25, 0.17, 0.12)[step] if method == "tfidf" else 0.17
    rng = np.random.default_rng(1000 + 10 * step + seed + (500 if method == "lora" else 0))
    hard = np.random.default_rng(7).random(NUM_TEXTS)
    return (0.8 * hard + 0.2 * rng.random(NUM_TEXTS) > np.quantile(hard, error)).astype(int).tolist()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(tmp_path_factory.mktemp("evidence") / "study", name="evidence")
    study.claims = [["lora", "tfidf"]]
    for step, num_labels in enumerate(COLUMNS):
        for seed in (0, 1, 2):
            study.finish(TFIDF, num_labels, seed, correct("tfidf", step, seed))
            study.finish(LORA, num_labels, seed, correct("lora", step, seed), told={"learned": {"recipe": "abc123"}})
        study.finish(ZERO_SHOT, num_labels, 0, draws(0.7, NUM_TEXTS, seed=3))
    return study


@pytest.fixture(scope="module")
def summary(study: Study) -> Summary:
    return study.summary


# -- words ---------------------------------------------------------------------------------------------


def test_claims_come_first_and_the_rest_is_called_exploratory(summary: Summary, tmp_path: Path) -> None:
    told = findings(summary)
    claim = summary.claims[0]
    assert claim.difference.interval is not None
    assert told[0].startswith("lora beats tfidf by ")
    assert f"{100 * claim.difference.interval.estimate:.1f} points" in told[0]
    assert "at 20 labels, same 600 texts, 3 seeds; tfidf beats lora by " in told[0]
    assert "best mean accuracy" in told[1] and len(told) <= 3
    assert explores(summary) == (
        f"The first sentence was declared beforehand (all claims are below). The others are {EXPLORATORY}"
    )
    other = Study(tmp_path)
    other.finish(LORA, 50, 0, draws(0.9))
    other.finish(TFIDF, 50, 0, draws(0.7, seed=1))
    assert explores(other.summary) == f"No claims were declared beforehand, so all of this is {EXPLORATORY}"
    for render in FORMATS.values():
        assert "every comparison here is exploratory" in " ".join(re.sub(r"<[^>]*>", "", render(other.summary)).split())


def test_declared_claims_that_are_not_tested_are_not_denied(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"]]
    study.finish(TFIDF, 50, 0, draws(0.6))
    study.finish(ZERO_SHOT, 50, 0, draws(0.7))
    study.plan(LORA, 50, 0)
    summary = study.summary
    assert explores(summary) == f"No declared claim could be tested, so all of this is {EXPLORATORY}"
    notes = footnotes(summary)
    assert "No declared claim could be tested: every comparison here is exploratory." in notes
    assert "The claim lora against tfidf is not tested at N = 50: no finished run of lora." in notes


def test_a_claim_that_is_not_settled_reads_as_a_sentence(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"]]
    for seed in (0, 1):
        study.finish(LORA, 50, seed, [1] * 90 + [0] * 10)
        study.finish(TFIDF, 50, seed, [1] * 89 + [0] * 10 + [1])
    found = findings(study.summary)[0]
    assert found.startswith("Can't tell lora from tfidf at 50 labels, +0.0 points [")
    assert found.endswith("], same 100 texts, 2 seeds.")


def test_a_claim_on_two_that_read_no_labels_names_no_number_of_labels(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["zero_shot prompt=alpaca", "zero_shot prompt=cloze"]]
    for number in (50, 150):
        study.finish(TFIDF, number, 0, draws(0.6))
    study.finish(ZERO_SHOT, 50, 0, [1] * 90 + [0] * 10)
    study.finish(ZERO_SHOT, 50, 0, [1] * 50 + [0] * 50, prompt={"name": "cloze"})
    summary = study.summary
    found = findings(summary)[0]
    assert found.startswith("zero_shot prompt=alpaca beats zero_shot prompt=cloze by 40.0 points [")
    assert found.endswith("], same 100 texts.") and "label" not in found
    head, (row,) = claims_table(summary)
    assert row[head.index("N")] == ABSENT
    (claimed, _) = parts_of(summary, [""])
    assert [line.label for line in claimed.lines] == ["no labels"]


def test_a_claim_that_holm_leaves_open_says_so_beside_an_interval_without_0(tmp_path: Path) -> None:
    study = Study(tmp_path)
    prompts = ["alpaca", "cloze", "llama2_chat"]
    for right, name in zip((60, 49, 55), prompts, strict=True):
        study.finish(ZERO_SHOT, 50, 0, [1] * right + [0] * (100 - right), prompt={"name": name})
    study.finish(ZERO_SHOT, 50, 0, [0] * 6 + [1] * 54 + [0] * 40, prompt={"name": "other"})
    study.claims = [[f"zero_shot prompt={name}", "zero_shot prompt=other"] for name in prompts]
    study.plan(TFIDF, 50, 0)
    claims = study.summary.claims
    # alpaca has 6 texts that the other lacks and loses none: exact McNemar 2 / 2^6, three times that after Holm
    assert (claims[0].p_value, claims[0].adjusted) == pytest.approx((2 / 2**6, 6 / 2**6))
    told = claim_sentences(study.summary)
    assert claims[0].difference.interval is not None and claims[0].difference.interval.low > 0
    assert told[0].endswith("] (p = 0.094 after Holm), same 100 texts.")
    assert told[1].endswith("], same 100 texts."), "its interval holds 0"


def test_a_claim_with_one_seed_is_said_to_be_open(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"]]
    study.finish(LORA, 50, 0, [1] * 90 + [0] * 10)
    study.finish(TFIDF, 50, 0, [1] * 50 + [0] * 50)
    summary = study.summary
    found, why = findings(summary)[0], "one seed says nothing of another"
    assert found.startswith("Can't tell lora from tfidf at 50 labels, +40.0 points [")
    assert found.endswith(f"] ({why}), same 100 texts, 1 seed.")
    head, (row,) = claims_table(summary)
    assert row[head.index("p"): head.index("p (Holm)") + 1] == ["< 0.001", ABSENT]
    assert row[head.index("verdict")] == f"can't tell: {why}"
    notes = " ".join(footnotes(summary))
    assert "1 declared comparison (claims), adjusted for their number after Holm" in notes
    assert f"1 undecided and not counted: {why}" in notes
    assert "is of these runs and not of the method" in notes
    (claimed, explored) = parts_of(summary, [""])
    assert not claimed.lines[0].is_told and not explored.lines[0].is_told


def test_one_seed_does_not_win_where_nothing_is_declared(tmp_path: Path) -> None:
    """One run of lora and tfidf each, then three of full, too: what is ahead in these runs alone is said apart."""
    study = Study(tmp_path)
    study.finish(ZERO_SHOT, 50, 0, draws(0.5, seed=9))
    study.finish(LORA, 50, 0, draws(0.95))
    study.finish(TFIDF, 50, 0, draws(0.6, seed=1))
    summary = study.summary
    lead, gain = findings(summary)
    assert gain.endswith("] points in these runs alone.")
    assert lead.startswith("With 50 labels, lora has the best accuracy, ")
    assert re.search(r"; in these runs alone it is ahead of tfidf by \S+ points \[.*\], and of zero_shot\.$", lead)
    head, rows = differences_table(summary)
    of_lora = [row for row in rows if "lora" in (row[0], row[head.index("against")])]
    assert {row[head.index("verdict")] for row in of_lora} == {"these runs differ"}
    assert not any(line.is_told for part in parts_of(summary, [""]) for line in part.lines)
    for seed in range(3):
        study.finish({"name": "full"}, 50, seed, draws(0.99, seed=20 + seed))
    summary = study.summary
    lead, gain = findings(summary)
    assert gain.endswith("] points.")
    assert lead.startswith("With 50 labels, full has the best mean accuracy, ")
    assert re.search(r"; it is ahead of zero_shot by .*; in these runs alone it is ahead of \w+ by ", lead)
    (part,) = parts_of(summary, [""])
    assert [line.label for line in part.lines if line.is_told] == ["zero_shot"]


def test_the_fewest_labels_that_bring_a_gain_are_not_told_from_one_seed(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.finish(ZERO_SHOT, 50, 0, draws(0.5, NUM_TEXTS))
    for num_labels, num_seeds in ((50, 1), (150, 3), (500, 3)):
        for seed in range(num_seeds):
            study.finish(LORA, num_labels, seed, draws(0.9, NUM_TEXTS, seed=num_labels + seed))
    assert "the fewest labels that bring a clear gain are 150 (lora)" in findings(study.summary)[1]


def test_gains_are_those_of_the_curve(study: Study, summary: Summary) -> None:
    runs: dict[int, Any] = {
        number: {seed: 1.0 - np.array(correct("tfidf", step, seed)) for seed in range(3)}
        for step, number in enumerate(COLUMNS)
    }
    curve = LearningCurve(runs)
    few, twice = curve.gain(500, 100), curve.gain(500, 500)
    assert gain_sentences(summary) == [
        f"tfidf, from 500 labels on: 100 more labels: {100 * few.estimate:+.1f} points "
        f"[{100 * few.low:.1f}, {100 * few.high:.1f}]; twice as many: {100 * twice.estimate:+.1f} points "
        f"[{100 * twice.low:.1f}, {100 * twice.high:.1f}]."
    ]
    ((label, why),) = without_curve(summary)
    assert label == "lora" and "can't be told from none" in why
    head, rows = learning_table(summary)
    assert [row[0] for row in rows] == ["tfidf", "tfidf", "lora"] and rows[2][head.index("why not")] == why


def test_rows_without_a_curve_are_told_once_for_each_reason(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for number in (50, 150, 500):
        for rank in range(5):
            study.finish({"name": "lora", "rank": rank}, number, 0, draws(0.8, 200, seed=number + rank))
    study.finish(TFIDF, 50, 0, draws(0.7, 200))
    (ranks, one_seed), (label, few) = without_curve(study.summary)
    assert ranks == "lora rank=0, lora rank=1, lora rank=2 and 2 more" and "one seed" in one_seed
    assert label == "tfidf" and "at least 3" in few


def test_labels_worth_labels(summary: Summary) -> None:
    found = {one.num_labels: one for one in summary.equivalences}
    assert set(found) == set(COLUMNS) and all(one.is_declared for one in found.values())
    equal = found[20].found
    # tfidf has 17 % errors with 150 labels, as lora with any number.
    assert equal is not None and equal.low < 150 < equal.high and equal.estimate == pytest.approx(150, rel=0.3)
    (sentence,) = equivalence_sentences(summary)
    assert sentence.startswith(equivalence_words(found[20])) and sentence.endswith(".")
    assert len(equivalences_table(summary)[1]) == len(COLUMNS)


def test_without_claims_the_row_without_a_model_is_what_others_are_measured_by(study: Study, tmp_path: Path) -> None:
    other = Study(tmp_path)
    for step, num_labels in enumerate(COLUMNS):
        for seed in (0, 1, 2):
            other.finish(TFIDF, num_labels, seed, correct("tfidf", step, seed))
            other.finish(LORA, num_labels, seed, correct("lora", step, seed))
    found = other.summary.equivalences
    assert {(one.first, one.second, one.is_declared) for one in found} == {("lora", "tfidf", False)}
    assert equivalence_sentences(other.summary)[0].endswith("(exploratory).")


@pytest.mark.parametrize(("number", "words"), [
    (math.inf, "more than 5,000"), (0.0, "fewer than 50"), (874.3, "870"), (1449.0, "1,400"), (55.4, "55"),
    (4975.6, "4,980"), (3775.0, "3,800"),
])  # fmt: skip
def test_numbers_of_labels_are_told_to_two_digits(number: float, words: str) -> None:
    assert labels_words(number, Equivalent(number, number, number, 50, 5000)) == words


def test_an_equivalence_in_words() -> None:
    def words(estimate: float, low: float, high: float) -> str:
        return equivalence_words(
            Equivalence("a", 50, "b", 0, 0.1, Equivalent(estimate, low, high, 50, 5000), is_declared=True)
        )

    assert words(901.0, 604.0, 1390.0) == "a with 50 labels = b with 900 [600, 1,400]"
    assert words(math.inf, 3800.0, math.inf) == "a with 50 labels = b with more than 5,000 [3,800, more than 5,000]"
    assert words(math.inf, math.inf, math.inf) == "a with 50 labels = b with more than 5,000"
    none = Equivalence("a", 50, "b", 0, 0.1, None, is_declared=True, reason="one seed")
    assert "can't tell" in equivalence_words(none) and "one seed" in equivalence_words(none)


# -- tables --------------------------------------------------------------------------------------------


def test_variance_components_are_those_of_the_predictions(summary: Summary) -> None:
    head, rows = components_table(summary)
    assert head == ["method", *(f"N = {number}" for number in COLUMNS)]
    assert [row[0] for row in rows] == ["tfidf", "lora"], "a single run has no variance between seeds"
    for method, *cells in rows:
        for step, words in enumerate(cells):
            found = variance_components([correct(method, step, seed) for seed in range(3)])
            seeds, texts, both = (round(100 * share) for share in found.shares.values())
            spread = 100 * math.sqrt(found.seeds)
            sd = f"(sd between seeds beyond chance {spread:.2f})"
            assert words == f"seeds {seeds} %, texts {texts} %, both {both} % {sd}"
    page = FORMATS["html"](summary)
    assert "sample and init together" in page


def test_detectable_differences_are_those_of_the_predictions(summary: Summary) -> None:
    head, rows = differences_table(summary)
    row = next(row for row in rows if row[:3] == ["lora", "500", "tfidf"])
    expected = detectable_difference(*([correct(name, 3, seed) for seed in range(3)] for name in ("lora", "tfidf")))
    assert row[head.index("detectable")] == f"{100 * expected:.1f}"


def test_epochs_are_shown_where_records_measured_them_and_not_else(summary: Summary, tmp_path: Path) -> None:
    assert epochs_table(summary)[1] == [] and "oracle" not in FORMATS["html"](summary)
    study = Study(tmp_path)
    for seed in (0, 1):
        points = [
            {"update": 1, "test_accuracy": 0.6}, {"update": 2, "test_accuracy": 0.8 + 0.1 * seed},
            {"update": 3, "test_accuracy": 0.7},
        ]  # fmt: skip
        told = {"curve": {"points": points, "chosen_update": 1, "chosen_by": "selection log-loss"}}
        study.finish(LORA, 50, seed, draws(0.8), told=told)
    ((*_, seeds, kept, last, oracle),) = epochs_table(study.summary)[1]
    assert (seeds, kept, last, oracle) == ("2", "60.0", "70.0", "85.0, never used")
    assert "Only the paper's protocol keeps an update by it" in FORMATS["html"](study.summary)


def test_overlap_is_told_or_said_not_to_be_counted(study: Study, tmp_path: Path) -> None:
    assert overlap_lines(study.summary) == [
        ("near duplicates across training and test",
         "not counted: `handful study FILE` counts them where the texts are at hand")
    ]  # fmt: skip
    other = Study(tmp_path)
    other.finish(LORA, 50, 0, draws(0.8), told={"sample": {"train_ids": ["x"]}})
    section = other.summary.rows[0].spec["data"]
    part = {
        "data": section, "has_test_side": True, "num_test": 200, "num_train": 900, "is_complete": False,
        "equal": [["t0", "x"]], "near": [["t1", "y"], ["t2", "x"]],
    }  # fmt: skip
    other.folder.write_overlap({"data": [part]})
    values = [value for _, value in overlap_lines(other.summary)]
    assert values == ["at least 1 of 200", "at least 2 of 200", "2 at N = 50"]
    for name in ("html", "markdown"):
        assert "at least 2 of 200" in FORMATS[name](other.summary)


# -- set-up --------------------------------------------------------------------------------------------


def test_the_setup_says_what_the_records_say(summary: Summary) -> None:
    text = " ".join(setup_sentences(summary))
    for fact in (
        "3 methods at 20, 50, 150 and 500 labels", "3 seeds (0, 1, 2)", "imdb", "toy/base", "600 test texts",
        "Prompt: alpaca.", "150 = 120 + 30", "selection log-loss", "hash: abc123.", "torch 2.11.0", "a CPU",
        "labels negative and positive", "No choice was made on test texts", "epochs 2", "lora: rank 8.",
        "Protocol: holdout.",
    ):  # fmt: skip
        assert fact in text, fact
    source = latex.render(summary)
    assert source.index(r"\paragraph{Experimental setup.}") < source.index(r"\begin{table}")
    for name in ("html", "markdown"):
        assert "Experimental setup" in FORMATS[name](summary)
    assert latex.escape(setup_sentences(summary)[0]) in source


def test_the_setup_says_every_knob_and_how_the_labels_were_spent(tmp_path: Path) -> None:
    study = Study(tmp_path)
    rules = {20: "last update", 150: "four splits' log-loss, one standard error", 1000: "selection log-loss"}
    texts = {"negative": "bad & 50 %", "positive": "{good}"}
    for method in (LORA | {"alpha": 16.0, "targets": ["q_proj", "v_proj"], "tied": False}, {"name": "full"}):
        for number, (num_labels, rule) in enumerate(rules.items()):
            for seed in range(3 - number):
                study.finish(
                    method, num_labels, seed, draws(0.8, seed=seed),
                    told={"curve": {"points": [], "chosen_update": 1, "chosen_by": rule}},
                    training={"epochs": 5 - number, "batch_size": 8, "learning_rate": 2e-5 * len(method)},
                    protocol={"name": "budget", "watch_test": True},
                    prompt={"name": "custom", "template": "#1 is_it ~ ^ \\\n$", "answers": texts},
                )  # fmt: skip
    for cell in study.cells:
        cell["asked"]["training"] = {}  # the recipe's
    study.finish(ZERO_SHOT | {"calibration": "none"}, 20, 0, draws(0.7), training={}, prompt={"name": "plain"})
    sentences = setup_sentences(study.summary)
    for sentence in (
        "Labelled texts are drawn with 3 seeds (0, 1, 2) at 20 labels, 2 seeds (0, 1) at 150 labels, 1 seed (0) at "
        "1,000 labels.",
        "lora: rank 8; alpha 16; targets q_proj and v_proj; tied no; learning rate 0.0001.",
        "full: learning rate 2e-05.",
        "zero_shot: calibration none.",
        "Training: epochs 5 at 20 labels, 4 at 150 labels, 3 at 1,000 labels; batch size 8.",
        "Protocol: budget (watch test yes).",
        "The update that is kept was chosen by: last update at 20 labels, four splits' log-loss, one standard error at "
        "150 labels, selection log-loss at 1,000 labels. No choice was made on test texts.",
        'Prompt: custom (template "#1 is_it ~ ^ \\\\\\n$"; answers negative: "bad & 50 %" and positive: {good}).',
    ):
        assert sentence in sentences, "\n".join(sentences)
    text = " ".join(sentences)
    assert "None" not in text and "null" not in text and not re.search(r"\b1 (seeds|labels|methods)\b", text)
    source = latex.render(study.summary)
    paragraph = source[source.index("setup.}") + 7 : source.index(r"\begin{table}")]
    for command in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        assert command in paragraph
        paragraph = paragraph.replace(command, "")
    paragraph = paragraph.replace("{[}", "").replace("{]}", "")
    assert not re.search(r"(?<!\\)[_%&#$^~{}]", paragraph) and r"q\_proj" in paragraph and r"50 \%" in paragraph


def test_rows_that_differ_are_told_apart_in_the_setup(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.finish(TFIDF, 1, 0, draws(0.8), training={})
    assert setup_sentences(study.summary)[0] == "We run 1 method at 1 label (tfidf)."
    assert not any(sentence.startswith(("Protocol", "Training")) for sentence in setup_sentences(study.summary))
    study.finish(LORA, 1, 0, draws(0.8))
    study.finish(LORA, 1, 1, draws(0.8), init_seed=4)
    seeds = "Labelled texts are drawn with 1 seed (0) (tfidf); 2 seeds (0, 1) and trained from 1 start (4) each (lora)."
    assert seeds in setup_sentences(study.summary)


def test_no_setup_before_anything_has_finished(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.plan(LORA, 50, 0)
    assert setup_sentences(study.summary) == [] and "paragraph" not in latex.render(study.summary)


# -- figures -------------------------------------------------------------------------------------------


def panel() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_the_forest_plot_draws_claims_first_then_what_explores(summary: Summary) -> None:
    claims, explores = parts_of(summary, group_titles(summary))
    assert claims.title == "lora minus tfidf" and claims.is_declared and len(claims.lines) == len(COLUMNS)
    assert explores.title == "exploratory: minus tfidf, best at N = 500"
    assert [line.label for line in explores.lines] == ["lora", "zero_shot"]
    for narrow in (False, True):
        axes = panel()
        draw_differences(axes, [claims, explores], narrow)
        drawn = [round(float(line.get_xdata()[0]), 6) for line in axes.get_lines() if line.get_marker() in ("o", "D")]
        expected = [claim.difference.interval for claim in summary.claims]
        assert drawn[: len(COLUMNS)] == [round(100 * one.estimate, 6) for one in expected if one]
        zones = [patch.get_width() / 200 for patch in axes.patches]
        assert zones[: len(COLUMNS)] == pytest.approx([claim.difference.detectable for claim in summary.claims])
        height = [line.get_ydata()[0] for line in axes.get_lines() if line.get_marker() in ("o", "D")]
        assert height == sorted(height) and len(set(height)) == len(height)
    figure = draw(summary)["differences"]
    assert "lora minus tfidf" in figure.svg and figure.png.startswith(b"\x89PNG")


def test_the_main_figure_has_an_arrow_for_labels_worth_labels(summary: Summary) -> None:
    (one,) = worth_showing(summary, summary.rows)
    assert (one.first, one.num_labels, one.second) == ("lora", 20, "tfidf") and one.found is not None
    axes = panel()
    draw_errors(axes, summary, summary.rows, looks_of(summary))
    arrow = next(text for text in axes.texts if text.arrow_patch is not None)
    assert arrow.xy == pytest.approx((one.found.estimate, 100 * one.error))
    assert any("= tfidf with" in text.get_text() for text in axes.texts)
    assert row_of(summary, "lora").cells[20].accuracy is not None
