"""lm-evaluation-harness with its backend `hf`: log-likelihood of each answer, from a task file of its own."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol import Job, Stopwatch, parser, read_job, write_result

TASK = """task: reviews
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: {answers}
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def load_task(job: Job, folder: Path) -> Any:
    """The harness's tasks, of a task file and a data file written into `folder`."""
    from lm_eval.tasks import TaskManager

    rows = [json.dumps({"prompt": entry["prompt"], "label": entry["label"]}) for entry in job["test"]]
    (folder / "reviews.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = TASK.format(file=json.dumps(str(folder / "reviews.jsonl")), answers=json.dumps(job["answers"]))
    (folder / "reviews.yaml").write_text(task, encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False).load(["reviews"])


def margins_of(samples: Sequence[Any]) -> list[float]:
    """Log-likelihood of the last answer less that of the first, in the order of the reviews."""
    return [
        float(sample["filtered_resps"][-1][0]) - float(sample["filtered_resps"][0][0])
        for sample in sorted(samples, key=lambda sample: sample["doc_id"])
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Does one job. The task's table is loaded before the clock starts, as the others' reviews are."""
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, default=8)
    args = arguments.parse_args(argv)
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    job = read_job(args.job)
    harness = HFLM(
        pretrained=job["model"], device="cpu", dtype="float32", batch_size=args.batch, max_length=job["max_tokens"] + 1
    )
    prompts = [harness.tok_encode(entry["prompt"]) for entry in job["test"]]
    with torch.no_grad():
        harness.model(torch.tensor([prompts[0]]), use_cache=False)
    with tempfile.TemporaryDirectory() as folder:
        tasks = load_task(job, Path(folder))
        with Stopwatch() as clock:
            found = evaluate(harness, tasks, bootstrap_iters=0)
    write_result(args.result, clock.seconds, prompts, margins=margins_of(found["samples"]["reviews"]))


if __name__ == "__main__":
    main()
