"""Element-wise chains: their arithmetic, whole models with them, and what happens where they cannot be compiled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handful.engine import chains, kernels
from handful.engine.batching import batches
from handful.engine.kernels import GatedMLP
from handful.engine.packing import Item
from handful.engine.scoring import batch_scores
from handful.examples import Task
from handful.methods.lora import LoRA
from handful.progress import recording
from toys import toy_base

TASK = Task(("a", "b"), ("a", "b"), (), ())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield


@pytest.mark.parametrize("is_gelu", [False, True])
def test_the_chains_are_what_the_tiles_compute(is_gelu: bool) -> None:
    gate, up, grad = draw(9, 6), draw(9, 6, seed=1), draw(9, 6, seed=2)
    mlp = GatedMLP(gate, up, up, is_gelu)
    tiled = mlp.gated(gate.clone(), up), *mlp.gated_backward(grad.clone(), gate, up)
    with chains.compiled("eager"):
        whole = mlp.gated(gate, up), *mlp.gated_backward(grad, gate, up)
    for ours, theirs in zip(whole, tiled, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    result = chains.activation(leaves[0], is_gelu) * leaves[1]
    for ours, theirs in zip(whole[1:], torch.autograd.grad(result, leaves, grad.double()), strict=True):
        assert torch.allclose(ours.double(), theirs, atol=1e-6)


def test_rotation_there_and_back() -> None:
    x, angles = draw(7, 3, 8), draw(7, 1, 4, seed=1)
    cos, sin = angles.cos(), angles.sin()
    for sign, back in ((-1.0, False), (1.0, True)):
        with chains.compiled("eager"):
            ours = chains.rotated(x, cos, sin, sign)
        assert torch.allclose(ours, kernels.rotate_(x.clone(), cos, sin, back=back), atol=1e-6)


def scores_and_gradients(kind: str) -> list[Tensor]:
    base = toy_base(kind)
    tokens = np.random.default_rng(0).integers(4, 300, (5, 40)).tolist()
    items = [Item(tuple(text[: 10 + 6 * index]), ((5,), (6, 7))) for index, text in enumerate(tokens)]
    with LoRA(dropout=0.3, targets=("q_proj", "v_proj")).attach(base, TASK, seed=3) as tuned:
        graft = tuned._graft
        torch.manual_seed(0)
        trained = [parameter for group in graft.parameters for parameter in group.tensors]
        for parameter in trained:
            parameter.data.normal_(0, 0.1)
        graft.train(True)
        results = []
        for batch in batches(base, items, 0, 512):
            torch.manual_seed(1)
            scores = batch_scores(base, batch, graft, 3)
            scores.square().sum().backward()
            results += [scores.detach()]
        return results + [parameter.grad for parameter in trained]


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen3"])
def test_a_model_with_compiled_chains_scores_and_learns_alike(kind: str) -> None:
    plainly = scores_and_gradients(kind)
    with chains.compiled("aot_eager"), recording() as journal:
        compiled = scores_and_gradients(kind)
        assert chains.are_compiled(compiled[0]) and not journal.notes and len(chains._chains._made) == 4
    for ours, theirs in zip(compiled, plainly, strict=True):
        # This toy's gradients are in the hundreds, and move by 1e-4 of the largest from one CPU's kernels to another's.
        assert torch.allclose(ours, theirs, atol=1e-3 * max(1.0, float(theirs.abs().max())))


def test_what_cannot_be_compiled_stays_plain_and_says_so() -> None:
    def breaks(*_: object) -> Any:
        raise RuntimeError("no compiler here")

    plainly = scores_and_gradients("llama")
    with chains.compiled(breaks), recording() as journal:  # type: ignore[arg-type]
        after = scores_and_gradients("llama")
        assert not chains.are_compiled(after[0])
    assert len(journal.notes) == 1 and "no longer compiled" in journal.notes[0]
    assert all(torch.allclose(ours, theirs) for ours, theirs in zip(after, plainly, strict=True))


def test_the_check_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert chains.prepare(cpu, torch.float32) is None
    for dtype in (torch.float32, torch.bfloat16):
        with chains.compiled("aot_eager"):
            assert "compiled chains, checked" in chains._prepare(cpu, dtype)
    with chains.compiled("aot_eager"):
        right = chains._chains.run
        monkeypatch.setattr(chains._chains, "run", lambda plain, *inputs: _doubled(right(plain, *inputs)))
        assert "are off by" in chains._prepare(cpu, torch.float32)
        assert not chains.are_compiled(torch.zeros(1))


def _doubled(result: Any) -> Any:
    return tuple(2 * x for x in result) if isinstance(result, tuple) else 2 * result


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chains_that_inductor_compiled(dtype: torch.dtype) -> None:
    with chains.compiled():
        assert "compiled chains, checked" in chains._prepare(torch.device("cpu"), dtype)
