"""What passes from station to station: labelled texts, drawn splits, encoded prompts, the task.

Plain frozen data. Knows nothing of files, models or methods, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UNLABELLED = -1
"""The label of a text that has none."""


@dataclass(frozen=True, slots=True)
class Example:
    """An id, one or more named text fields, and a label (an index into the label names)."""

    id: str
    fields: Mapping[str, str]
    label: int = UNLABELLED


@dataclass(frozen=True)
class Dataset:
    """All texts of a data source, with its train and test sides apart.

    `revision` names the content: a hub commit or "sha256:..." over ids, labels and sides. An empty
    `test` means that each seed draws its labelled texts from `train` and the rest is test.
    `unlabelled` are further training-side texts without labels. `facts` go into the record.
    """

    name: str
    label_names: tuple[str, ...]
    field_names: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    unlabelled: tuple[Example, ...]
    revision: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """What one cell reads. `train` and `selection` together are its `num_labels` texts.

    `pool` are training-side texts whose labels are never read (label UNLABELLED), for label priors:
    the same for every cell of a data source, never test texts.
    """

    label_names: tuple[str, ...]
    field_names: tuple[str, ...]
    train: tuple[Example, ...]
    selection: tuple[Example, ...]
    test: tuple[Example, ...]
    pool: tuple[Example, ...]
    revision: str
    facts: Mapping[str, Any] = field(default_factory=dict)


AnswerTokens = tuple[tuple[int, ...], ...]
"""Token ids of each label's answer, as they stand after the prompt; one tuple per label."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A whole prompt in token ids, up to where the answer begins.

    `answers` are the labels' answer tokens in this context (shared between examples where equal).
    `num_cut` counts text tokens that were left out to fit. `fields` stay for methods that read text.
    With the prompts `none` and `plain` on no base, `tokens` and `answers` are empty.
    """

    id: str
    tokens: tuple[int, ...]
    answers: AnswerTokens
    label: int
    fields: Mapping[str, str]
    num_cut: int = 0


@dataclass(frozen=True)
class Task:
    """What a method may know before it sees a label.

    `pool`: encoded training-side texts without labels. `content_free`: prompts with an empty text, "N/A"
    and "[MASK]" in its place (contextual calibration, Zhao et al. 2021). `text_tokens`: token ids of a
    sentence that says the task, for a prompt that is to start from text. `separator`: those of a blank line, between
    one prompt with its answer and the next. prune_nats: how far behind the best label
    one need not be finished (engine/pruning.py); None: all are.
    """

    label_names: tuple[str, ...]
    answer_texts: tuple[str, ...]
    pool: Sequence[EncodedExample]
    content_free: Sequence[EncodedExample]
    text_tokens: tuple[int, ...] = ()
    prune_nats: float | None = None
    separator: tuple[int, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A split after its prompt and tokenizer. `facts` (texts cut, largest prompt) go into the record."""

    task: Task
    train: Sequence[EncodedExample]
    selection: Sequence[EncodedExample]
    test: Sequence[EncodedExample]
    facts: Mapping[str, Any] = field(default_factory=dict)
