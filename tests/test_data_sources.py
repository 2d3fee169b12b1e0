"""Sources -> Dataset: ids by content, duplicates, test samples, revisions, and the hub without a network."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from handful.data import DATA, Hub, Imdb, Reviews, TableFile, draw_split, load_dataset, resolve
from handful.data import reviews as reviews_module
from handful.data.hub import is_within_reach
from handful.data.loading import content_hash
from handful.errors import DataError
from handful.examples import UNLABELLED, Dataset
from handful.identity import canonical_json, text_hash
from handful.protocols import Holdout

Rows = list[dict[str, Any]]


def some_rows(count: int = 40, prefix: str = "text") -> Rows:
    return [
        {"text": f'{prefix} {index}, it said "so"\nand héld', "label": ("bad", "good", "good")[index % 3]}
        for index in range(count)
    ]


def write(path: Path, rows: Rows) -> str:
    """Writes rows in the format of the suffix, as the usual libraries would."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def content(dataset: Dataset) -> tuple[object, ...]:
    return dataset.label_names, dataset.train, dataset.test, dataset.unlabelled, dataset.revision


# the table


@pytest.mark.parametrize("name", DATA)
def test_every_source_is_plain_data(name: str) -> None:
    source = DATA[name]
    assert source.name == name
    allowed = {int, float, str, bool, tuple[str, ...], int | None, str | None}
    hints = get_type_hints(source)
    for field in dataclasses.fields(source):
        assert hints[field.name] in allowed, field.name
    where = {field.name for field in dataclasses.fields(source) if field.metadata.get("where")}
    assert where == {"table_file": {"path", "test_path", "unlabelled_path"}, "imdb": {"folder"}}.get(
        name, set()
    )


def test_bad_knobs() -> None:
    with pytest.raises(DataError, match="test_size must be at least 1, got 0"):
        Reviews(test_size=0)
    with pytest.raises(DataError, match="text must name one column or several"):
        TableFile(path="a.csv", text=())
    with pytest.raises(DataError, match="names a column twice"):
        Hub(dataset="a/b", text=("x", "x"))
    assert TableFile(path="a.csv", text="review").text == ("review",)  # type: ignore[arg-type]
    assert TableFile(path="a.csv", text=["a", "b"]).text == ("a", "b")  # type: ignore[arg-type]
    assert hash(TableFile(path="a.csv", text=["a"])) == hash(TableFile(path="a.csv", text="a"))  # type: ignore[arg-type]


# table_file: one dataset, however it is written


def test_formats_and_orders_give_the_same_dataset(tmp_path: Path) -> None:
    rows, test_rows = some_rows(), some_rows(12, "test")
    test_path = write(tmp_path / "test.csv", test_rows)
    reference: Dataset | None = None
    for seed, suffix in enumerate((".csv", ".tsv", ".jsonl", ".parquet")):
        shuffled = rows[:]
        random.Random(seed).shuffle(shuffled)
        path = write(tmp_path / f"train{suffix}", shuffled)
        dataset = load_dataset(TableFile(path=path, test_path=test_path))
        reference = reference or dataset
        assert content(dataset) == content(reference)
        assert draw_split(dataset, 9, 1) == draw_split(reference, 9, 1)
    assert reference is not None
    assert reference.label_names == ("bad", "good")
    assert reference.facts["num_train"] == 40
    assert reference.facts["num_test_available"] == 12
    assert {example.fields["text"] for example in reference.train} == {row["text"] for row in rows}


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nNA,x\r\nnull,y\r\n\r\n1.50,x\r\n")
    dataset = load_dataset(TableFile(path=str(path)))
    assert {example.fields["text"] for example in dataset.train} == {"NA", "null", "1.50"}


def test_long_texts_are_read(tmp_path: Path) -> None:
    long = "word " * 60_000
    path = write(tmp_path / "long.csv", [{"text": long, "label": "a"}, {"text": "short", "label": "b"}])
    before = csv.field_size_limit()
    assert any(example.fields["text"] == long for example in load_dataset(TableFile(path=path)).train)
    assert csv.field_size_limit() == before


