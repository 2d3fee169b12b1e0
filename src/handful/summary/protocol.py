"""What was held fixed, how the records were made, and which runs have no numbers.

Knows nothing of accuracies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handful.identity import canonical_json
from handful.results import RunRecord
from handful.summary.outcomes import Outcome, Tested, make_run, same_texts, tested_of
from handful.summary.parts import Protocol, Provenance, Row, Unfinished
from handful.summary.plain import (
    distinct,
    init_seed_of,
    is_none,
    mapping,
    plain_text,
    reads_labels,
    reads_test,
    seed_of,
    without_cell_axes,
)


def unfinished_runs(
    planned: Sequence[Mapping[str, Any]], rows: Sequence[Row], outcomes: Mapping[str, Outcome]
) -> tuple[tuple[Unfinished, ...], tuple[Unfinished, ...]]:
    """(failed, missing), each distinct run once, in the order of the plan."""
    label_of = {canonical_json(row.asked): row.label for row in rows}
    failed: dict[str, Unfinished] = {}
    missing: dict[str, Unfinished] = {}
    for cell in planned:
        name = cell["spec_id"]
        run = make_run(name, None, outcomes[name])
        if run.status == "finished" or name in failed or name in missing:
            continue
        seeded = reads_labels(cell)
        entry = Unfinished(
            row=label_of[canonical_json(without_cell_axes(cell["asked"]))],
            num_labels=int(cell["asked"]["num_labels"]) if seeded else 0,
            seed=seed_of(cell) if seeded else None,
            spec_id=name,
            reason=run.reason,
        )
        (failed if run.status == "failed" else missing)[name] = entry
    return tuple(failed.values()), tuple(missing.values())


def protocol_of(
    planned: Sequence[Mapping[str, Any]], rows: Sequence[Row], outcomes: Mapping[str, Outcome]
) -> Protocol:
    """What the plan and the finished runs were held to."""
    tests: dict[int, dict[str, Tested]] = {}
    splits: dict[int, dict[tuple[int, int], None]] = {}
    for row in rows:
        for num_labels, cell in row.cells.items():
            for run in cell.runs:
                if run.status != "finished":
                    continue
                tests.setdefault(row.group, {})[run.spec_id] = tested_of(run, outcomes)
                if cell.reads_labels and run.num_train is not None and run.num_selection is not None:
                    split = _as_read(run.num_train, run.num_selection, outcomes[run.spec_id])
                    splits.setdefault(num_labels, {})[split] = None
    records = [outcome.record for outcome in outcomes.values() if outcome.record and outcome.tested]
    rules = [str(record.curve["chosen_by"]) for record in records if record.curve.get("chosen_by")]
    specs = [cell["spec"] for cell in planned]
    shared = all(same_texts(list(group.values())) for group in tests.values()) if tests else None
    return Protocol(
        seeds=tuple(sorted({seed_of(cell) for cell in planned})),
        num_test=tuple(sorted({len(test.ids) for group in tests.values() for test in group.values()})),
        test_texts_shared=shared,
        splits={num_labels: tuple(splits[num_labels]) for num_labels in sorted(splits)},
        chosen_by={rule: rules.count(rule) for rule in dict.fromkeys(rules)},
        num_chosen_on_test=sum(map(reads_test, rules)) if records else None,
        prompts=_distinct_parts(specs, "prompt"),
        models=_distinct_parts(specs, "model"),
        data=_distinct_parts(specs, "data"),
        training=_distinct_parts(specs, "training"),
        init_seeds=tuple(sorted({init for cell in planned if (init := init_seed_of(cell)) is not None})),
    )


def _as_read(num_train: int, num_selection: int, outcome: Outcome) -> tuple[int, int]:
    """(training, selection) texts. Without a training section and a protocol, all that was drawn is read alike."""
    has_choice = outcome.record is not None and not {"training", "protocol"}.isdisjoint(outcome.record.spec)
    return (num_train, num_selection) if has_choice else (num_train + num_selection, 0)


def provenance_of(
    plan: Mapping[str, Any], settings: Mapping[str, Any], finished: Sequence[RunRecord], lock_sha256: str = ""
) -> Provenance:
    """Where and with what the finished runs were made."""
    executions = [record.execution for record in finished]
    versions: dict[str, dict[str, None]] = {}
    for execution in executions:
        for package, version in mapping(execution, "versions").items():
            versions.setdefault(str(package), {})[plain_text(version)] = None
    return Provenance(
        command=str(plan.get("command", "")),
        plan_notes=tuple(str(note) for note in plan.get("notes", ())),
        versions={package: tuple(versions[package]) for package in sorted(versions)},
        devices=distinct(execution.get("device") for execution in executions),
        hosts=distinct(execution.get("host") for execution in executions),
        platforms=distinct(execution.get("platform") for execution in executions),
        memory=distinct(execution.get("peak_memory_of") for execution in executions),
        git=distinct(execution.get("git") for execution in executions),
        paths=distinct(
            why for record in finished for why in (record.engine.get("why"), record.execution.get("path"))
        ),
        notes=distinct(
            note for told in (settings, *executions) for note in told.get("notes") or ()
        ),
        settings={name: value for name, value in settings.items() if name != "notes"},
        finished_at=tuple(sorted(distinct(execution.get("finished_at") for execution in executions))),
        lock_sha256=lock_sha256,
    )


def _distinct_parts(specs: Iterable[Mapping[str, Any]], section: str) -> tuple[Any, ...]:
    """The distinct values of a section, in order, those that stand for "none" left out."""
    parts = {canonical_json(spec.get(section)): spec.get(section) for spec in specs}
    return tuple(part for part in parts.values() if part and not is_none(part))
