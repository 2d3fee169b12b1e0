"""Plans without a network, a model or a data set: every preset, against counts by hand and what was measured.

The memory and the rates are those of docs/benchmarks.md; parameters are those that the models' publishers give.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from handful import data as data_family
from handful.cli import _grouped, main
from handful.data import Imdb, load_dataset
from handful.errors import DataError, ModelError, SpecError
from handful.estimate import BaseNeeds, Estimate, RunEstimate, Shape, estimate, stated_rates
from handful.identity import ESTIMATED
from handful.models.causal_lm import CausalLM
from handful.models.shapes import KNOWN
from handful.models.text_encoder import TextEncoder
from handful.results import StudyFolder
from handful.spec import preset_names, read_study, resolve_cell
from handful.study import Plan, plan_study
from handful.summary import problems_of_plan, rows_of_plan
from toys import make_toy_model

LLAMA_2 = {size: f"meta-llama/Llama-2-{size}-chat-hf" for size in ("7b", "13b", "70b")}
REVIEWS = 25_000


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No IMDB in a folder, nothing of the hub in a cache, no connection to anywhere."""

    def refused(*_: object) -> None:
        raise AssertionError("a plan went to the network")

    monkeypatch.delenv("HANDFUL_DATA", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))


_PLANNED: dict[str, tuple[Plan, Estimate]] = {}


def planned(preset: str) -> tuple[Plan, Estimate]:
    """A preset's plan and estimate, made once."""
    if preset not in _PLANNED:
        study = read_study(preset)
        plan = plan_study(study, outline=True)
        _PLANNED[preset] = plan, estimate(plan, StudyFolder(Path("nowhere")), study.execution, measure_seconds=0.001)
    return _PLANNED[preset]


def base(preset: str, size: str) -> BaseNeeds:
    (found,) = [one for one in planned(preset)[1].bases if one.checkpoint == LLAMA_2[size]]
    return found


def run(preset: str, num_labels: int, **knobs: Any) -> RunEstimate:
    """The first run of a preset on so many labels with these knobs of base, prompt or method."""

    def has(one: RunEstimate) -> bool:
        spec = one.spec.as_dict()
        plain = {**spec["model"], "prompt": spec["prompt"]["name"], **spec["method"]}
        return one.spec.num_labels == num_labels and all(plain.get(name) == value for name, value in knobs.items())

    return next(one for one in planned(preset)[1].runs if has(one))


# -- every preset --------------------------------------------------------------------------------------

EACH = 50 + 150 + 500 + 2500
"""Labels of the paper's four columns."""

COUNTS = {
    # cells; distinct runs; labelled texts of all runs; test texts of all runs
    "paper-table1": (3 * 2, 3 * 2, 0, 6 * REVIEWS),
    "paper-table2": (3 * 4 * 3, 36, 3 * 3 * EACH, 36 * 2000),
    "paper-table3": (3 * 4 * 3 + 3 + 3, 42, 3 * 3 * EACH + 6 * 500, 42 * 2000),
    "paper-table4": (3, 3, 3 * REVIEWS, 3 * REVIEWS),
    # ten seeds at 50 labels, five at 150 and 500, three at 2,500; one method at 50 from three starts, so twice more
    "llama3-few-labels": (
        6 + 9 * 23 + 3 * 20 + 23, 296, (9 + 1) * (10 * 50 + 5 * 650 + 3 * 2500) + 3 * 20 * 50, 296 * 2000
    ),
    "small-few-labels": (10 + 90 + 5 * 6 + 9, 139, (10 + 1) * 3 * 700 + 5 * 6 * 50, 139 * 500),
    # without labels one run each: of three prompts, of two calibrations
    "imdb-small": (6 + 27 + 3 + 18 + 2, 56, 5 * 3 * 700 + 5 * 2500, 56 * 2000),
    "imdb-methods": (2 + 81 + 9, 92, 9 * 3 * 700 + 9 * 2500, 92 * 2000),
    # zero-shot is asked six times and runs once
    "quickstart": (4 * 3 * 2, 1 + 18, 3 * 2 * (32 + 96 + 200), 19 * 200),
}


def test_every_preset_has_its_count() -> None:
    assert COUNTS.keys() == set(preset_names())


