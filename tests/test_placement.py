"""Where weights lie: the decision by bytes, layers spread over memory and disk, and 4 bits.

Several GPUs are not there in tests: their part of the decision is tested with numbers, and layers are spread over the
memory and the disk of a CPU, by the same hooks that spread them over GPUs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import models
from handful.cli import main
from handful.engine.base import Base
from handful.errors import ModelError, SpecError
from handful.models import placement
from handful.models.causal_lm import CausalLM
from handful.models.placement import WORKING_BYTES, choose, weight_bytes
from handful.results import StudyFolder
from handful.spec import RunSpec, member_dict, read_study, resolve_cell
from handful.study import run_study
from toys import make_toy_model, toy_model

GB = 10**9
GPUS = {"cuda:0": 70 * GB, "cuda:1": 78 * GB, "cuda:2": 78 * GB}


# -- the decision --------------------------------------------------------------------------------------


def test_one_device_where_the_weights_fit_beside_what_works_on_them() -> None:
    room = 70 * GB - WORKING_BYTES["cuda"]
    assert choose("auto", "m", room, GPUS).kind == "single"
    over = choose("auto", "m", room + 1, GPUS)
    assert over.kind == "spread"
    assert over.why == "spread: 68.0 GB of weights, 70.0 GB free on cuda:0 and 226.0 GB on all 3"
    assert choose("single", "m", room, GPUS).why == "one device: 68.0 GB of weights, 70.0 GB free on cuda:0"
    assert choose("spread", "m", GB, GPUS).why == "spread, as asked: 1.0 GB of weights, 70.0 GB free on cuda:0"


def test_a_single_placement_that_does_not_fit_names_the_ways_out() -> None:
    with pytest.raises(ModelError) as error:
        choose("single", "a/model", 140 * GB, GPUS)
    for words in ("'a/model' does not fit: 140.0 GB of weights, 70.0 GB free on cuda:0", 'placement = "spread"',
                  'model.quantization = "nf4"', "smaller base"):  # fmt: skip
        assert words in str(error.value)


def test_a_cpu_is_filled_before_a_disk_is_used() -> None:
    assert choose("auto", "m", GB, {"cpu": GB}).kind == "single"
    assert choose("auto", "m", GB, {"cpu": GB - 1}).kind == "spread"
    with pytest.raises(ModelError, match="does not fit"):
        choose("single", "m", GB, {"cpu": GB + WORKING_BYTES["cpu"] - 1})


def test_bytes_are_read_off_the_headers(tmp_path: Path) -> None:
    folder = make_toy_model(tmp_path / "toy")
    numbers = {name: weight.numel() for name, weight in toy_model("llama").named_parameters()}
    assert weight_bytes(folder, 4) == 4 * sum(numbers.values())
    small = sum(size for name, size in numbers.items() if "_proj" in name)
    assert weight_bytes(folder, 2, is_quantised=True) == 2 * (sum(numbers.values()) - small) + round(small * 4.5 / 8)


# -- spread over memory and disk -----------------------------------------------------------------------

STUDY = """
name = "placed"
[fixed]
data = {{ name = "reviews", test_size = 40 }}
model = {{ checkpoint = "{base}"{knobs} }}
prompt = {{ name = "cloze", max_tokens = 64 }}
training = {{ epochs = 1 }}
num_labels = 24
[grid]
method = {methods}
[execution]
placement = "{placement}"
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_model(tmp_path_factory.mktemp("placed") / "toy", num_hidden_layers=4)


@pytest.fixture(autouse=True)
def nothing_stays() -> None:
    models.forget()


def room_for(monkeypatch: pytest.MonkeyPatch, share: float, toy: Path) -> None:
    """A CPU that has this share of the weights free."""
    free = WORKING_BYTES["cpu"] + round(share * weight_bytes(toy, 4))
    monkeypatch.setattr(placement, "free_bytes", lambda device: {"cpu": free})
    monkeypatch.setattr("handful.models.causal_lm.free_bytes", lambda device: {"cpu": free})


def ran(tmp_path: Path, toy: Path, kind: str, methods: str, knobs: str = "") -> dict[str, tuple[Any, np.ndarray]]:
    """method -> (record, log-probabilities) of a study with this placement."""
    file = tmp_path / f"{kind}.toml"
    file.write_text(STUDY.format(base=toy, methods=methods, placement=kind, knobs=knobs), encoding="utf-8")
    models.forget()
    done = run_study(read_study(str(file)), tmp_path / kind)
    assert done.failed == 0, [record.reason for record in done.folder.records().values()]
    found = {}
    for name, record in done.folder.records().items():
        found[record.spec["method"]["name"]] = (record, done.folder.predictions(name).log_probabilities)
    return found


