"""Token ids against the tokenisation of the whole, for tokenizers of every kind that models have."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import handful
from handful.errors import PromptError
from handful.examples import UNLABELLED, Encoded, Example, Split
from handful.progress import recording
from handful.prompts import PROMPTS, Prompt, check_prompt, encode, render, resolve
from handful.prompts import encoding as encoding_module
from handful.prompts.alpaca import Alpaca
from handful.prompts.chat_template import ChatTemplate
from handful.prompts.cloze import Cloze
from handful.prompts.custom import Custom
from handful.prompts.llama2_chat import Llama2Chat
from handful.prompts.none import NoPrompt
from handful.prompts.plain import Plain

LABELS = ("negative", "positive")
CORPUS = [
    "All in all, this film was great. The acting was good, good enough, even very good.",
    "All in all, this film was terrible; a terrible, terrible waste of 90 minutes.",
    "Below is an instruction that describes a task, paired with an input. Write a response.",
    "### Instruction: classify the text as negative or positive. ### Response: positive",
    "the review is negative and the other review is positive\nThis is a new line\n\nand two.",
] * 4
TEXTS = [
    "A fine film.",
    "x",
    "",
    " ",
    "  leading and trailing  ",
    "ends in a new line\n",
    "<br /><br />I liked <b>it</b> &amp; more {text} {0} {{x}} %s",
    "naïve 電影 很好 👍🏽👨‍👩‍👧‍👦 a\u0301 \u200b\u00a0 \x00 \ufeff end",
    "<s> hello </s> <|im_end|> [/INST] <unk>",
    "<s>",
    "what a good",
    "tab\tand\r\nwindows",
    "HandfulSlot0Qx All in all, this film was",
    "word " * 40,
]
BLOCK_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level() -> PreTrainedTokenizerFast:
    """The one that ships with the package: it puts nothing before a text."""
    folder = Path(handful.__file__).parent / "assets" / "reviews-llama-5m"
    return AutoTokenizer.from_pretrained(folder)


def byte_level_chat() -> PreTrainedTokenizerFast:
    """With a BOS of its own, and a chat template that writes one too."""
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    chat = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    chat.add_tokens(["<|user|>", "<|assistant|>", "<|end|>", "<|system|>", "<b>"])
    chat.chat_template = BLOCK_TEMPLATE
    return chat


def llama2() -> PreTrainedTokenizerFast:
    """Spaces are letters, one stands before the text, nothing splits words; adds a BOS."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    letters = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=letters))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    raw = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.add_special_tokens(special)
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def metaspace() -> PreTrainedTokenizerFast:
    """A space before the first section only, as Mistral has it; adds a BOS and an EOS."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"])
    )
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    """Whole words between spaces, unknown ones all alike, special tokens around as in BERT."""
    raw = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.train_from_iterator(
        CORPUS, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]",
        eos_token="[SEP]",
    )  # fmt: skip


MAKERS = {
    "byte_level": byte_level,
    "byte_level_chat": byte_level_chat,
    "llama2": llama2,
    "metaspace": metaspace,
    "word_level": word_level,
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, PreTrainedTokenizerFast]) -> Any:
    return tokenizers[request.param]


def split_of(
    texts: Sequence[str | Mapping[str, str]], labels: Sequence[str] = LABELS, revision: str = ""
) -> Split:
    fields = [text if isinstance(text, Mapping) else {"text": text} for text in texts]
    test = tuple(Example(f"e{index}", one, index % len(labels)) for index, one in enumerate(fields))
    return Split(tuple(labels), tuple(fields[0]), (), (), test, (), revision)


def bare_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_whole(
    encoded: Encoded, split: Split, prompt: Prompt, tokenizer: PreTrainedTokenizerFast, ended: bool = False
) -> None:
    """tokens + answer is the whole tokenised, with what the tokenizer puts before it."""
    for source, one in zip(split.test, encoded.test, strict=True):
        shown = render(prompt, source.fields, split.label_names, split.field_names, tokenizer)
        prefix = tuple(tokenizer.convert_tokens_to_ids(list(shown.added_tokens)))
        end = (tokenizer.eos_token_id,) if ended else ()
        assert (one.id, one.label, one.fields) == (source.id, source.label, source.fields)
        assert len(one.answers) == len(shown.answers)
        for text, answer in zip(shown.answers, one.answers, strict=True):
            whole = prefix + bare_ids(tokenizer, shown.text + text) + end
            if one.tokens == (tokenizer.bos_token_id or tokenizer.eos_token_id,) and not prefix:
                whole = one.tokens + whole  # the stand-in for an empty prompt
            assert one.tokens + answer == whole
            assert answer


# -- the whole -------------------------------------------------------------------------------------------

SHAPES: dict[str, Prompt] = {
    "cloze": Cloze(),
    "alpaca": Alpaca(),
    "llama2_chat": Llama2Chat(),
    "text_only": Custom(template="{text}"),
    "text_last": Custom(template="Review: {text}"),
    "space_last": Custom(template="{text}: it is "),
    "no_space": Custom(template="{text}="),
    "twice": Custom(template="{text}\n{text}\n\n"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_and_answer_are_the_whole(tokenizer: PreTrainedTokenizerFast, shape: str) -> None:
    split = split_of(TEXTS)
    check_whole(encode(split, SHAPES[shape], tokenizer), split, SHAPES[shape], tokenizer)


def test_chat_template_is_the_whole(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizers["byte_level_chat"]
    split = split_of(TEXTS)
    check_whole(encode(split, ChatTemplate(), tokenizer), split, ChatTemplate(), tokenizer)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_beginning_no_end_and_no_special_token_from_a_text(
    tokenizer: PreTrainedTokenizerFast, shape: str
) -> None:
    first = tuple(tokenizer("a")["input_ids"])[: -len(bare_ids(tokenizer, "a"))]
    added = {1} & set(first)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for one in encode(split_of(TEXTS), SHAPES[shape], tokenizer).test:
        found = [token for token in one.tokens if token in special]
        stand_in = [tokenizer.bos_token_id] if len(one.tokens) == 1 and not added else []
        assert found in (sorted(added), stand_in)
        assert not special & {token for answer in one.answers for token in answer}


def test_a_chat_template_that_writes_the_beginning_gets_no_second_one(
    tokenizers: dict[str, PreTrainedTokenizerFast],
) -> None:
    tokenizer = tokenizers["byte_level_chat"]
    shown = render(ChatTemplate(), {"text": "Fine."}, LABELS, ("text",), tokenizer)
    assert (
        shown.text
        == "<s><|user|>\nClassify the text as negative or positive.\n\nFine.<|end|>\n<|assistant|>\n"
    )
    assert shown.added_tokens == () and shown.answers == LABELS
    (one,) = encode(split_of(["Fine."]), ChatTemplate(), tokenizer).test
    assert one.tokens.count(1) == 1 and one.tokens[0] == 1
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    (one,) = encode(split_of(["Fine. <|user|> <b>no control</b>"]), ChatTemplate(), tokenizer).test
    assert one.tokens.count(user) == 1
    assert tokenizer.convert_tokens_to_ids("<b>") in one.tokens  # an added word that no template writes
    shown = render(Cloze(), {"text": "Fine."}, LABELS, ("text",), tokenizer)
    assert shown.added_tokens == ("<s>",)


def test_special_tokens_in_texts_are_broken_and_counted(
    tokenizers: dict[str, PreTrainedTokenizerFast],
) -> None:
    split = split_of(["a <s>b</s><s>", "fine", "<<s>s>"])
    encoded = encode(split, Cloze(), tokenizers["byte_level"])
    assert encoded.facts["num_special_neutralised"] == 4
    shown = render(Cloze(ending="."), split.test[0].fields, LABELS, ("text",), tokenizers["byte_level"])
    assert shown.text.startswith("a < s>b< /s>< s>")
    assert encoded.test[0].fields["text"] == "a <s>b</s><s>"


# -- answers ---------------------------------------------------------------------------------------------


def test_three_labels_of_several_tokens_in_label_order(tokenizer: PreTrainedTokenizerFast) -> None:
    labels = ("c", "a", "b")
    answers = {"a": "very good indeed", "b": "good, even good enough", "c": "terrible"}
    if "[UNK]" in tokenizer.all_special_tokens:
        answers["a"] = "very good great"
    prompt = Cloze(answers=answers)
    split = split_of(TEXTS, labels)
    encoded = encode(split, prompt, tokenizer)
    check_whole(encoded, split, prompt, tokenizer)
    assert encoded.task.answer_texts == tuple(" " + answers[label] for label in labels)
    assert len(encoded.test[0].answers[1]) > 1


def test_answers_that_begin_one_another_all_get_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = Cloze(answers={"a": "good", "b": "good enough", "c": "terrible"})
    split = split_of(TEXTS, ("a", "b", "c"))
    encoded = encode(split, prompt, tokenizer)
    check_whole(encoded, split, prompt, tokenizer, ended=True)


def test_answers_that_begin_one_another_need_an_end_token() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    prompt = Cloze(answers={"negative": "good", "positive": "good enough"})
    with pytest.raises(PromptError, match="begin one another, and this tokenizer has no end token"):
        encode(split_of(["x"]), prompt, tokenizer)


def test_equal_answer_tokens_are_an_error_that_names_both_labels(
    tokenizers: dict[str, PreTrainedTokenizerFast],
) -> None:
    prompt = Cloze(answers={"x": "zzz", "y": "great", "z": "qqq"})
    for call in (
        lambda: encode(split_of(["fine"], ("x", "y", "z")), prompt, tokenizers["word_level"]),
        lambda: check_prompt(prompt, ("x", "y", "z"), ("text",), tokenizers["word_level"], 2048),
    ):
        with pytest.raises(PromptError, match=r"'x' \('zzz'\) and 'z' \('qqq'\) have the same tokens"):
            call()


def test_a_seam_that_merges_ends_the_prompt_before_it(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizers["byte_level"]
    (one,) = encode(split_of(["Fine"]), Custom(template="{text}: it is "), tokenizer).test
    assert tokenizer.decode(list(one.tokens)) == "<s>Fine: it is"
    assert tokenizer.decode(list(one.answers[1])) == " positive"


def test_answers_are_shared_between_examples(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    test = encode(split_of(TEXTS), Custom(template="Review: {text}"), tokenizers["byte_level"]).test
    assert len({id(one.answers) for one in test}) == len({one.answers for one in test}) < len(test)


class ByteStub:
    """A tokenizer whose answers depend on the far beginning of a prompt, as no real one does."""

    eos_token_id, bos_token_id, chat_template, is_fast = 0, None, None, True
    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: Mapping[int, Any] = {}

    def __call__(self, texts: str | list[str], **knobs: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": self.ids(texts)}
        return {"input_ids": [self.ids(text) for text in texts]}

    def ids(self, text: str) -> list[int]:
        if text.startswith("!"):
            text = text.replace(" great", "\uffff")
        return [ord(character) for character in text]


def test_answers_that_depend_on_more_than_the_tail_are_found_one_by_one() -> None:
    stub: Any = ByteStub()
    split = split_of(["!" * (index % 2) + f"text {index}" for index in range(12)])
    encoded = encode(split, Cloze(), stub)
    for index, one in enumerate(encoded.test):
        great = (0xFFFF,) if index % 2 else tuple(map(ord, " great"))
        assert one.answers[1] == great


# -- shortening ------------------------------------------------------------------------------------------

LONG = " ".join(f"w{index}" for index in range(300))


@pytest.mark.parametrize("keep", ["head", "tail", "ends"])
@pytest.mark.parametrize("shape", ["cloze", "alpaca", "text_only", "twice", "space_last"])
def test_only_the_text_is_shortened_and_counted(
    tokenizer: PreTrainedTokenizerFast, shape: str, keep: Any
) -> None:
    asked = SHAPES[shape]
    labels = {"negative": "good", "positive": "good enough"}
    prompt = type(asked)(**{**vars(asked), "keep": keep, "max_tokens": 250, "answers": labels})
    split = split_of([LONG, "short", "電影👍 " * 400, "y" * 3000])
    encoded = encode(split, prompt, tokenizer)
    check_whole(encoded, split, prompt, tokenizer, ended=True)
    own = [len(bare_ids(tokenizer, text)) for text in (LONG, "電影👍 " * 400)]
    longest = max(len(answer) for one in encoded.test for answer in one.answers)
    cut = [one for one in encoded.test if one.num_cut]
    for one in encoded.test:
        assert len(one.tokens) + max(map(len, one.answers)) <= 250
    assert encoded.test[1].num_cut == 0
    assert 0 < encoded.test[0].num_cut < own[0]
    assert len(encoded.test[0].tokens) > 250 - longest - 16  # no more is cut than must be
    assert encoded.facts["num_texts_cut"] == len(cut)
    assert encoded.facts["num_tokens_cut"] == sum(one.num_cut for one in cut)
    assert encoded.facts["longest_prompt_tokens"] == max(len(one.tokens) for one in encoded.test)
    mean = sum(len(one.tokens) for one in encoded.test) / 4
    assert encoded.facts["mean_prompt_tokens"] == pytest.approx(mean, abs=0.01)
    assert encoded.test[0].fields["text"] == LONG


def test_what_stays_of_a_text(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    def kept(keep: Any) -> tuple[str, int]:
        prompt = Custom(template="A {text} B:\n", keep=keep, max_tokens=40)
        shown = render(prompt, {"text": LONG}, LABELS, ("text",), tokenizers["byte_level"])
        match = re.fullmatch(r"A (.*) B:\n", shown.text)
        assert match
        return match[1], shown.num_cut

    head, num_cut = kept("head")
    assert LONG.startswith(head) and num_cut == len(bare_ids(tokenizers["byte_level"], LONG)) - len(
        bare_ids(tokenizers["byte_level"], head)
    )
    assert LONG.endswith(kept("tail")[0])
    first, last = kept("ends")[0].split(" ... ")
    assert LONG.startswith(first) and LONG.endswith(last) and abs(len(first) - len(last)) <= 6


def test_only_the_named_field_of_a_pair_is_shortened(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizers["llama2"]
    pairs = [{"premise": LONG, "hypothesis": "All good."}, {"premise": "Good.", "hypothesis": "Bad."}]
    prompt = Cloze(max_tokens=200, ending="This is")
    split = split_of(pairs)
    check_whole(encode(split, prompt, tokenizer), split, prompt, tokenizer)
    shown = render(prompt, pairs[0], LABELS, ("premise", "hypothesis"), tokenizer)
    assert shown.text.endswith("\nHypothesis: All good.\n\nThis is") and shown.num_cut > 0
    with pytest.raises(
        PromptError, match=r"'hypothesis', the prompt of example 'e0' has \d+ tokens.*other fields"
    ):
        encode(split, Cloze(max_tokens=200, shorten="hypothesis"), tokenizer)


def test_a_prompt_that_cannot_fit_names_its_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = Alpaca(max_tokens=20)
    words = r"with an empty 'text', the prompt( of example 'e0')? has \d+ tokens and its longest answer \d+, "
    with pytest.raises(PromptError, match=words):
        encode(split_of(["fine"]), prompt, tokenizer)
    with pytest.raises(PromptError, match=words):
        check_prompt(prompt, LABELS, ("text",), tokenizer, 2048)


def test_check_prompt_reserves_virtual_tokens(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizers["byte_level"]
    check_prompt(Cloze(), LABELS, ("text",), tokenizer, 2048, 128)
    check_prompt(Cloze(max_tokens=2048), LABELS, ("text",), tokenizer, 2048)
    with pytest.raises(PromptError, match=r"room for 1968 beside 80 virtual tokens.*max_tokens = 1968"):
        check_prompt(Cloze(max_tokens=2000), LABELS, ("text",), tokenizer, 2048, 80)
    check_prompt(NoPrompt(), LABELS, ("text",), None, None)


# -- chat templates --------------------------------------------------------------------------------------


def chat(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return tokenizer


DATED = {
    "clock": "{% set today = strftime_now('%d %b %Y') %}Today {{ today }}. {{ messages[-1]['content'] }}:",
    "string": "Today {{ date_string }}. {{ messages[-1]['content'] }}:",
    "either": "{% if date_string is not defined %}{% if strftime_now is defined %}{% set date_string = "
    "strftime_now('%d %b %Y') %}{% endif %}{% endif %}Today {{ date_string }}. "
    "{{ messages[-1]['content'] }}:",
    "macro": "{% macro day() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}Today {{ day() }}. "
    "{{ messages[-1]['content'] }}:",
}


@pytest.mark.parametrize("template", DATED)
@pytest.mark.parametrize("year", [1999, 2031])
def test_a_chat_template_writes_the_same_date_on_every_day(
    template: str, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    day = SimpleNamespace(now=lambda: SimpleNamespace(strftime=lambda form: f"some day in {year}"))
    monkeypatch.setattr(chat_template_utils, "datetime", day)
    shown = render(ChatTemplate(instruction="Go"), {"text": "Fine"}, LABELS, ("text",), chat(DATED[template]))
    assert shown.text == "Today 26 Jul 2024. Go\n\nFine:"


def test_other_forms_of_the_date() -> None:
    template = "{{ strftime_now('%A, %B %-d, %Y | %Y-%m-%d | %H:%M') }} {{ messages[-1]['content'] }}"
    shown = render(ChatTemplate(instruction=""), {"text": "Fine"}, LABELS, ("text",), chat(template))
    assert shown.text == "Friday, July 26, 2024 | 2024-07-26 | 12:00 Fine"


def test_texts_never_pass_through_the_template() -> None:
    tokenizer = chat("{{ messages[-1]['content'] | upper | replace('HANDFULSLOT0QX', 'HandfulSlot0Qx') }}")
    text = "{{ 1 + 1 }} {% raw %} <b>"
    shown = render(ChatTemplate(instruction="go"), {"text": text}, LABELS, ("text",), tokenizer)
    assert shown.text == f"GO\n\n{text}"


def test_the_space_before_a_reply_is_the_templates_own() -> None:
    def answers(reply: str, ask: str) -> tuple[str, ...]:
        template = (
            "{% for m in messages %}{% if m['role'] == 'assistant' %}"
            + reply
            + "{% else %}[{{ m['content'] }}]"
            "{% endif %}{% endfor %}{% if add_generation_prompt %}" + ask + "{% endif %}"
        )
        return render(ChatTemplate(), {"text": "x"}, LABELS, ("text",), chat(template)).answers

    assert answers("{{ ' ' + m['content'] }}", "") == (" negative", " positive")
    assert answers("{{ m['content'] }}", "") == ("negative", "positive")
    assert answers("{{ '<A>' + m['content'] }}", "{{ '<A>' }}") == ("negative", "positive")
    assert answers("{{ raise_exception('no replies') }}", "") == (" negative", " positive")


def test_pairs_and_system_messages_in_a_chat(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    prompt = ChatTemplate(instruction="Go", system="Be brief.")
    fields = {"premise": " a ", "hypothesis": "b"}
    shown = render(prompt, fields, LABELS, ("premise", "hypothesis"), tokenizers["byte_level_chat"])
    assert shown.text == (
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\nGo\n\nPremise:  a \nHypothesis: b<|end|>\n<|assistant|>\n"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("nothing of it", "leaves out text"),
    ],
)
def test_chat_templates_that_cannot_be_used(template: str | None, words: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    with pytest.raises(PromptError, match=words):
        check_prompt(ChatTemplate(), LABELS, ("text",), tokenizer, 2048)


# -- nothing asked, or no tokenizer ----------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [NoPrompt(), Plain()])
def test_without_a_tokenizer_examples_keep_their_fields(prompt: Prompt) -> None:
    encoded = encode(split_of(TEXTS), prompt, None)
    assert [one.fields["text"] for one in encoded.test] == TEXTS
    assert {(one.tokens, one.answers) for one in encoded.test} == {((), ())}
    assert [one.label for one in encoded.test[:3]] == [0, 1, 0]
    assert encoded.task.label_names == LABELS and len(encoded.task.pool) == 0


@pytest.mark.parametrize("name", sorted(PROMPTS.keys() - {"none", "plain"}))
def test_a_prompt_that_asks_needs_a_tokenizer(name: str) -> None:
    prompt = Custom(template="{text}") if name == "custom" else PROMPTS[name]()
    with pytest.raises(PromptError, match=f"prompt {name}"):
        encode(split_of(["x"]), prompt, None)


def test_plain_is_the_text_in_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = resolve(Plain(), LABELS, ("text",), 100)
    encoded = encode(split_of(["A fine film.", LONG]), prompt, tokenizer)
    bare = bare_ids(tokenizer, "A fine film.")
    assert encoded.test[0].tokens[-len(bare) :] == bare and encoded.test[0].answers == ()
    assert len(encoded.test[1].tokens) <= 84 and encoded.test[1].num_cut > 0
    none = encode(split_of(["A fine film."]), NoPrompt(), tokenizer)
    assert none.test[0].tokens == () and none.facts == {}


# -- the task, and what is remembered --------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[int]:
    """How many texts each call of the tokenizer was given."""
    calls: list[int] = []
    original = kind.__call__

    def call(self: Any, text: Any, *args: Any, **knobs: Any) -> Any:
        calls.append(1 if isinstance(text, str) else len(text))
        return original(self, text, *args, **knobs)

    monkeypatch.setattr(kind, "__call__", call)
    return calls


def test_a_study_tokenises_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    examples = [Example(str(index), {"text": f"text {index}"}, index % 2) for index in range(40)]
    pool = tuple(Example(one.id, one.fields) for one in examples[:20])
    small = Split(LABELS, ("text",), tuple(examples[:4]), (), tuple(examples[20:]), pool, "sha256:1")
    large = Split(
        LABELS, ("text",), tuple(examples[:8]), tuple(examples[8:12]), tuple(examples[20:]), pool, "sha256:1"
    )
    first = encode(small, Cloze(), tokenizer)
    calls = counted(monkeypatch, type(tokenizer))
    again = encode(small, resolve(Cloze(), LABELS, ("text",), None), tokenizer)
    assert sum(calls) <= 1  # the sentence that says the task
    assert again.test == first.test and again.facts == first.facts
    calls.clear()
    more = encode(large, Cloze(), tokenizer)
    assert sum(calls) <= 8 + 2 * 10 + 1
    assert more.train[:4] == first.train and [one.label for one in more.train] == [0, 1] * 4
    calls.clear()
    assert len(more.task.pool) == 20 and len(more.task.content_free) == 3 and not calls
    assert {one.label for one in more.task.pool} == {UNLABELLED}
    assert more.task.pool[0].tokens == first.train[0].tokens
    assert [one.id for one in more.task.pool[:2]] == ["0", "1"]
    num_read = sum(calls)
    list(more.task.pool)
    assert sum(calls) == num_read > 0
    with pytest.raises(IndexError):
        more.task.pool[20]
    calls.clear()
    encode(small, Cloze(keep="tail"), tokenizer)
    assert sum(calls) > 20


def test_an_id_with_another_text_is_not_mistaken() -> None:
    tokenizer = byte_level()
    first = encode(split_of(["one"], revision="r"), Cloze(), tokenizer)
    other = encode(split_of(["two"], revision="r"), Cloze(), tokenizer)
    assert first.test[0].tokens != other.test[0].tokens
    check_whole(other, split_of(["two"]), Cloze(), tokenizer)


def test_labels_in_another_order_have_their_answers_in_that_order() -> None:
    tokenizer = byte_level()
    first = encode(split_of(["one"], LABELS, "r"), Cloze(), tokenizer).test[0]
    other = encode(split_of(["one"], LABELS[::-1], "r"), Cloze(), tokenizer).test[0]
    assert first.answers == other.answers[::-1] and first.tokens == other.tokens


def test_a_tokenizer_is_not_kept_alive() -> None:
    tokenizer = byte_level()
    encode(split_of(["one"], revision="r"), Cloze(), tokenizer)
    watched = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert watched() is None


def test_few_prompts_are_remembered_at_a_time() -> None:
    tokenizer = byte_level()
    for index in range(20):
        encode(split_of(["one"], revision="r"), Cloze(ending=f"ending {index}"), tokenizer)
    assert len(encoding_module._known(tokenizer).encoders) == encoding_module.MAX_PROMPTS


def test_the_task_says_what_a_method_may_know(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = tokenizers["llama2"]
    task = encode(split_of(["Fine."]), Cloze(), tokenizer).task
    assert task.answer_texts == (" terrible", " great")
    assert task.text_tokens == bare_ids(tokenizer, "Classify the text as terrible or great.")
    texts = [tokenizer.decode(list(one.tokens), skip_special_tokens=True) for one in task.content_free]
    assert [text.split("\n\n")[0].strip() for text in texts] == ["", "N/A", "[MASK]"]
    assert {one.label for one in task.content_free} == {UNLABELLED}


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    with recording(lambda stage, done, total: told.append((done, total))):
        encode(split_of([f"text {index}" for index in range(1500)]), Cloze(), byte_level())
    assert told == [(0, 1500), (1000, 1500), (1500, 1500)]


def test_a_missing_field_is_named(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    split = Split(LABELS, ("text",), (), (), (Example("e7", {"txt": "x"}),), (), "")
    with pytest.raises(PromptError, match="example 'e7' has no field 'text'"):
        encode(split, Cloze(), tokenizers["byte_level"])


def test_of_a_large_pool_only_what_is_read_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    pool = tuple([Example(f"u{index}", {"text": f"text {index}"}) for index in range(1000)])
    labelled = tuple([Example(f"t{index}", {"text": f"labelled {index}"}, index % 2) for index in range(4)])
    encoded = encode(Split(LABELS, ("text",), labelled, (), (), pool, "sha256:9"), Cloze(), tokenizer)
    calls = counted(monkeypatch, type(tokenizer))
    first = [encoded.task.pool[index] for index in range(10)]
    assert 0 < sum(calls) < 300
    assert [one.id for one in encoded.task.pool] == [one.id for one in pool]
    assert [one.id for one in encoded.task.pool[995:]] == ["u995", "u996", "u997", "u998", "u999"]
    assert list(encoded.task.pool[:10]) == first and encoded.task.pool[-1].id == "u999"
