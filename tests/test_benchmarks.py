"""benchmarks/ at toy size: what is counted, what is written, and that tools which do the same job agree.

Only what runs in this environment; nothing here is timed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toys import make_toy_model, toy_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
REVIEWS = [
    ("the film was a very good film, it was great", "positive"),
    ("it was terrible", "negative"),
    ("not good", "negative"),
    ("great, very good " * 20, "positive"),
    ("a film", "positive"),
    ("the plot was not good, it was not great", "negative"),
] * 4


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS / "tools"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A toy base whose answers are one token each, as those of the benchmarks are."""
    folder = make_toy_model(tmp_path / "model", "llama")
    toy_tokenizer([text for review in REVIEWS for text in review]).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch, importable: None) -> None:
    import gemm

    monkeypatch.setattr(gemm, "SECONDS", 0.0)
    monkeypatch.setattr(gemm, "shapes", lambda width, mlp: {"small": (8, width, mlp)})


@pytest.fixture
def job(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import jobs

    monkeypatch.setattr(jobs, "imdb", lambda side: [*REVIEWS])
    monkeypatch.setattr(jobs, "model_folder", lambda cache, shape: model)
    monkeypatch.setattr(jobs, "SAMPLED", 12)
    return jobs.make_job(tmp_path, "15m", 8, 6)


def done(tool: Any, job: Path, *options: str) -> dict[str, Any]:
    """What a tool writes, run in this process."""
    result = job.with_name("result.json")
    tool.main([str(job), str(result), *options])
    return json.loads(result.read_text())


# -- FLOPs ---------------------------------------------------------------------------------------------


def toy_shape(layers: int) -> Any:
    from flops import Shape

    return Shape(layers=layers, width=4, mlp_width=6, heads=2, key_value_heads=1, head_width=2, vocabulary=10)


def test_scoring_flops_are_those_counted_by_hand() -> None:
    """Two prompts of 3 and 5 tokens, 2 of them shared: 6 tokens run, 2 rows answer."""
    import flops

    keys_values = 2 * 6 * 4 * (2 + 2)
    rest_of_a_token = 2 * (4 * 4 + 4 * 4 + 3 * 4 * 6)
    # shared tokens see 1 and 2; the first text's own token sees 3; the second's see 3, 4 and 5
    whole = keys_values + 6 * rest_of_a_token + 4 * 4 * (1 + 2 + 3 + 3 + 4 + 5)
    last = keys_values + 2 * rest_of_a_token + 4 * 4 * (3 + 5)
    head = 2 * 2 * 4 * 10
    assert flops.scoring_flops(toy_shape(2), flops.Job([1, 3], shared=2, packs=1)) == whole + last + head


def test_training_flops_are_those_counted_by_hand() -> None:
    """The same texts in one step of two layers, with LoRA of rank 1 on queries (4 to 4) and values (4 to 2)."""
    import flops

    keys_values, query, output, mlp = 2 * 6 * 4 * 4, 2 * 4 * 4, 2 * 4 * 4, 2 * 3 * 4 * 6
    first = {"attention": 4 * 4 * 18, "adapters": 6 * 2 * (4 + 4) + 6 * 2 * (4 + 2)}
    last = {"attention": 4 * 4 * 8, "adapters": 2 * 2 * (4 + 4) + 6 * 2 * (4 + 2)}
    forward = 2 * keys_values + (6 + 2) * (query + output + mlp) + sum(first.values()) + sum(last.values())
    # below the first layer's queries, keys and values nothing is trained: no gradient to its input, nor to its keys
    backward_first = 6 * (output + mlp) + 1.5 * first["attention"] + 1.5 * first["adapters"]
    backward_last = keys_values + 2 * (query + output + mlp) + 2 * last["attention"] + 2 * last["adapters"]
    head = 2 * (2 * 2 * 4 * 10)
    expected = forward + backward_first + backward_last + head
    assert flops.training_flops(toy_shape(2), flops.Job([1, 3], shared=2, packs=1), rank=1) == expected


def test_shared_tokens_count_once_per_pack() -> None:
    import flops

    assert flops.scoring_job([900] * 9, 100, 4096).tokens == 9 * 900 + 3 * 100
    # two optimizer steps, each of which needs one pack at least
    assert flops.training_job([900] * 6, 100, 4, 4096).tokens == 6 * 900 + 2 * 100


# -- tools ---------------------------------------------------------------------------------------------


def test_tools_that_score_agree(job: Path) -> None:
    import forward
    import generate
    import ours

    written = json.loads(job.read_text())
    assert written["answer_tokens"] == [1, 1]
    expected = sum(entry["tokens"] for entry in written["test"])
    mine = done(ours, job, "--work", "score")
    assert mine["reviews"] == 6 and mine["gemm"]["best"] > 0
    for options in ([], ["--no-mask", "--batch", "4"]):
        theirs = done(forward, job, *options)
        assert theirs["tokens"] == mine["tokens"] == expected
        assert theirs["margins"] == pytest.approx(mine["margins"], rel=1e-3, abs=1e-3)
    generated = done(generate, job, "--sorted")
    assert generated["tokens"] == expected
    assert len(generated["labels"]) == 6


def test_tools_that_train_read_the_same_tokens(job: Path) -> None:
    pytest.importorskip("accelerate")
    import ours
    import trainer

    mine = done(ours, job, "--work", "train")
    theirs = done(trainer, job, "--order", "group_by_length", "--score")
    expected = sum(entry["tokens"] for entry in json.loads(job.read_text())["train"])
    assert mine["tokens"] == theirs["tokens"] == expected
    # one step of eight reviews from an adapter that does nothing yet: the loss of the base, whatever the order
    assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)
    assert len(theirs["margins"]) == 6


