"""Tables that cannot be used: each is a DataError that says what, where and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handful.data import TableFile, load_dataset
from handful.errors import DataError

GOOD = "text,label\nfine,good\nawful,bad\n"


def refuse(match: str, source: TableFile) -> str:
    """The message of the DataError that loading `source` raises."""
    with pytest.raises(DataError, match=match) as caught:
        load_dataset(source)
    return str(caught.value)


def table(tmp_path: Path, content: str | bytes, name: str = "reviews.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(tmp_path: Path, columns: dict[str, list[object]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    return str(tmp_path / "t.parquet")


def test_missing_file(tmp_path: Path) -> None:
    table(tmp_path, GOOD)
    refuse(
        r"review.csv is not there .* Did you mean 'reviews.csv'\?",
        TableFile(path=str(tmp_path / "review.csv")),
    )
    refuse("no folder .*nowhere", TableFile(path=str(tmp_path / "nowhere" / "a.csv")))
    (tmp_path / "folder.csv").mkdir()
    refuse("is a folder", TableFile(path=str(tmp_path / "folder.csv")))
    refuse("b.csv is not there", TableFile(path=table(tmp_path, GOOD), test_path=str(tmp_path / "b.csv")))


def test_unknown_suffix(tmp_path: Path) -> None:
    refuse(r"must end in \.csv, \.tsv, \.jsonl, \.parquet", TableFile(path=table(tmp_path, GOOD, "a.xlsx")))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_missing_column(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        path = parquet(tmp_path, {"review": ["a", "b"], "sentiment": ["x", "y"]})
    elif name.endswith("csv"):
        path = table(tmp_path, "review,sentiment\na,x\nb,y\n", name)
    else:
        path = table(tmp_path, '{"review":"a","sentiment":"x"}\n{"review":"b","sentiment":"y"}\n', name)
    refuse("has no column 'text'; it has: 'review', 'sentiment'", TableFile(path=path))
    refuse(
        r"no column 'sentiments' \(label = 'sentiments'\).* Did you mean 'sentiment'\?",
        TableFile(path=path, text=("review",), label="sentiments"),
    )
    refuse("no column 'key'", TableFile(path=path, text=("review",), label="sentiment", id="key"))


def test_missing_column_of_another_separator(tmp_path: Path) -> None:
    refuse("separated by ';'", TableFile(path=table(tmp_path, "text;label\na;b\n")))


def test_the_label_is_no_text(tmp_path: Path) -> None:
    refuse("both the label and a text column", TableFile(path=table(tmp_path, GOOD), text=("text", "label")))


@pytest.mark.parametrize("content", ["", "\n\n", "text,label\n"])
def test_empty_csv(tmp_path: Path, content: str) -> None:
    refuse("is empty|has no rows", TableFile(path=table(tmp_path, content)))


def test_empty_jsonl_and_parquet(tmp_path: Path) -> None:
    refuse("is empty", TableFile(path=table(tmp_path, "\n", "a.jsonl")))
    refuse("has no rows", TableFile(path=parquet(tmp_path, {"text": [], "label": []})))
    empty = table(tmp_path, "text,label\n", "empty.csv")
    refuse("empty.csv has no rows", TableFile(path=table(tmp_path, GOOD), test_path=empty))


def test_one_label_only(tmp_path: Path) -> None:
    refuse("one label only \\('good'\\)", TableFile(path=table(tmp_path, "text,label\na,good\nb,good\n")))


def test_unknown_test_label(tmp_path: Path) -> None:
    test_path = table(tmp_path, "text,label\nso so,goood\n", "test.csv")
    refuse(
        r"labels that no training text has: 'goood'. Did you mean 'good'\?",
        TableFile(path=table(tmp_path, GOOD), test_path=test_path),
    )


def test_texts_that_are_not_text(tmp_path: Path) -> None:
    refuse(
        r"column 'text' holds int, not text \(row 2: '5'\)",
        TableFile(path=table(tmp_path, '{"text":"a","label":"x"}\n{"text":5,"label":"y"}\n', "a.jsonl")),
    )
    refuse("holds int, not text", TableFile(path=parquet(tmp_path, {"text": [1, 2], "label": ["x", "y"]})))
    refuse(
        "holds bytes, not text",
        TableFile(path=parquet(tmp_path, {"text": [b"1", b"2"], "label": ["x", "y"]})),
    )
    refuse(
        "label column 'label' holds list",
        TableFile(path=table(tmp_path, '{"text":"a","label":["x"]}\n{"text":"b","label":"y"}\n', "b.jsonl")),
    )


def test_missing_texts(tmp_path: Path) -> None:
    refuse(
        "column 'text' has no text in rows 2, 4",
        TableFile(path=table(tmp_path, 'text,label\na,x\n,y\nb,x\n"  ",y\n')),
    )
    refuse(
        "no text in row 2",
        TableFile(path=table(tmp_path, '{"text":"a","label":"x"}\n{"label":"y"}\n', "a.jsonl")),
    )
    refuse("no text in row 1", TableFile(path=parquet(tmp_path, {"text": [None, "b"], "label": ["x", "y"]})))
    many = "text,label\n" + "a,x\n,y\n" * 15
    refuse("rows 2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 5 more", TableFile(path=table(tmp_path, many)))


def test_missing_labels(tmp_path: Path) -> None:
    refuse(
        "no label in row 2 \\(column 'label'\\)", TableFile(path=table(tmp_path, "text,label\na,x\nb, \n"))
    )
    refuse(
        "no label in rows 1, 3",
        TableFile(path=parquet(tmp_path, {"text": ["a", "b", "c"], "label": [float("nan"), 1.0, None]})),
    )


def test_wrong_encoding(tmp_path: Path) -> None:
    latin = GOOD + "un film décevant,bad\n"
    message = refuse(
        r"read as utf-8, but byte 0xe9 at position 40 \(line 4\)",
        TableFile(path=table(tmp_path, latin.encode("latin-1"))),
    )
    assert "iconv -f CP1252 -t UTF-8" in message
    refuse("iconv -f UTF-16", TableFile(path=table(tmp_path, GOOD.encode("utf-16"))))
    half = json.dumps({"text": "\ud83d", "label": "x"}) + '\n{"text":"b","label":"y"}\n'
    refuse(
        "column 'text', row 1 .*half of a surrogate pair", TableFile(path=table(tmp_path, half, "a.jsonl"))
    )


def test_damaged_parquet(tmp_path: Path) -> None:
    path = Path(parquet(tmp_path, {"text": ["a", "b"] * 50, "label": ["x", "y"] * 50}))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:4] + b"\xff" * 60 + whole[64:]):
        path.write_bytes(damaged)
        refuse("cannot be read as Parquet", TableFile(path=str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\nb,y,z\n", "line 3: 3 cells, but the header names 2 columns"),
        ("text,label\na\n", "line 2: 1 cells"),
        ('text,label\n"a,x\nb,y\n', "not well-formed"),
        ('text,label\n"a"b,x\n', "line 2: not well-formed"),
        ("text,text,label\na,b,x\n", "names a column twice: text"),
    ],
)
def test_malformed_csv(tmp_path: Path, content: str, message: str) -> None:
    refuse(message, TableFile(path=table(tmp_path, content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text":"a","label":"x"}\n\n{"text":"b"\n', "line 3: not JSON"),
        ('"just text"\n', "line 1: a str, not an object"),
        ('[\n{"text":"a","label":"x"}\n]', "one JSON array: write one object a line"),
        ('{"text":"a","label":' + "1" * 5000 + "}\n", "line 1: not JSON"),
    ],
)
def test_malformed_jsonl(tmp_path: Path, content: str, message: str) -> None:
    refuse(message, TableFile(path=table(tmp_path, content, "a.jsonl")))
