"""Where bases lie: one device or spread over memory and disk, with the same scores; and bases in 4 bits."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test_methods
from handful import identity, models
from handful.engine import layers, offload
from handful.engine.base import Base, PathCheck
from handful.engine.budget import bytes_per_token
from handful.errors import ModelError, RunError, SpecError
from handful.estimate import estimate
from handful.executors import Told
from handful.models import causal_lm, placement
from handful.models.causal_lm import CausalLM
from handful.models.placement import Decision, Place, Rooms, Sizes, decide, device_map, measured, sizes_of, skeleton
from handful.results import RunRecord, StudyFolder
from handful.spec import build_member, member_dict, read_study, resolve_cell
from handful.study import plan_study, run_study
from test_methods import TASK, TEST, TRAIN, TRAINING, make
from toys import make_toy_model

GB = 10**9
ROOT = Path(__file__).resolve().parent.parent
KINDS = {"llama": "fast", "gemma3": "fast", "gpt2": "plain"}
"""Architecture -> path."""

needs_bitsandbytes = pytest.mark.skipif(util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


# -- the decision, on made-up numbers ----------------------------------------------------------------------------

LLAMA_70B = Sizes(layers=(1_711_000_000,) * 80, outside=1_049_000_000, working=22_800_000_000)
LLAMA_7B = Sizes(layers=(405_000_000,) * 32, outside=524_000_000, working=4_560_000_000)
H100 = 78 * GB


def of(*gpus: int, cpu: int = 500 * GB, disk: int = 1000 * GB) -> Rooms:
    return Rooms(gpus, cpu, disk)


def test_auto_takes_one_device_where_weights_and_work_fit() -> None:
    assert decide("auto", LLAMA_7B, of(H100, H100), "7b") == Decision(
        "single: 13.5 GB of weights, 78 GB free on one GPU"
    )
    assert decide("auto", LLAMA_7B, of(cpu=20 * GB), "7b").layers is None
    assert decide("auto", LLAMA_7B, of(18 * GB, 18 * GB), "7b").layers is not None, "the weights fit, the work does not"


def test_auto_spreads_evenly_over_gpus() -> None:
    found = decide("auto", LLAMA_70B, of(*[H100] * 4), "70b")
    assert found.why == "spread over 4 GPUs: 138 GB of weights, 78 GB free on one GPU"
    assert found.layers is not None and list(found.layers) == sorted(found.layers)  # type: ignore[type-var]
    counts = [found.layers.count(gpu) for gpu in range(4)]
    assert sum(counts) == 80 and min(counts) > 15, "what training keeps of each layer is spread with them"
    for gpu, count in enumerate(counts):
        taken = count * LLAMA_70B.layers[0] + LLAMA_70B.working / 4 + (LLAMA_70B.outside if gpu == 0 else 0)
        assert taken <= H100


def test_what_gpus_do_not_hold_goes_to_memory_and_then_to_disk() -> None:
    found = decide("auto", LLAMA_70B, of(H100, cpu=40 * GB), "70b")
    assert found.layers is not None
    number = {place: found.layers.count(place) for place in (0, "cpu", "disk")}
    assert number[0] * 1.711 + 1.049 + 22.8 + 1.711 <= 78 and number["cpu"] * 1.711 <= 40
    assert min(number.values()) > 0 and sum(number.values()) == 80
    assert found.why.startswith(
        f"spread over 1 GPU and memory ({number['cpu']} of 80 layers) and disk ({number['disk']} of 80 layers): "
    )


def test_spread_on_a_cpu_is_memory_and_disk() -> None:
    found = decide("spread", LLAMA_7B, of(cpu=10 * GB), "7b")
    assert found.layers is not None and {*found.layers} == {"cpu", "disk"}
    assert decide("spread", LLAMA_7B, of(cpu=100 * GB), "7b").layers is None, "all of it fits"


def test_what_does_not_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError) as caught:
        decide("single", LLAMA_70B, of(H100), "org/70b")
    for part in ("'org/70b'", "161 GB", "78 GB", 'placement = "spread"', 'model.quantization = "nf4"', "smaller base"):
        assert part in str(caught.value)
    with pytest.raises(ModelError, match=r"not even spread: 138 GB of weights.*3 GB for temporary files.*TMPDIR"):
        decide("auto", LLAMA_70B, of(H100, cpu=4 * GB, disk=3 * GB), "70b")
    with pytest.raises(ModelError, match="not even spread: beside its layers"):
        decide("auto", LLAMA_70B, of(10 * GB), "70b")
    with pytest.raises(ModelError, match="layers of 4 bits cannot be offloaded"):
        decide("auto", LLAMA_70B, of(H100), "70b", is_quantised=True)
    with pytest.raises(ModelError) as caught:
        decide("single", LLAMA_70B, of(H100), "70b", is_quantised=True)
    assert "nf4" not in str(caught.value)


def test_gpus_are_measured_only_as_far_as_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def free(device: torch.device) -> int:
        asked.append(device.index)
        return H100

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(placement, "available_bytes", free)
    number = {
        (how, name): len(measured("cuda", how, sizes).gpus)
        for how in ("auto", "single", "spread")
        for name, sizes in (("7b", LLAMA_7B), ("70b", LLAMA_70B))
    }
    assert number == {
        ("auto", "7b"): 1, ("auto", "70b"): 4, ("single", "7b"): 1, ("single", "70b"): 1, ("spread", "7b"): 4,
        ("spread", "70b"): 4,
    }  # fmt: skip
    assert not measured("cpu", "auto", LLAMA_7B).gpus


# -- spread over memory and disk --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_toy_model(tmp_path_factory.mktemp("models") / kind, kind) for kind in KINDS}


def short_of_memory(folder: Path, dtype: torch.dtype = torch.float32) -> Rooms:
    """What holds one of the toy's layers, and another one while it runs."""
    sizes = sizes_of(skeleton(folder, dtype), 4096, False)
    return Rooms((), sizes.outside + sizes.working + 2 * sizes.layers[0], GB)