@pytest.mark.parametrize("preset", preset_names())
def test_presets_are_planned_as_counted_by_hand(preset: str) -> None:
    plan, estimated = planned(preset)
    tests = [len(load_dataset(spec.data).test) for spec in plan.distinct]
    counted = (len(plan.cells), len(plan.distinct), sum(spec.num_labels for spec in plan.distinct), sum(tests))
    assert counted == COUNTS[preset]
    assert estimated.seconds > 0 and estimated.memory_bytes > 0
    for one in estimated.runs:
        assert (one.test_tokens > 0) == (one.spec.model.name != "none")
        assert (one.train_tokens > 0) == (one.spec.method.passes() > 0)


@pytest.mark.parametrize("preset", preset_names())
def test_claims_and_quoted_tables_of_presets_meet_their_rows(preset: str) -> None:
    assert problems_of_plan(planned(preset)[0].as_dict()) == []


def test_quoted_tables_meet_a_base_of_ones_own() -> None:
    for preset in ("paper-table1", "paper-table2", "paper-table3", "paper-table4"):
        plan = plan_study(read_study(preset, "reviews-llama-5m"), outline=True)
        assert problems_of_plan(plan.as_dict(), is_other_base=True) == []


@pytest.mark.parametrize("preset", preset_names())
def test_a_base_of_ones_own_takes_the_place_of_all(preset: str) -> None:
    cells = read_study(preset, "reviews-llama-5m").cells
    speaking = [cell for cell in cells if cell["model"]["name"] == "causal_lm"]
    assert {cell["model"]["checkpoint"] for cell in speaking} == {"reviews-llama-5m"}
    assert len({repr(cell) for cell in cells}) == len(cells), "a grid over bases collapses"


def test_how_far_grids_over_bases_collapse() -> None:
    collapsed = {name: len(read_study(name, "reviews-llama-5m").cells) for name in COUNTS}
    assert collapsed["paper-table1"] == 2
    assert collapsed["paper-table4"] == 1
    assert collapsed["llama3-few-labels"] == 2 + 3 * 23 + 20 + 23
    assert collapsed["small-few-labels"] == 2 + 18 + 6 + 9
    assert collapsed["paper-table3"] == COUNTS["paper-table3"][0]


@pytest.mark.parametrize(("preset", "seeds"), [("llama3-few-labels", 10), ("small-few-labels", 3)])
@pytest.mark.parametrize("model", [None, "somebody/model"])
def test_one_cell_of_each_base_tells_samples_from_starts(preset: str, seeds: int, model: str | None) -> None:
    """Every sample has the same starts, or the report could not tell them apart; no other cell has any."""
    drawn: dict[str, list[tuple[int, int | None]]] = {}
    for cell in read_study(preset, model).cells:
        if cell["num_labels"] == 50:
            row = repr((cell["method"], cell["model"], cell["prompt"]))
            drawn.setdefault(row, []).append((cell["seed"], cell["init_seed"]))
        else:
            assert cell["init_seed"] is None
    started = [cells for cells in drawn.values() if cells[0][1] is not None]
    assert len(started) == (1 if model else {"llama3-few-labels": 3, "small-few-labels": 5}[preset])
    for cells in drawn.values():
        starts: tuple[int | None, ...] = (0, 1, 2) if cells in started else (None,)
        assert sorted(cells, key=str) == sorted(((seed, init) for seed in range(seeds) for init in starts), key=str)


def test_the_protocol_of_a_paper_preset_stands_in_one_place() -> None:
    for preset in ("paper-table2", "paper-table3", "paper-table4"):
        cells = read_study(preset).cells
        assert {repr((cell["training"], cell["protocol"])) for cell in cells} == {
            repr((cells[0]["training"], {"name": "paper"}))
        }


@pytest.mark.parametrize("preset", ["paper-table1", "paper-table3"])
def test_the_two_formats_of_the_paper_ask_in_the_same_words(preset: str) -> None:
    """Neither has a system message, so the chat format holds the instruction alone."""
    prompts = {spec.prompt.name: spec.prompt for spec in planned(preset)[0].distinct}
    instruction = "Decide if the review is positive or negative."
    chat, alpaca = (prompts[name].pieces(("negative", "positive"), ("text",)) for name in ("llama2_chat", "alpaca"))
    assert (chat[0], chat[-1]) == (f"[INST] {instruction}\n\n", " [/INST]")
    assert f"### Instruction:\n{instruction}\n\n" in str(alpaca[0])


