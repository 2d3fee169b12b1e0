"""One contract suite over the table of methods, on toy bases; adapters against plain peft."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.engine.base import Base
from handful.engine.scoring import normalise, prompt_rows
from handful.errors import RunError
from handful.examples import EncodedExample, Task
from handful.methods import METHODS
from handful.models.text_encoder import TextEncoder
from handful.progress import recording, stage
from handful.spec import build_member
from handful.training import TrainingSpec
from toys import toy_base, toy_encoder

ANSWERS = ((30, 31), (30, 32), (33,))
LABELS = ("good", "good enough", "bad")
WORDS = ("lovely bright", "plain grey", "awful dark")
TRAINING = TrainingSpec(batch_size=4, learning_rate=1e-2, updates=4, loss="answer")


def examples(count: int, seed: int = 0) -> list[EncodedExample]:
    rng = np.random.default_rng(seed)
    prefix = tuple(rng.integers(40, 300, 10).tolist())
    made = []
    for number in range(count):
        label = number % 3
        body = (*tuple(rng.integers(40, 300, int(rng.integers(3, 40))).tolist()), 100 + label)
        fields = {"text": f"{WORDS[label]} film number {number}"}
        made.append(EncodedExample(f"e{number}", prefix + body, ANSWERS, label, fields))
    return made


TRAIN, TEST = examples(18), examples(9, seed=1)
TASK = Task(LABELS, LABELS, examples(8, seed=2), examples(3, seed=3), (50, 51, 52))


def make(name: str, **knobs: Any) -> Any:
    problems: list[str] = []
    method = build_member("method", {"name": name, **knobs}, problems)
    assert not problems, problems
    return method


@pytest.fixture(scope="module")
def base() -> Base:
    made = toy_base("llama")
    made.token_budget = 512
    return made


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Base:
    made = TextEncoder(checkpoint=str(toy_encoder(tmp_path_factory.mktemp("encoder")))).resolve().load()
    made.token_budget = 128
    return made


@pytest.fixture
def knobs(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What a method cannot do without."""
    table = tmp_path / "made-elsewhere.csv"
    table.write_text("id,label\n" + "".join(f"{text.id},{LABELS[text.label]}\n" for text in TEST), encoding="utf-8")
    return {"predictions": {"path": str(table)}}


def fingerprint(base: Base) -> dict[str, Any]:
    state = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    wants = {name: p.requires_grad for name, p in base.model.named_parameters()}
    modes = {name: module.training for name, module in base.model.named_modules()}
    return {"state": state, "wants": wants, "modes": modes, "hooks": dict(base.model._forward_pre_hooks)}


def on_encoder(name: str) -> bool:
    cell = {"data": {}, "model": {"name": "causal_lm"}, "prompt": {"name": "cloze"}, "training": {}, "num_labels": 50,
            "seed": 0}  # fmt: skip
    return bool(make(name).resolve(cell)["model"]["name"] == "text_encoder")


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    equal = before["state"].keys() == after["state"].keys() and all(
        torch.equal(before["state"][name], after["state"][name]) for name in before["state"]
    )
    return equal and all(before[key] == after[key] for key in ("wants", "modes", "hooks"))