def test_line_separators_inside_jsonl_texts(tmp_path: Path) -> None:
    path = tmp_path / "u2028.jsonl"
    path.write_text('{"text":"a\u2028b","label":"x"}\r\n{"text":"c\x85d","label":"y"}', encoding="utf-8")
    assert len(load_dataset(TableFile(path=str(path))).train) == 2


def test_line_breaks(tmp_path: Path) -> None:
    rows = [
        {"text": "a<br /><br />b<br>c<BR/>d<broken>", "label": "x"},
        {"text": "a\n\nb\nc\nd<broken>", "label": "y"},
    ]
    dataset = load_dataset(TableFile(path=write(tmp_path / "breaks.csv", rows)))
    assert [example.fields["text"] for example in dataset.train] == ["a\n\nb\nc\nd<broken>"] * 2
    assert dataset.train[1].id == dataset.train[0].id + "-2"
    assert dataset.facts["num_duplicates_within_train"] == 1


@pytest.mark.parametrize("fields", [{"text": 'a "b"\\\n\t\x00\u2028é😀'}, {"z": "1", "a": "2", "é": ""}])
def test_ids_are_the_hash_of_the_canonical_json(fields: dict[str, str]) -> None:
    assert content_hash(fields) == text_hash(canonical_json(fields))


def test_ids_by_content(tmp_path: Path) -> None:
    rows = some_rows(6)
    dataset = load_dataset(TableFile(path=write(tmp_path / "t.csv", rows)))
    for example in dataset.train:
        assert example.id == text_hash(canonical_json(dict(example.fields)))[:16]


def test_repeats_get_the_same_ids_in_any_order(tmp_path: Path) -> None:
    rows = [{"text": "same", "label": label} for label in ("b", "a", "b")] + some_rows(4)
    one = load_dataset(TableFile(path=write(tmp_path / "one.csv", rows)))
    two = load_dataset(TableFile(path=write(tmp_path / "two.csv", rows[::-1])))
    assert content(one) == content(two)
    assert len({example.id for example in one.train}) == 7


def test_an_id_column(tmp_path: Path) -> None:
    rows = [{**row, "key": index} for index, row in enumerate(some_rows(9))]
    dataset = load_dataset(TableFile(path=write(tmp_path / "t.parquet", rows), id="key"))
    assert {example.id for example in dataset.train} == {str(index) for index in range(9)}
    rows[3]["key"] = 4
    with pytest.raises(DataError, match="the id '4' stands at more than one text"):
        load_dataset(TableFile(path=write(tmp_path / "u.csv", rows), id="key"))
    rows[3]["key"] = ""
    with pytest.raises(DataError, match=r"no id in row 4 \(column 'key'\).*leave `id` out"):
        load_dataset(TableFile(path=write(tmp_path / "v.csv", rows), id="key"))


def test_sentence_pairs(tmp_path: Path) -> None:
    rows = [
        {"premise": f"it rains {index}", "hypothesis": "it is wet", "gold": ("yes", "no")[index % 2]}
        for index in range(10)
    ]
    source = TableFile(path=write(tmp_path / "p.jsonl", rows), text=("premise", "hypothesis"), label="gold")
    dataset = load_dataset(source)
    assert dataset.field_names == ("premise", "hypothesis")
    assert all(tuple(example.fields) == dataset.field_names for example in dataset.train)
    assert dataset.facts["num_duplicates_within_train"] == 0
    assert (
        load_dataset(dataclasses.replace(source, text=("hypothesis",))).facts["num_duplicates_within_train"]
        == 9
    )


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "-1", "9"], ("-1", "9", "10")),
        ([2, 10, 2, 10], ("2", "10")),
        ([0.5, 10.0, 2.0, 2.0], ("0.5", "2.0", "10.0")),
        ([True, False, True, True], ("False", "True")),
        (["b", "a", " a ", "10"], ("10", "a", "b")),
    ],
)
def test_label_names_are_sorted(tmp_path: Path, labels: list[Any], names: tuple[str, ...]) -> None:
    rows = [{"text": f"text {index}", "label": label} for index, label in enumerate(labels)]
    for suffix in (".csv", ".jsonl", ".parquet"):
        assert load_dataset(TableFile(path=write(tmp_path / f"l{suffix}", rows))).label_names == names


