"""A real browser opens the page of a study full of hostile texts: nothing runs, nothing is fetched, nothing overflows.

Skipped where there is no chromium.
"""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from handful.report import write_report
from test_report import Page
from test_summary import LORA, TFIDF, ZERO_SHOT, Study, draws

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")

MARK = "it ran"


def hostile(address: str) -> list[str]:
    """Texts that would change the page's title, or ask a server for something, if they were more than texts."""
    act = f"document.title='{MARK}'"
    return [
        f"<script>{act}</script>", f"</blockquote></ol><script>{act}</script>", f"<img src=x onerror=\"{act}\">",
        f"<svg onload=\"{act}\"><script>{act}</script></svg>", f"<iframe srcdoc='<script>top.{act}</script>'></iframe>",
        f"<img src='{address}/image'>", f"<link rel=stylesheet href='{address}/style'>",
        f"<style>@import '{address}/import'; body {{ background: url({address}/background) }}</style>",
        f"<script src='{address}/script'></script>", f"<meta http-equiv=refresh content='0;url={address}/refresh'>",
        f"--></style></title></svg><script>{act}</script>", f"{{{{ 7 * 7 }}}}<a href='javascript:{act}'>x</a>",
    ]


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for)"""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
    finally:
        running.shutdown()
        running.server_close()


def study_of(path: Path, texts: list[str]) -> Study:
    """Hostile texts in every place that a record, a plan or a data source can bring them to a page."""
    study = Study(path, name=f"study {texts[0]}")
    for place, text in enumerate(texts):
        told = {
            "label_names": (f"neg {text}", f"pos {text}"), "facts": {f"fact {text}": text},
            "engine": {"path": text}, "execution": {"device": text, "seconds": {"train": 3.0}, "notes": [text]},
            "curve": {"points": [{"update": 1, "train_loss": 0.5}, {"update": 2, "train_loss": 0.9}],
                      "chosen_update": 2, "chosen_by": text},
        }
        for num_labels in (16, 50):
            right = draws(0.5, seed=place)
            study.finish(LORA | {"rank": text}, num_labels, 0, right, told=told)
        study.fail({"name": f"method {text}"}, 16, 0, f"training diverged: {text}")
    study.finish(TFIDF, 16, 0, draws(0.5, seed=99))
    for text in texts[:3]:
        study.finish(ZERO_SHOT, 16, 0, draws(0.6), prompt={"name": "cloze", "ending": text})
    study.folder.write_plan({"name": study.name, "command": texts[0], "notes": texts, "cells": study.cells})
    return study


def chromium(tmp_path: Path, *arguments: str) -> str:
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", *arguments,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )
    return done.stdout


def test_no_text_runs_and_nothing_is_fetched(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    texts = hostile(address)
    study = study_of(tmp_path / "study", texts)

    def lookup(section: object, ids: object) -> dict[str, dict[str, str]]:
        assert isinstance(ids, tuple)
        return {name: {"text": texts[place % len(texts)]} for place, name in enumerate(ids)}

    page = next(path for path in write_report(study.folder, lookup) if path.suffix == ".html")
    source = page.read_text(encoding="utf-8")
    assert source.count("<blockquote>") >= 10, "texts are on the page"
    seen = Page(chromium(tmp_path, "--dump-dom", page.as_uri()))
    assert asked == []
    assert seen.text.lstrip().startswith(f"study {texts[0]} · handful"), "the title is what it was"
    assert not {"script", "iframe", "img", "object", "embed"} & set(seen.tags)
    handlers = [name for _, name, _ in seen.attributes if name.startswith("on")]
    assert handlers == []
    for _, name, value in seen.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"):
            assert value.startswith(("#", "data:,")), value
    assert "49<a" not in source, "a text is no template"


def test_the_marker_would_be_seen_and_the_server_asked(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """The test above can fail: the same texts, unescaped, in a page without a policy."""
    address, asked = server
    bad = tmp_path / "bad.html"
    bad.write_text("<title>x</title>" + "".join(hostile(address)[:9]), encoding="utf-8")
    assert f"<title>{MARK}</title>" in chromium(tmp_path, "--dump-dom", bad.as_uri())
    assert "/image" in asked


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_nothing_has_to_be_scrolled_sideways(tmp_path: Path, width: int) -> None:
    """The page says its own width when a frame of a given width asks for it."""
    study = Study(tmp_path / "study", name="a study with a name " + "verylongword" * 8)
    for num_labels in (16, 50, 150, 500, 2500):
        for rank in (4, 8):
            study.finish({"name": "lora", "rank": rank, "learning_rate_of_something": 0.1}, num_labels, 0, draws(0.8))
        study.finish(ZERO_SHOT, num_labels, 0, draws(0.6))
    page = next(path for path in write_report(study.folder) if path.suffix == ".html")
    # The page itself may run no script: a frame of its own origin measures a copy without its policy.
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    measure = """<script>
        const wide = element => element.scrollWidth > element.clientWidth;
        const parts = [...document.querySelectorAll(".scroll, .plot, figure")].filter(wide).length;
        document.title = `page ${wide(document.documentElement)}, parts ${parts}`;
    </script>"""
    (tmp_path / "inner.html").write_text(source.replace("</body>", f"{measure}</body>"), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f"<body style='margin:0'><iframe src='inner.html' style='border:0;width:{width}px;height:900px' "
        "onload='document.title = this.contentDocument.title'></iframe>", encoding="utf-8")
    window = f"--window-size={max(width, 600)},900"
    shown = chromium(tmp_path, "--allow-file-access-from-files", window, "--dump-dom", outer.as_uri())
    found = re.search(r"<title>page (\w+), parts (\d+)</title>", shown)
    assert found is not None and found[1] == "false"
    # On a desk, a table with many columns may be scrolled inside of the page; on a phone nothing has to be.
    assert width > 600 or found[2] == "0"
