"""`hub`: any data set of the Hugging Face hub with a text and a label column. No code from there runs.

Knows nothing of particular data sets or of drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from handful.data.rows import checked_rows
from handful.data.source import DataSource, RawData, RawRow, column_names
from handful.errors import DataError, nearest
from handful.tables import Table

CARD = "README.md"
"""Every data set has one, and its own library fetches it before the texts."""
REACH_SECONDS = 5.0
"""To wait for the hub when all that is asked is whether it is there."""


@dataclass(frozen=True, kw_only=True)
class Hub(DataSource):
    """A hub data set, by its name there, such as "fancyzhx/ag_news".

    Label names come from the label column's ClassLabel feature where it is one (labels that no training
    text has are left out), else from the data. `test_split=None` means that there is no test side.
    `hub_revision` is a commit, tag or branch there; whatever it is, `revision` names the content.
    """

    name: ClassVar[str] = "hub"

    dataset: str
    config: str | None = None
    text: tuple[str, ...] = ("text",)
    label: str = "label"
    train_split: str = "train"
    test_split: str | None = "test"
    unlabelled_split: str | None = None
    hub_revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "text", column_names(self.text))

    def read(self) -> RawData:
        splits = download(self.dataset, self.config, self.hub_revision)
        train, label_names = self._labelled(splits, self.train_split)
        unlabelled: list[RawRow] = []
        if self.unlabelled_split is not None:
            table = split_table(splits, self.dataset, self.unlabelled_split, self.text)
            unlabelled = checked_rows(table, self.text)
        return RawData(
            field_names=self.text,
            train=train,
            test=None if self.test_split is None else self._labelled(splits, self.test_split)[0],
            unlabelled=unlabelled,
            label_names=label_names,
        )

    def _labelled(self, splits: Mapping[str, Any], split: str) -> tuple[list[RawRow], tuple[str, ...]]:
        table = split_table(splits, self.dataset, split, [*self.text, self.label])
        label_names = class_names(splits[split], self.label)
        if label_names and self.label in table.columns:
            # -1 is the hub's sign for a label that is kept back or was never given
            known = dict(enumerate(label_names))
            named = [known.get(label) for label in table.columns[self.label]]  # type: ignore[call-overload]
            if named and not any(named):
                raise DataError(
                    f"{table.title} has no labels: they are kept back. Name a split that has them, "
                    f'such as test_split = "validation"; there are: {", ".join(splits)}.'
                )
            table = Table(table.title, table.column_names, {**table.columns, self.label: named})
        return checked_rows(table, self.text, self.label), label_names


def download(dataset: str, config: str | None = None, revision: str | None = None) -> Mapping[str, Any]:
    """All splits of a hub data set by name, from the local cache where it is there already.

    Raises DataError when there is none of that name, or no way to the hub.
    """
    import datasets

    try:
        splits = datasets.load_dataset(dataset, config, revision=revision)
    # The library lets its own errors, the HTTP client's and plain ValueErrors through; all of them mean
    # that this data set is not to be had.
    except Exception as error:
        name = dataset if config is None else f"{dataset} ({config})"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"the hub data set {name} cannot be loaded: {reason}. Check its name, `config` and the "
            "network; or save it as a file (CSV, JSONL, Parquet) and use the data source table_file."
        ) from error
    if not isinstance(splits, Mapping):
        raise DataError(f"the hub data set {dataset} has no splits. Save it as a file and use table_file.")
    return splits


def is_within_reach(dataset: str) -> bool:
    """Whether a public data set's card is in the local cache or can be had at once, and so its texts too."""
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(dataset, CARD, repo_type="dataset"), str):
        return True
    try:
        # Asked once: a download would try again for half a minute where there is no network.
        answer = get_session().head(hf_hub_url(dataset, CARD, repo_type="dataset"), timeout=REACH_SECONDS)
    except Exception:
        # No network, or told to stay off it: `download` says which, to whoever needs the texts.
        return False
    return bool(answer.status_code < 400)


def split_table(splits: Mapping[str, Any], dataset: str, split: str, wanted: Sequence[str]) -> Table:
    """The `wanted` columns of one split. Raises DataError when there is no such split."""
    if split not in splits:
        raise DataError(
            f"the hub data set {dataset} has no split {split!r}; it has: {', '.join(splits)}."
            f"{nearest(split, splits)} Name train_split, test_split and unlabelled_split by these."
        )
    rows = splits[split]
    names = tuple(rows.column_names)
    present = [name for name in dict.fromkeys(wanted) if name in names]
    columns = rows.select_columns(present)[:] if present else {}
    return Table(f"{dataset}, split {split!r}", names, columns)


def class_names(rows: Any, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel column of a split, in their order; empty for any other column."""
    import datasets

    feature = rows.features.get(label)
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()
