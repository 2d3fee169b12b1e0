"""Bases by content; bad model folders get a clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from handful.errors import ModelError
from handful.models import resident
from handful.models.causal_lm import CausalLM
from handful.models.none import NoModel
from toys import make_toy_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_model(tmp_path_factory.mktemp("models") / "toy")


def test_a_folder_is_named_by_its_content(folder: Path, tmp_path: Path) -> None:
    here = CausalLM(checkpoint=str(folder)).resolve()
    copy = shutil.copytree(folder, tmp_path / "toy")
    there = CausalLM(checkpoint=str(copy)).resolve()
    assert (here.revision, here.checkpoint, here.dtype) == (there.revision, "toy", there.dtype)
    assert here.revision is not None and here.revision.startswith("sha256:")
    assert there.resolve() == there
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert CausalLM(checkpoint=str(copy)).resolve().revision != here.revision
    with pytest.raises(ModelError, match="asks for sha256:0"):
        CausalLM(checkpoint=str(copy), revision="sha256:0").resolve()


def test_loaded_in_fp32_on_a_cpu_and_resident(folder: Path) -> None:
    model = CausalLM(checkpoint=str(folder), dtype="float32").resolve()
    base = resident(model, "cpu")
    assert next(base.network.parameters()).dtype == torch.float32
    assert resident(model, "cpu") is base
    assert base.path.fast and base.context_length == model.context_length() == 4096
    assert resident(NoModel(), "cpu").model is None
    assert resident(model, "cpu") is base, "a base stays while methods without one run"


def test_shipped_base_by_name() -> None:
    model = CausalLM(checkpoint="reviews-llama-5m", dtype="float32").resolve()
    base = model.load()
    assert base.path.fast, base.path.why
    assert base.facts["num_parameters"] < 6_000_000
    assert base.tokenizer("a film")["input_ids"][0] == base.tokenizer.bos_token_id


def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    def problem(name: str) -> str:
        with pytest.raises(ModelError) as caught:
            CausalLM(checkpoint=str(tmp_path / name)).resolve().load()
        assert "Traceback" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "no config.json" in problem("empty")
    assert "no model folder" in problem("missing")
    (tmp_path / "file").write_text("x")
    assert "is a file" in problem("file")
    bad = broken(folder, tmp_path)
    (bad / "model.safetensors").rename(bad / "pytorch_model.bin")
    assert "pickled weights only" in problem("broken") and "safetensors" in problem("broken")
    (bad / "pytorch_model.bin").unlink()
    assert "no *.safetensors" in problem("broken")
    (bad / "model.safetensors").write_bytes(b"not safetensors")
    assert "cannot be loaded" in problem("broken")
    (bad / "config.json").write_text("{")
    assert "cannot be read" in problem("broken")
    (bad / "config.json").write_text("{}")
    assert "model_type" in problem("broken")


def test_a_folder_without_tokenizer(folder: Path, tmp_path: Path) -> None:
    bad = broken(folder, tmp_path)
    for path in bad.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        CausalLM(checkpoint=str(bad)).resolve().load()


def test_a_name_that_is_nowhere_says_what_is_shipped() -> None:
    with pytest.raises(ModelError, match=r"reviews-llama-5m|hub"):
        CausalLM(checkpoint="reviews-lama-5m").resolve()


def test_a_folder_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers would draw them at random: another result each time, and no word of it."""
    bad = broken(folder, tmp_path)
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(ModelError, match="lacks 18 of its weights"):
        CausalLM(checkpoint=str(bad)).resolve().load()
    with pytest.raises(ModelError, match="empty"):
        CausalLM(checkpoint=" ").resolve()