def loaded(folder: Path, spread: bool) -> Base:
    with pytest.MonkeyPatch.context() as patch:
        if spread:
            rooms = short_of_memory(folder)
            patch.setattr(causal_lm, "measured", lambda *asked: rooms)
        base = CausalLM(checkpoint=str(folder)).resolve("cpu").load("cpu")
    base.token_budget = 512
    return base


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, tuple[Base, Base]]:
    """(on one device, spread) of each kind."""
    return {kind: (loaded(folder, False), loaded(folder, True)) for kind, folder in folders.items()}


def scores(base: Base, name: str, save: Path | None = None, saved: Path | None = None, **knobs: Any) -> np.ndarray:
    with make(name, **knobs).attach(base, TASK, seed=1, saved=saved) as tuned:
        if saved is None:
            tuned.fit(TRAIN[:12], TRAIN[12:], TRAINING, seed=2)
        found: np.ndarray = tuned.predict(TEST)
        if save is not None:
            tuned.save(save)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_spread_lies_where_it_says(kind: str, bases: dict[str, tuple[Base, Base]]) -> None:
    single, spread = bases[kind]
    assert single.placement.why.startswith("single: ") and not single.placement.is_spread
    assert spread.placement.why.startswith("spread over memory (1 of 3 layers) and disk (2 of 3 layers): ")
    assert spread.placement.offloaded == {1, 2} and spread.devices == (torch.device("cpu"),)
    assert [spread.path.fast, single.path.fast] == [KINDS[kind] == "fast"] * 2, spread.path
    on_meta = [{p.device.type for p in layer.parameters()} for layer in spread.layers]
    assert on_meta == [{"cpu"}, {"meta"}, {"meta"}]
    for module in (spread.head, spread.network.get_input_embeddings()):
        assert all(weight.device.type == "cpu" for weight in module.parameters()), "read directly, so never on meta"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("zero_shot", {}),
        ("lora", {}),
        ("lora", {"dropout": 0.0, "init": "normal"}),
        ("prompt_tuning", {"init": "random"}),
        ("loreft", {"first": 0}),
        ("loreft", {}),
        ("linear_probe", {}),
    ],
)
def test_spread_scores_as_one_device_does(
    name: str, knobs: dict[str, Any], kind: str, bases: dict[str, tuple[Base, Base]], tmp_path: Path
) -> None:
    single, spread = bases[kind]
    before = weights(spread)
    expected = scores(single, name, save=tmp_path, **knobs)
    assert np.abs(scores(spread, name, **knobs) - expected).max() < 1e-5
    assert np.abs(scores(spread, name, saved=tmp_path, **knobs) - expected).max() < 1e-5, "an adapter from elsewhere"
    after = weights(spread)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before), "the base is unchanged"
    if name == "lora":
        assert np.abs(expected - scores(single, "zero_shot")).max() > 1e-3, "it learned"


def weights(base: Base) -> dict[str, torch.Tensor]:
    """All numbers of a base, those on disk included."""
    assert all(p.requires_grad for p in base.network.parameters())
    found = dict(base.network.state_dict())
    for number, layer in enumerate(base.layers):
        with offload.brought(layer):
            found |= {f"{number}.{name}": weight.clone() for name, weight in layer.named_parameters()}
    return {name: weight for name, weight in found.items() if weight.device.type != "meta"}


