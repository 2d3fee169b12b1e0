"""The engine's exactness, against plain transformers one text at a time, on widely drawn weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from handful.engine.attention import (
    Layout,
    _GroupAttention,
    cut_layout,
    dense_mask,
    gathered_attention,
    layout,
    masked_attention,
)
from handful.engine.batching import batches
from handful.engine.forward import answer_logits
from handful.engine.graft import Graft
from handful.engine.layers import Unsupported, check_anatomy
from handful.engine.packing import Item, common_prefix, pack_items
from handful.engine.scoring import batch_scores, label_scores
from handful.examples import EncodedExample
from toys import FAST, PLAIN, toy_base, toy_model

ANSWERS = ((5, 6, 7), (5, 6, 8, 9), (10,), (5, 11))
"""Four labels: three begin alike, one has four tokens, one has a single token."""


def draw_examples(lengths: Sequence[int], shared: int = 12, answers: tuple = ANSWERS) -> list[EncodedExample]:
    rng = np.random.default_rng(7)
    prefix = tuple(rng.integers(20, 300, shared).tolist())
    return [
        EncodedExample(
            str(n), prefix + tuple(rng.integers(20, 300, length).tolist()), answers, n % len(answers), {"text": ""}
        )
        for n, length in enumerate(lengths)
    ]


@torch.no_grad()
def one_by_one(model: torch.nn.Module, examples: Sequence[EncodedExample]) -> np.ndarray:
    """Each label's log-probability by one plain forward pass per text and label, nothing of ours in it."""
    rows = []
    for example in examples:
        row = []
        for answer in example.answers:
            ids = torch.tensor([example.tokens + answer])
            logits = model(input_ids=ids).logits[0].double().log_softmax(-1)
            start = len(example.tokens) - 1
            row.append(sum(float(logits[start + step, token]) for step, token in enumerate(answer)))
        rows.append(row)
    return np.array(rows)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("kind", FAST)
def test_packed_scores_are_those_of_plain_transformers(kind: str) -> None:
    base = toy_base(kind)
    assert base.path.fast, base.path.why
    examples = draw_examples([1, 40, 3, 17, 29, 8])
    expected = one_by_one(base.model, examples)
    for budget in (64, 256, 4096):
        base.token_budget = budget
        assert relative(label_scores(base, examples, Graft()), expected) < 1e-5


def test_a_text_of_3000_tokens_beside_one_of_1_token() -> None:
    base = toy_base("llama")
    examples = draw_examples([1, 3000, 5])
    assert relative(label_scores(base, examples, Graft()), one_by_one(base.model, examples)) < 1e-5


@pytest.mark.parametrize("kind", PLAIN)
def test_other_architectures_take_the_plain_path_and_are_exact(kind: str) -> None:
    base = toy_base(kind)
    assert not base.path.fast and base.path.why.startswith("plain path, because")
    examples = draw_examples([1, 40, 3, 17, 100, 8])
    base.token_budget = 512
    assert relative(label_scores(base, examples, Graft()), one_by_one(base.model, examples)) < 1e-5


def test_texts_longer_than_a_sliding_window_are_exact_too() -> None:
    base = toy_base("gemma3")
    assert base.facts["sliding_window"] == 64
    examples = draw_examples([1, 90, 3, 130])
    base.token_budget = 512
    assert relative(label_scores(base, examples, Graft()), one_by_one(base.model, examples)) < 1e-5


def test_a_model_with_grouped_heads_and_the_check_sees_a_wrong_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    import handful.engine.attention as attention

    right = attention.layout

    def without_ancestors(segments):
        plan = right(segments)
        groups = tuple(dataclasses.replace(group, spans=()) for group in plan.groups)
        return Layout(segments, None, groups, plan.num_queries, plan.num_keys)

    monkeypatch.setattr(attention, "layout", without_ancestors)
    base = toy_base("llama")
    assert not base.path.fast and "off by" in base.path.why


def test_changing_one_text_moves_no_other() -> None:
    base = toy_base("qwen3")
    examples = draw_examples([9, 20, 31, 14])
    before = label_scores(base, examples, Graft())
    changed = list(examples)
    changed[1] = EncodedExample("x", (*examples[1].tokens[:-3], 301, 302, 303), ANSWERS, 0, {})
    after = label_scores(base, changed, Graft())
    assert np.abs(after - before)[1].max() > 1e-3
    others = [0, 2, 3]
    assert np.abs(after - before)[others].max() < 1e-5 * np.abs(before).max()