def test_unlabelled_texts(tmp_path: Path) -> None:
    source = TableFile(
        path=write(tmp_path / "t.csv", some_rows()),
        test_path=write(tmp_path / "e.csv", some_rows(9, "test")),
        unlabelled_path=write(tmp_path / "u.csv", [{"text": "further"}, {"text": "more"}]),
    )
    dataset = load_dataset(source)
    assert [example.label for example in dataset.unlabelled] == [UNLABELLED] * 2
    assert len(draw_split(dataset, 10, 0).pool) == 42


# test sides


def test_a_test_sample_is_shared_and_natural(tmp_path: Path) -> None:
    path, test_path = write(tmp_path / "t.csv", some_rows()), write(tmp_path / "e.csv", some_rows(90, "test"))
    whole = load_dataset(TableFile(path=path, test_path=test_path))
    small = load_dataset(TableFile(path=path, test_path=test_path, test_size=30))
    smaller = load_dataset(TableFile(path=path, test_path=test_path, test_size=10))
    assert Counter(example.label for example in small.test) == {0: 10, 1: 20}
    assert small.test[:10] == smaller.test
    assert set(map(id_of, small.test)) < set(map(id_of, whole.test))
    assert small.revision == whole.revision
    assert small.facts["num_test_available"] == 90
    with pytest.raises(
        DataError, match=r"test_size = 91, but table_file has 90 test texts\. Give at most 90"
    ):
        load_dataset(TableFile(path=path, test_path=test_path, test_size=91))


def id_of(example: Any) -> str:
    return str(example.id)


def test_a_test_side_drawn_from_one_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [*some_rows(30), {"text": "rare", "label": "rare"}])
    dataset = load_dataset(TableFile(path=path, test_size=12))
    assert len(dataset.test) == 12
    assert len(dataset.train) == 19
    assert not set(map(id_of, dataset.train)) & set(map(id_of, dataset.test))
    assert any(example.fields["text"] == "rare" for example in dataset.train)
    assert load_dataset(TableFile(path=path)).test == ()
    assert len(load_dataset(TableFile(path=path, test_size=28)).train) == 3
    with pytest.raises(DataError, match=r"test_size = 29, but .* 31 labelled .* Give at most 28"):
        load_dataset(TableFile(path=path, test_size=29))


def test_duplicates_are_counted_and_removed(tmp_path: Path) -> None:
    rows = some_rows(30)
    path = write(tmp_path / "t.csv", [*rows, rows[0]])
    test_path = write(tmp_path / "e.csv", [*some_rows(6, "test"), rows[0], rows[5]])
    counted = load_dataset(TableFile(path=path, test_path=test_path))
    assert counted.facts["num_duplicates_across"] == 3
    assert counted.facts["num_duplicates_removed"] == 0
    assert counted.facts["num_duplicates_within_train"] == 1
    assert len(counted.train) == 31
    removed = load_dataset(TableFile(path=path, test_path=test_path, remove_duplicates=True))
    assert removed.facts["num_duplicates_across"] == removed.facts["num_duplicates_removed"] == 3
    assert removed.revision == counted.revision
    texts = {example.fields["text"] for example in removed.test}
    assert not texts & {example.fields["text"] for example in removed.train}
    assert len(removed.train) == 28 == removed.facts["num_train"]
    assert draw_split(removed, 10, 0).facts["num_duplicates_removed"] == 3


def test_without_a_test_side_repeats_are_removed(tmp_path: Path) -> None:
    rows = some_rows(30)
    source = TableFile(path=write(tmp_path / "t.csv", rows + rows[:9]), remove_duplicates=True)
    dataset = load_dataset(source)
    assert dataset.facts["num_duplicates_removed"] == 9
    assert draw_split(dataset, 10, 0).facts["num_duplicates_across"] == 0