@pytest.mark.parametrize("name", METHODS)
def test_contract(
    name: str, base: Base, encoder: Base, knobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    method = make(name, **knobs.get(name, {}))
    if on_encoder(name):
        base = encoder
    before = fingerprint(base)
    with method.attach(base, TASK, seed=1) as tuned:
        curve = tuned.fit(TRAIN[:12], TRAIN[12:], TRAINING, seed=2)
        scores = tuned.predict(TEST)
        tuned.save(tmp_path / "saved")
    assert same(before, fingerprint(base)), "the base must be bit-identical afterwards"
    assert scores.shape == (9, 3) and scores.dtype == np.float64
    assert np.allclose(np.exp(scores).sum(axis=1), 1)
    assert set(curve.as_dict()) == {"points", "chosen_update", "chosen_by"}
    with method.attach(base, TASK, seed=99, saved=tmp_path / "saved") as again:
        assert np.allclose(again.predict(TEST), scores, atol=1e-5)
        assert again.predict([]).shape == (0, 3)
    assert same(before, fingerprint(base))
    other = dataclasses.replace(TASK, label_names=TASK.label_names[::-1])
    if (tmp_path / "saved").is_dir():
        with pytest.raises(RunError, match="name the same ones in the same order"):
            method.attach(base, other, seed=1, saved=tmp_path / "saved")
        with pytest.raises(RunError, match="a folder that this method saved"):
            method.attach(base, TASK, seed=1, saved=tmp_path / "nothing")
    assert same(before, fingerprint(base))
    with method.attach(base, TASK, seed=1) as third:
        third.fit(TRAIN[:12], TRAIN[12:], TRAINING, seed=2)
        assert np.array_equal(third.predict(TEST), scores), "same seed, same numbers, whatever ran before"


def test_the_base_alone_scores_the_same_texts_once() -> None:
    base = toy_base("llama")
    told = []
    for calibration in ("none", "contextual", "none"):
        with recording() as journal, make("zero_shot", calibration=calibration).attach(base, TASK, seed=1) as tuned:
            journal.amounts.clear()  # what the calibration read
            with stage("test"):
                scores = tuned.predict(TEST)
        told.append((scores, dict(journal.amounts)))
    first, second, third = told
    assert first[1]["scored_tokens"] > 0 and "remembered_test_texts" not in first[1]
    assert second[1] == third[1] == {"remembered_test_texts": len(TEST)}
    assert np.array_equal(first[0], third[0]) and not np.array_equal(first[0], second[0])
    with recording() as journal, make("zero_shot").attach(base, TASK, seed=1) as tuned:
        tuned.predict(TEST[:-1])
    assert not any(name.startswith("remembered") for name in journal.amounts), "other texts"


@pytest.mark.parametrize("name", METHODS)
def test_resolve_fills_every_knob_and_is_idempotent(name: str) -> None:
    cell = {"data": {}, "model": {"name": "causal_lm"}, "prompt": {"name": "cloze"}, "method": {"name": name},
            "training": {}, "num_labels": 150, "seed": 3}  # fmt: skip
    once = make(name).resolve(cell)
    method = make(**once["method"])
    assert method.resolve(once) == once
    if once["training"] is not None:
        full = TrainingSpec(**once["training"])
        assert full.loss is not None and (full.epochs or full.updates)
        assert method.learning_rate > 0


@pytest.mark.parametrize("name", [n for n in METHODS if make(n).passes() > 0])
def test_learning_rates_and_training_knobs_are_used(name: str, base: Base, encoder: Base) -> None:
    base = encoder if on_encoder(name) else base
    cell = {"method": {"name": name}, "training": {"learning_rate": 0.25}, "num_labels": 50, "seed": 0,
            "data": {}, "model": {}, "prompt": {}}  # fmt: skip
    assert make(name).resolve(cell)["method"]["learning_rate"] == 0.25
    assert make(name, learning_rate=0.5).resolve(cell)["method"]["learning_rate"] == 0.5
    with make(name, learning_rate=0.02).attach(base, TASK, seed=1) as tuned:
        before = tuned.predict(TEST)
        curve = tuned.fit(TRAIN, [], TRAINING, seed=2)
        assert not np.allclose(tuned.predict(TEST), before)
    assert curve.chosen_update == 4 and curve.chosen_by == "last update"


@pytest.mark.parametrize("loss", ["answer", "labels"])
@pytest.mark.parametrize("name", [n for n in METHODS if make(n).passes() > 0])
def test_training_lowers_the_loss(name: str, loss: Any, base: Base, encoder: Base) -> None:
    training = dataclasses.replace(TRAINING, updates=30, loss=loss)
    base, rate = (encoder, 1e-3) if on_encoder(name) else (base, 1e-2)
    with make(name, learning_rate=rate).attach(base, TASK, seed=1) as tuned:
        curve = tuned.fit(TRAIN, [], training, seed=2)
    assert curve.points[-1]["train_loss"] < curve.points[0]["train_loss"]


def peft_scores(base: Base, folder: Path) -> np.ndarray:
    """Label log-probabilities by a plain PeftModel, one text and label at a time, from a fresh base."""
    import peft

    fresh = toy_base("llama")
    model = peft.PeftModel.from_pretrained(fresh.model, folder).eval()
    rows = []
    for example in TEST:
        row = []
        for answer in example.answers:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([example.tokens + answer])).logits[0].log_softmax(-1)
            row.append(sum(float(logits[step - len(answer) - 1, token]) for step, token in enumerate(answer)))
        rows.append(row)
    return normalise(np.array(rows))


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "normal"])
def test_saved_lora_gives_the_same_scores_in_plain_peft(init: str, base: Base, tmp_path: Path) -> None:
    with make("lora", init=init, learning_rate=1e-2).attach(base, TASK, seed=1) as tuned:
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        scores = tuned.predict(TEST)
        tuned.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert str(Path.cwd()) not in (tmp_path / "adapter_config.json").read_text()
    assert np.abs(peft_scores(base, tmp_path) - scores).max() < 1e-4


