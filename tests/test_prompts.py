"""Prompts without any tokenizer: their text, their defaults, and every mistake that resolve names."""

from __future__ import annotations

import subprocess
import sys
import typing

import pytest

from handful.errors import PromptError
from handful.prompts import PROMPTS, Prompt, render, resolve
from handful.prompts.alpaca import Alpaca
from handful.prompts.chat_template import ChatTemplate
from handful.prompts.cloze import Cloze
from handful.prompts.custom import Custom
from handful.prompts.llama2_chat import Llama2Chat
from handful.prompts.none import NoPrompt
from handful.prompts.plain import Plain

LABELS = ("negative", "positive")
TEXT = ("text",)
PAIR = ("premise", "hypothesis")


def listed(name: str, **knobs: typing.Any) -> Prompt:
    if name == "custom":
        knobs.setdefault("template", "{text}")
    return PROMPTS[name](**knobs)


# -- every member ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPTS)
def test_every_member_has_its_name_and_types_that_a_study_file_can_say(name: str) -> None:
    assert PROMPTS[name].name == name
    hints = typing.get_type_hints(PROMPTS[name])
    assert {"answers", "shorten", "keep", "max_tokens"} <= hints.keys()


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("context", [None, 256, 2048, 131072])
def test_resolving_leaves_nothing_open_and_changes_nothing_twice(name: str, context: int | None) -> None:
    prompt = resolve(listed(name), LABELS, TEXT, context)
    assert resolve(prompt, LABELS, TEXT, context) == prompt
    assert resolve(prompt, LABELS, TEXT, None) == prompt
    if prompt.asks:
        assert [knob for knob, value in vars(prompt).items() if value is None] == ["prune_nats"]  # None: no pruning
        assert list(prompt.answers or ()) == list(LABELS)
        assert prompt.shorten == "text"
        assert prompt.max_tokens == {None: 3968, 256: 240, 2048: 1920, 131072: 3968}[context]


def test_members_that_ask_nothing_stay_open() -> None:
    assert resolve(NoPrompt(), LABELS, TEXT, 2048) == NoPrompt()
    assert resolve(Plain(), LABELS, PAIR, None) == Plain()
    assert resolve(Plain(), LABELS, PAIR, 512) == Plain(shorten="premise", max_tokens=496)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, handful.prompts; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- the text of each ------------------------------------------------------------------------------------


def test_alpaca_is_the_stanford_text() -> None:
    shown = render(Alpaca(instruction="Decide."), {"text": "Fine {film}"}, LABELS, TEXT)
    assert shown.text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\nDecide.\n\n"
        "### Input:\nFine {film}\n\n### Response:\n"
    )
    assert shown.answers == ("negative", "positive")


def test_llama2_chat() -> None:
    prompt = Llama2Chat(instruction="Decide.", system="Be brief.")
    shown = render(prompt, {"text": "Fine"}, LABELS, TEXT)
    assert shown.text == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nDecide.\n\nFine [/INST]"
    assert shown.answers == (" negative", " positive")
    bare = render(Llama2Chat(instruction="Decide.", system=""), {"text": "Fine"}, LABELS, TEXT)
    assert bare.text == "[INST] Decide.\n\nFine [/INST]"


def test_cloze_and_its_answers() -> None:
    shown = render(Cloze(), {"text": "Fine."}, LABELS, TEXT)
    assert shown.text == "Fine.\n\nAll in all, this film was"
    assert shown.answers == (" terrible", " great")
    assert render(Cloze(), {"text": "x"}, ("a", "b", "c"), TEXT).answers == (" a", " b", " c")
    assert render(Cloze(), {"text": "x"}, ("neutral", *LABELS), TEXT).answers[2] == " positive"


def test_custom_keeps_plain_braces_and_may_repeat_a_field() -> None:
    shown = render(Custom(template="{{{text}}} {text}:\n"), {"text": "{x}"}, LABELS, TEXT)
    assert shown.text == "{{x}} {x}:\n"
    assert shown.answers == LABELS


