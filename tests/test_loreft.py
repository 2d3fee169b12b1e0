"""LoReFT against its formula in float64, finite differences, and plain transformers with the edit as hooks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.engine.scoring import label_scores
from handful.engine.stems import Stems, in_parts, on_stems, stem_scores, worth_scoring_on_stems
from handful.errors import RunError, SpecError
from handful.methods.loreft import LoReFT, _Edits, orthonormal
from reference import eager, loreft_edit, orthonormal_rows
from test_engine import draw_examples, relative
from test_exactness import LENGTHS, as_items, assert_same, frozen_base, ours, plain, weights_of
from test_methods import TASK, TEST, TRAIN, TRAINING, fingerprint, make, same
from toys import toy_base, toy_model


def edits(rank: int = 3, width: int = 16, **changes: Any) -> _Edits:
    made = _Edits({(0, True): 0}, rank, width, **{"dropout": 0.0, **changes})
    made.draw(1, "random")
    return made.eval()


def test_it_is_the_formula() -> None:
    edit, h = edits(), torch.randn(7, 16)
    exact = loreft_edit(*(t.detach().double().numpy() for t in (h, edit.basis[0], edit.weight[0], edit.bias[0])))
    assert np.abs(edit(0, h, True).detach().double().numpy() - exact).max() < 1e-6
    assert edit(0, h, False) is h and edit(1, h, True) is h, "no edit stands there"


def test_a_failed_attachment_leaves_the_base_alone() -> None:
    base = toy_base("llama")
    base.model.train()
    before = fingerprint(base)
    with pytest.raises(RunError, match="rank"):
        make("loreft", rank=base.facts["width"] + 1).attach(base, TASK, seed=0)
    assert same(before, fingerprint(base))


def test_it_is_pyrefts() -> None:
    """Against what pyreft 0.1.0's own class gave (scripts/loreft_reference.py)."""
    from safetensors.torch import load_file

    told = load_file(Path(__file__).parent / "reference" / "loreft.safetensors")
    edit = edits(rank=told["R"].shape[0], width=told["R"].shape[1])
    with torch.no_grad():
        for parameter, name in ((edit.basis, "R"), (edit.weight, "W"), (edit.bias, "b")):
            parameter.copy_(told[name])
    h = told["h"].requires_grad_()
    edited = edit(0, h, True)
    (edited * told["counts"]).sum().backward()
    for found, name in (
        (edited, "edited"), (h.grad, "grad_h"), (edit.weight.grad[0], "grad_W"), (edit.bias.grad[0], "grad_b"),
    ):  # fmt: skip
        assert float((found - told[name]).detach().abs().max()) < 1e-5 * float(told[name].abs().max())


def test_gradients_are_finite_differences() -> None:
    """Central differences of the formula in float64, for the rows, W, b and the basis that R is made of."""
    edit, h = edits(rank=2, width=5), torch.randn(4, 5)
    counts = torch.linspace(-1, 2, 20).reshape(4, 5)
    h.requires_grad_()
    (edit(0, h, True) * counts).sum().backward()
    found = [h.grad, edit.basis.grad[0], edit.weight.grad[0], edit.bias.grad[0]]
    at = [t.detach().double().numpy() for t in (h, edit.basis[0], edit.weight[0], edit.bias[0])]

    def value() -> float:
        return float((loreft_edit(*at) * counts.numpy()).sum())

    for gradient, place in zip(found, at, strict=True):
        for index in np.ndindex(place.shape):
            before = place[index]
            place[index] = before + 1e-5
            above = value()
            place[index] = before - 1e-5
            slope = (above - value()) / 2e-5
            place[index] = before
            assert float(gradient[index]) == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_rows_stay_orthonormal_over_a_thousand_steps() -> None:
    torch.manual_seed(0)
    edit, h = edits(rank=8, width=64), torch.randn(32, 64)
    wanted = torch.randn(32, 64)
    optimizer = torch.optim.AdamW(edit.parameters(), lr=1e-2, weight_decay=0.01)
    start = orthonormal(edit.basis[0].detach())
    for _ in range(1000):
        optimizer.zero_grad()
        (edit(0, h, True) - wanted).square().mean().backward()
        optimizer.step()
    rows = orthonormal(edit.basis[0].detach())
    assert float((rows @ rows.T - torch.eye(8)).abs().max()) < 1e-5
    assert float((rows - start).abs().max()) > 0.1, "R was trained"
    exact = orthonormal_rows(edit.basis[0].detach().double().numpy())
    assert np.abs(rows.double().numpy() - exact).max() < 1e-6


