"""TF-IDF + logistic regression: what people would use without a language model (scikit-learn)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from handful.engine.base import Base
from handful.errors import RunError, SpecError
from handful.examples import EncodedExample, Task
from handful.methods.featured import FeatureTuned, Penalty, check_penalty, choices_of, text_of
from handful.methods.method import UNLABELLED, Defaults, Given, needs_labels
from handful.training import TrainingSpec

RECIPE_PENALTY = 10.0


@dataclass(frozen=True)
class Tfidf(Defaults):
    """Counts of words and word pairs, weighted by rarity.

    max_words: the longest word sequence that is counted. sublinear: 1 + log(count). rarity: over the labelled texts
    alone, or over all "unlabelled" training-side texts too, as a pretrained base has seen such.
    inverse_penalty: C of the logistic regression, or "cross_validated".
    """

    name: ClassVar[str] = "tfidf"

    max_words: int = 2
    sublinear: bool = True
    rarity: Literal["labelled", "unlabelled"] = "labelled"
    inverse_penalty: Penalty = RECIPE_PENALTY

    def __post_init__(self) -> None:
        problems = check_penalty(self.inverse_penalty)
        if self.max_words < 1:
            problems.append(f"max_words must be at least 1, got {self.max_words}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads neither base nor prompt nor updates."""
        knobs: dict[str, Any] = {"name": self.name, "max_words": self.max_words, "sublinear": self.sublinear,
                                 "inverse_penalty": self.inverse_penalty}  # fmt: skip
        if self.rarity != "labelled":  # left out otherwise: earlier studies keep their identity
            knobs["rarity"] = self.rarity
        nothing = {"name": "none"}
        return {**cell, "method": knobs, "model": nothing, "prompt": nothing, "training": None}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels."""
        needs_labels(self.name, given)
        if self.rarity == "unlabelled" and given.num_unlabelled < 1:
            raise SpecError(
                'rarity = "unlabelled" reads training-side texts, and here every text is test: give the data a test '
                'side of its own (test_path or test_size), or use rarity = "labelled"'
            )

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return (UNLABELLED,) if self.rarity == "unlabelled" else ()

    def choices(self) -> TrainingSpec | None:
        """Penalties, where it is left open."""
        return choices_of(self.inverse_penalty)

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> FeatureTuned:
        """Leaves the base alone."""
        counts = _Counts(self.max_words, self.sublinear, task.pool if self.rarity == "unlabelled" else ())
        return FeatureTuned(task, counts, self.inverse_penalty, saved, RECIPE_PENALTY)


class _Counts:
    """scikit-learn's TF-IDF, saved as JSON and safetensors."""

    def __init__(self, max_words: int, sublinear: bool, pool: Sequence[EncodedExample]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._make = lambda vocabulary: TfidfVectorizer(
            ngram_range=(1, max_words), sublinear_tf=sublinear, vocabulary=vocabulary
        )
        self._vectorizer = self._make(None)
        self._pool = pool
        self.facts: Mapping[str, Any] = {}

    def fit(self, examples: Sequence[EncodedExample]) -> None:
        texts = [text_of(example) for example in examples]
        try:
            self._vectorizer.fit(texts)
        except ValueError:
            raise RunError("no training text has a word in it, so there is nothing to count") from None
        if self._pool:
            # Words that no labelled text has would get no weight: only the rarity is taken from the others.
            words = self._vectorizer.get_feature_names_out().tolist()
            self._vectorizer = self._make({word: index for index, word in enumerate(words)})
            labelled = {example.id for example in examples}
            others = [text_of(example) for example in self._pool if example.id not in labelled]
            self._vectorizer.fit([*texts, *others])
            self.facts = {"num_unlabelled_read": len(others)}

    def transform(self, examples: Sequence[EncodedExample]) -> Any:
        return self._vectorizer.transform([text_of(example) for example in examples])

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        words = self._vectorizer.get_feature_names_out().tolist()
        (folder / "vocabulary.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
        save_file({"idf": np.ascontiguousarray(self._vectorizer.idf_)}, folder / "idf.safetensors")

    def load(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._vectorizer = self._make({word: index for index, word in enumerate(words)})
        self._vectorizer.idf_ = load_file(folder / "idf.safetensors")["idf"]
