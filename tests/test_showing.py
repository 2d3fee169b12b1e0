"""Shown prompts against the tokens that they stand for."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from handful.examples import Example, Split
from handful.prompts import encode, render
from handful.prompts.alpaca import Alpaca
from handful.prompts.cloze import Cloze
from handful.showing import escaped
from toys import toy_tokenizer

LABELS, FIELDS = ("bad", "good"), ("text",)
TEXTS = {
    "plain": "the film was a very good film",
    "bytes": "naïve \N{GRINNING FACE} 映画, it was great\n\nindeed ",
    "special": "a <s> in the </s> text",
    "nothing": "",
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return toy_tokenizer()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("prompt", [Alpaca(max_tokens=2000), Cloze(max_tokens=2000)], ids=["alpaca", "cloze"])
def test_pieces_are_the_prompt_token_by_token(tokenizer: Any, name: str, prompt: Any) -> None:
    text = TEXTS[name]
    shown = render(prompt, {"text": text}, LABELS, FIELDS, tokenizer)
    split = Split(LABELS, FIELDS, (), (), (Example("a", {"text": text}, 0),), (), "")
    (encoded,) = encode(split, prompt, tokenizer).test
    assert shown.added_tokens == ("<s>",)
    assert len(shown.added_tokens) + len(shown.pieces) == len(encoded.tokens) == shown.num_tokens
    # A byte-level tokenizer loses nothing, so its pieces are the text, and each token decodes to its own.
    joined = "".join(shown.pieces)
    assert shown.text.startswith(joined) and len(shown.text) - len(joined) <= len(max(shown.answers, key=len))
    for token, piece in zip(encoded.tokens[1:], shown.pieces, strict=True):
        decoded = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        assert decoded == piece or "\N{REPLACEMENT CHARACTER}" in decoded
    assert tuple(tuple(number for number, _ in answer) for answer in shown.answer_tokens) == encoded.answers
    for answer in shown.answer_tokens:
        assert [token for _, token in answer] == tokenizer.convert_ids_to_tokens([number for number, _ in answer])
    assert (shown.num_cut, shown.cut_text) == (0, "")


@pytest.mark.parametrize("keep", ["head", "tail", "ends"])
def test_what_is_cut_is_shown(tokenizer: Any, keep: Literal["head", "tail", "ends"]) -> None:
    text = " ".join(f"film{number}" for number in range(200))
    prompt = Cloze(max_tokens=150, keep=keep)
    shown = render(prompt, {"text": text}, LABELS, FIELDS, tokenizer)
    kept = shown.text.removesuffix("\n\nAll in all, this film was")
    assert shown.num_cut > 0 and shown.cut_text
    head, _, tail = kept.partition(" ... ") if keep == "ends" else (kept, "", "") if keep == "head" else ("", "", kept)
    assert head + shown.cut_text + tail == text
    alone = tokenizer(shown.cut_text, add_special_tokens=False)["input_ids"]
    assert len(alone) == pytest.approx(shown.num_cut, abs=2), "the cut's ends may split otherwise when alone"


def test_nothing_invisible_is_left() -> None:
    assert escaped("a|b\\c") == "a\\|b\\\\c"
    assert escaped("one\ntwo\tthree\r") == "one\\n\ntwo\\tthree\\r"
    assert escaped("\x1b[2J\x00\x7f\x9b") == "\\x1b[2J\\x00\\x7f\\x9b"
    assert escaped("\u200b\u202e\u2028\U000e0041") == "\\u200b\\u202e\\u2028\\U000e0041"
    assert escaped("\ud800") == "\\ud800"
    assert escaped("naïve 映画 \N{GRINNING FACE}") == "naïve 映画 \N{GRINNING FACE}"
