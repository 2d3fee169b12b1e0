"""Memory: a measured token budget, and what gives way when memory runs out all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import training as training_module
from handful.engine import budget, memory, scoring
from handful.engine.base import Base
from handful.engine.batching import Batch
from handful.engine.graft import Graft
from handful.engine.scoring import batch_scores, label_scores
from handful.errors import RunError
from handful.examples import EncodedExample
from handful.methods.lora import LoRA
from handful.progress import Journal, recording
from handful.training import TrainingSpec
from test_methods import TASK, TEST, TRAIN
from toys import toy_base

SPEC = TrainingSpec(batch_size=8, learning_rate=1e-2, updates=3, loss="labels", warmup=0.0)


class Bounded:
    """Stands for `batch_scores` on a machine where `most` tokens fit into one pass, and `alone` of one text."""

    def __init__(self, most: int, alone: int = 10**9) -> None:
        self.most, self.alone = most, alone
        self.seen: list[tuple[int, bool]] = []

    def __call__(self, base: Base, batch: Batch, *rest: Any) -> torch.Tensor:
        saves = len(rest) > 2 and bool(rest[2])
        self.seen.append((batch.num_tokens, saves))
        fits = batch.num_tokens <= self.most if len(batch.items) > 1 else saves or batch.num_tokens <= self.alone
        scores = batch_scores(base, batch, *rest)
        if not fits:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
        return scores


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bounded]:
    def bound(most: int, alone: int = 10**9) -> Bounded:
        machine = Bounded(most, alone)
        monkeypatch.setattr(training_module, "batch_scores", machine)
        monkeypatch.setattr(scoring, "batch_scores", machine)
        return machine

    return bound


def trained_lora(token_budget: int = 4096, dropout: float = 0.0) -> tuple[list[torch.Tensor], Journal, Base]:
    base = toy_base("llama")
    base.token_budget = token_budget
    with recording() as journal, LoRA(rank=4, alpha=8, dropout=dropout).attach(base, TASK, seed=3) as tuned:
        tuned.fit(TRAIN, [], SPEC, seed=5)
        kept = [tensor.detach().clone() for group in tuned._graft.parameters for tensor in group.tensors]
    return kept, journal, base


def test_the_measured_bytes_are_those_of_the_activations() -> None:
    """Each layer keeps as much as the one before, and at least what the way back needs by hand count."""
    two, three, four = (budget.bytes_per_token(toy_base("llama", num_hidden_layers=layers)) for layers in (2, 3, 4))
    assert four - three == pytest.approx(three - two, rel=0.05)
    # x, queries, keys, values, attention's result, gate and up: floats per token of the toy
    by_hand = 4 * (32 + 32 + 16 + 16 + 32 + 48 + 48)
    # and 4 heads' weights over at most 513 keys
    assert by_hand < three - two < 3 * by_hand + 4 * 4 * 513


@pytest.mark.parametrize(("share_of_largest", "expected"), [(10, 8192), (1, 8192), (0.99, 4096), (0.3, 2048), (0, 64)])
def test_the_budget_is_the_largest_power_of_two_that_fits(
    monkeypatch: pytest.MonkeyPatch, share_of_largest: float, expected: int
) -> None:
    base = toy_base("llama")
    wanted = budget.LARGEST_BUDGET["cpu"] * budget.bytes_per_token(base) / budget.SHARE
    monkeypatch.setattr(budget, "available_bytes", lambda device: wanted * share_of_largest + 1)
    assert budget.fitting_budget(base) == expected


def test_what_is_available_obeys_the_limit_of_the_process_and_of_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    free = memory.available_bytes(cpu)
    assert 2**20 < free <= memory.psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_left_in_control_group", lambda: iter([5_000_000]))
    assert memory.available_bytes(cpu) == 5_000_000
    monkeypatch.setattr(memory, "_left_in_control_group", lambda: iter([-3]))
    assert memory.available_bytes(cpu) == 0


def test_training_in_smaller_passes_takes_the_same_steps(bounded: Callable[..., Bounded]) -> None:
    whole, _, _ = trained_lora()
    machine = bounded(100)
    halved, journal, base = trained_lora()
    assert base.token_budget == base.most_tokens == 64 and machine.seen[0][0] > 200
    assert journal.notes[0].startswith("ran out of memory: token budget halved to ")
    assert journal.notes[-1] == "ran out of memory: token budget halved to 64"
    for ours, plain in zip(halved, whole, strict=True):
        assert float((ours - plain).abs().max()) < 2e-4 * float(plain.abs().max())


def test_a_step_that_begins_again_draws_the_same_dropout(bounded: Callable[..., Bounded]) -> None:
    """Passes of 64 tokens from the start, and passes that came down to 64 in the first step, are bit-identical."""
    small, _, _ = trained_lora(token_budget=64, dropout=0.3)
    bounded(100)
    halved, journal, _ = trained_lora(dropout=0.3)
    assert journal.notes
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(halved, small, strict=True))


def test_texts_on_the_plain_path_are_never_said_to_be_computed_again(bounded: Callable[..., Bounded]) -> None:
    bounded(1, alone=1)
    base = toy_base("gpt2")
    assert not base.path.fast
    method = LoRA(dropout=0.0, targets=("c_attn",))
    with (
        recording() as journal,
        method.attach(base, TASK, seed=3) as tuned,
        pytest.raises(RunError, match="out of memory"),
    ):
        tuned.fit(TRAIN, [], SPEC, seed=5)
    assert not any("computed again" in note for note in journal.notes)


def test_a_text_that_does_not_fit_alone_is_computed_again_on_the_way_back(bounded: Callable[..., Bounded]) -> None:
    longest = max(len(example.tokens) for example in TRAIN)
    small, _, _ = trained_lora(token_budget=64)
    machine = bounded(100, alone=longest - 1)
    saved, journal, base = trained_lora(token_budget=64)
    assert base.recomputes is not None and any("computed again" in line for line in journal.notes)
    assert any(saves for _, saves in machine.seen)
    for ours, theirs in zip(saved, small, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-6 * float(theirs.abs().max())


def test_when_nothing_is_left_to_give_the_cell_fails_in_words(bounded: Callable[..., Bounded]) -> None:
    bounded(1, alone=1)
    base = toy_base("llama")
    with pytest.raises(RunError, match=r"out of memory on cpu, even with .* set a smaller max_tokens"):
        label_scores(base, TEST, Graft())


def test_scoring_in_smaller_passes_gives_the_same_scores(bounded: Callable[..., Bounded]) -> None:
    expected = label_scores(toy_base("llama"), TEST, Graft())
    base = toy_base("llama")
    bounded(90)
    with recording() as journal:
        scores = label_scores(base, TEST, Graft())
    assert journal.notes and base.token_budget < 4096
    assert np.abs(scores - expected).max() < 1e-5 * np.abs(expected).max()


def test_long_texts_are_computed_again_before_they_run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux a process that takes too much is killed: nothing is left to halve by then."""
    base = toy_base("llama")
    base.token_budget = 64
    tokens = tuple(range(4, 304))
    (batch,) = training_module.batches(base, [training_module.Item(tokens, ((5,), (6,)))], 0, 64)
    wanted = batch.num_tokens * budget.bytes_per_token(base)
    monkeypatch.setattr(budget, "available_bytes", lambda device: wanted)
    with recording() as journal:
        assert budget.saves_memory(base, batch)
    assert "would not fit into memory" in journal.notes[0]
    # Shorter texts are not computed again because of it.
    (shorter,) = training_module.batches(base, [training_module.Item(tokens[:-9], ((5,), (6,)))], 0, 64)
    monkeypatch.setattr(budget, "available_bytes", lambda device: 2 * wanted)
    assert not budget.saves_memory(base, shorter) and budget.saves_memory(base, batch)
    base.recomputes = None
    monkeypatch.setattr(budget, "available_bytes", lambda device: 2 * wanted)
    assert not budget.saves_memory(base, batch)


