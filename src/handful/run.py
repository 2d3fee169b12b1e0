"""THE LINE: one run from spec to record, top to bottom, one station a statement.

The same for every method, with a base or without. Knows nothing of grids, folders or terminals.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handful import checkpoints, progress
from handful import models as bases
from handful.data import load_dataset
from handful.data.sampling import draw_split
from handful.engine.base import Base
from handful.evaluation import metrics
from handful.examples import Encoded
from handful.identity import derive_seed, text_hash
from handful.methods.method import Tuned
from handful.models.placement import Asked
from handful.prompts.encoding import encode
from handful.results import Predictions, RunRecord
from handful.spec import RunSpec
from handful.training import Curve


@dataclass(frozen=True)
class RunSettings:
    """Where a run happens; nothing here is part of its identity.

    token_budget: tokens in one forward pass, a power of two, chosen once per study. placement: whether a base lies on
    one device or is spread.
    """

    device: str = "cpu"
    threads: int = 1
    token_budget: int = 4096
    save: str = "adapters"
    placement: Asked = "auto"


def run(
    spec: RunSpec, settings: RunSettings, adapter_folder: Path | None = None
) -> tuple[RunRecord, Predictions]:
    """One cell; of `execution` its record holds only what concerns the base.

    Raises HandfulError, or whatever a library raises.
    """
    base = bases.resident(spec.model, settings.device, settings.placement)
    _set_budget(base, settings.token_budget)
    dataset = load_dataset(spec.data)
    split = draw_split(dataset, spec.num_labels, derive_seed(spec.seed, "sample"), spec.protocol.selection_size)
    with progress.stage("encode"):
        encoded = encode(split, spec.prompt, base.tokenizer)
    attach = partial(spec.method.attach, base, encoded.task, seed=derive_seed(spec.start_seed, "init"))
    order = derive_seed(spec.start_seed, "shuffle")
    training, found = spec.protocol.settle(spec.to_settle, encoded, attach, order)
    train, selection = spec.protocol.texts(encoded)
    with attach() as tuned:
        with progress.stage("train"), checkpoints.counting(train, selection):
            curve = tuned.fit(train, selection, training, seed=order)
        with progress.stage("test"):
            log_probabilities = tuned.predict(encoded.test)
        learned = {"num_trainable": tuned.num_trainable, "sees": _seen(spec), **_recipe(spec), **found, **tuned.facts}
        learned |= _saved(tuned, settings, adapter_folder)
    predictions = _predictions(encoded, log_probabilities)
    return _record(spec, base, encoded, split.facts, curve, learned, predictions), predictions


def _set_budget(base: Base, asked: int) -> None:
    """As the study asks, but no more than this base was seen to take. Notes for the record what is out of the way."""
    base.token_budget, base.recomputes = min(asked, base.most_tokens or asked), None
    if base.token_budget < asked:
        progress.note(f"token budget {base.token_budget}, because memory ran out before with more")
    if base.placement.is_spread:
        progress.note(f"placement {base.placement.why}")


def _seen(spec: RunSpec) -> list[str]:
    """What the method was allowed to look at before the test."""
    return [*(["labelled texts"] if spec.num_labels else []), *spec.method.sees()]


def _recipe(spec: RunSpec) -> dict[str, str]:
    """Which recipe filled the open training knobs (docs/recipes)."""
    return {} if spec.method.recipe is None or spec.training is None else {"recipe": spec.method.recipe.hash}


def _predictions(encoded: Encoded, log_probabilities: np.ndarray) -> Predictions:
    ids = tuple(example.id for example in encoded.test)
    return Predictions(ids, np.array([example.label for example in encoded.test]), log_probabilities)


def _saved(tuned: Tuned, settings: RunSettings, folder: Path | None) -> dict[str, int]:
    """Saves what was learned where the study wants it; gives an adapter's size, wanted or not."""
    wanted = folder is not None and (settings.save == "all" or (settings.save == "adapters" and tuned.is_adapter))
    if not wanted and not tuned.is_adapter:
        return {}
    with tempfile.TemporaryDirectory() as nowhere:
        target = folder if wanted and folder is not None else Path(nowhere)
        tuned.save(target)
        files = [path for path in target.rglob("*") if path.is_file()]
        for path in files:
            with path.open("rb") as stream:  # on disk before the record that speaks of it
                os.fsync(stream.fileno())
        size = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    return {"adapter_bytes": size} if tuned.is_adapter else {}


def _record(
    spec: RunSpec,
    base: Base,
    encoded: Encoded,
    split_facts: Mapping[str, Any],
    curve: Curve,
    learned: Mapping[str, Any],
    predictions: Predictions,
) -> RunRecord:
    ids = [example.id for example in encoded.test]
    return RunRecord(
        spec_id=spec.spec_id,
        spec=spec.as_dict(),
        status="finished",
        label_names=encoded.task.label_names,
        sample={
            "train_ids": [example.id for example in encoded.train],
            "selection_ids": [example.id for example in encoded.selection],
            "num_test": len(ids),
            "test_ids_sha256": text_hash("\n".join(ids)),
        },
        curve=curve.as_dict(),
        metrics=metrics(predictions.log_probabilities, predictions.labels),
        learned=learned,
        engine={"path": "none" if base.model is None else "fast" if base.path.fast else "plain"},
        execution={
            "path": str(base.path), "base_load_seconds": base.load_seconds, "token_budget": base.token_budget,
            **({"placement": base.placement.why} if base.model is not None else {}),
        },
        facts={**base.facts, **split_facts, **encoded.facts},
    )