def test_dependent_rows_are_said_in_words() -> None:
    with pytest.raises(RunError, match="learning rate"):
        orthonormal(torch.zeros(2, 4))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "knobs",
    [
        {"first": 4},
        {"first": 4, "tied": True},
        {"first": 0, "last": 3},
        {"first": 14, "last": 0, "layers": [0, 2]},
        {"layers": [1], "rank": 1},
    ],
)
def test_packed_scores_and_gradients_are_those_of_hooks_one_by_one(kind: str, knobs: dict[str, Any]) -> None:
    base, items = frozen_base(kind), as_items(draw_examples(LENGTHS))
    with make("loreft", init="random", **knobs).attach(base, TASK, seed=4) as tuned:
        graft = tuned._graft
        tensors = list(graft.parameters[0].tensors)
        expected = plain(eager(toy_model(kind).requires_grad_(False)), items, graft, tensors)
        assert_same(ours(base, items, graft, tensors), expected)
        assert_same(ours(base, items, graft, tensors, budget=1), expected)
        assert_same(ours(base, items, graft, tensors, saves_memory=True), expected)


def by_stems(base: Any, items: list[Any], graft: Any, tensors: list[Any], budget: int) -> Any:
    """([items, answers] scores, gradients of their weighted sum), the last rows and the answers run on kept stems."""
    for tensor in tensors:
        tensor.grad = None
    scores, weights = np.zeros((len(items), len(items[0].answers))), weights_of(items)
    for part in in_parts(items, range(len(items)), budget):
        found = stem_scores(base, [items[index] for index in part.items], graft, scores.shape[1])
        scores[list(part.items)] = found.detach().numpy()
        (found * weights[list(part.items)]).sum().backward()
    return scores, [tensor.grad.clone() for tensor in tensors]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma"])
@pytest.mark.parametrize("last", [1, 3])
def test_kept_stems_give_the_scores_and_gradients_of_hooks_one_by_one(kind: str, last: int) -> None:
    base, items = frozen_base(kind), as_items(draw_examples(LENGTHS))
    with make("loreft", init="random", first=0, last=last).attach(base, TASK, seed=4) as tuned:
        graft = tuned._graft
        tensors = list(graft.parameters[0].tensors)
        assert on_stems(base, items, graft) == list(range(len(items)))
        expected = plain(eager(toy_model(kind).requires_grad_(False)), items, graft, tensors)
        for room in (1e9, 0.0):  # kept, and made again every time
            base.stems = Stems(room)
            found = [by_stems(base, items, graft, tensors, budget) for budget in (4096, 4096, 1)]
            for each in found:
                assert_same(each, expected)
            assert np.array_equal(found[0][0], found[1][0])
            assert len(base.stems.known) == (len({item.tokens[:-last] for item in items}) if room else 0)
    with make("loreft", first=1).attach(base, TASK, seed=4) as tuned:
        assert not on_stems(base, items, tuned._graft), "the first rows are edited"
        assert base.stems is None, "what can't be used is not kept"


def test_training_on_stems_is_training_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import handful.engine.scoring as scoring
    import handful.training as training

    found = []
    for has in (True, False):
        which = on_stems if has else lambda base, items, graft: []
        monkeypatch.setattr(training, "on_stems", which)
        monkeypatch.setattr(scoring, "worth_scoring_on_stems", which)
        base = toy_base("llama")
        with make("loreft", first=0, last=2, learning_rate=1e-2).attach(base, TASK, seed=1) as tuned:
            curve = tuned.fit(TRAIN[:12], TRAIN[12:], TRAINING, seed=2)
            found.append((tuned.predict(TEST), [point["train_loss"] for point in curve.points]))
            assert (base.stems is not None) == has
    assert np.abs(found[0][0] - found[1][0]).max() < 1e-4
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_a_prompt_without_a_stem_does_not_cost_the_others_theirs() -> None:
    """Its last rows are all that it has, or it is short: it runs packed beside them."""
    import handful.training as training

    base, items = frozen_base("llama"), as_items(draw_examples((100, 2, 0, 70, 5), shared=3))
    with make("loreft", init="random", first=0, last=4).attach(base, TASK, seed=4) as tuned:
        graft = tuned._graft
        assert on_stems(base, items, graft) == [0, 1, 3, 4]
        assert worth_scoring_on_stems(base, items, graft) == [0, 3]
        tensors = list(graft.parameters[0].tensors)
        scores, _ = plain(eager(toy_model("llama").requires_grad_(False)), items, graft, tensors)
        examples = [dataclasses.replace(TEST[0], tokens=item.tokens, answers=item.answers) for item in items]
        assert np.abs(label_scores(base, examples, graft) - scores).max() < 1e-4
        assert len(base.stems.known) == 2
        seen = []
        for part, score in training._passes(base, items, graft):
            seen += part.items
            assert np.abs(score().detach().numpy() - scores[list(part.items)]).max() < 1e-4
        assert sorted(seen) == [0, 1, 2, 3, 4] and len(base.stems.known) == 4


