"""What the engine owes: its numbers are those of plain transformers and plain peft, gradients included.

Weights are drawn with initializer_range 0.5 (toys.py). Scores agree within 1e-5 of the largest one, whole rows of
logits within 1e-5 of the largest logit, gradients within 1e-4 of the largest of their tensor. The references are in
reference.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handful import progress
from handful.engine import attention, batching, forward, kernels
from handful.engine.base import Base, PathCheck
from handful.engine.batching import batches
from handful.engine.check import check_path
from handful.engine.graft import Graft, ParameterGroup
from handful.engine.kernels import LowRank, Map, Norm
from handful.engine.packing import Item
from handful.engine.scoring import batch_scores, label_scores, normalise
from handful.examples import EncodedExample
from handful.methods import METHODS
from handful.run import RunSettings, run
from handful.spec import read_study
from handful.study import plan_study
from reference import answer_score, eager, path_rows
from test_engine import ANSWERS, draw_examples, one_by_one, relative
from test_methods import TASK, TEST, TRAIN, TRAINING, fingerprint, make, on_encoder, peft_scores, same
from toys import FAST, PLAIN, make_toy_model, toy_base, toy_model

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = (9, 1, 20, 31, 3)
PLAIN_PATH = PathCheck(False, "plain path, because the test asks for it")


def fast_base(kind: str, **changes: Any) -> Base:
    """A toy on the fast path, whose probe gave all logits of `eager` attention."""
    base = toy_base(kind, **changes)
    assert base.path.fast, base.path.why
    assert base.path.largest_error is not None and base.path.largest_error < 1e-5
    return base


def frozen_base(kind: str, **changes: Any) -> Base:
    base = fast_base(kind, **changes)
    base.model.requires_grad_(False)
    return base


def as_items(examples: Sequence[EncodedExample]) -> list[Item]:
    return [Item(example.tokens, example.answers) for example in examples]


def weights_of(items: Sequence[Item]) -> Tensor:
    """[items, answers] what each score counts in the sum whose gradient is taken; unlike, so that none cancels."""
    return torch.linspace(-1.0, 1.5, len(items) * len(items[0].answers)).reshape(len(items), -1)


def ours(
    base: Base,
    items: Sequence[Item],
    graft: Graft,
    tensors: Sequence[Tensor],
    num_shared: int | None = None,
    budget: int = 4096,
    saves_memory: bool = False,
) -> tuple[np.ndarray, list[Tensor]]:
    """([items, answers] scores, gradients of their weighted sum) by the engine."""
    for tensor in tensors:
        tensor.grad = None
    scores = np.zeros((len(items), len(items[0].answers)))
    weights = weights_of(items)
    for batch in batches(base, items, graft.num_virtual, budget, num_shared, graft.last_rows):
        part = batch_scores(base, batch, graft, scores.shape[1], saves_memory)
        scores[list(batch.items)] = part.detach().numpy()
        if tensors:
            (part * weights[list(batch.items)]).sum().backward()
    return scores, [torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in tensors]


def plain(
    model: Any, items: Sequence[Item], graft: Graft | None, tensors: Sequence[Tensor]
) -> tuple[np.ndarray, list[Tensor]]:
    """The same by plain transformers, one text and answer at a time."""
    for tensor in tensors:
        tensor.grad = None
    scores, weights = [], weights_of(items)
    for number, item in enumerate(items):
        row = [answer_score(model, item.tokens, answer, graft) for answer in item.answers]
        scores.append([float(score.detach()) for score in row])
        if tensors:
            (torch.stack(row) * weights[number]).sum().backward()
    return np.array(scores), [torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in tensors]


def assert_same(found: tuple[np.ndarray, list[Tensor]], expected: tuple[np.ndarray, list[Tensor]]) -> None:
    assert relative(found[0], expected[0]) < 1e-5
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in expected[1]) or not expected[1]
    for number, (mine, theirs) in enumerate(zip(found[1], expected[1], strict=True)):
        error = float((mine - theirs).abs().max())
        assert error <= 1e-4 * float(theirs.abs().max()) + 1e-10, f"gradient {number}: {error}"


# --- edits of each layer's rows ---------------------------------------------------------------------------


class Edits:
    """h + R^T (W h + b - R h), with its own R, W, b for each layer and for first and last rows (LoReFT's shape)."""

    def __init__(self, num_layers: int, width: int, rank: int = 3) -> None:
        torch.manual_seed(4)
        self.of = {
            (layer, is_last): [
                nn.Parameter(torch.randn(rank, width) / width**0.5),
                nn.Parameter(torch.randn(rank, width) / width**0.5),
                nn.Parameter(torch.randn(rank)),
            ]
            for layer in range(num_layers)
            for is_last in (False, True)
        }
        self.tensors = [tensor for parts in self.of.values() for tensor in parts]

    def __call__(self, layer: int, rows: Tensor, is_last: bool) -> Tensor:
        r, w, b = self.of[layer, is_last]
        return rows + (rows @ w.T + b - rows @ r.T) @ r


def edit_graft(first: int, last: int, virtual: int = 0) -> tuple[Graft, list[Tensor]]:
    edits = Edits(3, 32)
    tensors = list(edits.tensors)
    graft = Graft([ParameterGroup(edits.tensors, 1e-3)], edit=edits, first_rows=first, last_rows=last)
    if virtual:
        prefix = nn.Parameter(torch.randn(virtual, 32))
        graft.prefix_embeddings, graft.num_virtual = (lambda: prefix), virtual
        tensors.append(prefix)
    return graft, tensors


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize(("first", "last"), [(3, 4), (0, 2), (14, 0)])
def test_edits_are_hooks_on_plain_layers(kind: str, first: int, last: int) -> None:
    """Last layer cut, prefix shared (14 first rows reach out of it), answers of up to four tokens never edited."""
    base = frozen_base(kind)
    graft, tensors = edit_graft(first, last)
    items = as_items(draw_examples(LENGTHS))
    expected = plain(eager(toy_model(kind).requires_grad_(False)), items, graft, tensors)
    (batch,) = batches(base, items, 0, 4096, num_edited=last)
    assert batch.segments is not None and batch.segments.num_shared >= 9
    assert_same(ours(base, items, graft, tensors), expected)


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("virtual", [0, 6])
def test_edits_of_prompts_shorter_than_what_is_edited(is_fast: bool, virtual: int) -> None:
    """Prompts of 1 to 7 tokens, three first and four last rows: no row twice, first before last."""
    base = frozen_base("qwen3")
    if not is_fast:
        base.path = PLAIN_PATH
    graft, tensors = edit_graft(3, 4, virtual)
    items = as_items(draw_examples([1, 2, 3, 4, 5, 7, 40], shared=0))
    expected = plain(eager(toy_model("qwen3").requires_grad_(False)), items, graft, tensors)
    assert_same(ours(base, items, graft, tensors), expected)
    assert_same(ours(base, items, graft, tensors, budget=1), expected)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_edits_on_both_paths_and_with_virtual_tokens(kind: str) -> None:
    graft, tensors = edit_graft(2, 3, virtual=5)
    items = as_items(draw_examples(LENGTHS))
    expected = plain(eager(toy_model(kind).requires_grad_(False)), items, graft, tensors)
    base = toy_base(kind)
    base.model.requires_grad_(False)
    assert base.path.fast == (kind in FAST)
    assert_same(ours(base, items, graft, tensors), expected)
    base.path = PLAIN_PATH
    assert_same(ours(base, items, graft, tensors), expected)


def test_answers_are_never_edited() -> None:
    """With an edit that erases what it is given, a four-token answer still tells its tokens apart."""
    seen = []

    def edit(layer: int, rows: Tensor, is_last: bool) -> Tensor:
        seen.append(len(rows))
        return rows * 0 + 1

    graft = Graft(edit=edit, first_rows=2, last_rows=3)
    items = as_items(draw_examples([5, 9], answers=((5, 6, 7, 8), (5, 6, 9, 9))))
    base = frozen_base("llama")
    assert_same(ours(base, items, graft, []), plain(eager(toy_model("llama")), items, graft, []))
    # The two first rows once in the shared root, then three last ones of each text; in the cut layer one of each.
    assert seen[:5] == [2, 6, 2, 6, 2]


# --- activation checkpointing -----------------------------------------------------------------------------


def wide(tensors: Sequence[Tensor], seed: int = 5) -> None:
    """Draws adapters away from their start, where B = 0 hides half of the gradients."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_checkpointing_changes_memory_and_nothing_else(kind: str) -> None:
    base = fast_base(kind)
    items = as_items(draw_examples([9, 20, 14]))
    with make("lora", dropout=0.5, targets=ALL_LINEAR).attach(base, TASK, seed=1) as tuned:
        graft = tuned._graft
        tensors = list(graft.parameters[0].tensors)
        wide(tensors)
        edits, more = edit_graft(2, 3, virtual=4)
        graft = dataclasses.replace(
            graft, edit=edits.edit, first_rows=2, last_rows=3, num_virtual=4, prefix_embeddings=edits.prefix_embeddings
        )
        graft.train(True)
        results, kept_bytes = [], []
        for saves_memory in (False, True):
            kept = 0

            def pack(tensor: Tensor) -> Tensor:
                nonlocal kept
                kept += tensor.numel() * tensor.element_size()
                return tensor

            torch.manual_seed(3)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                results.append(ours(base, items, graft, tensors + more, saves_memory=saves_memory))
            kept_bytes.append(kept)
        graft.train(False)
    assert np.array_equal(results[0][0], results[1][0])
    assert all(torch.equal(one, two) for one, two in zip(results[0][1], results[1][1], strict=True))
    assert kept_bytes[1] < kept_bytes[0] / 3


# --- LoRA, prompt tuning and full against plain peft and transformers ---------------------------------------


def peft_twin(kind: str, config: Any) -> Any:
    """A PeftModel of its own on a fresh toy, without anything of ours."""
    import peft

    return peft.get_peft_model(eager(toy_model(kind).requires_grad_(False)), config)


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("num_shared", [None, 0])
def test_lora_on_every_matrix_is_plain_peft(kind: str, num_shared: int | None) -> None:
    """With it on q, k, v, o and the MLP the last layer's cut touches every kind of map."""
    base = fast_base(kind)
    items = as_items(draw_examples(LENGTHS))
    with make("lora", dropout=0.0, targets=ALL_LINEAR).attach(base, TASK, seed=1) as tuned:
        tensors = list(tuned._graft.parameters[0].tensors)
        wide(tensors)
        found = ours(base, items, tuned._graft, tensors, num_shared)
        import peft

        twin = peft_twin(kind, peft.LoraConfig(r=8, lora_alpha=16, target_modules=ALL_LINEAR, task_type="CAUSAL_LM"))
        theirs = [p for p in twin.parameters() if p.requires_grad]
        assert [t.shape for t in theirs] == [t.shape for t in tensors]
        wide(theirs)
        assert_same(found, plain(twin.base_model.model, items, None, theirs))


def test_lora_with_edits_and_virtual_tokens_and_the_last_layer_cut() -> None:
    base = fast_base("llama")
    items = as_items(draw_examples(LENGTHS))
    edits, more = edit_graft(2, 2, virtual=3)
    with make("lora", dropout=0.0, targets=["q_proj", "v_proj", "o_proj", "down_proj"]).attach(
        base, TASK, seed=1
    ) as tuned:
        tensors = [*tuned._graft.parameters[0].tensors, *more]
        wide(tensors)
        graft = dataclasses.replace(
            tuned._graft, edit=edits.edit, first_rows=2, last_rows=2, num_virtual=3,
            prefix_embeddings=edits.prefix_embeddings,
        )  # fmt: skip
        found = ours(base, items, graft, tensors)
        # peft's modules stand in this very model: run it plainly.
        expected = plain(eager(base.model), items, graft, tensors)
        base.model.config._attn_implementation = "sdpa"
    assert_same(found, expected)


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("num_shared", [None, 0])
def test_prompt_tuning_is_plain_peft(kind: str, num_shared: int | None) -> None:
    base = fast_base(kind)
    items = as_items(draw_examples(LENGTHS))
    with make("prompt_tuning", num_virtual_tokens=7).attach(base, TASK, seed=1) as tuned:
        tensors = list(tuned._graft.parameters[0].tensors)
        wide(tensors)
        found = ours(base, items, tuned._graft, tensors, num_shared)
    import peft

    twin = peft_twin(kind, peft.PromptTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"))
    (theirs,) = (p for p in twin.parameters() if p.requires_grad)
    wide([theirs])
    scores, weights = [], weights_of(items)
    for number, item in enumerate(items):
        row = []
        for answer in item.answers:
            logits = twin(input_ids=torch.tensor([item.tokens + answer])).logits[0].log_softmax(-1)
            end = 7 + len(item.tokens)
            row.append(torch.stack([logits[end - 1 + step, token] for step, token in enumerate(answer)]).sum())
        scores.append([float(score.detach()) for score in row])
        (torch.stack(row) * weights[number]).sum().backward()
    assert_same(found, (np.array(scores), [theirs.grad]))


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("num_shared", [None, 0])
@pytest.mark.parametrize("tied", [False, True])
def test_full_is_plain_transformers(kind: str, num_shared: int | None, tied: bool) -> None:
    base = fast_base(kind, tie_word_embeddings=tied)
    items = as_items(draw_examples(LENGTHS))
    with make("full").attach(base, TASK, seed=1) as tuned:
        names = [name for name, _ in base.model.named_parameters()]
        found = ours(base, items, tuned._graft, list(base.model.parameters()), num_shared)
    twin = eager(toy_model(kind, tie_word_embeddings=tied))
    assert [name for name, _ in twin.named_parameters()] == names
    assert_same(found, plain(twin, items, None, list(twin.parameters())))


@pytest.mark.parametrize("kind", ["qwen2", "gemma3"])
@pytest.mark.parametrize("part", ["bias", "layernorm", "o_proj.weight", "up_proj.weight", "layers.1"])
def test_any_part_of_the_base_can_be_trained_alone(kind: str, part: str) -> None:
    """Nothing that wants a gradient is taken for frozen."""
    base, twin = fast_base(kind, attention_bias=True), eager(toy_model(kind, attention_bias=True))
    items = as_items(draw_examples([9, 1, 20]))
    chosen = []
    for model in (base.model, twin):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part in name)
        chosen.append([parameter for parameter in model.parameters() if parameter.requires_grad])
    assert chosen[0]
    assert_same(ours(base, items, Graft(), chosen[0]), plain(twin, items, None, chosen[1]))


# --- dropout ------------------------------------------------------------------------------------------------


class Dropped(nn.Module):
    """Stands for a dropout: a mask that was drawn elsewhere, and torch's scale."""

    def __init__(self, mask: Tensor, drop: float) -> None:
        super().__init__()
        self.mask, self.drop = mask, drop

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask / (1 - self.drop)


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("num_shared", [None, 0])
def test_lora_with_dropout_is_plain_peft_under_the_same_masks(
    kind: str, num_shared: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text's rows of the masks that a pack drew go into peft's own modules, text by text."""
    base = fast_base(kind)
    items = as_items(draw_examples([9, 1, 20]))
    masks: list[Tensor] = []
    draw = kernels._draw_kept

    def recorded(*given: Any) -> Tensor:
        masks.append(draw(*given))
        return masks[-1]

    monkeypatch.setattr(kernels, "_draw_kept", recorded)
    with make("lora", dropout=0.25, targets=ALL_LINEAR).attach(base, TASK, seed=1) as tuned:
        graft = tuned._graft
        tensors = list(graft.parameters[0].tensors)
        wide(tensors)
        graft.train(True)
        torch.manual_seed(8)
        found = ours(base, items, graft, tensors, num_shared)
        graft.train(False)
        (batch,) = batches(base, items, 0, 4096, num_shared)
    order = [(layer, name) for layer in range(2) for name in ALL_LINEAR]
    order += [(2, name) for name in ("k_proj", "v_proj", "q_proj", *ALL_LINEAR[3:])]
    of = dict(zip(order, masks, strict=True))
    for one in range(len(masks)):
        for two in range(one):
            if masks[one].shape == masks[two].shape and masks[one].numel() > 1000:
                alike = float((masks[one] == masks[two]).float().mean())
                assert abs(alike - (0.75**2 + 0.25**2)) < 0.06, "modules draw independently"
    answer_rows = {row: place for place, row in enumerate(sorted({read.row for read in batch.reads}))}

    import peft

    twin = peft_twin(
        kind, peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.25, target_modules=ALL_LINEAR, task_type="CAUSAL_LM")
    )
    theirs = [p for p in twin.parameters() if p.requires_grad]
    wide(theirs)
    twin.eval()
    scores, weights = np.zeros(found[0].shape), weights_of(items)
    for number, item in enumerate(items):
        for which, answer in enumerate(item.answers):
            rows = path_rows(batch, number, which)
            for (layer, name), mask in of.items():
                path = [
                    module for key, module in twin.named_modules() if f"layers.{layer}." in key and key.endswith(name)
                ]
                if len(mask) == len(answer_rows):  # the last layer asks at answer rows only
                    chosen = torch.zeros(len(rows), mask.shape[1])
                    for place, row in enumerate(rows):
                        if row in answer_rows:
                            chosen[place] = mask[answer_rows[row]]
                else:
                    chosen = mask[rows].float()
                path[0].lora_dropout["default"] = Dropped(chosen, 0.25)
            ids = torch.tensor([[*item.tokens, *answer][:-1]])
            assert ids.shape[1] == len(rows)
            logits = twin(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            end = len(item.tokens)
            score = torch.stack([logits[end - 1 + step, token] for step, token in enumerate(answer)]).sum()
            scores[number, which] = float(score.detach())
            (score * weights[number, which]).backward()
    assert_same(found, (scores, [tensor.grad for tensor in theirs]))


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_everywhere(drop: float) -> None:
    torch.manual_seed(0)
    masks = torch.stack([kernels._draw_kept(torch.Size((101, 33)), drop, torch.device("cpu")) for _ in range(300)])
    assert masks.dtype == torch.bool
    share = masks.float().mean(0)
    spread = (drop * (1 - drop) / 300) ** 0.5
    assert abs(float(share.mean()) - (1 - drop)) < 5 * spread / (101 * 33) ** 0.5 + 1 / 65536
    assert float((share - (1 - drop)).abs().max()) < 6 * spread, "no place is kept more often than another"
    assert abs(kernels._kept_share(drop) - (1 - drop)) <= 0.5 / 65536


def test_neighbours_in_a_mask_and_masks_in_a_row_are_independent() -> None:
    """Four places share one drawn number: none says anything of the next, nor does the next mask."""
    torch.manual_seed(1)
    device = torch.device("cpu")
    masks = torch.stack([kernels._draw_kept(torch.Size((512, 64)), 0.3, device).flatten() for _ in range(4)])
    centred = masks.float() - 0.7
    bound = 5 * 0.21 / centred.shape[1] ** 0.5
    for step in range(1, 9):
        assert float((centred[0, step:] * centred[0, :-step]).mean().abs()) < bound
    for other in (1, 2, 3):
        assert float((centred[0] * centred[other]).mean().abs()) < bound


def test_dropout_is_the_same_again_by_its_seed() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return kernels._draw_kept(torch.Size((7, 13)), 0.5, torch.device("cpu"))

    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))


def test_dropout_leaves_the_mean_alone() -> None:
    """scale * B A dropout(x) is right on average, within its standard error."""
    torch.manual_seed(2)
    x, weight = torch.randn(6, 40), torch.randn(10, 40)
    added = LowRank(torch.randn(4, 40), torch.randn(10, 4), 2.0, drop=0.4)
    with torch.no_grad():
        (exact,) = kernels.norm_linears(x, None, [Map(weight, None, added)], False)
        draws = torch.stack([kernels.norm_linears(x, None, [Map(weight, None, added)], True)[0] for _ in range(3000)])
    error = (draws.mean(0) - exact) / (draws.std(0) / 3000**0.5)
    assert float(error.abs().max()) < 5 and 0.7 < float(error.std()) < 1.3
    assert torch.allclose(exact, x @ weight.T + 2.0 * x @ added.down.T @ added.up.T, atol=1e-3)


@pytest.mark.parametrize("with_norm", [True, False])
def test_gradients_of_the_fused_maps_are_autograds_under_the_same_masks(
    with_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two maps, one with bias, 1,300 rows: more than one tile."""
    torch.manual_seed(3)
    masks: list[Tensor] = []
    draw = kernels._draw_kept
    monkeypatch.setattr(kernels, "_draw_kept", lambda *given: masks.append(draw(*given)) or masks[-1])
    x = torch.randn(1300, 24, requires_grad=True)
    norm = Norm(torch.rand(24) + 0.5, 1e-6) if with_norm else None
    adds = [
        LowRank(nn.Parameter(torch.randn(4, 24)), nn.Parameter(torch.randn(out, 4)), 0.5, drop) for out, drop in
        ((16, 0.3), (8, 0.0))
    ]  # fmt: skip
    maps = [Map(torch.randn(16, 24), torch.randn(16), adds[0]), Map(torch.randn(8, 24), None, adds[1])]
    maps.append(Map(torch.randn(5, 24)))
    leaves = [x, *(t for add in adds for t in (add.down, add.up))]
    results = kernels.norm_linears(x, norm, maps, True)
    weights = [torch.randn_like(result) for result in results]
    found = torch.autograd.grad(sum((r * w).sum() for r, w in zip(results, weights, strict=True)), leaves)
    wide_x = x.double()
    h = wide_x if norm is None else wide_x * (wide_x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight
    total = torch.zeros((), dtype=torch.float64)
    assert len(masks) == 1, "a map without dropout draws nothing"
    for each, result, weight in zip(maps, results, weights, strict=True):
        expected = h @ each.weight.double().T
        if each.bias is not None:
            expected = expected + each.bias
        if each.added is not None:
            dropped = h * masks[0] / 0.7 if each.added.drop else h
            expected = expected + 0.5 * dropped @ each.added.down.double().T @ each.added.up.double().T
        assert torch.allclose(result.double(), expected, rtol=1e-4, atol=1e-3)
        total = total + (expected * weight).sum()
    for mine, theirs in zip(found, torch.autograd.grad(total, leaves), strict=True):
        assert float((mine - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


# --- norms, and 16 bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_both_backward_passes_of_the_norm_are_autograds(dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(4)
    x, grad = torch.randn(37, 48).to(dtype), torch.randn(37, 48).to(dtype)
    norm = Norm((torch.rand(48) + 0.5).to(dtype), 1e-5)
    exact = x.double().requires_grad_()
    result = exact * (exact.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight.double()
    (expected,) = torch.autograd.grad(result, exact, grad.double())
    by_hand = kernels._norm_backward(grad.clone(), x, kernels.inverse_rms(x, norm.eps), norm)
    fused = kernels._norm_backward_fused(grad.clone(), x, norm)
    assert torch.allclose(kernels.normed(x, kernels.inverse_rms(x, norm.eps), norm).double(), result, rtol=bound)
    for found in (by_hand, fused):
        assert float((found.double() - expected).abs().max()) < bound * float(expected.abs().max())


def bfloat16_base(kind: str, **changes: Any) -> tuple[Base, Base]:
    """(the base in bf16, a float32 copy of those very weights)"""
    low, high = toy_base(kind, **changes), toy_base(kind, **changes)
    low.model.to(torch.bfloat16)
    high.model.load_state_dict({name: tensor.float() for name, tensor in low.model.state_dict().items()})
    low.path = check_path(low, torch.bfloat16)
    return low, high


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_bfloat16_weights_score_as_a_float32_copy_within_their_rounding(kind: str) -> None:
    """About as far from the float32 copy as transformers' own bf16 pass, whose rounding wide weights make large."""
    low, high = bfloat16_base(kind)
    assert low.path.fast, low.path.why
    examples = draw_examples(range(1, 33, 2))
    expected = one_by_one(eager(high.model), examples)
    found = label_scores(low, examples, Graft())
    theirs = one_by_one(eager(low.model), examples)
    assert np.abs(found - expected).mean() <= 1.3 * np.abs(theirs - expected).mean()


def test_the_check_in_16_bits_sees_a_wrong_attention_and_leaves_the_weights_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low, _ = bfloat16_base("llama")
    before = fingerprint(low)
    assert low.path.fast
    right = forward.attention.layout

    def blind_to_the_root(segments: Any) -> Any:
        plan = right(segments)
        groups = tuple(dataclasses.replace(group, spans=()) for group in plan.groups)
        return dataclasses.replace(plan, groups=groups)

    monkeypatch.setattr(forward.attention, "layout", blind_to_the_root)
    found = check_path(low, torch.bfloat16)
    assert not found.fast and "off by" in found.why and "times the model's own rounding" in found.why
    assert same(before, fingerprint(low))
    assert {weight.dtype for weight in low.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", FAST)
def test_bfloat16_weights_of_usual_width_pass_the_check(kind: str) -> None:
    low, high = bfloat16_base(kind, initializer_range=0.1)
    assert low.path.fast, low.path.why
    examples = draw_examples(LENGTHS)
    assert relative(label_scores(low, examples, Graft()), label_scores(high, examples, Graft())) < 5e-3


def test_the_head_multiplies_in_float32_whatever_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "HEAD_ROWS", 100)  # 384 rows of the head in four parts
    base, _ = bfloat16_base("llama")
    hidden = torch.randn(5, 32).to(torch.bfloat16)
    logits = forward.head_logits(base, hidden).detach()
    assert logits.dtype == torch.float32
    exact = (hidden.double() @ base.head.weight.double().T).detach()
    assert float((logits - exact).abs().max()) < 1e-6 * float(exact.abs().max())


@pytest.mark.parametrize("name", ["lora", "prompt_tuning", "loreft"])
def test_adapters_on_a_bfloat16_base_are_float32(name: str, tmp_path: Path) -> None:
    base, _ = bfloat16_base("llama")
    before = fingerprint(base)
    for saved in (None, tmp_path):
        with make(name, learning_rate=1e-2).attach(base, TASK, seed=1, saved=saved) as tuned:
            assert {t.dtype for group in tuned._graft.parameters for t in group.tensors} == {torch.float32}
            curve = tuned.fit(TRAIN, [], dataclasses.replace(TRAINING, epochs=4, updates=None), seed=2)
            tuned.save(tmp_path)
        assert curve.points[-1]["train_loss"] < curve.points[0]["train_loss"]
    assert same(before, fingerprint(base))


def test_full_on_a_bfloat16_base_adds_up_updates_below_its_rounding() -> None:
    """40 updates of 1e-4 on weights above 0.5, whose neighbours in bf16 are 4e-3 away."""
    low, high = bfloat16_base("llama", initializer_range=0.2)
    training = dataclasses.replace(TRAINING, updates=40, schedule="constant", warmup=0.0)
    moved = []
    for base in (low, high):
        before = fingerprint(base)
        start = {name: p.detach().float().clone() for name, p in base.model.named_parameters()}
        with make("full", learning_rate=1e-4).attach(base, TASK, seed=1) as tuned:
            tuned.fit(TRAIN, [], training, seed=2)
            moved.append({name: p.detach().float() - start[name] for name, p in base.model.named_parameters()})
            assert {p.dtype for p in base.model.parameters()} == {next(base.model.parameters()).dtype}
        assert same(before, fingerprint(base))
    name = "model.layers.1.mlp.up_proj.weight"
    large = start[name].abs() > 0.5
    weights = start[name][large]
    assert torch.equal((weights + 1e-4).bfloat16(), weights.bfloat16()), "one update is below the rounding"
    rounded, exact = moved[0][name][large], moved[1][name][large]
    far = exact.abs() > 2.5e-3  # more than half of the way to the neighbour, so it must have been reached
    assert int(far.sum()) > 10
    assert float((torch.sign(rounded[far]) == torch.sign(exact[far])).float().mean()) > 0.9
    everything = [torch.cat([part.flatten() for part in one.values()]) for one in moved]
    assert float(torch.cosine_similarity(everything[0], everything[1], dim=0)) > 0.8


# --- lengths, windows -----------------------------------------------------------------------------------------


EDGES = (127, 128, 129, 191, 192, 255, 640, 641, 1)


def test_lengths_at_the_edges_of_chunks_and_of_what_is_kept() -> None:
    assert (attention.CHUNK, attention.KEPT_KEYS) == (128, 640), "choose the lengths anew"
    base = frozen_base("qwen3")
    prefix = nn.Parameter(torch.randn(2, 32))
    graft = Graft([ParameterGroup([prefix], 1.0)], prefix_embeddings=lambda: prefix, num_virtual=2)
    # One root of ten tokens, so that chunks end beside the kept lengths with and without it.
    items = as_items(draw_examples(EDGES, shared=8, answers=((5, 6, 7), (9,))))
    expected = plain(eager(toy_model("qwen3").requires_grad_(False)), items, graft, [prefix])
    for num_shared, budget in ((None, 4096), (0, 1)):
        assert_same(ours(base, items, graft, [prefix], num_shared, budget), expected)


def test_gradients_of_a_text_of_3000_tokens_beside_one_of_1_token() -> None:
    base = frozen_base("llama", num_hidden_layers=2)
    weight = base.model.model.layers[0].self_attn.k_proj.weight.requires_grad_(True)
    items = as_items(draw_examples([1, 3000, 5], shared=0, answers=((5,),)))
    twin = eager(toy_model("llama", num_hidden_layers=2).requires_grad_(False))
    theirs = twin.model.layers[0].self_attn.k_proj.weight.requires_grad_(True)
    assert_same(ours(base, items, Graft(), [weight]), plain(twin, items, None, [theirs]))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_no_text_moves_another(kind: str) -> None:
    base = fast_base(kind)
    examples = draw_examples([9, 1, 31, 14])
    before = label_scores(base, examples, Graft())
    for number, example in enumerate(examples):
        changed = list(examples)
        changed[number] = dataclasses.replace(example, tokens=(*example.tokens[:-1], 301, 302, 303))
        difference = np.abs(label_scores(base, changed, Graft()) - before).max(axis=1)
        assert difference[number] > 1e-3
        assert np.delete(difference, number).max() < 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("tied", [False, True])
def test_logits_made_in_parts_change_no_gradient(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a weight in the layers and of the head's, which is the embedding's too where they are tied."""
    base = frozen_base("llama", tie_word_embeddings=tied)
    tensors = [base.model.model.layers[1].mlp.up_proj.weight, base.model.lm_head.weight]
    for tensor in tensors:
        tensor.requires_grad_(True)
    items = as_items(draw_examples([9, 20, 31, 14, 2] * 6))
    asked: list[int] = []
    right = forward.head_logits

    def counted(base: Base, hidden: Tensor) -> Tensor:
        asked.append(len(hidden))
        return right(base, hidden)

    monkeypatch.setattr(forward, "head_logits", counted)
    whole = ours(base, items, Graft(), tensors)
    rows = asked[0]
    asked.clear()
    monkeypatch.setattr(forward, "TRAINED_LOGITS", 1)  # the fewest rows there are
    parts = ours(base, items, Graft(), tensors)
    assert max(asked) == 64 < rows and sum(asked) == 2 * rows, "made again on the way back"
    assert_same(parts, whole)


def test_neither_order_nor_budget_moves_a_gradient() -> None:
    base = frozen_base("llama")
    weight = base.model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    items = as_items(draw_examples([9, 20, 31, 14, 2]))
    sums = []
    for order, budget in ((items, 4096), (items[::-1], 4096), (items, 64), (items, 1)):
        weight.grad = None
        for batch in batches(base, order, 0, budget):
            batch_scores(base, batch, Graft(), len(ANSWERS)).sum().backward()
        sums.append(weight.grad.clone())
    for other in sums[1:]:
        assert float((other - sums[0]).abs().max()) < 1e-4 * float(sums[0].abs().max())


@pytest.mark.parametrize(("kind", "changes"), [("mistral", {"sliding_window": 32}), ("gemma3", {"sliding_window": 32})])
@pytest.mark.parametrize("virtual", [0, 5])
def test_texts_longer_than_the_window_take_the_plain_path(kind: str, changes: dict[str, Any], virtual: int) -> None:
    """At the window itself a text still fits: of 32 tokens a query sees 32 keys, its own included."""
    base = frozen_base(kind, **changes)
    assert base.path.fast and base.facts["sliding_window"] == 32
    prefix = nn.Parameter(torch.randn(virtual, 32))
    tensors = [prefix] if virtual else []
    graft = Graft(prefix_embeddings=(lambda: prefix) if virtual else None, num_virtual=virtual)
    fits = 32 - virtual - 8 - 4
    items = as_items(draw_examples([3, fits, fits + 1, 60, 1, 100], shared=8))
    with progress.recording() as journal:
        made = list(batches(base, items, virtual, 4096))
    assert journal.notes == ["texts longer than the sliding window took the plain path"]
    assert sorted(index for batch in made if batch.segments is None for index in batch.items) == [2, 3, 5]
    expected = plain(eager(toy_model(kind, **changes).requires_grad_(False)), items, graft, tensors)
    assert_same(ours(base, items, graft, tensors), expected)


# --- the base afterwards, and what was saved ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
@pytest.mark.parametrize("name", [name for name in METHODS if make(name).passes() > 1 and not on_encoder(name)])
def test_the_base_is_bit_identical_afterwards(name: str, kind: str) -> None:
    base = toy_base(kind, tie_word_embeddings=True)
    before = fingerprint(base)
    with make(name).attach(base, TASK, seed=1) as tuned:
        tuned.fit(TRAIN[:8], [], dataclasses.replace(TRAINING, updates=2), seed=2)
    assert same(before, fingerprint(base))


def test_saved_lora_on_every_matrix_gives_the_same_scores_in_plain_peft(tmp_path: Path) -> None:
    base = fast_base("llama")
    with make("lora", targets=ALL_LINEAR, learning_rate=1e-2).attach(base, TASK, seed=1) as tuned:
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        scores = tuned.predict(TEST)
        tuned.save(tmp_path)
    assert relative(peft_scores(base, tmp_path), normalise(scores)) < 1e-5


# --- the plain path: padding --------------------------------------------------------------------------------


def cheapest_by_hand(widths: Sequence[int], rows: Sequence[int], budget: int, fixed: int) -> int:
    """The cost of the best of all ways to cut."""
    if not widths:
        return 0
    costs = []
    for first in range(len(widths)):
        tokens = sum(rows[first:]) * widths[-1]
        if tokens <= budget or first == len(widths) - 1:
            costs.append(tokens + fixed + cheapest_by_hand(widths[:first], rows[:first], budget, fixed))
    return min(costs)


@pytest.mark.parametrize(("budget", "fixed"), [(10_000, 0), (10_000, 64), (300, 64), (50, 10)])
def test_batches_are_cut_at_the_least_cost(budget: int, fixed: int) -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 7, 9):
        widths = sorted(rng.integers(1, 200, count).tolist())
        rows = rng.integers(1, 4, count).tolist()
        cuts = batching.cut_by_width(widths, rows, budget, fixed)
        assert [index for cut in cuts for index in range(cut.start, cut.stop)] == list(range(count))
        sizes = [sum(rows[cut]) * widths[cut.stop - 1] for cut in cuts]
        assert all(size <= budget or cut.stop - cut.start == 1 for size, cut in zip(sizes, cuts, strict=True))
        assert sum(sizes) + fixed * len(cuts) == cheapest_by_hand(widths, rows, budget, fixed)


def test_a_step_of_texts_of_all_lengths_is_hardly_padded() -> None:
    """Lengths spread as those of reviews: padded together, a step of 16 would run three times its tokens."""
    base = toy_base("gpt2")
    rng = np.random.default_rng(1)
    together = apart = real = 0
    for _ in range(20):
        lengths = np.clip(np.exp(rng.normal(5.4, 0.7, 16)).astype(int), 10, 3000).tolist()
        items = [Item((5,) * length, ((6,), (7,))) for length in lengths]
        made = list(batches(base, items, 0, 65536))
        assert sorted(index for batch in made for index in batch.items) == list(range(16))
        together, apart, real = (
            together + 16 * max(lengths),
            apart + sum(b.num_tokens for b in made),
            real + sum(lengths),
        )
    assert together > 2.5 * real and apart < 1.15 * real


@pytest.mark.parametrize("kind", PLAIN)
def test_the_plain_path_has_the_numbers_of_plain_transformers(kind: str) -> None:
    base = toy_base(kind)
    items = as_items(draw_examples([9, 1, 70, 31, 200, 3, 64]))
    assert len(list(batches(base, items, 0, 4096))) > 1
    names = [name for name, p in base.model.named_parameters() if p.dim() == 2]
    twin = eager(toy_model(kind))
    expected = plain(twin, items, None, [dict(twin.named_parameters())[name] for name in names])
    for budget in (4096, 128):
        found = ours(base, items, Graft(), [dict(base.model.named_parameters())[name] for name in names], None, budget)
        assert_same(found, expected)


# --- the record -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "path", "why"),
    [
        ("qwen3", "fast", r"fast path, checked: largest error \de-\d\d"),
        ("gpt2", "plain", "plain path, because the packed way is not proven for 'gpt2' models"),
    ],
)
def test_a_record_says_which_path_and_why(kind: str, path: str, why: str, tmp_path: Path) -> None:
    lines = ["text,label", *(f"film number {index},{('bad', 'good')[index % 2]}" for index in range(20))]
    (tmp_path / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = make_toy_model(tmp_path / "toy", kind)
    study = tmp_path / "study.toml"
    study.write_text(
        f"name = 'paths'\n[fixed]\nmodel = {{ checkpoint = '{model}' }}\n"
        f"data = {{ name = 'table_file', path = '{tmp_path / 'texts.csv'}', test_size = 6 }}\n"
        "[grid]\nmethod = ['zero_shot']\nnum_labels = [4]\n",
        encoding="utf-8",
    )
    (spec,) = plan_study(read_study(str(study)), "typed").distinct
    record, _ = run(spec, RunSettings())
    assert record.engine["path"] == path
    assert re.fullmatch(why, record.execution["path"])