@pytest.mark.parametrize("init", ["text", "vocabulary", "random"])
def test_saved_prompt_gives_the_same_scores_in_plain_peft(init: str, base: Base, tmp_path: Path) -> None:
    with make("prompt_tuning", init=init, num_virtual_tokens=7).attach(base, TASK, seed=1) as tuned:
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        scores = tuned.predict(TEST)
        tuned.save(tmp_path)
    assert tuned.num_trainable == 7 * 32
    assert np.abs(peft_scores(base, tmp_path) - scores).max() < 1e-4


def test_lora_scales_by_alpha_over_rank_and_counts_its_numbers(base: Base) -> None:
    with make("lora", rank=2, alpha=16.0).attach(base, TASK, seed=1) as tuned:
        layer = next(m for m in base.model.modules() if hasattr(m, "lora_A"))
        assert layer.scaling["default"] == 8.0
        # 3 layers: q 32 -> 32 and v 32 -> 16, rank 2 each
        assert tuned.num_trainable == 3 * 2 * ((32 + 32) + (32 + 16))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "bloom", "gemma2"])
def test_lora_finds_its_targets_on_other_architectures(kind: str) -> None:
    other = toy_base(kind)
    before = fingerprint(other)
    with make("lora", learning_rate=1e-2).attach(other, TASK, seed=1) as tuned:
        first = tuned.predict(TEST)
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        assert not np.allclose(tuned.predict(TEST), first)
    assert same(before, fingerprint(other))


def test_unknown_targets_name_those_there_are(base: Base) -> None:
    with pytest.raises(RunError, match=r"gate_proj.*targets"):
        make("lora", targets=["nope"]).attach(base, TASK, seed=1)


def test_zero_shot_calibration_makes_the_pool_even(base: Base) -> None:
    with make("zero_shot", calibration="batch").attach(base, TASK, seed=0) as tuned:
        assert np.allclose(np.exp(tuned.predict(TASK.pool)).mean(axis=0), 1 / 3, atol=1e-4)
    with make("zero_shot", calibration="contextual").attach(base, TASK, seed=0) as tuned:
        contextual = tuned.predict(TEST)
    with make("zero_shot").attach(base, TASK, seed=0) as tuned:
        plain = tuned.predict(TEST)
        free = np.exp(tuned.predict(TASK.content_free)).mean(axis=0)
    assert np.allclose(contextual, normalise(plain - np.log(free)), atol=1e-5)


def test_tfidf_is_scikit_learns(tmp_path: Path, base: Base) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    for count in (18, 2):  # three labels, then two
        train = [example for example in TRAIN if example.label < count]
        with make("tfidf").attach(base, TASK, seed=0) as tuned:
            tuned.fit(train[:12], train[12:], None, seed=0)
            ours = tuned.predict(TEST)
        pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=2000)
        )
        pipeline.fit([e.fields["text"] for e in train], [e.label for e in train])
        theirs = pipeline.predict_proba([e.fields["text"] for e in TEST])
        assert np.allclose(np.exp(ours)[:, : theirs.shape[1]], theirs, atol=1e-6)