def test_the_papers_settings() -> None:
    lora = {"rank": 8, "alpha": 16.0, "targets": ["q_proj", "v_proj"]}
    for preset in ("paper-table3", "paper-table4"):
        for spec in planned(preset)[0].distinct:
            method = spec.as_dict()["method"]
            assert {knob: method[knob] for knob in lora} == lora
            assert method["learning_rate"] == 5e-4
    dropouts = {spec.as_dict()["method"]["dropout"] for spec in planned("paper-table3")[0].distinct}
    assert dropouts == {0.0, 0.1, 0.2}
    for preset, rate in (("paper-table2", 0.03), ("paper-table3", 5e-4), ("paper-table4", 5e-4)):
        for spec in planned(preset)[0].distinct:
            training = spec.training
            assert training is not None and (training.epochs, training.schedule, training.warmup) == (2, "constant", 0)
            assert spec.as_dict()["method"]["learning_rate"] == rate
    virtual = [spec.as_dict()["method"]["num_virtual_tokens"] for spec in planned("paper-table2")[0].distinct]
    assert sorted(set(virtual)) == [8, 25, 80]
    inits = [spec.as_dict()["method"]["init"] for spec in planned("paper-table3")[0].distinct]
    assert (inits.count("normal"), inits.count("kaiming")) == (39, 3)
    prompts = [spec.prompt.name for spec in planned("paper-table3")[0].distinct]
    assert (prompts.count("alpaca"), prompts.count("llama2_chat")) == (39, 3)


# -- tokens, memory, time ------------------------------------------------------------------------------

# Llama-2's own tokenizer gave 316.7 tokens a review on every tenth training review, whose mean length is that of all
# 50,000 reviews within a fifth of a percent.
REVIEW_TOKENS = 316.7
RESPONSE_TOKENS = 6
INSTRUCTION_TOKENS = 55


def test_tokens_of_llama_2_by_hand() -> None:
    own = REVIEW_TOKENS + RESPONSE_TOKENS
    assert run("paper-table1", 0, checkpoint=LLAMA_2["7b"], prompt="alpaca").test_tokens == pytest.approx(
        REVIEWS * own, rel=0.02
    )
    # 50 texts, two epochs, eight a step: 13 steps, each with the instruction and 8 virtual tokens once
    few = run("paper-table2", 50, num_virtual_tokens=8)
    looked_at = 2 * 2000 * own
    assert few.train_tokens == pytest.approx(13 * (8 * own + INSTRUCTION_TOKENS + 8) + looked_at, rel=0.02)
    # 2,500 are trained on twice, and the 2,000 test texts scored after each epoch
    many = run("paper-table2", 2500, num_virtual_tokens=80)
    trained = 625 * (8 * own + INSTRUCTION_TOKENS + 80)
    assert many.train_tokens == pytest.approx(trained + 2 * 2000 * own, rel=0.03)


@pytest.mark.parametrize(
    ("preset", "size", "measured"),
    [
        ("paper-table1", "7b", 15.5e9),
        ("paper-table1", "13b", 28.6e9),
        ("paper-table4", "7b", 24.7e9),
        ("paper-table4", "13b", 47e9),
    ],
)
def test_memory_is_what_was_measured(preset: str, size: str, measured: float) -> None:
    assert base(preset, size).bf16_bytes == pytest.approx(measured, rel=0.1)


def test_seventy_billion_need_four_gpus_or_four_bits() -> None:
    for preset in ("paper-table1", "paper-table4"):
        for size, gpus in (("7b", 1), ("13b", 1), ("70b", 4)):
            needs = base(preset, size)
            assert (needs.gpus, needs.four_bit_gpus) == (gpus, 1)
            # What so many GPUs have to hold fits them; the largest pack may not.
            assert needs.four_bit_least is not None and needs.four_bit_bytes is not None
            assert needs.bf16_least < min(needs.bf16_bytes, gpus * 80e9)
            assert needs.four_bit_least < min(needs.four_bit_bytes, 80e9)
    # 80 layers of 2 * 8192 * (8192 + 1024) in attention and 3 * 8192 * 28672 in the MLP
    layers = 80 * (150_994_944 + 704_643_072)
    assert Shape.of(KNOWN[LLAMA_2["70b"]].as_config()).layer_parameters == layers
    weights = layers * 4.5 / 8 + 2 * 32_000 * 8192 * 2
    scoring = base("paper-table1", "70b").four_bit_bytes
    assert scoring is not None and weights < scoring < weights + 5e9


