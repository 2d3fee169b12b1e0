"""In-context learning (Brown et al. 2020): labelled texts with their answers stand before the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np

from handful import progress
from handful.calibration import batch_offset, contextual_offset
from handful.engine.base import Base
from handful.engine.graft import Graft
from handful.engine.pruning import Pruning
from handful.engine.scoring import label_scores, normalise
from handful.errors import RunError, SpecError
from handful.examples import EncodedExample, Task
from handful.methods.grafted import PRIOR_TEXTS
from handful.methods.method import LANGUAGE_MODEL, UNLABELLED, Defaults, Given, needs_answers, needs_labels
from handful.methods.saved import read_scoring, write_scoring
from handful.training import Curve, TrainingSpec

FILE = "demonstrations.json"

Calibration = Literal["none", "contextual", "batch"]


@dataclass(frozen=True)
class InContext(Defaults):
    """Demonstrations in the prompt, nothing trained.

    demonstrations: at most so many, fewer where they do not fit into the context. choice: "random" draws them once,
    labels in turn, so that all texts share them; "nearest" takes for every text those most like it by TF-IDF, the
    nearest last. calibration: as for the bare base, asked with the demonstrations in place. context: tokens of a whole
    prompt; left out, what the base takes.
    """

    name: ClassVar[str] = "in_context"

    demonstrations: int = 16
    choice: Literal["random", "nearest"] = "random"
    calibration: Calibration = "none"
    context: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.demonstrations < 1:
            problems.append(f"demonstrations must be at least 1, got {self.demonstrations}")
        if self.context is not None and self.context < 1:
            problems.append(f"context counts tokens and must be at least 1, got {self.context}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Has no updates."""
        knobs: dict[str, Any] = {
            "name": self.name, "demonstrations": self.demonstrations, "choice": self.choice,
            "calibration": self.calibration,
        }  # fmt: skip
        if self.context is not None:
            knobs["context"] = self.context
        return {**cell, "method": knobs, "training": None}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels, base, answers, or the texts that a batch calibration reads."""
        needs_labels(self.name, given)
        needs_answers(self.name, given)
        if self.context is not None and given.context_length is not None and self.context > given.context_length:
            raise SpecError(f"context is {self.context} tokens, and this base takes {given.context_length}")
        if self.calibration == "batch" and given.num_unlabelled < 1:
            raise SpecError(
                'calibration = "batch" reads training-side texts, and here every text is test: give the data a test '
                'side of its own (test_path or test_size), or use calibration = "contextual"'
            )

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return (LANGUAGE_MODEL, UNLABELLED) if self.calibration == "batch" else (LANGUAGE_MODEL,)

    def prompts_before(self) -> tuple[int, bool]:
        """Drawn once, they are the same before every text."""
        return self.demonstrations, self.choice == "random"

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> ContextTuned:
        """Leaves the base alone."""
        return ContextTuned(self, base, task, seed, saved)


class ContextTuned:
    """Demonstrations before a prompt; learns nothing but which they are."""

    num_trainable = 0
    is_adapter = False

    def __init__(self, method: InContext, base: Base, task: Task, seed: int, saved: Path | None) -> None:
        self._method, self._base, self._task, self._seed = method, base, task, seed
        self.facts: dict[str, Any] = {}
        self.offset = np.zeros(len(task.label_names))
        self._start: int | None = getattr(base.tokenizer, "bos_token_id", None)
        self._context = method.context or base.context_length
        self._given: list[EncodedExample] = []
        self._nearest: Callable[[EncodedExample], list[int]] | None = None
        if saved is not None:
            self._load(saved)

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """Draws the demonstrations from all labelled texts, and takes the label prior. Raises RunError when not one
        fits into the context beside the longest prompt.
        """
        labelled = [*train, *selection]
        longest = max(map(_length, labelled))
        if self._method.choice == "random":
            drawn = [labelled[index] for index in _labels_in_turn(labelled, self._seed)]
            self._given = self._fitting(drawn, longest)
        elif self._fitting([min(labelled, key=_length)], longest):
            self._given, self._nearest = labelled, _by_likeness(labelled)
        if not self._given:
            raise RunError(
                f"not one demonstration fits: the context holds {self._context} tokens and the longest prompt has "
                f"{longest}. Lower max_tokens in the prompt, or take a base with a longer context"
            )
        self.offset = self._prior()
        self.facts = {}
        if self.offset.any():
            self.facts["label_offset"] = self.offset.tolist()
        if self._task.prune_nats is not None:
            self.facts["probability_bound"] = Pruning(self._task.prune_nats, self.offset).probability_bound
        progress.advance(1, 1)
        return Curve(chosen_by="nothing is trained")

    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64 log-probabilities, normalised over the labels."""
        pruning = None if self._task.prune_nats is None else Pruning(self._task.prune_nats, self.offset)
        shown = [self._shown(example) for example in examples]
        self._count([len(some) for some in shown])
        return normalise(self._scores(examples, shown, pruning) + self.offset)

    def _count(self, numbers: Sequence[int]) -> None:
        """Says how many demonstrations there really are: a long text leaves room for fewer."""
        if not numbers:
            return
        self.facts |= {"num_demonstrations": max(numbers)}
        if min(numbers) < max(numbers):
            mean = sum(numbers) / len(numbers)
            self.facts |= {"fewest_demonstrations": min(numbers), "mean_demonstrations": mean}
            progress.note(
                f"the context holds {min(numbers)} to {max(numbers)} demonstrations beside a test text, {mean:.1f} on "
                f"average; {numbers.count(0)} of {len(numbers)} texts are asked without any"
            )

    def _scores(
        self,
        examples: Sequence[EncodedExample],
        shown: Sequence[Sequence[EncodedExample]],
        pruning: Pruning | None = None,
    ) -> np.ndarray:
        """shown: the demonstrations of each. Texts with the same demonstrations go together: a long one that has fewer
        would shorten what all share.
        """
        scores = np.zeros((len(examples), len(self._task.label_names)))
        for count in sorted({len(some) for some in shown}):
            inside = [index for index, some in enumerate(shown) if len(some) == count]
            prompts = [self._with_demonstrations(examples[index], shown[index]) for index in inside]
            scores[inside] = label_scores(self._base, prompts, Graft(), pruning)
        return scores

    def _shown(self, example: EncodedExample) -> list[EncodedExample]:
        """Its demonstrations, without those that a long text leaves no room for."""
        order = range(len(self._given)) if self._nearest is None else self._nearest(example)
        shown = self._fitting([self._given[index] for index in order], _length(example))
        return shown if self._nearest is None else shown[::-1]

    def _with_demonstrations(self, example: EncodedExample, shown: Sequence[EncodedExample]) -> EncodedExample:
        tokens: tuple[int, ...] = ()
        for one in shown:
            tokens += self._shown_tokens(one, bool(tokens))
        return replace(example, tokens=tokens + self._later(example.tokens, bool(tokens)))

    def _fitting(self, wanted: Sequence[EncodedExample], beside: int) -> list[EncodedExample]:
        """The first of them that fit into the context beside a prompt of so many tokens, in their order."""
        kept: list[EncodedExample] = []
        left = np.inf if self._context is None else self._context - beside
        for one in wanted:
            length = len(self._shown_tokens(one, bool(kept)))
            if length <= left and len(kept) < self._method.demonstrations:
                kept.append(one)
                left -= length
        return kept

    def _shown_tokens(self, example: EncodedExample, is_later: bool) -> tuple[int, ...]:
        return self._later(example.tokens, is_later) + example.answers[example.label] + self._task.separator

    def _later(self, tokens: tuple[int, ...], is_later: bool) -> tuple[int, ...]:
        """A prompt's tokens, without the start token where something stands before it."""
        return tokens[1:] if is_later and self._start is not None and tokens[:1] == (self._start,) else tokens

    def _prior(self) -> np.ndarray:
        if self._method.calibration == "none":
            return np.zeros(len(self._task.label_names))
        with progress.stage("prior"):
            if self._method.calibration == "contextual":
                free = list(self._task.content_free)
                return contextual_offset(normalise(self._scores(free, list(map(self._shown, free)))))
            pool = [self._task.pool[index] for index in range(min(PRIOR_TEXTS, len(self._task.pool)))]
            if not pool:
                raise RunError('there are no unlabelled texts for calibration = "batch": use "contextual"')
            return batch_offset(normalise(self._scores(pool, list(map(self._shown, pool)))))

    def save(self, folder: Path) -> None:
        """The demonstrations, their texts among them."""
        shown = [
            {"id": one.id, "tokens": list(one.tokens), "answers": [list(answer) for answer in one.answers],
             "label": one.label, "fields": dict(one.fields)}
            for one in self._given
        ]  # fmt: skip
        more = {"offset": self.offset.tolist(), "demonstrations": shown}
        write_scoring(folder, self._task.label_names, more, FILE, indent=None)

    def _load(self, folder: Path) -> None:
        told = read_scoring(folder, self._task.label_names, FILE)
        self._given = [
            EncodedExample(
                one["id"], tuple(one["tokens"]), tuple(map(tuple, one["answers"])), one["label"], one["fields"]
            )
            for one in told["demonstrations"]
        ]
        self.offset = np.array(told["offset"])
        if self._method.choice == "nearest":
            self._nearest = _by_likeness(self._given)

    def __enter__(self) -> ContextTuned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was touched."""


def _length(example: EncodedExample) -> int:
    """Of the prompt with its longest answer."""
    return len(example.tokens) + max((len(answer) for answer in example.answers), default=0)


def _labels_in_turn(examples: Sequence[EncodedExample], seed: int) -> list[int]:
    """All of them in random order, one of each label after the other for as long as there are such."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    turn: dict[int, int] = {}
    place = {}
    for index in order:
        label = examples[index].label
        place[index] = turn[label] = turn.get(label, -1) + 1
    return sorted(order, key=lambda index: place[index])  # stable: within a round, the random order


def _by_likeness(examples: Sequence[EncodedExample]) -> Callable[[EncodedExample], list[int]]:
    """example -> places of `examples`, the most like it first, by the cosine of their TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def text(example: EncodedExample) -> str:
        return "\n".join(example.fields.values())

    counts = TfidfVectorizer(sublinear_tf=True)
    try:
        rows = counts.fit_transform([text(example) for example in examples])
    except ValueError:
        raise RunError('no labelled text has a word in it, so none is near another: use choice = "random"') from None

    def nearest(example: EncodedExample) -> list[int]:
        likeness = (rows @ counts.transform([text(example)]).T).toarray()[:, 0]
        order: list[int] = np.argsort(-likeness, kind="stable").tolist()
        return order

    return nearest
