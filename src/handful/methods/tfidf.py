"""TF-IDF + logistic regression: what people would use without a language model (scikit-learn)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from handful.engine.base import Base
from handful.errors import RunError, SpecError
from handful.examples import Task
from handful.methods.featured import FeatureTuned
from handful.methods.method import Given, needs_labels


@dataclass(frozen=True)
class Tfidf:
    """Counts of words and word pairs, weighted by rarity.

    max_words: the longest word sequence that is counted. sublinear: 1 + log(count). inverse_penalty: C of the
    logistic regression.
    """

    name: ClassVar[str] = "tfidf"

    max_words: int = 2
    sublinear: bool = True
    inverse_penalty: float = 10.0

    def __post_init__(self) -> None:
        problems = []
        if self.max_words < 1:
            problems.append(f"max_words must be at least 1, got {self.max_words}")
        if self.inverse_penalty <= 0:
            problems.append(f"inverse_penalty must be above 0, got {self.inverse_penalty}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads neither base nor prompt nor updates."""
        knobs = {"name": self.name, "max_words": self.max_words, "sublinear": self.sublinear,
                 "inverse_penalty": float(self.inverse_penalty)}  # fmt: skip
        nothing = {"name": "none"}
        return {**cell, "method": knobs, "model": nothing, "prompt": nothing, "training": None}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels."""
        needs_labels(self.name, given)

    def passes(self) -> float:
        """Forward passes' worth of work per training token."""
        return 0.0

    def extra_tokens(self) -> int:
        """Virtual tokens before a prompt."""
        return 0

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> FeatureTuned:
        """Leaves the base alone."""
        return FeatureTuned(task, _Counts(self.max_words, self.sublinear), self.inverse_penalty, saved)


class _Counts:
    """scikit-learn's TF-IDF, saved as JSON and safetensors."""

    def __init__(self, max_words: int, sublinear: bool) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._make = lambda vocabulary: TfidfVectorizer(
            ngram_range=(1, max_words), sublinear_tf=sublinear, vocabulary=vocabulary
        )
        self._vectorizer = self._make(None)

    def fit(self, texts: Sequence[str]) -> None:
        try:
            self._vectorizer.fit(texts)
        except ValueError:
            raise RunError("no training text has a word in it, so there is nothing to count") from None

    def transform(self, texts: Sequence[str]) -> Any:
        return self._vectorizer.transform(texts)

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