def test_hours_are_what_was_measured() -> None:
    # Measured with 310 tokens of a review's own; here they have about 323. 133 reviews a second scored, 45.6 trained.
    stretched = (REVIEW_TOKENS + RESPONSE_TOKENS) / 310
    scored = run("paper-table1", 0, checkpoint=LLAMA_2["7b"], prompt="alpaca")
    assert scored.seconds == pytest.approx(REVIEWS / 133 * stretched, rel=0.03)
    trained = run("paper-table4", REVIEWS, checkpoint=LLAMA_2["7b"])
    by_hand = 2 * REVIEWS / 45.6 * stretched + 3 * REVIEWS / 133 * stretched
    assert trained.seconds == pytest.approx(by_hand, rel=0.05)
    seventy = run("paper-table1", 0, checkpoint=LLAMA_2["70b"], prompt="alpaca")
    assert seventy.seconds == pytest.approx(REVIEWS / 14.3 * stretched, rel=0.05)


def test_other_sizes_are_scaled_by_flops() -> None:
    seven, eight = (Shape.of(KNOWN[name].as_config()) for name in (LLAMA_2["7b"], "meta-llama/Llama-3.1-8B"))
    for of_seven, of_eight in zip(stated_rates(seven), stated_rates(eight), strict=True):
        assert of_seven / of_eight == pytest.approx(eight.layer_parameters / seven.layer_parameters)
    assert stated_rates(seven)[0] == pytest.approx(41_237, rel=1e-3)