def test_unlabelled_texts_lend_tfidf_their_rarity_and_no_words(base: Base) -> None:
    pool = [EncodedExample(f"p{n}", (), (), -1, {"text": f"lovely film with {n} unheard words"}) for n in range(30)]
    labelled_too = [dataclasses.replace(one, label=-1) for one in TRAIN[:5]]  # read once, not twice
    task = dataclasses.replace(TASK, pool=[*pool, *labelled_too])
    found = {}
    for rarity in ("labelled", "unlabelled"):
        with make("tfidf", rarity=rarity).attach(base, task, seed=0) as tuned:
            tuned.fit(TRAIN, [], None, seed=0)
            counts = tuned._features._vectorizer
            assert tuned.facts.get("num_unlabelled_read") == (30 if rarity == "unlabelled" else None)
            found[rarity] = dict(zip(counts.get_feature_names_out(), counts.idf_, strict=True))
    assert found["unlabelled"].keys() == found["labelled"].keys() and "unheard" not in found["unlabelled"]
    # scikit-learn's smoothed idf: ln((1 + texts) / (1 + texts with the word)) + 1
    assert found["unlabelled"]["lovely"] == pytest.approx(np.log((1 + 48) / (1 + 36)) + 1)
    assert found["labelled"]["lovely"] == pytest.approx(np.log((1 + 18) / (1 + 6)) + 1)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_a_linear_probe_is_scikit_learn_on_plain_hidden_rows(kind: str) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    other = toy_base(kind)
    other.token_budget = 128

    @torch.no_grad()
    def rows(texts: list[EncodedExample]) -> np.ndarray:
        model = toy_base(kind).model
        hidden = [model.get_decoder()(torch.tensor([text.tokens])).last_hidden_state[0, -1] for text in texts]
        return torch.stack(hidden).numpy()

    with make("linear_probe", inverse_penalty=0.1).attach(other, TASK, seed=0) as tuned:
        tuned.fit(TRAIN[:12], TRAIN[12:], None, seed=0)
        ours = tuned.predict(TEST)
        assert tuned.num_trainable == 3 * (32 + 1)
        assert tuned.facts == {"inverse_penalty": 0.1, "num_penalties": 1}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    pipeline.fit(rows(TRAIN), [text.label for text in TRAIN])
    assert np.allclose(np.exp(ours), pipeline.predict_proba(rows(TEST)), atol=1e-4)


def test_a_penalty_is_chosen_by_the_labelled_texts(base: Base) -> None:
    from handful.methods.featured import PENALTIES

    with make("linear_probe").attach(base, TASK, seed=0) as tuned:
        tuned.fit(TRAIN, [], None, seed=0)
        assert tuned.facts["inverse_penalty"] in PENALTIES and tuned.facts["num_penalties"] == len(PENALTIES)
    alone = [TRAIN[0], TRAIN[1], TRAIN[2], TRAIN[3]]  # two labels have a single text
    with make("tfidf", inverse_penalty="cross_validated").attach(base, TASK, seed=0) as tuned:
        tuned.fit(alone, [], None, seed=0)
        assert tuned.facts == {"inverse_penalty": 1.0, "num_penalties": 1}, "nothing was chosen"


def test_hidden_rows_of_the_same_prompts_are_made_once() -> None:
    fresh = toy_base("llama")
    told = []
    for texts in (TEST[:5], TEST, TEST):
        with recording() as journal, stage("test"):
            rows = prompt_rows(fresh, texts)
        told.append((rows, dict(journal.amounts)))
    assert told[0][1]["scored_tokens"] > 0 and "remembered_test_texts" not in told[0][1]
    assert "remembered_test_texts" not in told[1][1] and told[2][1] == {"remembered_test_texts": len(TEST)}
    assert np.abs(told[1][0][:5] - told[0][0]).max() < 1e-5
    assert np.array_equal(told[2][0], told[1][0])
    assert np.array_equal(prompt_rows(toy_base("llama"), TEST), told[1][0]), "whatever ran before"


def test_no_method_touches_the_next(base: Base) -> None:
    """full after lora trains (peft's unload leaves every weight frozen), and lora after full starts afresh."""
    with make("lora").attach(base, TASK, seed=1) as tuned:
        first = tuned.predict(TEST)
    with make("full", learning_rate=1e-3).attach(base, TASK, seed=1) as tuned:
        before = tuned.predict(TEST)
        tuned.fit(TRAIN, [], TRAINING, seed=2)
        assert not np.allclose(before, tuned.predict(TEST))
    with make("lora").attach(base, TASK, seed=1) as tuned:
        assert np.array_equal(tuned.predict(TEST), first)
