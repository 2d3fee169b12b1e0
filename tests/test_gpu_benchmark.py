"""benchmarks/gpu.py at toy size on a CPU: that it runs with what a bare GPU machine has, and counts right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
BENCHMARKS = REPOSITORY / "benchmarks"
TOY = ["--model", "toy", "--device", "cpu", "--reviews", "16", "--repeats", "2"]

# Runs the script where these packages are not installed, and says at the end what was imported all the same.
ABSENT = ("datasets", "pandas", "pyarrow", "pydantic", "typer", "rich", "sklearn", "scipy", "matplotlib", "trl",
          "bitsandbytes", "flash_attn", "liger_kernel", "pytest")  # fmt: skip
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
script = sys.argv.pop(1)
sys.argv[0] = script
sys.path.insert(0, script.rpartition("/")[0])
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print("imported:", [name for name in {ABSENT!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module, its neighbours importable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # as main would set it, so that the test takes it back
    import gpu

    yield gpu


def run_bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", BARE, str(BENCHMARKS / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_all_sections_run_with_nothing_but_torch_transformers_peft_accelerate_and_numpy():
    done = run_bare(*TOY, "--json")
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stderr
    lines = done.stdout.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"torch", "transformers", "peft", "device", "date", "command"} <= records[0]["environment"].keys()
    assert {record["section"] for record in records[1:]} == {"gemm", "score", "train", "trainer", "exact", "seventy"}
    assert lines[-1].startswith("| NF4")  # the tables come last
    by_what = {record["what"]: record for record in records[1:]}
    # Both train on the same reviews with the same loss: the answer's cross-entropy, about ln(vocabulary) at first.
    assert by_what["ours"]["mean loss"] == pytest.approx(by_what["Trainer, grouped"]["mean loss"], rel=0.01)
    assert by_what["ours"]["mean loss"] == pytest.approx(np.log(512), rel=0.1)
    assert by_what["Trainer, grouped"]["time over ours"] > 0
    assert by_what["4 layers, fp32, fast against 4 layers, fp32, plain"]["flipped, %"] == 0
    assert any("EXTRAPOLATED" in what for what in by_what)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_all_sections_run_on_a_gpu(gpu, capsys):
    code = gpu.main(["--model", "toy", "--device", "cuda", "--reviews", "16", "--repeats", "2"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "peak GB" in said


def test_a_section_that_fails_is_named_and_the_others_go_on(gpu, monkeypatch, capsys):
    def broken(settings):
        yield gpu.Row("kept", {"TFLOP/s": 1.0})
        raise RuntimeError("no such kernel\nsecond line")

    monkeypatch.setitem(gpu.SECTIONS, "score", broken)
    code = gpu.main([*TOY, "--section", "score", "gemm"])
    said = capsys.readouterr().out
    assert code == 1
    assert "FAILED score: RuntimeError: no such kernel\n" in said
    assert "| kept | 1 |" in said
    assert "| gemm |" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "7b", "--device", "cpu"], "--model toy"),
        (["--model", "toy", "--device", "cuda:99"], "no CUDA device"),
        ([*TOY, "--batch-size", "12"], "power of two"),
        ([*TOY, "--repeats", "0"], "above 0"),
        ([*TOY, "--section", "nothing"], "invalid choice"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(gpu, capsys, arguments, reason):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(arguments)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_trainer_takes_fewer_sequences_per_pass_when_memory_runs_out(gpu, monkeypatch):
    import gpu_trainer

    def train(self, sample, into):
        if self.per_pass > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        into.seconds.append(1.0)

    monkeypatch.setattr(gpu_trainer.TrainerPeer, "_train", train)
    settings, _, _ = gpu.read_arguments(TOY)
    peer, run = gpu_trainer.TrainerPeer(None, settings, False, 8), gpu.Measured()
    peer.train(gpu.draw_sample(settings, 8), run)
    assert (peer.per_pass, run.seconds) == (2, [1.0])
    assert run.notes == ["2 sequences per pass: more ran out of memory"]


def test_trainer_leaves_the_network_as_it_was(gpu):
    import gpu_trainer

    settings, _, _ = gpu.read_arguments(TOY)
    base = gpu.fresh_base(settings, 512)
    sample = gpu.draw_sample(settings, 8)
    before = gpu.score(base, sample)
    names = [name for name, _ in base.network.named_modules()]
    gpu_trainer.TrainerPeer(base.network, settings, True, 8).train(sample, gpu.Measured())
    assert [name for name, _ in base.network.named_modules()] == names
    assert not base.network.training
    assert not base.network.is_gradient_checkpointing
    assert np.array_equal(gpu.score(base, sample), before)


def test_weights_are_drawn_on_the_device_and_nowhere_else(gpu):
    settings, _, _ = gpu.read_arguments(TOY)
    network = gpu.make_network(settings.model.shape, torch.device("meta"), torch.bfloat16, 0)
    tensors = [*network.parameters(), *network.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    # rotary frequencies are in fp32, also when the weights are turned
    for drawn, turned in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        network = gpu.make_network(settings.model.shape, torch.device("cpu"), drawn, 0)
        assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}
        gpu.cast(network, turned)
        assert {parameter.dtype for parameter in network.parameters()} == {turned}
        assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}


def test_one_path_that_fails_leaves_the_others_compared(gpu, monkeypatch, capsys):
    real = gpu.score

    def score(base, sample):
        if base.path.fast and next(base.network.parameters()).dtype == torch.float32:
            raise RuntimeError("no fp32 here")
        return real(base, sample)

    monkeypatch.setattr(gpu, "score", score)
    assert gpu.main([*TOY, "--section", "exact"]) == 1
    said = capsys.readouterr().out
    assert "FAILED exact: 4 layers, fp32, fast: RuntimeError: no fp32 here" in said
    assert "| 4 layers, bf16, fast against 4 layers, bf16, plain |" in said


def test_prompts_share_instruction_and_marker_and_have_real_lengths(gpu):
    settings, _, _ = gpu.read_arguments(TOY)
    sample = gpu.draw_sample(settings, 64)
    prompts = [prompt.tokens for prompt in sample.prompts]
    assert len({tokens[:12] for tokens in prompts}) == 1
    assert len({tokens[-3:] for tokens in prompts}) == 1
    assert sum(map(len, prompts)) == 64 * 15 + sample.text_tokens
    assert sum(sample.own) == 64 * 3 + sample.text_tokens
    limited = gpu.draw_sample(replace(settings, limit=20), 64)
    assert max(limited.own) == 23


def test_stored_lengths_have_the_mean_that_is_asked_for(gpu):
    import imdb_lengths

    assert len(imdb_lengths.stored()) == 25_000
    for count in (64, 512, 4096):
        assert imdb_lengths.draw(count, 300, 0).mean() == pytest.approx(300, rel=0.01)
    assert imdb_lengths.draw(4096, 300, 0).max() > 2_000  # the tail is there
    assert np.array_equal(imdb_lengths.draw(64, 300, 1), imdb_lengths.draw(64, 300, 1))


def test_needed_flops_of_a_layer_are_its_weights_and_the_causal_triangle(gpu):
    from flops import Job, scoring_flops

    shape = gpu.MODELS["toy-70b"].shape
    job = Job(own=(5, 1, 30), shared=7, packs=2)
    layer = gpu.make_network(shape, torch.device("meta"), torch.float32, 0).model.layers[0]
    weights = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)
    lengths = [list(range(1, 8)), list(range(1, 8)), *(range(8, 8 + own) for own in job.own)]
    pairs = sum(sum(seen) for seen in lengths)  # how many keys each token sees
    expected = 2 * (5 + 1 + 30 + 2 * 7) * weights + 4 * shape.heads * shape.head_width * pairs
    deeper = replace(shape, layers=shape.layers + 1)
    assert scoring_flops(deeper, job) - scoring_flops(shape, job) == expected


def test_the_last_layer_asks_at_answer_rows_only(gpu):
    from flops import Job, Shape, scoring_flops, training_flops

    shape = Shape(layers=1, width=4, mlp_width=6, heads=2, key_value_heads=1, head_width=2, vocabulary=10)
    job = Job(own=(3,), shared=2, packs=1)
    projections = 2 * 4 * (1 * 4 + 2 * 5 * 2)
    others = 2 * 1 * 4 * (4 + 3 * 6)
    attention, head = 4 * 4 * 5, 2 * 4 * 10
    assert scoring_flops(shape, job) == projections + others + attention + head
    adapters = 2 * 8 * (1 * (4 + 4) + 5 * (4 + 2))
    # Nothing is trained below the only layer's projections: no gradient of its keys or of its adapters' input.
    backward = others + 1.5 * attention + head + 1.5 * adapters
    assert training_flops(shape, job, 8) == scoring_flops(shape, job) + adapters + backward


@pytest.mark.parametrize(("work", "seconds"), [("score", 129), ("train", 262)])
def test_25000_reviews_at_7b_need_about_the_floor_that_the_goals_come_from(gpu, work, seconds):
    import imdb_lengths
    from flops import Job, fewest_packs, scoring_flops, training_flops

    model = gpu.MODELS["7b"]
    own = [int(length) + model.marker for length in imdb_lengths.draw(25_000, model.text, 0)]
    job = Job(own, model.instruction, fewest_packs(own, model.instruction, 8192))
    flops = scoring_flops(model.shape, job) if work == "score" else training_flops(model.shape, job, gpu.RANK)
    assert flops / 790e12 == pytest.approx(seconds, rel=0.05)