def test_order_does_not_matter() -> None:
    base = toy_base("llama")
    examples = draw_examples([9, 20, 31, 14, 2])
    base.token_budget = 128
    forward = label_scores(base, examples, Graft())
    backward = label_scores(base, examples[::-1], Graft())[::-1]
    assert relative(backward, forward) < 1e-5


def gradients(base, items, num_shared, budget, prefix=None) -> list[torch.Tensor]:
    """Gradient of the summed scores, to all weights and to the virtual tokens."""
    tensors = [p for p in base.model.parameters() if p.requires_grad] + ([prefix] if prefix is not None else [])
    for tensor in tensors:
        tensor.grad = None
    virtual = 0 if prefix is None else prefix.shape[0]
    graft = Graft(prefix_embeddings=None if prefix is None else lambda: prefix, num_virtual=virtual)
    for batch in batches(base, items, virtual, budget, num_shared):
        batch_scores(base, batch, graft, len(items[0].answers)).sum().backward()
    return [tensor.grad.clone() for tensor in tensors]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma"])
@pytest.mark.parametrize("virtual", [0, 5])
def test_gradients_with_and_without_the_shared_prefix(kind: str, virtual: int) -> None:
    base = toy_base(kind)
    base.model.requires_grad_(True)
    prefix = torch.nn.Parameter(torch.randn(virtual, 32)) if virtual else None
    items = [Item(e.tokens, e.answers) for e in draw_examples([9, 20, 31, 14, 1])]
    shared = gradients(base, items, 12, 4096, prefix)
    apart = gradients(base, items, 0, 1, prefix)  # a budget of one token: every text a pack of its own
    for ours, theirs in zip(shared, apart, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max()) + 1e-12


def test_gradients_are_those_of_plain_transformers() -> None:
    base = toy_base("llama")
    base.model.requires_grad_(True)
    examples = draw_examples([9, 20, 31])
    ours = gradients(base, [Item(e.tokens, e.answers) for e in examples], None, 4096)
    base.model.zero_grad()
    for example in examples:
        for answer in example.answers:
            logits = base.model(input_ids=torch.tensor([example.tokens + answer])).logits[0].log_softmax(-1)
            start = len(example.tokens) - 1
            sum(logits[start + step, token] for step, token in enumerate(answer)).backward()
    theirs = [p.grad for p in base.model.parameters()]
    for mine, plain in zip(ours, theirs, strict=True):
        assert float((mine - plain).abs().max()) <= 1e-4 * float(plain.abs().max()) + 1e-12


def test_weights_that_could_be_trained_are_scored_as_frozen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    base = toy_base("llama")
    base.network.requires_grad_(True)
    examples = draw_examples([5, 20])

    def refuse(*_: object) -> None:
        raise AssertionError("a module of the model ran by itself")

    for layer in base.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                monkeypatch.setattr(module, "forward", refuse)
    label_scores(base, examples, Graft())


def test_head_sees_answer_rows_only() -> None:
    base = toy_base("llama")
    items = [Item(e.tokens, e.answers) for e in draw_examples([30, 40])]
    (batch,) = batches(base, items, 0, 4096)
    logits, _ = answer_logits(base, batch, Graft())
    assert logits.shape[0] == len({read.row for read in batch.reads}) == 2 * (1 + 1 + 1 + 1)


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ],
)
def test_what_the_layers_do_not_know_is_refused(kind: str, changes: dict, why: str) -> None:
    base = toy_base(kind, **changes)
    assert not base.path.fast and why in base.path.why


def test_a_layer_with_a_part_of_its_own_is_refused() -> None:
    model = toy_model("llama")
    model.model.layers[1].self_attn.sinks = torch.nn.Linear(2, 2)
    with pytest.raises(Unsupported, match="sinks"):
        check_anatomy(model.config, model.model.layers)


def test_packs_hold_every_item_once_within_the_budget() -> None:
    items = [Item(e.tokens, e.answers) for e in draw_examples([5, 300, 41, 8, 120, 77, 2])]
    packs = list(pack_items(items, 256, num_virtual=4))
    assert [index for pack in packs for index in pack.items] == list(range(len(items)))
    assert all(len(pack.token_ids) <= 256 or len(pack.items) == 1 for pack in packs)
    for pack in packs:
        for segment in pack.segments:
            parent = pack.segments[segment.parent] if segment.parent >= 0 else None
            if parent is not None:
                assert parent.stop <= segment.start and segment.last <= parent.last
                assert pack.positions[segment.start] == pack.positions[parent.stop - 1] + 1


def test_common_prefix_leaves_every_prompt_a_token() -> None:
    assert common_prefix([(1, 2, 3), (1, 2, 3), (1, 2)]) == 1
    assert common_prefix([(1, 2, 3), (4, 2)]) == 0
    assert common_prefix([]) == 0


