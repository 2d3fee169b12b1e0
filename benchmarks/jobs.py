"""What all tools are given: random bases as model folders, and jobs, the same prompts and answers as text.

    python benchmarks/jobs.py --cache FOLDER --shape 15m --train 48 --test 128

A job is one JSON file. Its reviews are shortened beforehand, so that no tool shortens them in its own way, and
each is kept only when the tokenizer gives the whole prompt the tokens that handful gives it. Reviews come from
handful's data source `imdb`: the environment variable HANDFUL_DATA names the folder that holds imdb/.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flops import Shape

ROOT = Path(__file__).resolve().parents[1]
MAX_TOKENS = 1024
"""Of a prompt with its answer, <s> counted."""

SETTINGS = {
    "max_tokens": MAX_TOKENS, "batch_size": 8, "epochs": 1, "learning_rate": 1e-3, "seed": 0,
    "rank": 8, "alpha": 16, "dropout": 0.1, "targets": ["q_proj", "v_proj"],
}  # fmt: skip
"""What every training run of a job has."""

SAMPLED = 1000
"""Reviews of each side from which the training and scoring measures take every n-th by length."""

STUDY_SIZES = (50, 150, 500, 1000)
STUDY_DROPOUTS = (0.0, 0.1, 0.2)
STUDY_TEST = 500
STUDY_POOL = 2000
"""Labelled reviews in the study's table, from which every cell draws its own."""


SHAPES = {
    "15m": Shape(layers=6, width=288, mlp_width=768, heads=6, key_value_heads=6, head_width=48, vocabulary=32_000),
    "135m": Shape(layers=30, width=576, mlp_width=1536, heads=9, key_value_heads=3, head_width=64, vocabulary=49_152),
}
"""15.2 million parameters; and the shape of SmolLM2-135M (134.5 million). Weights are random, embeddings tied."""


def config_of(shape: Shape) -> dict[str, Any]:
    """Keywords of LlamaConfig."""
    return {
        "num_hidden_layers": shape.layers, "hidden_size": shape.width, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads, "head_dim": shape.head_width,
        "intermediate_size": shape.mlp_width, "vocab_size": shape.vocabulary, "max_position_embeddings": 2048,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip


# -- bases ---------------------------------------------------------------------------------------------


def model_folder(cache: Path, shape: str) -> Path:
    """The base's folder, made when it is not there yet: weights drawn with seed 0, a tokenizer of its vocabulary.

    The tokenizer learns the reviews and their labels, so that each answer is one token, as it is with published
    tokenizers of this size.
    """
    folder = cache / f"llama-{shape}"
    if not (folder / "config.json").is_file():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        script = _pretraining_script()
        texts = [piece for review in imdb("train") for piece in review]
        tokenizer = script.train_tokenizer(texts, SHAPES[shape].vocabulary)
        # Under another name until it is whole: an interrupted run leaves nothing that looks like a base.
        part = cache / f"llama-{shape}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tokenizer.save(str(part / "tokenizer.json"))
        script.save_tokenizer(part / "tokenizer.json", part)
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**config_of(SHAPES[shape]))).save_pretrained(part)
        part.rename(folder)
    return folder


def _pretraining_script() -> Any:
    """scripts/pretrain_reviews_llama.py, which knows how the shipped base's tokenizer is made."""
    path = ROOT / "scripts" / "pretrain_reviews_llama.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


# -- reviews -------------------------------------------------------------------------------------------


def imdb(side: str) -> list[tuple[str, str]]:
    """(text, label) of the "train" or "test" side. Raises SystemExit with the way out when they are not there."""
    from handful.data import load_dataset
    from handful.data.imdb import Imdb
    from handful.errors import DataError

    try:
        dataset = load_dataset(Imdb())
    except DataError as error:
        raise SystemExit(
            f"the benchmarks need the IMDB reviews: {error}\nSet HANDFUL_DATA to a folder that holds "
            "imdb/train.parquet and imdb/test.parquet (columns text and label)."
        ) from None
    examples = dataset.train if side == "train" else dataset.test
    return [(example.fields["text"], dataset.label_names[example.label]) for example in examples]