def test_matrix_products_have_a_rate() -> None:
    import gemm

    told = gemm.measure(4, 6)
    assert told["best"] == told["rates"]["small"] > 0
    twice = {"best": 2 * told["best"], "rates": {"small": 2 * told["best"]}}
    assert gemm.between(told, twice)["best"] == pytest.approx(1.5 * told["best"])


# -- jobs ----------------------------------------------------------------------------------------------


def test_reviews_are_shortened_before_anybody_sees_them(model: Path) -> None:
    import jobs

    cutter = jobs.Cutter(model)
    entry = cutter.entry("very good " * 2000, "positive")
    assert entry is not None
    assert entry["tokens"] < jobs.MAX_TOKENS
    assert entry["text"] in entry["prompt"]
    assert cutter.entry(entry["text"], "positive") == entry


def test_every_cell_of_the_study_has_the_texts_that_handful_draws(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jobs
    from handful.data import draw_split, load_dataset
    from handful.identity import derive_seed
    from handful.spec import read_study
    from handful.study import plan_study

    def distinct(side: str) -> list[tuple[str, str]]:
        return [(f"{side} {n} {text}", label) for n, (text, label) in enumerate(REVIEWS)]

    monkeypatch.setattr(jobs, "imdb", distinct)
    folder = jobs.make_study(tmp_path, "15m", [4, 6], 5)
    planned = plan_study(read_study(str(folder / "study.toml")))
    assert len(planned.distinct) == 6
    for spec in planned.distinct:
        size = spec.protocol.selection_size
        split = draw_split(load_dataset(spec.data), spec.num_labels, derive_seed(spec.seed, "sample"), size)
        cell = json.loads((folder / f"cell-{spec.num_labels}-{spec.method.dropout}.json").read_text())
        assert {entry["text"] for entry in cell["train"]} == {example.fields["text"] for example in split.train}
        assert {entry["text"] for entry in cell["test"]} == {example.fields["text"] for example in split.test}
        assert cell["dropout"] == spec.method.dropout


# -- measuring and the table ---------------------------------------------------------------------------


def test_a_tool_is_a_process_of_its_own() -> None:
    from measure import run

    program = "import sys; block = bytearray(200_000_000); open(sys.argv[1], 'w').write('{\"seconds\": 1.5}')"
    measured = run([sys.executable, "-c", program, "{result}"], {}, threads=1, limit=60)
    assert measured.result == {"seconds": 1.5}
    assert measured.peak_bytes > 0.2e9
    assert measured.reason == ""


@pytest.mark.parametrize(
    ("program", "limit", "reason"),
    [("raise SystemExit('no such model')", 60, "no such model"), ("while True: pass", 0.2, "took too long")],
)
def test_a_failed_tool_says_why(program: str, limit: float, reason: str) -> None:
    from measure import run

    measured = run([sys.executable, "-c", program, "{result}"], {}, threads=1, limit=limit)
    assert measured.reason == reason
    assert not measured.result


SAID = {"date": "today", "commit": "0", "command": "bench"}


def row(tool: str, number: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "section": "train", "shape": "15m", "tool": tool, "round": number, "seconds": seconds, "reviews": 8,
        "tokens": 800, "peak_bytes": 2e9, "wall_seconds": seconds, "others": 0.0, "loss": 1.0, **SAID, **more,
    }  # fmt: skip


def results(measurements: list[dict[str, Any]]) -> dict[str, Any]:
    about = {"reviews": 8, "mean_tokens": 100.0, "shared_tokens": 10, "rounds": 3, "flops": 1e9}
    return {
        "threads": 2,
        "machine": {"cpu": "a", "cores": 2, "memory_gb": 1.0, "system": "b"},
        "environments": {"handful": {"numpy": "2", "torch": "1"}}, "jobs": {"train 15m": about},
        "measurements": measurements,
    }  # fmt: skip


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was twice as slow in the second round, and the peer failed in the third."""
    import report

    rows = [row("handful", n, seconds) for n, seconds in ((1, 1.0), (2, 2.0), (3, 1.0))]
    rows += [row("peer", 1, 3.0), row("peer", 2, 6.0)]
    assert report.ratios(rows, "peer", "seconds") == [3.0, 3.0]
    assert report.spread([3.0, 4.0, 3.5]) == "3.5x (3.0 to 4.0)"


def test_the_table_hides_nothing() -> None:
    import report

    failed = {**row("broken", 1, 1.0), "reason": "killed"}
    failed = {key: value for key, value in failed.items() if key not in ("seconds", "tokens", "loss")}
    rates = {"best": 4e9, "rates": {"square": 4e9}}
    rows = [row("handful", 1, 0.5, gemm=rates), row("peer", 1, 1.0, others=0.9), failed]
    text = report.markdown(results(rows))
    assert "| peer | 8.00 | 800 | 1.00 | 2.00 GB | 2.0x | 1.0x |" in text
    assert "| broken | failed: killed |" in text
    assert "**50 %**" in text
    assert "DISTURBED: during 1 of 3" in text
    assert "torch 1, numpy 2" in text
    assert "TOKENS DIFFER" in report.markdown(results([row("handful", 1, 1.0), row("peer", 1, 1.0, tokens=7)]))


def test_a_study_is_told_by_cell_and_as_a_whole() -> None:
    import report

    common = {"section": "study", "shape": "15m", "round": 1, "peak_bytes": 1e9, "others": 0.0, **SAID}

    def script(size: int, dropout: float, seconds: float) -> dict[str, Any]:
        return {**common, "tool": "script", "num_labels": size, "dropout": dropout, "wall_seconds": seconds}

    ours = {**common, "tool": "handful", "cells": {"50": [2.0, 4.0]}, "wall_seconds": 10.0}
    rows = [script(50, 0.0, 30.0), ours, script(50, 0.1, 50.0)]
    job = {"sizes": [50], "dropouts": [0.0, 0.1], "scripted": [[50, 0.0], [50, 0.1]], "test": 5}
    text = report.markdown(results(rows) | {"jobs": {"study 15m": job}})
    assert "| 50 | 3.0 | 30.0 | 50.0 |" in text
    assert "scripts 80 s, **8.0 times**" in text and "are counted like" not in text
    # 0.0 took 0.8 of 0.1 where both ran, 0.2 counts like 0.1
    rows = [script(50, 0.0, 40.0), script(50, 0.1, 50.0), script(500, 0.1, 100.0), ours]
    job = {"sizes": [50, 500], "dropouts": [0.0, 0.1, 0.2], "scripted": [[50, 0.0], [50, 0.1], [500, 0.1]], "test": 5}
    fewer = report.markdown(results(rows) | {"jobs": {"study 15m": job}})
    assert "scripts 420 s, **42.0 times**" in fewer and "3 of 6 scripts ran (190 s)" in fewer
    rows.pop(0)
    assert "times**" not in report.markdown(results(rows) | {"jobs": {"study 15m": job}})


def test_the_command_line_fills_what_is_left_open() -> None:
    import bench

    quick = bench.parse_arguments(["--quick"])
    assert (quick.sections, quick.shapes, quick.rounds) == (["train", "score"], ["15m"], 3)
    assert bench.parse_arguments([]).sections == ["train", "score", "study"]


def test_the_driver_puts_figures_into_rows() -> None:
    import bench

    measured = SimpleNamespace(wall_seconds=2.0, peak_bytes=5, others=0.0, reason="", result={"seconds": 1.0, "x": 1})
    assert bench._figures(measured) == {"wall_seconds": 2.0, "peak_bytes": 5, "others": 0.0, "seconds": 1.0}


def test_a_target_is_met_or_missed() -> None:
    import plan
    import report

    rows = [row("handful", 1, 1.0), row(plan.RANDOM, 1, 6.5), row(plan.GROUPED, 1, 3.0)]
    text = report.markdown(results(rows))
    assert f"| 15M: Training, {plan.RANDOM}, time | 6x | 6.5x | met |" in text
    assert f"| 15M: Training, {plan.GROUPED}, time | 4x | 3.0x | missed |" in text
    assert "Scoring" not in text  # what was not measured is not judged


@pytest.fixture
def driver(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """bench with tools that take no time; `ran` holds their commands, `others` how busy the machine is."""
    import bench
    from measure import Measured

    ran: list[str] = []
    others = [0.0]

    def run(command: list[str], *_: Any) -> Measured:
        ran.append(Path(command[1]).stem)
        told = {"seconds": 1.0, "reviews": 8, "tokens": 80, "loss": 1.0}
        return Measured(1.0, 10**9, others.pop(0) if len(others) > 1 else others[0], told)

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(bench, "wait_for_quiet", lambda limit: None)
    monkeypatch.setattr(bench, "_prepare", lambda *options: str(job))
    monkeypatch.setattr(bench.environments, "ensure", lambda name: None)
    monkeypatch.setattr(bench.environments, "versions", lambda name: {"torch": "1"})

    def start(*words: str) -> Any:
        options = ["--quick", "--sections", "train", "--rounds", "2", "--output", str(tmp_path / "out"), *words]
        return bench.Bench(bench.parse_arguments(options), "bench")

    return SimpleNamespace(start=start, ran=ran, others=others, bench=bench)


def test_a_run_goes_on_where_it_ended(driver: Any) -> None:
    first = driver.start()
    first.run()
    assert driver.ran == ["ours", "trainer", "trainer"] * 2
    # cut off within the second round: that round begins anew
    first.results["measurements"].pop()
    first.write()
    driver.ran.clear()
    again = driver.start("--resume")
    again.run()
    assert driver.ran == ["ours", "trainer", "trainer"]
    assert len(again.results["measurements"]) == 6
    driver.ran.clear()
    driver.start("--resume").run()
    assert driver.ran == []
    with pytest.raises(driver.bench.OutOfTime):
        driver.start("--minutes", "1e-9").run()
    # what failed is tried again, with the round it belongs to
    again.results["measurements"][-1]["reason"] = "killed"
    again.write()
    driver.start("--resume").run()
    assert driver.ran == ["ours", "trainer", "trainer"]


def test_runs_of_different_code_or_versions_are_not_mixed(
    driver: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.start().run()
    monkeypatch.setattr(driver.bench.environments, "versions", lambda name: {"torch": "2"})
    with pytest.raises(SystemExit) as stop:
        driver.start("--resume").run()
    assert stop.value.code == 2 and "other versions" in capsys.readouterr().err
    monkeypatch.setattr(driver.bench, "_code", lambda: "other")
    with pytest.raises(SystemExit):
        driver.start("--resume")
    assert "another code" in capsys.readouterr().err


def test_making_an_environment_is_no_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench

    monkeypatch.setattr(bench, "HERE", tmp_path)
    (tmp_path / "bench.py").write_text("1")
    before = bench._code()
    deep = tmp_path / ".venvs" / "trainer" / "lib" / "python3" / "site-packages" / "torch"
    deep.mkdir(parents=True)
    (deep / "nn.py").write_text("2")
    assert bench._code() == before
    (tmp_path / "bench.py").write_text("3")
    assert bench._code() != before


def test_an_environment_that_cannot_be_made_is_said_in_words(
    driver: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ensure(name: str) -> None:
        raise subprocess.CalledProcessError(1, ["pip", "install"])

    monkeypatch.setattr(driver.bench.environments, "ensure", ensure)
    with pytest.raises(SystemExit) as stop:
        driver.start().run()
    assert stop.value.code == 2 and "package index" in capsys.readouterr().err


def test_texts_are_grouped_as_trainer_groups_many() -> None:
    pytest.importorskip("accelerate")
    import trainer

    lengths = [7, 1, 9, 3, 8, 2, 6, 4, 5, 10]
    order = trainer.grouped_order(lengths, 2, 0)
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


def test_a_disturbed_measurement_is_done_again(driver: Any) -> None:
    driver.others[:] = [0.5, 0.1, 0.9, 0.8, 0.0]
    bench = driver.start("--again", "1", "--rounds", "1")
    bench.run()
    assert driver.ran == ["ours", "ours", "trainer", "trainer", "trainer"]
    assert [row["others"] for row in bench.results["measurements"]] == [0.1, 0.8, 0.0]


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "peers").glob("*.txt")), ids=lambda path: path.stem)
def test_peers_are_pinned(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert {"torch", "transformers", "peft"} <= {line.split("==")[0] for line in lines}


# -- attention -----------------------------------------------------------------------------------------


def test_both_forms_of_attention_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import attention

    torch.manual_seed(0)
    plan, inputs, grad = attention.states(37)
    found = []
    for way in (attention.groups, attention.flash):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        result = way(plan, leaves, 0.2)
        found.append([result.detach(), *torch.autograd.grad(result, leaves, grad)])
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())
    attention.main(["--tokens", "20", "--repeats", "2"])
    assert "| 20 |" in capsys.readouterr().out


# -- many labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [0, 2])
def test_the_cost_of_many_labels_at_toy_size(
    updates: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import labels

    (tmp_path / "banking77").mkdir()
    rows = [f"where is my card number {n},{name}" for name in ("card_arrival", "card_linking", "atm") for n in range(4)]
    for side in ("train", "test"):
        (tmp_path / "banking77" / f"{side}.csv").write_text("\n".join(["text,category", *rows]) + "\n")
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path))
    labels.main(["--base", str(model), "--texts", "6", "--rounds", "1", "--threads", "1", "--nats", "25", "10",
                 "--updates", str(updates)])  # fmt: skip
    shown = capsys.readouterr().out
    assert "| 2 labels of one token |" in shown and "| 3 labels, all finished |" in shown
    assert "| 3 labels, pruned at 25 nats |" in shown and "(3e-11)" in shown