def test_pairs_have_a_line_each_and_the_first_is_shortened() -> None:
    fields = {"premise": "It rains.", "hypothesis": "It is wet."}
    shown = render(Cloze(ending="So this is"), fields, LABELS, PAIR)
    assert shown.text == "Premise: It rains.\nHypothesis: It is wet.\n\nSo this is"
    assert resolve(Cloze(), LABELS, PAIR, 2048).shorten == "premise"
    assert resolve(Cloze(shorten="hypothesis"), LABELS, PAIR, 2048).shorten == "hypothesis"
    assert resolve(Custom(template="{hypothesis}?"), LABELS, PAIR, 2048).shorten == "hypothesis"


@pytest.mark.parametrize("member", [Alpaca, Llama2Chat, ChatTemplate])
def test_the_default_instruction_names_the_answers(member: type[Alpaca]) -> None:
    prompt = resolve(member(answers={"a": " bad ", "b": "good", "c": "so so"}), ("b", "a", "c"), TEXT, None)
    assert isinstance(prompt, (Alpaca, Llama2Chat, ChatTemplate))
    assert prompt.instruction == "Classify the text as good, bad or so so."
    assert list((prompt.answers or {}).items()) == [("b", "good"), ("a", "bad"), ("c", "so so")]


def test_plain_and_none() -> None:
    assert render(Plain(), {"text": "Fine."}, LABELS, TEXT).text == "Fine."
    assert render(NoPrompt(), {"text": "Fine."}, LABELS, TEXT).text == ""


def test_chat_template_cannot_be_shown_without_its_model() -> None:
    with pytest.raises(PromptError, match="tokenizer"):
        render(ChatTemplate(), {"text": "Fine."}, LABELS, TEXT)


# -- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Cloze(answers={"negative": "bad"}), ["lack the labels 'positive'"]),
        (Cloze(answers={}), ["lack the labels 'negative', 'positive'"]),
        (
            Cloze(answers={"negative": "bad", "positive": "good", "postive": "x"}),
            ["'postive'", "Did you mean 'positive'?"],
        ),
        (
            Cloze(answers={"negative": "bad", "positive": " bad "}),
            ["'negative' and 'positive'", "same answer 'bad'"],
        ),
        (Cloze(answers={"negative": "bad", "positive": " "}), ["'positive' is empty"]),
        (Custom(template="Say it:"), ["names no field", "{text}"]),
        (Custom(template="{txt}"), ["'txt'", "Did you mean 'text'?"]),
        (Custom(template="{text"), ["unmatched brace"]),
        (Custom(template="{}"), ["write the name alone"]),
        (Custom(template="{text!r}"), ["write the name alone"]),
        (Custom(template="{text.upper}"), ["'text.upper'"]),
        (Cloze(shorten="txt"), ["shorten", "Did you mean 'text'?"]),
        (Cloze(max_tokens=4096), ["max_tokens is 4096", "2048"]),
        (Cloze(max_tokens=0), ["at least 1"]),
        (Cloze(keep="middle"), ["head, tail, ends"]),  # type: ignore[arg-type]
        (Plain(answers={"negative": "bad", "positive": "good"}), ["leave them out"]),
        (NoPrompt(max_tokens=7), ["leave them out"]),
    ],
)
def test_a_mistake_is_named_with_its_way_out(prompt: Prompt, words: list[str]) -> None:
    with pytest.raises(PromptError) as caught:
        resolve(prompt, LABELS, TEXT, 2048)
    for word in [f"prompt {prompt.name}: ", *words]:
        assert word in str(caught.value)


def test_shorten_must_be_in_the_template() -> None:
    with pytest.raises(PromptError, match="'hypothesis', which is not in the template"):
        resolve(Custom(template="{premise}", shorten="hypothesis"), LABELS, PAIR, 2048)


def test_all_mistakes_come_at_once() -> None:
    prompt = Custom(template="{txt}", answers={"negative": "bad"}, max_tokens=9999)
    with pytest.raises(PromptError, match="3 problems") as caught:
        resolve(prompt, LABELS, TEXT, 2048)
    assert str(caught.value).count("\n  - ") == 3