def loaded(toy: Path, kind: Any) -> Base:
    return CausalLM(checkpoint=str(toy)).resolve("cpu").load("cpu", kind)


def test_layers_on_disk_give_the_scores_of_one_place(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = ran(tmp_path, toy, "single", '["zero_shot"]')
    room_for(monkeypatch, 0.7, toy)
    base = loaded(toy, "spread")
    places = {weight.device.type for weight in base.network.parameters()}
    assert places == {"cpu", "meta"} and base.is_offloaded
    assert "on cpu" in base.placement and "on disk" in base.placement
    assert base.path.fast, base.path
    spread = ran(tmp_path, toy, "spread", '["zero_shot"]')
    record, scores = spread["zero_shot"]
    assert np.abs(scores - single["zero_shot"][1]).max() < 1e-5
    assert record.execution["placement"].startswith("spread, as asked: ")
    assert record.spec == single["zero_shot"][0].spec, "where weights lie is no part of a run's identity"


def test_layers_in_several_places_are_trained_as_in_one(toy: Path, tmp_path: Path) -> None:
    """All of them in memory here, under the hooks that bring inputs to weights."""
    names = '["lora", "prompt_tuning", "loreft"]'
    single, spread = (ran(tmp_path, toy, kind, names) for kind in ("single", "spread"))
    for name, (record, scores) in spread.items():
        assert np.abs(scores - single[name][1]).max() < 1e-5, name
        assert record.engine["path"] == single[name][0].engine["path"] == "fast"


def test_layers_on_several_devices_run_as_the_model_itself_does(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dropout is drawn pass by pass, and the two ways have other passes.
    names = '["zero_shot", { name = "lora", dropout = 0.0 }, "prompt_tuning", { name = "loreft", dropout = 0.0 }]'
    fast = ran(tmp_path, toy, "single", names)
    monkeypatch.setattr(Base, "runs_on_several", property(lambda base: base.spread is not None))
    plain = ran(tmp_path, toy, "spread", names)
    for name, (record, scores) in plain.items():
        assert "several devices" in record.execution["path"] and record.engine["path"] == "plain"
        # What is trained moves a few roundings apart; see the test above for the same way of running.
        assert np.abs(scores - fast[name][1]).max() < (1e-4 if name == "zero_shot" else 2e-3), name


def test_the_base_is_as_before(toy: Path, tmp_path: Path) -> None:
    base = loaded(toy, "spread")
    before = {name: weight.clone() for name, weight in base.network.state_dict().items()}
    ran(tmp_path, toy, "spread", '["lora"]')
    (held,) = (one for (model, *_), one in models._resident.items() if model.speaks)
    after = held.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_trained_says_so(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "full.toml"
    file.write_text(STUDY.format(base=toy, methods='["full", "lora"]', placement="spread", knobs=""), encoding="utf-8")
    done = run_study(read_study(str(file)), tmp_path / "in-memory")
    reasons = {record.spec["method"]["name"]: record.reason for record in done.folder.records().values()}
    assert "training all weights of a base that is spread" in reasons["full"] and reasons["lora"] == ""
    models.forget()
    room_for(monkeypatch, 0.7, toy)
    done = run_study(read_study(str(file)), tmp_path / "on-disk")
    reasons = {record.spec["method"]["name"]: record.reason for record in done.folder.records().values()}
    assert "training through weights on disk is not there" in reasons["lora"]


def test_what_does_not_fit_ends_the_study_before_it_writes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room_for(monkeypatch, 0.7, toy)
    (tmp_path / "s.toml").write_text(
        STUDY.format(base=toy, methods='["zero_shot"]', placement="single", knobs=""), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["study", "s.toml", "--output", "out"])
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert 'placement = "spread"' in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ModelError, match="more than memory and the disk"):
        loaded(toy, "spread")


def test_a_study_says_where_its_base_lies(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(
        STUDY.format(base=toy, methods='["zero_shot"]', placement="auto", knobs=""), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["study", "s.toml", "--output", "out", "--no-texts"])
    assert not ended.value.code
    assert "toy: one device: 0.2 MB of weights, " in capsys.readouterr().out
    assert StudyFolder(tmp_path / "out").execution()["placement"] == "auto"


def test_a_placement_that_is_none(tmp_path: Path, toy: Path) -> None:
    (tmp_path / "s.toml").write_text(
        STUDY.format(base=toy, methods='["zero_shot"]', placement="everywhere", knobs=""), encoding="utf-8"
    )
    with pytest.raises(SpecError, match="placement must be one of 'auto', 'single', 'spread'"):
        read_study(str(tmp_path / "s.toml"))


# -- 4 bits --------------------------------------------------------------------------------------------


def cell(toy: Path, method: str, **knobs: Any) -> dict[str, Any]:
    return {
        "data": {"name": "reviews"}, "model": {"name": "causal_lm", "checkpoint": str(toy), **knobs},
        "prompt": {"name": "cloze"}, "method": {"name": method}, "training": {}, "protocol": {"name": "holdout"},
        "num_labels": 16, "seed": 0, "init_seed": None,
    }  # fmt: skip


def test_specs_of_before_are_the_same(toy: Path) -> None:
    plain = resolve_cell(cell(toy, "lora"), "cpu")
    assert "quantization" not in plain.as_dict()["model"] and "quantization" not in member_dict(CausalLM())
    asked = resolve_cell(cell(toy, "lora", quantization="none"), "cpu")
    four: RunSpec = resolve_cell(cell(toy, "lora", quantization="nf4"), "cpu")
    assert asked.spec_id == plain.spec_id != four.spec_id
    assert four.as_dict()["model"]["quantization"] == "nf4"


def test_all_weights_in_four_bits_are_refused_while_planning(toy: Path) -> None:
    with pytest.raises(SpecError, match="full trains the weights themselves"):
        resolve_cell(cell(toy, "full", quantization="nf4"), "cpu")


def test_without_bitsandbytes_the_extra_is_named(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'handful\[nf4\]'"):
        CausalLM(checkpoint=str(toy), quantization="nf4").resolve("cpu").load()


def four_bits(tmp_path: Path) -> Path:
    """A toy whose matrices are as wide as the blocks that are quantised."""
    pytest.importorskip("bitsandbytes")
    return make_toy_model(tmp_path / "wide", hidden_size=64, intermediate_size=128, num_attention_heads=4,
                          num_key_value_heads=4, head_dim=16)  # fmt: skip


def test_four_bits_are_packed_as_the_model_itself_runs_them(tmp_path: Path) -> None:
    base = dataclasses.replace(CausalLM(checkpoint=str(four_bits(tmp_path))), quantization="nf4").resolve("cpu").load()
    assert base.path.fast, base.path
    assert base.facts["quantization"] == "nf4"
    plain = CausalLM(checkpoint=str(tmp_path / "wide")).resolve("cpu").load()
    assert base.facts["num_parameters"] == plain.facts["num_parameters"]
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        difference = (base.network(ids).logits - plain.network(ids).logits).abs().max()
    assert difference > 1e-4, "nothing was quantised"


def gradients_of(toy: Path) -> list[float | None]:
    """Of every adapter's B, after the base was scored without gradients."""
    import peft

    base = CausalLM(checkpoint=str(toy), quantization="nf4").resolve("cpu").load()
    model = peft.get_peft_model(base.network, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    model.eval()(torch.tensor([[5, 6, 7, 8]])).logits.square().sum().backward()
    found = [(name, weight.grad) for name, weight in model.named_parameters() if "lora_B" in name]
    return [None if grad is None else float(grad.abs().max()) for _, grad in found]


def test_an_adapter_learns_on_four_bits(tmp_path: Path) -> None:
    toy = four_bits(tmp_path)
    found = ran(tmp_path, toy, "auto", '["zero_shot", "lora", "prompt_tuning"]', ', quantization = "nf4"')
    record, scores = found["lora"]
    losses = [point["train_loss"] for point in record.curve["points"]]
    gradients = gradients_of(toy)
    assert gradients and all(size is not None and size > 0 for size in gradients)
    assert np.isfinite(scores).all() and np.abs(scores - found["zero_shot"][1]).max() > 1e-4
    assert all(np.isfinite(losses))
    assert (tmp_path / "auto" / "adapters" / record.spec_id / "adapter_model.safetensors").is_file()