LIMITED = """
import dataclasses, resource, sys
import psutil, torch
sys.path[:0] = [{tests!r}, {src!r}]
torch.set_num_threads(1)
torch.set_flush_denormal(True)  # a random base's attention is full of them, and some CPUs crawl over them
import test_budget
from handful.engine import budget, memory
from handful.engine.batching import batches
from handful.engine.packing import Item
from handful.engine.scoring import batch_scores
from handful.methods.lora import LoRA
from handful.progress import recording
from toys import toy_base

def trained(examples, room=None):
    base = toy_base("llama", hidden_size=128, intermediate_size=1536, num_hidden_layers=6, head_dim=32)
    budget.bytes_per_token(base)
    with recording() as journal, LoRA(dropout=0.0).attach(base, test_budget.TASK, seed=3) as tuned:
        if room is not None:
            (batch,) = batches(base, [Item(examples[0].tokens, examples[0].answers)], 0, 4096)
            tuned._graft.train(True)
            kept = memory.kept_bytes(lambda: batch_scores(base, batch, tuned._graft, 3), list(base.model.parameters()))
            memory.give_back_freed_memory()  # what was freed is no part of the room
            taken = psutil.Process().memory_info().vms
            resource.setrlimit(resource.RLIMIT_AS, (taken + int(room * kept), resource.RLIM_INFINITY))
            base.token_budget = budget.fitting_budget(base)
        tuned.fit(examples, [], dataclasses.replace(test_budget.SPEC, batch_size=2, updates=2), seed=5)
        return journal.notes, tuned.predict(examples)

long, *short = test_budget.long_examples()
trained(short[:2])  # what libraries take once is taken
if {hides}:
    budget.available_bytes = memory.available_bytes = lambda device: 2**40
notes, scores = trained([long, short[0]], room=0.8)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
_, expected = trained([long, short[0]])
print(len(notes), "computed again" in str(notes), float(abs(scores - expected).max()))
"""


def long_examples() -> list[EncodedExample]:
    """Three texts of 3,000, 20 and 40 tokens."""
    generator = np.random.default_rng(0)
    return [
        EncodedExample(str(index), tuple(generator.integers(4, 380, length).tolist()), TRAIN[0].answers, index % 2, {})
        for index, length in enumerate((3000, 20, 40))
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are kept on Linux")
@pytest.mark.parametrize("hides", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_real_limit_with_a_text_of_3000_tokens(hides: bool) -> None:
    """The process may take 0.8 times what the activations of the long text need. hides: the engine is told that
    there is plenty, and learns by running out.
    """
    here = Path(__file__).parent
    script = LIMITED.format(tests=str(here), src=str(here.parent / "src"), hides=hides)
    # A thread's arena would take 64 MiB of the room.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    num_notes, again, difference = done.stdout.split()
    if hides:
        assert int(num_notes) > 0 and again == "True"
    else:
        assert int(num_notes) == 1 and again == "True"
    assert float(difference) < 1e-3