class Cutter:
    """Shortens reviews so that their whole prompt fits, and renders it as text."""

    def __init__(self, folder: Path) -> None:
        from handful.models import CausalLM
        from handful.prompts import Alpaca

        self.labels = ("negative", "positive")
        self.prompt = Alpaca(max_tokens=MAX_TOKENS)
        self.tokenizer = CausalLM(checkpoint=str(folder)).load_tokenizer()

    def entry(self, text: str, label: str) -> dict[str, Any] | None:
        """{"text", "prompt", "answer", "label", "tokens"}; None when the prompt's text has other tokens than ours."""
        shown = self._render(text)
        while shown.num_cut:
            start = shown.text.index("### Input:\n") + len("### Input:\n")
            text = shown.text[start : shown.text.rindex("\n\n### Response:")]
            shown = self._render(text)
        ids = self.tokenizer(shown.text)["input_ids"]
        if len(ids) != shown.num_tokens or ids[0] != self.tokenizer.bos_token_id:
            return None
        number = self.labels.index(label)
        return {
            "text": text, "prompt": shown.text, "answer": shown.answers[number], "label": number, "tokens": len(ids),
        }  # fmt: skip

    def entries(self, side: str, number: int) -> list[dict[str, Any]]:
        """The first `number` reviews of a side in one random order."""
        texts = imdb(side)
        random.Random(0).shuffle(texts)
        made = (entry for text, label in texts if (entry := self.entry(text, label)) is not None)
        return list(itertools.islice(made, number))

    def sample(self, side: str, number: int) -> list[dict[str, Any]]:
        """`number` reviews whose lengths stand for SAMPLED: every n-th by length, in random order.

        A few dozen drawn outright would be longer or shorter by a quarter.
        """
        sorted_entries = sorted(self.entries(side, SAMPLED), key=lambda entry: entry["tokens"])
        step = SAMPLED / number
        chosen = [sorted_entries[int((place + 0.5) * step)] for place in range(number)]
        random.Random(0).shuffle(chosen)
        return chosen

    def _render(self, text: str) -> Any:
        from handful.prompts import render

        return render(self.prompt, {"text": text}, self.labels, ("text",), self.tokenizer)

    def answers(self) -> list[str]:
        """Of each label, in their order, as they stand after the prompt."""
        return list(self._render("a film").answers)

    def shared_tokens(self) -> int:
        """Tokens that every prompt begins with."""
        pair = [self.tokenizer(self._render(text).text)["input_ids"] for text in ("A", "zero")]
        return next(place for place, (a, b) in enumerate(zip(*pair, strict=False)) if a != b)

    def answer_tokens(self) -> list[int]:
        """Tokens of each label's answer."""
        return [len(self.tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in self.answers()]


# -- jobs ----------------------------------------------------------------------------------------------


def make_job(cache: Path, shape: str, num_train: int, num_test: int) -> Path:
    """The job of the training and scoring measures, made when it is not there yet."""
    path = cache / f"job-{shape}-{num_train}-{num_test}.json"
    if not path.is_file():
        folder = model_folder(cache, shape)
        cutter = Cutter(folder)
        _write(path, folder, cutter, cutter.sample("train", num_train), cutter.sample("test", num_test))
    return path


def make_study(cache: Path, shape: str, sizes: Sequence[int], num_test: int) -> Path:
    """Tables, study file and one job per cell, in a folder of their own; gives the folder.

    The cells' jobs hold the very texts that handful draws for them.
    """
    folder = cache / f"study-{shape}-{'-'.join(map(str, sizes))}-{num_test}"
    if (folder / "study.toml").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    model = model_folder(cache, shape)
    cutter = Cutter(model)
    train, test = cutter.entries("train", STUDY_POOL), cutter.entries("test", num_test)
    for name, entries in (("train", train), ("test", test)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["id", "text", "label"])
            for number, entry in enumerate(entries):
                rows.writerow([f"{name}-{number}", entry["text"], cutter.labels[entry["label"]]])
    for size in sizes:
        drawn = _drawn(folder, size)
        entries = [entry for number, entry in enumerate(train) if f"train-{number}" in drawn]
        for dropout in STUDY_DROPOUTS:
            _write(folder / f"cell-{size}-{dropout}.json", model, cutter, entries, test, dropout=dropout)
    (folder / "study.toml").write_text(_study_text(folder, model, sizes), encoding="utf-8")
    return folder


def _drawn(folder: Path, size: int) -> set[str]:
    """Ids of the texts that a cell of the study trains on; handful holds the rest of its labels out for selection."""
    from handful.data import draw_split, load_dataset
    from handful.data.table_file import TableFile
    from handful.identity import derive_seed
    from handful.protocols import DEFAULT

    table = TableFile(path=str(folder / "train.csv"), test_path=str(folder / "test.csv"), id="id")
    split = draw_split(load_dataset(table), size, derive_seed(0, "sample"), DEFAULT.selection_size)
    return {example.id for example in split.train}


def _study_text(folder: Path, model: Path, sizes: Sequence[int]) -> str:
    def quoted(value: Any) -> str:
        return json.dumps(str(value))

    methods = ", ".join(
        f'{{ name = "lora", rank = {SETTINGS["rank"]}, alpha = {SETTINGS["alpha"]}.0, dropout = {dropout}, '
        f"targets = {json.dumps(SETTINGS['targets'])}, learning_rate = {SETTINGS['learning_rate']} }}"
        for dropout in STUDY_DROPOUTS
    )
    return f"""name = "benchmark"

[fixed]
data = {{ name = "table_file", path = {quoted(folder / "train.csv")}, test_path = {quoted(folder / "test.csv")}, id = "id" }}
model = {{ checkpoint = {quoted(model)} }}
prompt = {{ name = "alpaca", max_tokens = {MAX_TOKENS} }}
training = {{ batch_size = {SETTINGS["batch_size"]}, epochs = 1, loss = "answer" }}
seed = 0

[grid]
method = [{methods}]
num_labels = {list(sizes)}

[execution]
device = "cpu"
"""  # noqa: E501


def _write(
    path: Path, model: Path, cutter: Cutter, train: list[dict[str, Any]], test: list[dict[str, Any]], **changes: Any
) -> None:
    job = {
        **SETTINGS,
        **changes,
        "model": str(model),
        "answers": cutter.answers(),
        "answer_tokens": cutter.answer_tokens(),
        "shared_tokens": cutter.shared_tokens(),
        "train": train,
        "test": test,
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(job, ensure_ascii=False), encoding="utf-8")
    part.rename(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the path of what was made."""
    parser = argparse.ArgumentParser(description="Make random bases and jobs for the benchmarks.")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--train", type=int, default=0, help="reviews to train on")
    parser.add_argument("--test", type=int, required=True, help="reviews to score")
    parser.add_argument("--study", type=int, nargs="+", help="make a study with these numbers of labels instead")
    args = parser.parse_args(argv)
    cache = args.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    if args.study:
        print(make_study(cache, args.shape, args.study, args.test))
    else:
        print(make_job(cache, args.shape, args.train, args.test))


if __name__ == "__main__":
    main()
