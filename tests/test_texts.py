"""Test texts on the report page: found by id where their source is at hand, and left out on demand."""

from __future__ import annotations

import csv
import html
from pathlib import Path

import pytest

from handful.cli import main
from handful.data import Reviews, TableFile, load_dataset, resolve
from handful.spec import member_dict
from handful.texts import from_section, from_sources

STUDY = """
name = "mine"
[fixed]
data = { name = "table_file", path = "reviews.csv", test_path = "test.csv", text = "review", label = "stars" }
[grid]
method = [{ name = "tfidf", max_words = 1 }, { name = "tfidf", max_words = 2 }]
num_labels = [20]
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableFile:
    """A person's own table, whose labels say nothing of its texts: everything is got wrong about half of the time."""
    monkeypatch.chdir(tmp_path)
    for name in ("reviews", "test"):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["review", "stars"])
            words = "plain", "odd", "long", "short", "new"
            for index in range(40):
                text = f"{name} <i>{index}</i> was {words[index % 5]} and {words[index % 3]} " + "so " * 150
                writer.writerow([text, "good" if index % 2 else "bad"])
    return resolve(TableFile(path="reviews.csv", test_path="test.csv", text="review", label="stars"))


def test_texts_of_a_source_that_ships() -> None:
    source = resolve(Reviews(test_size=20))
    wanted = [example.id for example in load_dataset(source).test[:3]]
    found = from_section(member_dict(source), [*wanted, "no such id"])
    assert found == {example.id: example.fields for example in load_dataset(source).test[:3]}


def test_a_source_that_is_not_at_hand_gives_no_texts(table: TableFile, monkeypatch: pytest.MonkeyPatch) -> None:
    section = member_dict(resolve(Reviews()))
    assert from_section(section | {"revision": "sha256:0"}, ["x"]) == {}, "its texts have changed"
    assert from_section(section | {"knob_of_another_version": 1}, ["x"]) == {}
    assert from_section({"name": "unknown"}, ["x"]) == {} and from_section({}, ["x"]) == {}
    assert from_section(member_dict(table), ["x"]) == {}, "a record does not say where a table lies"
    # Without a folder IMDB would come from the hub.
    monkeypatch.delenv("HANDFUL_DATA", raising=False)
    assert from_section({"name": "imdb", "test_size": 10, "revision": "sha256:0"}, ["x"]) == {}


def test_texts_of_a_table_that_a_study_has_read(table: TableFile, tmp_path: Path) -> None:
    section = member_dict(table)
    look_up = from_sources([(section, table)])
    example = load_dataset(table).test[0]
    assert look_up(section, [example.id]) == {example.id: example.fields}
    assert look_up({"name": "imdb"}, [example.id]) == {}
    (tmp_path / "test.csv").unlink()
    assert look_up(section, [example.id]) == {}


def typed(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code is None or isinstance(ended.value.code, int)
    return ended.value.code or 0


def test_the_verbs_show_texts_shorten_them_and_leave_them_out(table: TableFile, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STUDY, encoding="utf-8")
    assert typed("study", "mine.toml", "--output", "out") == 0
    page = tmp_path / "out" / "report.html"
    tests = {example.fields["review"].strip() for example in load_dataset(table).test}

    def quotes() -> list[str]:
        parts = page.read_text(encoding="utf-8").split("<blockquote>")[1:]
        return [html.unescape(part.split("</blockquote>")[0]) for part in parts]

    assert quotes() and all(len(quote) <= 300 for quote in quotes())
    assert all(any(text.startswith(quote[:30]) for text in tests) for quote in quotes())
    assert typed("study", "mine.toml", "--output", "out", "--no-texts") == 0 and quotes() == []
    assert typed("report", "out") == 0 and quotes() == [], "where the table lies is known to its study alone"


def test_report_writes_tables_and_keeps_to_the_text_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = STUDY.replace(STUDY.split("data = ")[1].split("\n")[0], '{ name = "reviews", test_size = 60 }')
    (tmp_path / "shipped.toml").write_text(study, encoding="utf-8")
    assert typed("study", "shipped.toml", "--output", "out") == 0
    page = tmp_path / "out" / "report.html"
    assert typed("report", "out", "--text-length", "40", "--latex", "--csv") == 0
    quotes = [html.unescape(part.split("</blockquote>")[0])
              for part in page.read_text(encoding="utf-8").split("<blockquote>")[1:]]
    assert quotes and max(map(len, quotes)) <= 40
    assert (tmp_path / "out" / "table.tex").is_file() and (tmp_path / "out" / "table.csv").is_file()
    assert typed("report", "out", "--no-texts") == 0
    assert "<blockquote>" not in page.read_text(encoding="utf-8")