def test_removing_duplicates_may_not_take_a_label_away(tmp_path: Path) -> None:
    rows = some_rows(6)
    rare = {"text": "rare", "label": "rare"}
    source = TableFile(
        path=write(tmp_path / "t.csv", [*rows, rare]),
        test_path=write(tmp_path / "e.csv", [rare]),
        remove_duplicates=True,
    )
    with pytest.raises(DataError, match="no training text is left for 'rare'"):
        load_dataset(source)


def test_balanced_reaches_the_draw(tmp_path: Path) -> None:
    path, test_path = (
        write(tmp_path / "t.csv", some_rows(60)),
        write(tmp_path / "e.csv", some_rows(6, "test")),
    )
    split = draw_split(load_dataset(TableFile(path=path, test_path=test_path, balanced=True)), 30, 0)
    assert split.facts["class_counts"] == {"bad": 15, "good": 15}
    assert split.facts["balanced"] is True


# revision, resolve, cache


def test_resolve_names_the_content(tmp_path: Path) -> None:
    source = TableFile(path=write(tmp_path / "t.csv", some_rows()), test_size=5)
    resolved = resolve(source)
    assert resolved.revision is not None and resolved.revision.startswith("sha256:")
    assert resolve(resolved) == resolved
    assert load_dataset(resolved) is load_dataset(source)
    moved = dataclasses.replace(resolved, path=write(tmp_path / "elsewhere.jsonl", some_rows()[::-1]))
    assert load_dataset(moved).revision == resolved.revision

    changed = some_rows()
    changed[7]["label"] = "good" if changed[7]["label"] == "bad" else "bad"
    write(tmp_path / "t.csv", changed)
    assert load_dataset(source).revision != resolved.revision
    with pytest.raises(DataError, match=rf"revision {resolved.revision} was asked for"):
        load_dataset(resolved)


def test_the_revision_sees_texts_behind_given_ids(tmp_path: Path) -> None:
    rows = [{**row, "id": index} for index, row in enumerate(some_rows(9))]
    one = load_dataset(TableFile(path=write(tmp_path / "a.csv", rows), id="id"))
    rows[0]["text"] += "!"
    two = load_dataset(TableFile(path=write(tmp_path / "b.csv", rows), id="id"))
    assert one.revision != two.revision


def test_the_revision_sees_sides(tmp_path: Path) -> None:
    path, test_path = write(tmp_path / "t.csv", some_rows()), write(tmp_path / "e.csv", some_rows(9, "test"))
    one = load_dataset(TableFile(path=path, test_path=test_path))
    assert one.revision != load_dataset(TableFile(path=test_path, test_path=path)).revision
    assert one.revision != load_dataset(TableFile(path=path)).revision


# reviews


def test_reviews_follow_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {**row, "id": f"r{index}", "kind": "plain", "split": "test" if index % 4 == 0 else "train"}
        for index, row in enumerate(some_rows())
    ]
    path = Path(write(tmp_path / "reviews.csv", rows))
    monkeypatch.setattr(reviews_module, "asset", lambda: path)
    dataset = load_dataset(Reviews(test_size=6, balanced=True))
    assert dataset.field_names == ("text",)
    assert len(dataset.train) == 30 and len(dataset.test) == 6
    assert {example.id for example in dataset.train} == {row["id"] for row in rows if row["split"] == "train"}
    path.unlink()
    with pytest.raises(DataError, match="Install it again"):
        load_dataset(Reviews(test_size=7))


def test_the_shipped_reviews() -> None:
    dataset = load_dataset(Reviews())
    assert dataset.label_names == ("negative", "positive")
    assert dataset.facts["num_duplicates_across"] == 0
    split = draw_split(dataset, 150, 0, Holdout().selection_size)
    assert (len(split.train), len(split.selection)) == (120, 30)
    assert split.test == dataset.test and split.test


# hub


def in_memory(rows: Rows, names: list[str] | None = None) -> Any:
    import datasets

    made = datasets.Dataset.from_list(rows)
    return made if names is None else made.cast_column("label", datasets.ClassLabel(names=names))