@pytest.mark.parametrize(("shared", "own", "chosen"), [(10, 64, 3), (10, 63, 0), (80, 79, 0), (80, 81, 3)])
def test_scoring_makes_stems_of_long_texts_behind_shorter_instructions(shared: int, own: int, chosen: int) -> None:
    base, items = frozen_base("llama"), as_items(draw_examples((own, own, own), shared=shared))
    with make("loreft").attach(base, TASK, seed=4) as tuned:
        assert len(worth_scoring_on_stems(base, items, tuned._graft)) == chosen
        assert len(worth_scoring_on_stems(base, items[:1], tuned._graft)) == (own + shared >= 64)


def test_the_identity_changes_nothing_and_trains_from_there() -> None:
    base = toy_base("llama")
    with make("zero_shot").attach(base, TASK, seed=0) as tuned:
        bare = tuned.predict(TEST)
    before = fingerprint(base)
    with make("loreft").attach(base, TASK, seed=1) as tuned:
        assert relative(tuned.predict(TEST), bare) < 1e-5
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        assert relative(tuned.predict(TEST), bare) > 1e-3
    assert same(before, fingerprint(base))
    with make("loreft", init="random").attach(base, TASK, seed=1) as tuned:
        assert relative(tuned.predict(TEST), bare) > 1e-3


def test_dropout_is_of_what_is_added_alone() -> None:
    edit, h = edits(rank=4, dropout=0.5), torch.randn(500, 16)
    with torch.no_grad():
        added = edit(0, h, True) - h
        torch.manual_seed(0)
        dropped = edit.train()(0, h, True) - h
    gone = dropped.abs() < 1e-7
    assert 0.45 < float(gone.float().mean()) < 0.55
    assert torch.allclose(dropped[~gone], 2 * added[~gone], atol=1e-5)


def test_it_counts_its_numbers_and_saves_r_itself(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    with make("loreft", rank=2, first=4, last=3).attach(toy_base("llama"), TASK, seed=1) as tuned:
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        scores = tuned.predict(TEST)
        tuned.save(tmp_path)
    # 3 layers, two ends: R and W of 2 x 32, b of 2
    assert tuned.num_trainable == 6 * (2 * 2 * 32 + 2)
    rows = load_file(tmp_path / "loreft.safetensors")["R"]
    assert float((rows @ rows.mT - torch.eye(2)).abs().max()) < 1e-5
    assert json.loads((tmp_path / "loreft.json").read_text())["format"] == 1
    with make("loreft", rank=2, first=4, last=3).attach(toy_base("llama"), TASK, seed=9, saved=tmp_path) as again:
        assert np.abs(again.predict(TEST) - scores).max() < 1e-5
    with pytest.raises(RunError, match="rank 2 instead of 3"):
        make("loreft", rank=3, first=4, last=3).attach(toy_base("llama"), TASK, seed=9, saved=tmp_path)


def test_the_same_knobs_are_one_cell() -> None:
    cell = {"method": {}, "training": {}, "num_labels": 50, "seed": 0, "data": {}, "model": {}, "prompt": {}}
    one_end = [LoReFT(first=0, tied=tied).resolve(cell)["method"] for tied in (False, True)]
    assert one_end[0] == one_end[1]
    orders = [LoReFT(first=4, layers=layers).resolve(cell)["method"] for layers in ((0, 2), (2, 0))]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"layers": ()}, "layers must be"),
        ({"layers": (1, 1)}, "layers must be"),
        ({"first": 0, "last": 0}, "nor both 0"),
        ({"first": -1}, "must not be negative"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(knobs: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        LoReFT(**knobs)


@pytest.mark.parametrize(("knobs", "why"), [({"layers": [3]}, "from 0 to 2"), ({"rank": 33}, "width of 32")])
def test_what_the_base_lacks_is_said(knobs: dict[str, Any], why: str) -> None:
    with pytest.raises(RunError, match=why):
        make("loreft", **knobs).attach(toy_base("llama"), TASK, seed=1)