PUBLISHED = {
    LLAMA_2["7b"]: 6_738_415_616,
    LLAMA_2["13b"]: 13_015_864_320,
    LLAMA_2["70b"]: 68_976_648_192,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-it": 999_885_952,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_have_the_parameters_that_are_published(name: str) -> None:
    shape = Shape.of(KNOWN[name].as_config())
    if name.startswith("google/"):
        assert KNOWN[name].is_gated
    # norms, biases, and MiniLM's learned positions are left out
    assert shape.parameters == pytest.approx(PUBLISHED[name], rel=0.02)


def test_every_base_of_a_preset_is_known() -> None:
    for preset in preset_names():
        for cell in read_study(preset).cells:
            checkpoint = cell["model"]["checkpoint"]
            assert checkpoint in KNOWN or checkpoint == "reviews-llama-5m", f"{preset}: {checkpoint}"


def test_what_is_compared_and_found() -> None:
    power = planned("paper-table3")[1].power
    assert power is not None and (power.num_texts, power.num_seeds, power.has_single) == (2000, 3, False)
    power = planned("paper-table4")[1].power
    assert power is not None and (power.num_texts, power.num_seeds, power.has_single) == (REVIEWS, 1, True)
    # (1.960 + 0.842) * sqrt(0.06 / 25000)
    assert power.difference == pytest.approx(0.00434, abs=1e-5)
    power = planned("paper-table1")[1].power
    assert power is not None and (power.num_seeds, power.has_single) == (1, False), "nothing there has a seed"
    power = planned("imdb-small")[1].power
    assert power is not None and (power.num_seeds, power.has_single) == (3, True), "one seed at 2,500 labels"


# -- what is here and what is not ----------------------------------------------------------------------


def test_a_plan_takes_what_is_here(tmp_path: Path) -> None:
    """Configuration and tokenizer are enough for exact tokens; a run wants the weights too."""
    folder = make_toy_model(tmp_path / "toy")
    (folder / "model.safetensors").unlink()
    outline = CausalLM(checkpoint=str(folder)).outline("cpu")
    assert outline.revision is not None and outline.revision.startswith("sha256:")
    assert outline.load_tokenizer() is not None and outline.shape()["hidden_size"] == 32
    with pytest.raises(ModelError, match=r"no \*.safetensors"):
        CausalLM(checkpoint=str(folder)).resolve("cpu")
    assert CausalLM().outline("cpu") == CausalLM().resolve("cpu")


def test_a_known_base_that_is_not_here_is_an_outline_and_others_are_none() -> None:
    outline = CausalLM(checkpoint=LLAMA_2["7b"]).outline("cpu")
    assert (outline.revision, outline.context_length(), outline.load_tokenizer()) == (ESTIMATED, 4096, None)
    with pytest.raises(ModelError, match="hub cannot be reached"):
        CausalLM(checkpoint=LLAMA_2["7b"]).resolve("cpu")
    with pytest.raises(ModelError, match="nobody/knows-it"):
        CausalLM(checkpoint="nobody/knows-it").outline("cpu")
    with pytest.raises(ModelError, match="nobody/knows-it"):
        TextEncoder(checkpoint="nobody/knows-it").outline("cpu")


def test_a_plan_downloads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_toy_model(tmp_path / "toy")
    asked: list[list[str]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert CausalLM(checkpoint="somebody/model").outline("cpu").revision == "toy"
    assert CausalLM(checkpoint="somebody/model").resolve("cpu").revision == "toy"
    without, with_weights = asked
    assert "config.json" in without and "tokenizer.json" in without
    assert not any("safetensors" in pattern for pattern in without)
    assert any("safetensors" in pattern for pattern in with_weights)


def test_stand_ins_are_as_many_and_as_long_as_the_reviews() -> None:
    """Means of the 25,000 reviews of a side, counted from the files: 1,304.70 and 1,273.78 characters."""
    source = data_family.outline(Imdb(test_size=2000))
    assert source.revision == ESTIMATED
    dataset = load_dataset(source)
    assert (len(dataset.train), len(dataset.test)) == (REVIEWS, 2000)
    lengths = [sum(len(one.fields["text"]) for one in side) / len(side) for side in (dataset.train, dataset.test)]
    assert lengths == pytest.approx([1304.70, 1273.78], rel=1e-3)
    assert len({example.id for example in (*dataset.train, *dataset.test)}) == REVIEWS + 2000


@pytest.mark.parametrize("base", ["reviews-llama-5m", "meta-llama/Llama-2-7b-chat-hf"])
def test_a_plan_knows_which_layers_and_ranks_a_base_has(base: str) -> None:
    cell = dict(next(c for c in read_study("quickstart").cells if c["method"]["name"] == "lora"))
    cell["model"] = {"name": "causal_lm", "checkpoint": base}
    for knobs, why in (({"layers": [0, 99]}, "layers names 99, and this base has"), ({"rank": 5000}, "more than this")):
        cell["method"] = {"name": "loreft", **knobs}
        with pytest.raises(SpecError, match=why):
            resolve_cell(cell, "cpu", outline=True)
    cell["method"] = {"name": "loreft", "layers": [0, 2], "rank": 8}
    assert resolve_cell(cell, "cpu", outline=True).method.layers == (0, 2)


def test_nothing_runs_on_stand_ins() -> None:
    with pytest.raises(DataError, match="hub"):
        resolve_cell(read_study("imdb-small").cells[0], "cpu")
    with pytest.raises(DataError, match="plans alone"):
        data_family.resolve(Imdb(revision=ESTIMATED))


# -- as a person types it ------------------------------------------------------------------------------

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`typed("plan", "PRESET")` in an empty folder -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def type_it(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int | None)
        return ended.value.code or 0, shown.out, shown.err

    return type_it


@pytest.mark.parametrize("preset", ["paper-table3", "small-few-labels", "imdb-methods"])
def test_a_plan_names_rows_as_the_report_does(preset: str) -> None:
    """So that a claim can name what the plan shows."""
    plan, estimated = planned(preset)
    groups = _grouped(plan, estimated.runs)
    labels = list(dict.fromkeys(label for label, _ in groups))
    assert labels == [row.label for row in rows_of_plan(plan.as_dict())]
    assert sum(map(len, groups.values())) == len(estimated.runs)
    said = problems_of_plan(plan.as_dict() | {"claims": list(map(list, pairwise(labels)))})
    assert not any("no row is called" in problem for problem in said)


def test_a_plan_says_what_it_estimated(typed: Typed, tmp_path: Path) -> None:
    code, out, err = typed("plan", "paper-table4")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "3 cells, 3 distinct runs, 0 finished already, 3 to run" in words
    assert "~ estimated from tables that ship" in words and "the texts of imdb" in words
    assert f"{LLAMA_2['70b']} (gated: the Llama 2 licence)" in words
    assert "`hf auth login`, or set HF_TOKEN" in words
    assert "4 GPUs" in words and "estimated: on one NVIDIA H200" in words
    assert "differences of 0.4 points" in words and "25,000 test texts, 1 seed" in words
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_not_guessed(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    _, out, _ = typed("plan", "paper-table1", "--output", "there")
    assert "0 known to be finished, 6 unknown" in out


@pytest.mark.parametrize(
    ("preset", "said", "is_single"),
    [("paper-table4", "two fixed classifiers", True), ("paper-table1", "two fixed classifiers", False),
     ("imdb-small", "two methods", True), ("paper-table3", "two methods", False)],
)  # fmt: skip
def test_a_plan_says_what_one_seed_does_not_tell(typed: Typed, preset: str, said: str, is_single: bool) -> None:
    words = " ".join(typed("plan", preset)[1].split())
    assert f" points between {said}, " in words
    assert ("that tells fixed classifiers apart, not methods" in words) is is_single


def test_an_unknown_base_without_a_network_is_a_mistake(typed: Typed) -> None:
    code, _, err = typed("plan", "paper-table1", "--model", "nobody/knows-it")
    assert code == 2 and "nobody/knows-it" in err and "--model FOLDER" in err and "Traceback" not in err


STUDY = """
name = "shown"
[fixed]
data = { name = "table_file", path = "train.csv", test_path = "test.csv", id = "id" }
model = { checkpoint = "toy" }
prompt = { name = "alpaca", max_tokens = 460, keep = "head" }
[grid]
method = ["zero_shot"]
"""


def test_another_base_without_a_chat_template_is_asked_in_the_other_prompts(typed: Typed, tmp_path: Path) -> None:
    code, out, err = typed("plan", "llama3-few-labels", "--model", "reviews-llama-5m")
    assert code == 0, err
    assert "Without the prompt chat_template: reviews-llama-5m has no chat template." in out + err
    told = read_study("llama3-few-labels", "reviews-llama-5m")
    plan = plan_study(told, outline=True, is_other_base=True)
    left_out = [cell for cell in told.cells if cell["prompt"]["name"] == "chat_template"]
    assert len(plan.cells) == len(told.cells) - len(left_out) and left_out
    # Where no other prompt is left, or the base is the study's own, it stays a mistake.
    study = STUDY.replace("toy", "reviews-llama-5m").replace("table_file", "reviews").replace("alpaca", "chat_template")
    path = tmp_path / "chat.toml"
    path.write_text(re.sub(r', (path|max_tokens).*(?= })', "", study), encoding="utf-8")
    for arguments in ((), ("--model", "reviews-llama-5m")):
        code, _, err = typed("plan", "chat.toml", *arguments)
        assert code == 2 and "has no chat template" in err


def test_prompts_are_shown_with_their_seams(typed: Typed, tmp_path: Path) -> None:
    make_toy_model(tmp_path / "toy")
    (tmp_path / "shown.toml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "train.csv").write_text("id,text,label\n1,a good film,good\n2,a bad film,bad\n", encoding="utf-8")
    evil, long = "not\x1b[31m good | very \u202e bad", "good " * 1200 + "[bold]the end"
    rows = f'id,text,label\na,"{evil}",bad\nb,"{long}",good\n'
    (tmp_path / "test.csv").write_text(rows, encoding="utf-8")
    code, out, err = typed("plan", "shown.toml", "--show-prompts")
    assert code == 0 and "Traceback" not in err
    first, second = out.split("Prompt 2 of 2: ")
    assert "Prompt 1 of 2: alpaca, toy, text a (bad)" in first and second.startswith("alpaca, toy, text b (good)")
    assert "\x1b" not in out and "\u202e" not in out
    assert "\\x1b" in first and "\\u202e" in first
    assert "cut from the text: nothing" in first
    assert first.count("<s>|") == second.count("<s>|") == 1
    # What stands there is the whole: seams taken out, line breaks back, it is the prompt.
    unbroken = first.replace("\\|", "\0").replace("|", "").replace("\0", "|").replace("\\n\n", "\n")
    assert "### Input:\nnot\\x1b[31m good | very \\u202e bad\n\n### Response:\n" in unbroken
    (tokens, characters, _) = second.partition("cut from the text: ")[2].split(maxsplit=4)[0:3]
    assert int(tokens.replace(",", "")) > 0 and characters == "tokens,"
    assert "characters more" in second
    assert "answers, as they follow" in first and "  bad: " in first and "  good: " in first
    assert not (tmp_path / "studies").exists()


def test_prompts_are_shown_in_the_order_of_the_study(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(
        '''name = "three"
[fixed]
data = { name = "reviews" }
[[grid]]
prompt = ["alpaca"]
method = ["zero_shot"]
[[grid]]
prompt = ["llama2_chat", "cloze", "alpaca"]
method = ["linear_probe"]
num_labels = [16]
''',
        encoding="utf-8",
    )
    code, out, err = typed("plan", "three.toml", "--show-prompts")
    assert code == 0, err
    assert "Prompt 1 of 2: alpaca" in out and "Prompt 2 of 2: llama2_chat" in out


CLAIMING = """
name = "claiming"
claims = CLAIMS
[fixed]
data = { name = "reviews", test_size = 20 }
prompt = { name = "cloze", max_tokens = 64 }
[[grid]]
method = ["tfidf", { name = "lora", rank = 4 }, { name = "lora", rank = 8 }]
num_labels = [16]
[[grid]]
method = [{ name = "predictions", path = "gpt.csv", title = "GPT, 8 shots" }]
[[grid]]
method = ["full"]
protocol = ["paper"]
num_labels = [16]
"""


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ('[["lora rank=99", "tfidf"]]', "no row is called lora rank=99. Did you mean 'lora rank=8'? Rows: tfidf; lora"),
        ('[["lora", "tfidf"]]', "lora has several rows there, name one by its label: lora rank=4; lora rank=8"),
        ('[["zero_shot", "tfidf"]]', "no row is called zero_shot."),
        ('[["full", "tfidf"]]', "full is chosen on the test texts, on which no claim rests"),
        ('[["tfidf", "lora rank=8"], ["lora rank=8", "tfidf"]]', "it repeats another claim, keep one"),
        ('[["tfidf", "tfidf"]]', "claims compare 'tfidf' with itself"),
    ],
)
def test_claims_that_meet_no_rows_are_refused_before_anything_runs(
    typed: Typed, tmp_path: Path, claims: str, words: str
) -> None:
    shown = load_dataset(data_family.resolve(data_family.Reviews(test_size=20))).test
    (tmp_path / "gpt.csv").write_text("id,label\n" + "".join(f"{one.id},positive\n" for one in shown), "utf-8")
    file = tmp_path / "claiming.toml"
    file.write_text(CLAIMING.replace("CLAIMS", claims), encoding="utf-8")
    for verb in ("plan", "study"):
        code, _, err = typed(verb, "claiming.toml")
        assert code == 2 and words in " ".join(err.split()) and "claiming.toml: " in err and "Traceback" not in err
    assert not (tmp_path / "studies").exists()
    met = '[["GPT, 8 shots", "tfidf"], ["lora rank=4", "tfidf"]]'
    file.write_text(CLAIMING.replace("CLAIMS", met), encoding="utf-8")
    assert typed("plan", "claiming.toml")[0] == 0


def test_prompts_of_a_base_that_is_not_here(typed: Typed, tmp_path: Path) -> None:
    code, out, err = typed("plan", "paper-table2", "--show-prompts")
    assert code == 2 and "Traceback" not in out + err
    for words in (LLAMA_2["7b"], "tokenizer", "HF_TOKEN", "hf download", "--model FOLDER"):
        assert words in err
    code, _, err = typed("plan", "paper-table2", "--show-prompts", "--model", "reviews-llama-5m")
    assert code == 2 and "texts of imdb" in err and "HANDFUL_DATA" in err
    (tmp_path / "light.toml").write_text(
        'name = "light"\n[fixed]\ndata = { name = "reviews" }\n[grid]\nmethod = ["tfidf"]\nnum_labels = [16]\n'
    )
    code, _, err = typed("plan", "light.toml", "--show-prompts")
    assert code == 2 and "no cell" in err


def test_a_folder_of_a_tokenizer_is_enough_to_show_prompts(typed: Typed, tmp_path: Path) -> None:
    folder = make_toy_model(tmp_path / "toy")
    (folder / "model.safetensors").unlink()
    shutil.move(folder, tmp_path / "bare")
    code, out, _ = typed("plan", "quickstart", "--show-prompts", "--model", "bare")
    assert code == 0 and "Prompt 1 of 2: cloze, bare" in out