def test_scoring_77_labels_of_several_tokens() -> None:
    rng = np.random.default_rng(3)
    answers = tuple({(*tuple(rng.integers(20, 30, rng.integers(1, 6)).tolist()), int(n) + 30): None for n in range(77)})
    base = toy_base("qwen2")
    examples = draw_examples([12, 30], answers=answers)
    assert relative(label_scores(base, examples, Graft()), one_by_one(base.model, examples)) < 1e-5


def test_a_shared_root_sums_16_bit_gradients_in_float32() -> None:
    """As exact as the float32 attention of the same 16-bit numbers, rounded once."""
    items = [Item((*range(20, 28), 40 + number), ((5,),)) for number in range(150)]
    (pack,) = pack_items(items, 10**6, 0, 8)
    size = len(pack.token_ids)
    torch.manual_seed(0)
    states = [torch.randn(size, 2, 16).bfloat16() for _ in range(3)]
    wanted = torch.ones(size, 2, 16)  # alike in all texts, so that their sums grow
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [state.to(dtype).requires_grad_() for state in states]
        plan = layout(pack.segments)
        mixed = _GroupAttention.apply(*leaves, plan.steps(dtype), 0.25)
        gradients.append(torch.autograd.grad(mixed, leaves[2], wanted.to(dtype))[0][:8].float())
    exact, ours = gradients
    assert float(exact.min()) > 5, "many texts must have been added up"
    assert float(((ours - exact) / exact).abs().max()) < 0.006


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("virtual", [0, 3])
def test_all_forms_of_attention_are_one(cut: bool, virtual: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks merged by log-sum-exp, one dense mask, gathered keys: outputs and gradients."""
    torch.manual_seed(0)
    (pack,) = pack_items([Item(e.tokens, e.answers) for e in draw_examples([9, 20, 1])], 4096, virtual)
    rows = sorted({read.row for read in pack.reads})
    plan = cut_layout(pack.segments, rows) if cut else layout(pack.segments)
    tokens = len(pack.token_ids)
    states = [torch.randn(n, 4, 16, requires_grad=True) for n in (len(rows) if cut else tokens, tokens, tokens)]
    monkeypatch.setattr("handful.engine.attention._varlen", varlen_by_hand)
    forms = [
        _GroupAttention.apply(*states, plan.steps(torch.float32), 0.25),
        masked_attention(*states, plan, 0.25),
        gathered_attention(*states, plan, 0.25),
    ]
    grad = torch.randn_like(forms[0])
    gradients = [torch.autograd.grad(form, states, grad) for form in forms]
    for form, parts in zip(forms[1:], gradients[1:], strict=True):
        assert torch.allclose(forms[0], form, atol=1e-5)
        assert all(torch.allclose(ours, other, atol=1e-4) for ours, other in zip(gradients[0], parts, strict=True))


def varlen_by_hand(query, key, value, told, scale):
    """What `varlen_attn` does, path by path: lower-right causal."""
    out = []
    edges_q, edges_k = told["cu_q"].tolist(), told["cu_k"].tolist()
    for q0, q1, k0, k1 in zip(edges_q, edges_q[1:], edges_k, edges_k[1:], strict=False):
        q, k, v = (x.transpose(0, 1) for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(k1 - k0 - (q1 - q0))
        out.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale))
    return torch.cat([part.transpose(0, 1) for part in out])


def test_the_dense_mask_of_a_small_tree_written_out() -> None:
    """Root of two tokens, one text of two, answers (7, 8, 9) and (7, 5): node 7 with 8 below it."""
    (pack,) = pack_items([Item((1, 2, 3, 4), ((7, 8, 9), (7, 5, 6)))], 64, 0, num_shared=2)
    assert pack.token_ids == (1, 2, 3, 4, 7, 8, 5)
    seen = (dense_mask(layout(pack.segments), torch.float32, torch.device("cpu")) == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 1],
    ]
    rows = sorted({read.row for read in pack.reads})
    assert rows == [3, 4, 5, 6]
    cut = dense_mask(cut_layout(pack.segments, rows), torch.float32, torch.device("cpu"))
    assert (cut == 0).int().tolist() == seen[3:]


def test_toy_weights_are_wide_enough_to_show_a_wrong_mask() -> None:
    model = toy_model("llama")
    examples = draw_examples([9])
    right = one_by_one(model, examples)
    with torch.no_grad():
        ids = torch.tensor([examples[0].tokens[::-1] + ANSWERS[2]])
        wrong = float(model(input_ids=ids).logits[0].log_softmax(-1)[-2, 10])
    assert abs(wrong - right[0, 2]) > 1e-2
