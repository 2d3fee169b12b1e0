"""scripts/pretrain_reviews_llama.py on toy reviews, and the base that ships.

Whole runs go as a person starts them, in a process of their own; refusals are looked at in this one,
where they cost no start.
"""

import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "scripts" / "pretrain_reviews_llama.py"
SHIPPED = REPOSITORY / "src" / "handful" / "assets" / "reviews-llama-5m"
TINY = [
    *("--width", "32", "--layers", "2", "--heads", "2", "--mlp", "48", "--vocabulary", "320"),
    *("--block", "32", "--batch", "4", "--dropout", "0.1", "--epochs", "1", "--warmup", "3"),
    *("--log-every", "5", "--evaluate-every", "20", "--device", "cpu"),
]


def pretrain(*arguments: object) -> subprocess.CompletedProcess[str]:
    # One thread: sums come out in one order, so weights can be compared bit for bit.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """The script as a module; the test gets its signal handlers back afterwards."""
    spec = importlib.util.spec_from_file_location("pretrain_reviews_llama", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their annotations up there
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    spec.loader.exec_module(module)
    yield module
    for number, handler in earlier.items():
        signal.signal(number, handler)
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 invented reviews in the two files that are read, and garbage in the one that must not be."""
    draw = random.Random(0)
    parts = ["the plot", "the music", "every scene", "the acting", "its ending", "the dialogue", "that song"]
    verdicts = [
        "was great fun",
        "felt far too long",
        "moved me",
        "bored me",
        "is worth seeing",
        "made no sense",
    ]
    texts = [
        f"Film number {number}: " + "<br /><br />".join(
            f"{draw.choice(parts)} {draw.choice(verdicts)} and {draw.choice(parts)} {draw.choice(verdicts)}."
            for _ in range(3)
        )
        for number in range(200)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("reviews") / "data"
    folder.mkdir()
    pq.write_table(pa.table({"text": texts[:100], "label": [0] * 100}), folder / "train.parquet")
    pq.write_table(pa.table({"text": texts[100:]}), folder / "unsupervised.parquet")
    (folder / "test.parquet").write_bytes(b"not a Parquet file; whoever opens it fails")
    return folder


@pytest.fixture(scope="module")
def finished(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "toy-base"
    result = pretrain("--data", toy_data, "--output", folder, *TINY)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_finished_folder_loads_and_is_half_precision(finished: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(finished, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(finished, local_files_only=True)
    assert {tensor.dtype for tensor in load_file(finished / "model.safetensors").values()} == {torch.float16}
    assert model.dtype == torch.float16
    assert model.config.attention_dropout == 0.0
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert len(tokenizer) == model.config.vocab_size <= 320
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    text = "A naïve “plot”,\n\nbut it moved me."
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert not (finished / "checkpoint.safetensors").exists()
    assert "| tokens seen |" in (finished / "README.md").read_text()


def test_its_tokenizer_is_of_the_shipped_kind(finished: Path) -> None:
    ours, shipped = (json.loads((folder / "tokenizer.json").read_text()) for folder in (finished, SHIPPED))
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "decoder"):
        assert ours[part] == shipped[part]
    for folder in (finished, SHIPPED):
        ids = AutoTokenizer.from_pretrained(folder)("good")["input_ids"]
        assert ids[0] == 1 and ids.count(1) == 1 and 2 not in ids  # <s> once, no </s>


def test_the_loss_goes_down(finished: Path) -> None:
    lines = log_lines(finished)
    losses = [line["train_loss"] for line in lines if "train_loss" in line]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < losses[0] - 1.0
    assert len(validation) >= 2
    assert validation[-1] < validation[0]


def test_each_text_of_a_block_is_read_as_if_it_stood_alone(script: ModuleType, finished: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(finished, local_files_only=True, dtype=torch.float32).eval()
    block = torch.tensor([[9, 8, 7, 1, 20, 21, 22, 23, 1, 30, 31]])  # <s> is 1; the first text began earlier
    with torch.no_grad():
        together = script.hidden_rows(model, block)
        for first, last in ((0, 3), (3, 8), (8, 11)):
            alone = model.model(input_ids=block[:, first:last]).last_hidden_state
            assert torch.allclose(together[:, first:last], alone, atol=1e-5)


def test_every_epoch_cuts_the_stream_elsewhere_into_as_many_blocks(script: ModuleType) -> None:
    stream = torch.arange(1003)
    epochs = [script.epoch_starts(stream, 32, seed=0, epoch=epoch) for epoch in range(8)]
    assert {len(starts) for starts in epochs} == {len(epochs[0])}
    assert len({int(starts.min()) for starts in epochs}) > 1
    for starts in epochs:
        assert len(set((starts % 32).tolist())) == 1 and starts.unique().numel() == len(starts)
        inputs, targets = script.gather_blocks(stream, starts, 32)  # the last target is inside the stream
        assert torch.equal(targets, inputs + 1)


def test_a_resumed_run_ends_with_the_same_weights(
    script: ModuleType, finished: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "resumed"
    first = pretrain("--data", toy_data, "--output", folder, *TINY, "--max-steps", 13)
    assert first.returncode == 0, first.stderr
    assert "stopped at step 13" in first.stderr
    assert not (folder / "model.safetensors").exists()

    # From the token cache alone, as on a machine that never sees the reviews.
    cache = folder / "tokens.npy"
    other_seed = ["--tokens", str(cache), "--output", str(folder), *TINY, "--resume", "--seed", "1"]
    assert script.main(other_seed) == 2
    assert "seed: 0 then, 1 now" in capsys.readouterr().err
    second = pretrain("--tokens", cache, "--output", folder, *TINY, "--resume")
    assert second.returncode == 0, second.stderr

    steps = [line["step"] for line in log_lines(folder) if line.get("event") == "start"]
    assert steps == [0, 13]
    whole, parts = (load_file(place / "model.safetensors") for place in (finished, folder))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_mistakes_are_said_in_a_sentence(
    script: ModuleType, finished: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.parquet").symlink_to(toy_data / "test.parquet")
    for expected, *arguments in (
        ("never reads test texts", "--data", toy_data / "test.parquet", "--output", tmp_path / "a"),
        ("never reads test texts", "--data", tmp_path, "--output", tmp_path / "b"),
        ("train.parquet", "--data", finished, "--output", tmp_path / "c"),
        ("there is no", "--tokens", tmp_path / "tokens.npy", "--output", tmp_path / "d"),
        ("holds a finished model", "--data", toy_data, "--output", finished),
        ("--allow-large", "--tokens", finished / "tokens.npy", "--output", tmp_path / "e", "--width", 512),
        ("do not fill", "--tokens", finished / "tokens.npy", "--output", tmp_path / "f", "--batch", 9999),
    ):
        assert script.main([str(argument) for argument in (*arguments, "--device", "cpu")]) == 2
        assert expected in capsys.readouterr().err


def test_the_time_limit_ends_the_decay_and_a_signal_keeps_the_step(
    script: ModuleType, finished: Path, tmp_path: Path
) -> None:
    arguments = ["--tokens", str(finished / "tokens.npy"), *TINY]
    short = tmp_path / "short"
    limit = ["--epochs", "100000", "--max-minutes", "0.02"]
    assert script.main([*arguments, *limit, "--output", str(short)]) == 0
    assert (short / "model.safetensors").exists()

    args = script.parse_arguments([*arguments, "--output", str(tmp_path)])
    tokens = script.load_tokens(args.tokens, torch.device("cpu"))
    stop = script.StopRequest()
    os.kill(os.getpid(), signal.SIGTERM)
    progress, ended = script.train(
        args, script.build_model(args, tokens.vocabulary, torch.device("cpu")), tokens, stop
    )
    assert (progress.step, ended) == (0, False)
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_the_shipped_base_knows_reviews() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 12e6
    assert "license: apache-2.0" in (SHIPPED / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, local_files_only=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    reviews = [
        "I watched this movie last night and thought that it was one of the best of the year.",
        "The acting is wooden, the plot makes no sense at all, and I wanted to leave after ten minutes.",
        "Not a great film, but the two leads have a good time and the ending is worth the wait.",
    ]
    losses, counts = 0.0, 0
    for review in reviews:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(review)["input_ids"]]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss  # mean over all tokens but the first
        losses, counts = losses + loss.item() * (ids.shape[1] - 1), counts + ids.shape[1] - 1
    assert losses / counts < math.log(10240) - 5  # ln(10240) = 9.23 nats is knowing nothing