@pytest.fixture
def on_the_hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Data sets by name; `datasets.load_dataset` gives these, and what was asked for is under "asked"."""
    import datasets

    there: dict[str, Any] = {"asked": []}

    def load(path: str, name: str | None = None, *, revision: str | None = None) -> Any:
        there["asked"].append((path, name, revision))
        if path not in there:
            raise ConnectionError(f"Couldn't reach '{path}' on the Hub")
        return datasets.DatasetDict(there[path])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return there


def classed(rows: Rows, names: list[str]) -> Any:
    return in_memory([{**row, "label": names.index(row["label"])} for row in rows], names)


def test_hub_with_class_labels(on_the_hub: dict[str, Any], tmp_path: Path) -> None:
    names = ["good", "unused", "bad"]
    on_the_hub["a/classed"] = {
        "train": classed(some_rows(), names),
        "validation": classed(some_rows(9, "test"), names),
        "extra": in_memory([{"text": "further", "label": -1}]),
    }
    source = Hub(
        dataset="a/classed",
        config="plain",
        test_split="validation",
        unlabelled_split="extra",
        hub_revision="abc",
    )
    dataset = load_dataset(source)
    assert on_the_hub["asked"] == [("a/classed", "plain", "abc")]
    assert dataset.label_names == ("good", "bad")  # the feature's order, less what does not occur
    assert [example.fields["text"] for example in dataset.unlabelled] == ["further"]
    by_file = load_dataset(
        TableFile(
            path=write(tmp_path / "t.csv", some_rows()),
            test_path=write(tmp_path / "e.csv", some_rows(9, "test")),
        )
    )
    assert list(map(id_of, dataset.train)) == list(map(id_of, by_file.train))


def test_hub_with_text_labels_and_several_columns(on_the_hub: dict[str, Any]) -> None:
    rows = [{"a": f"a {index}", "b": "b", "gold": "xy"[index % 2]} for index in range(8)]
    on_the_hub["a/pairs"] = {"train": in_memory(rows)}
    dataset = load_dataset(
        Hub(dataset="a/pairs", text=("a", "b"), label="gold", test_split=None, test_size=4)
    )
    assert dataset.label_names == ("x", "y")
    assert (len(dataset.train), len(dataset.test)) == (4, 4)


def test_hub_errors(on_the_hub: dict[str, Any]) -> None:
    names = ["bad", "good"]
    on_the_hub["a/hidden"] = {
        "train": classed(some_rows(), names),
        "test": in_memory([{"text": "kept back", "label": -1}], names),
        "gaps": in_memory([{"text": "a", "label": 0}, {"text": "b", "label": -1}], names),
    }
    with pytest.raises(DataError, match=r"Couldn't reach 'a/none' on the Hub.*network.*table_file"):
        load_dataset(Hub(dataset="a/none"))
    with pytest.raises(
        DataError, match=r"has no split 'tests'; it has: train, test, gaps. Did you mean 'test'"
    ):
        load_dataset(Hub(dataset="a/hidden", test_split="tests"))
    with pytest.raises(DataError, match="split 'test' has no labels: they are kept back"):
        load_dataset(Hub(dataset="a/hidden"))
    with pytest.raises(DataError, match="split 'gaps': no label in row 2"):
        load_dataset(Hub(dataset="a/hidden", test_split="gaps"))
    with pytest.raises(DataError, match=r"no column 'txt' \(text = 'txt'\); it has: 'text', 'label'"):
        load_dataset(Hub(dataset="a/hidden", text=("txt",), test_split=None))
    with pytest.raises(DataError, match=r"no column 'labels'"):
        load_dataset(Hub(dataset="a/hidden", label="labels", test_split=None))


# imdb


def test_the_hub_is_asked_once_whether_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    answers: list[int | Exception] = [OSError("no network"), 404, 200]
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> SimpleNamespace:
            asked.append((url, timeout))
            if isinstance(answer := answers.pop(0), Exception):
                raise answer
            return SimpleNamespace(status_code=answer)

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    assert [is_within_reach("somebody/reviews") for _ in range(3)] == [False, False, True]
    assert len(asked) == 3 and all("somebody/reviews" in url and timeout <= 5 for url, timeout in asked)
    # What lies in the cache is not asked for.
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "README.md"))
    assert is_within_reach("somebody/reviews") and len(asked) == 3


def imdb_rows(prefix: str, count: int = 20) -> Rows:
    return [{"text": f"{prefix}<br />{index}", "label": index % 2} for index in range(count)]


def imdb_folder(folder: Path, unsupervised: bool = True) -> Path:
    folder.mkdir(parents=True)
    write(folder / "train.parquet", imdb_rows("train"))
    write(folder / "test.parquet", imdb_rows("test"))
    if unsupervised:
        write(folder / "unsupervised.parquet", [{"text": "further", "label": -1}])
    return folder


def test_imdb_from_a_folder_or_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_hub: dict[str, Any]
) -> None:
    shared = tmp_path / "shared"
    folder = imdb_folder(shared / "imdb")
    monkeypatch.setenv("HANDFUL_DATA", str(shared))
    named, found = load_dataset(Imdb(folder=str(folder))), load_dataset(Imdb())
    assert named.label_names == ("negative", "positive")
    assert len(named.train) == len(named.test) == 20 and len(named.unlabelled) == 1
    assert named.train[0].fields["text"].startswith("train\n")
    assert content(named) == content(found)

    monkeypatch.delenv("HANDFUL_DATA")
    with pytest.raises(DataError, match=r"Couldn't reach 'stanfordnlp/imdb'.*folder = "):
        load_dataset(Imdb(test_size=3))
    on_the_hub["stanfordnlp/imdb"] = {
        "train": in_memory(imdb_rows("train"), ["neg", "pos"]),
        "test": in_memory(imdb_rows("test"), ["neg", "pos"]),
        "unsupervised": in_memory([{"text": "further", "label": -1}], ["neg", "pos"]),
    }
    assert content(load_dataset(Imdb())) == content(named)


def test_imdb_folders_that_are_none(tmp_path: Path) -> None:
    folder = imdb_folder(tmp_path / "imdb", unsupervised=False)
    assert load_dataset(Imdb(folder=str(folder))).unlabelled == ()
    write(folder / "train.parquet", [{"text": "a", "label": 2}])
    with pytest.raises(DataError, match=r"row 1: label 2; only 0 \(negative\) and 1 \(positive\)"):
        load_dataset(Imdb(folder=str(folder)))
    write(folder / "train.parquet", [{"review": "a", "label": 1}])
    with pytest.raises(DataError, match="has no column 'text'; it has: 'review', 'label'"):
        load_dataset(Imdb(folder=str(folder)))
    (folder / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks train.parquet\. Put"):
        load_dataset(Imdb(folder=str(folder)))
    with pytest.raises(DataError, match=r"lacks train.parquet and test.parquet"):
        load_dataset(Imdb(folder=str(tmp_path / "nowhere")))


@pytest.mark.skipif(not os.environ.get("HANDFUL_DATA"), reason="HANDFUL_DATA names no folder with imdb/")
def test_the_real_imdb() -> None:
    dataset = load_dataset(Imdb())
    assert (len(dataset.train), len(dataset.test), len(dataset.unlabelled)) == (25_000, 25_000, 50_000)
    assert Counter(example.label for example in dataset.train) == {0: 12_500, 1: 12_500}
    assert dataset.facts["num_duplicates_across"] == 123
    assert dataset.facts["num_duplicates_within_train"] == 96
    assert not any("<br" in example.fields["text"] for example in dataset.train)
    test_texts = {example.fields["text"] for example in dataset.test}
    num_outside_test = sum(one.fields["text"] not in test_texts for one in (*dataset.train, *dataset.unlabelled))
    previous: set[str] = set()
    for num_labels, selected in ((50, 0), (150, 30), (2500, 500), (25_000, 1000)):
        split = draw_split(dataset, num_labels, 0, Holdout().selection_size)
        ids = {example.id for example in (*split.train, *split.selection)}
        assert previous < ids and len(ids) == num_labels and len(split.selection) == selected
        assert split.facts["class_counts"] == {"negative": num_labels // 2, "positive": num_labels // 2}
        assert len(split.pool) == num_outside_test
        previous = ids