def test_offloaded_layers_are_never_all_in_memory(
    bases: dict[str, tuple[Base, Base]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while training: what a backward pass needs of them is brought once more."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    @contextmanager
    def counted(layer: Any) -> Iterator[None]:
        nonlocal most
        with offload.brought(layer):
            alive.append(weakref.ref(layer.mlp.down_proj.weight))
            gc.collect()
            most = max(most, sum(weight() is not None for weight in alive))
            yield

    monkeypatch.setattr(layers, "brought", counted)
    scores(bases["llama"][1], "lora")
    assert len(alive) > 20 and most <= 2
    spread = bases["llama"][1]
    assert bytes_per_token(spread) < bytes_per_token(bases["llama"][0]), "offloaded layers keep their input only"


def test_all_weights_are_not_trained_on_a_spread_base(bases: dict[str, tuple[Base, Base]]) -> None:
    with pytest.raises(RunError, match=r"spread over memory .*: sharded training is not there yet"):
        scores(bases["llama"][1], "full")


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_in_16_bits_what_is_offloaded_is_checked_in_float32(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CausalLM(checkpoint=str(folders[kind]), dtype="bfloat16").resolve("cpu")
    single = model.load("cpu")
    rooms = short_of_memory(folders[kind], torch.bfloat16)
    monkeypatch.setattr(causal_lm, "measured", lambda *asked: rooms)
    spread = model.load("cpu")
    assert spread.placement.offloaded == {1, 2}
    assert str(spread.path) == str(single.path) and spread.path.fast
    assert {weight.dtype for weight in spread.network.parameters()} == {torch.bfloat16}
    single.token_budget = spread.token_budget = 512
    assert np.abs(scores(spread, "lora") - scores(single, "lora")).max() < 1e-5


def test_what_lay_on_disk_goes_with_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint in another dtype is written anew for it; else it stays where it is."""
    folder = make_toy_model(tmp_path / "toy")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    rooms = short_of_memory(folder, torch.bfloat16)
    monkeypatch.setattr(causal_lm, "measured", lambda *asked: rooms)
    base = CausalLM(checkpoint=str(folder), dtype="bfloat16").resolve("cpu").load("cpu", "spread")
    assert base.placement.offloaded
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del base
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_every_part_of_a_model_gets_a_place(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        bare = skeleton(folder, torch.float32)
        places: list[Place] = [0, 1, "disk"]
        told = device_map(bare, places, 0)
        for name, _ in bare.named_parameters():
            (place,) = (place for key, place in told.items() if name == key or name.startswith(f"{key}."))
            number = next((int(part) for part in name.split(".") if part.isdigit()), None)
            assert place == (0 if number is None else places[number])
        sizes = sizes_of(bare, 4096, False)
        assert sizes.weights == sum(4 * weight.numel() for weight in bare.parameters())
        quarter = sizes_of(bare, 4096, True)
        assert quarter.outside == sizes.outside and quarter.layers[0] <= sizes.layers[0]


def test_single_that_does_not_fit_is_refused(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = short_of_memory(folders["llama"])
    monkeypatch.setattr(causal_lm, "measured", lambda *asked: rooms)
    with pytest.raises(ModelError, match=r"'llama' does not fit on the CPU: it needs .* MB"):
        CausalLM(checkpoint=str(folders["llama"])).resolve("cpu").load("cpu", "single")


# -- spread over GPUs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("gemma3", "float32")])
def test_layers_on_two_devices_mix_none(kind: str, dtype: str) -> None:
    """On devices that torch only pretends to have: for lack of GPUs."""
    command = [sys.executable, str(ROOT / "tests" / "pretended_devices.py"), kind, dtype]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.stdout.strip() == "nothing is mixed", ended.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["zero_shot", "lora", "prompt_tuning", "loreft"])
def test_spread_from_a_gpu_on_scores_as_one_device_does(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer on each GPU, and what is left in memory and on disk: one GPU is enough. Not yet run."""
    sizes = sizes_of(skeleton(folders["llama"], torch.float32), 4096, False)
    count = min(2, torch.cuda.device_count())
    each = 2 * sizes.layers[0] + sizes.working // count
    rooms = Rooms((each + sizes.outside, *[each] * (count - 1)), 2 * sizes.layers[0], GB)
    model = CausalLM(checkpoint=str(folders["llama"]), dtype="float32").resolve("cuda")
    single = model.load("cuda", "single")
    monkeypatch.setattr(causal_lm, "measured", lambda *asked: rooms)
    spread = model.load("cuda", "spread")
    assert spread.placement.is_spread and spread.path.fast, (spread.placement, spread.path)
    single.token_budget = spread.token_budget = 512
    knobs: dict[str, Any] = {"dropout": 0.0} if name == "lora" else {}
    assert np.abs(scores(spread, name, **knobs) - scores(single, name, **knobs)).max() < 1e-3


# -- in a study --------------------------------------------------------------------------------------------------


def study_file(tmp_path: Path, model: str, methods: str = "'zero_shot', 'lora'", execution: str = "") -> Path:
    lines = ["text,label", *(f"film number {index},{('bad', 'good')[index % 2]}" for index in range(30))]
    (tmp_path / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = tmp_path / "study.toml"
    path.write_text(
        f"name = 'places'\n[fixed]\nmodel = {model}\ntraining = {{ updates = 2 }}\n"
        f"data = {{ name = 'table_file', path = '{tmp_path / 'texts.csv'}', test_size = 6 }}\n"
        f"[grid]\nmethod = [{methods}]\nnum_labels = [8]\n[execution]\ndevice = 'cpu'\n{execution}\n",
        encoding="utf-8",
    )
    return path


def test_a_study_runs_spread(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same records as on one device, beside what the machine did; where the base lay is told."""
    monkeypatch.setattr(models, "_resident", {})
    file = study_file(tmp_path, f"{{ checkpoint = '{folders['llama']}' }}")
    single = run_study(read_study(str(file)), tmp_path / "single")
    told: list[object] = []
    file = study_file(tmp_path, f"{{ checkpoint = '{folders['llama']}' }}", execution="placement = 'spread'")
    rooms = short_of_memory(folders["llama"])
    monkeypatch.setattr(causal_lm, "measured", lambda *asked: rooms)
    spread = run_study(read_study(str(file)), tmp_path / "spread", on_event=told.append)
    assert (spread.finished, spread.planned) == (2, 2)
    (line,) = (event.line for event in told if isinstance(event, Told))
    assert line.startswith("llama: placement spread over memory (1 of 3 layers) and disk (2 of 3 layers): ")
    assert spread.folder.execution()["placement"] == "spread"
    ours, theirs = spread.folder.records(), single.folder.records()
    assert ours.keys() == theirs.keys(), "placement is no part of a run's identity"
    for name, record in ours.items():
        assert record.execution["placement"].startswith("spread over memory")
        assert f"placement {record.execution['placement']}" in record.execution["notes"]
        assert theirs[name].execution["placement"].startswith("single: ")
        found = (folder.predictions(name).log_probabilities for folder in (spread.folder, single.folder))
        assert np.abs(np.subtract(*found)).max() < 1e-5


def test_a_study_says_what_placement_may_be(tmp_path: Path) -> None:
    file = study_file(tmp_path, "{ checkpoint = 'toy' }", execution="placement = 'everywhere'")
    with pytest.raises(SpecError, match="placement must be one of 'auto', 'single', 'spread', got 'everywhere'"):
        read_study(str(file))


# -- 4 bits -------------------------------------------------------------------------------------------------------


def test_specs_from_before_keep_their_ids() -> None:
    folder = StudyFolder(ROOT / "docs" / "results" / "imdb-small")
    records: list[RunRecord] = list(folder.records().values())
    assert records
    for record in records:
        assert identity.spec_id(record.spec) == record.spec_id
        problems: list[str] = []
        model = build_member("model", record.spec["model"], problems)
        assert not problems and member_dict(model) == record.spec["model"]
    plain, rounded = ({"checkpoint": "toy", "quantization": kind} for kind in ("none", "nf4"))
    assert "quantization" not in member_dict(CausalLM(**plain))
    assert member_dict(CausalLM(**rounded))["quantization"] == "nf4"


def test_without_bitsandbytes_it_says_what_to_install(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_lm.util, "find_spec", lambda name: None)
    file = study_file(tmp_path, f"{{ checkpoint = '{folders['llama']}', quantization = 'nf4' }}")
    with pytest.raises(SpecError, match=r"needs bitsandbytes.*pip install 'handful\[nf4\]'"):
        plan_study(read_study(str(file)))
    assert plan_study(read_study(str(file)), outline=True).cells, "a plan needs no such library"


def test_all_weights_are_not_trained_in_4_bits(folders: dict[str, Path], tmp_path: Path) -> None:
    model = f"{{ checkpoint = '{folders['llama']}', quantization = 'nf4' }}"
    (cell,) = read_study(str(study_file(tmp_path, model, "'full'"))).cells
    with pytest.raises(SpecError, match="full trains every weight, which cannot be done on weights of 4 bits"):
        resolve_cell(cell, "cpu", outline=True)


def test_a_plan_counts_4_bits(folders: dict[str, Path], tmp_path: Path) -> None:
    def memory(quantization: str) -> int:
        model = f"{{ checkpoint = 'meta-llama/Llama-2-7b-hf', revision = 'x', quantization = '{quantization}' }}"
        study = read_study(str(study_file(tmp_path, model, "'zero_shot'")))
        plan = plan_study(study, outline=True)
        return estimate(plan, StudyFolder(tmp_path / "nowhere"), study.execution, measure_seconds=0.001).memory_bytes

    # 32 layers of 4 * 4096^2 in attention and 3 * 4096 * 11008 in the MLP: 2 bytes become 4.5 bits
    saved = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) * (2 - 4.5 / 8)
    assert memory("none") - memory("nf4") == pytest.approx(saved, abs=10)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 64 numbers: those that are rounded together."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    # Drawn narrower than other toys: through these widths float32 itself rounds to 1e-4 else.
    return make_toy_model(folder, hidden_size=64, intermediate_size=128, head_dim=16, initializer_range=0.2)


def four_bits(folder: Path, **knobs: Any) -> Base:
    base = CausalLM(checkpoint=str(folder), quantization="nf4", **knobs).resolve("cpu").load("cpu")
    base.token_budget = 512
    return base


@needs_bitsandbytes
def test_a_base_in_4_bits_is_packed_as_transformers_runs_it(wide_folder: Path) -> None:
    base, whole = four_bits(wide_folder), loaded(wide_folder, False)
    projection = base.layers[0].self_attn.q_proj
    assert type(projection).__name__ == "Linear4bit" and projection.weight.dtype == torch.uint8
    assert projection.weight.quant_state.quant_type == "nf4" and not projection.weight.quant_state.nested
    assert base.path.fast, base.path
    assert base.facts["num_parameters"] == whole.facts["num_parameters"]
    # Dropout is drawn pass by pass, so that both ways would have other masks.
    knobs: dict[str, dict[str, Any]] = {"zero_shot": {}, "lora": {"dropout": 0.0}, "prompt_tuning": {}, "loreft": {}}
    packed = {name: scores(base, name, **own) for name, own in knobs.items()}
    base.path = PathCheck(False, "for comparing")
    base.bare_scores.clear()
    for name, found in packed.items():
        assert np.abs(scores(base, name, **knobs[name]) - found).max() < 1e-4, name
    assert np.abs(packed["zero_shot"] - scores(whole, "zero_shot")).max() > 1e-2, "other numbers than unrounded"
    for name in ("lora", "prompt_tuning", "loreft"):
        assert np.abs(packed[name] - packed["zero_shot"]).max() > 1e-3, f"{name} learned"


@needs_bitsandbytes
def test_a_base_in_4_bits_is_unchanged_by_what_was_tuned_on_it(wide_folder: Path) -> None:
    base = four_bits(wide_folder)
    before = test_methods.fingerprint(base)
    first = scores(base, "lora")
    assert test_methods.same(before, test_methods.fingerprint(base))
    assert np.array_equal(scores(base, "lora"), first)


@needs_bitsandbytes
def test_in_16_bits_the_check_measures_against_float32(wide_folder: Path) -> None:
    base = four_bits(wide_folder, dtype="bfloat16")
    assert base.path.fast, base.path
    assert all(module.compute_dtype == torch.bfloat16 for module in base.network.modules()
               if hasattr(module, "compute_dtype"))  # fmt: skip


@needs_bitsandbytes
def test_a_study_runs_in_4_bits(wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_resident", {})
    names = ("none", "nf4")
    file = study_file(tmp_path, "X", "'zero_shot', 'lora'")
    grid = ", ".join(f"{{ checkpoint = '{wide_folder}', quantization = '{name}' }}" for name in names)
    text = file.read_text().replace("model = X\n", "").replace("[grid]\n", f"[grid]\nmodel = [{grid}]\n")
    file.write_text(text)
    outcome = run_study(read_study(str(file)), tmp_path / "out")
    assert (outcome.finished, outcome.planned) == (4, 4)
    asked = [record.spec["model"].get("quantization") for record in outcome.folder.records().values()]
    assert sorted(map(str, asked)) == ["None", "None", "nf4", "nf4"]
    lock = json.loads((tmp_path / "out" / "study.lock.json").read_text())
    assert lock["execution"]["placement"] == "auto"
