"""Fits a causal LM with a graft, or whatever gives a loss: items in, curve out. Knows no method by name.

An optimizer step is exactly `batch_size` sequences, whatever fits into one forward pass: the losses of its
packs are summed and divided by that number. The base stays in evaluation mode, so that only what a method
brings has dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from handful import checkpoints, progress
from handful.engine.base import Base
from handful.engine.batching import Batch, Part, batches
from handful.engine.budget import saves_memory, watching, within_memory
from handful.engine.graft import Graft, ParameterGroup
from handful.engine.packing import Item
from handful.engine.scoring import batch_scores, label_scores, normalise
from handful.engine.stems import in_parts, on_stems, stem_scores
from handful.errors import RunError, SpecError
from handful.evaluation import accuracy, log_loss
from handful.examples import EncodedExample
from handful.identity import derive_seed, spec_id, text_hash


@dataclass(frozen=True)
class TrainingSpec:
    """How the updates go. `epochs` or `updates`, never both; what is left out is the method's recipe.

    warmup: share of the updates in which the learning rate rises from zero. loss: "answer" is the
    cross-entropy over the vocabulary at the answer's tokens (the paper's), "labels" the one over the labels.
    """

    batch_size: int = 8
    learning_rate: float | None = None
    epochs: int | None = None
    updates: int | None = None
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    loss: Literal["answer", "labels"] | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.epochs is not None and self.updates is not None:
            problems.append(f"name epochs or updates, never both; got epochs = {self.epochs}, updates = {self.updates}")
        for name in ("batch_size", "epochs", "updates"):
            count = getattr(self, name)
            if count is not None and count < 1:
                problems.append(f"{name} must be at least 1, got {count}")
        if self.learning_rate is not None and not (0 < self.learning_rate < math.inf):
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            problems.append(f"warmup is a share of the updates, from 0 to below 1, got {self.warmup}")
        if self.weight_decay < 0:
            problems.append(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.max_grad_norm <= 0:
            problems.append(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
        if problems:
            raise SpecError(problems)

    def num_updates(self, num_train: int) -> int:
        """Optimizer steps over `num_train` sequences."""
        if self.updates is not None:
            return self.updates
        return math.ceil((self.epochs or 1) * num_train / self.batch_size)


@dataclass(frozen=True)
class Settled(TrainingSpec):
    """A training section, and what a protocol settled beyond it. Never in a spec: the protocol is.

    evaluations: the selection is looked at so many times, evenly spread; None: after every epoch. stop: share of the
    updates after which training ends, on the schedule of all of them. patience: looks without improvement after which
    it ends, too. by, looks_at, rule: what chooses, on which texts, and in words. watched: texts whose accuracy is
    written down at every look, and never used.
    """

    evaluations: int | None = None
    stop: float = 1.0
    patience: int | None = None
    by: Literal["log_loss", "accuracy"] = "log_loss"
    looks_at: Literal["selection", "test"] = "selection"
    rule: str | None = None
    watched: tuple[EncodedExample, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, training: TrainingSpec, **settled: Any) -> Settled:
        """The same section with these in place."""
        return cls(**{knob.name: getattr(training, knob.name) for knob in fields(training)} | settled)

    def last(self, total: int) -> int:
        """The update, of `total`, with which training ends at the latest."""
        return max(1, math.ceil(self.stop * total - 1e-9))


def marks(total: int, evaluations: int) -> list[int]:
    """The updates, of `total`, after which a share 1/evaluations, 2/evaluations, ... of them is done."""
    return [max(1, math.ceil(total * number / evaluations)) for number in range(1, evaluations + 1)]


@dataclass(frozen=True)
class Recipe:
    """A method's own choices where the study makes none, found on other data than IMDB (docs/recipes).

    epochs, learning_rates: pairs (up to this N, value), the last one without end; learning_rate: the same at every N.
    """

    learning_rate: float
    loss: Literal["answer", "labels"]
    epochs: tuple[tuple[float, int], ...]
    learning_rates: tuple[tuple[float, float], ...] = ()

    @property
    def hash(self) -> str:
        """16 hex digits over what it says, for the record. What it leaves open is left out, so that a knob which
        recipes get later leaves the hashes of those that do without as they are.
        """
        said = {knob.name: getattr(self, knob.name) for knob in fields(self)}
        for name in ("epochs", "learning_rates"):
            said[name] = [[str(bound), value] for bound, value in said[name]]
        return spec_id({"recipe": {name: value for name, value in said.items() if value}})

    def fill(self, cell: Mapping[str, Any], own_learning_rate: float | None) -> dict[str, Any]:
        """The cell's training section in full. The method's own learning rate goes before the section's."""
        training = dict(cell["training"] or {})
        rate = own_learning_rate if own_learning_rate is not None else training.get("learning_rate")
        if rate is None:
            rate = _at(self.learning_rates, cell["num_labels"]) if self.learning_rates else self.learning_rate
        training["learning_rate"] = float(rate)
        if "epochs" not in training and "updates" not in training:
            training["epochs"] = _at(self.epochs, cell["num_labels"])
        training.setdefault("loss", self.loss)
        return training


_Number = TypeVar("_Number", int, float)


def _at(pairs: Sequence[tuple[float, _Number]], num_labels: int) -> _Number:
    return next(value for bound, value in pairs if num_labels <= bound)


@dataclass(frozen=True)
class Curve:
    """What training showed. points: per evaluated update its number, epochs, mean training loss since the
    last point, and where there is a selection its log-loss and accuracy. chosen_update: the one kept.
    """

    points: tuple[Mapping[str, float], ...] = ()
    chosen_update: int = 0
    chosen_by: str = "nothing to choose"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return {
            "points": [dict(point) for point in self.points],
            "chosen_update": self.chosen_update,
            "chosen_by": self.chosen_by,
        }


class _Masters:
    """Float32 copies of the tensors that are trained in 16 bits, for the optimizer to step: an update smaller than a
    weight's rounding is lost on the weight itself (Micikevicius et al. 2018). A float32 tensor is its own master.

    of: each tensor's master.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.of = {
            tensor: tensor if tensor.dtype == torch.float32 else tensor.detach().float().requires_grad_()
            for tensor in tensors
        }
        self._copies = [(tensor, master) for tensor, master in self.of.items() if master is not tensor]

    def take_gradients(self) -> None:
        """Moves the gradients of the 16-bit tensors to their masters."""
        for tensor, master in self._copies:
            master.grad = None if tensor.grad is None else tensor.grad.float()
            tensor.grad = None

    def all(self) -> list[Tensor]:
        """In the order of the tensors."""
        return list(self.of.values())

    @torch.no_grad()
    def give_back(self) -> None:
        """Rounds the masters into the tensors, and forgets their gradients."""
        for tensor, master in self._copies:
            tensor.copy_(master)
            master.grad = None


@dataclass
class _Best:
    """measure: the lowest log-loss, or the highest accuracy's negative; looks_since: without a better one."""

    measure: float = math.inf
    update: int = 0
    tensors: list[Tensor] = field(default_factory=list)
    looks_since: int = 0


class _Fit:
    """All that a fit is between two updates, so that a checkpoint can hold it and another process go on with it.

    update: how many are done. losses: since the last point.
    """

    def __init__(self, parameters: Sequence[ParameterGroup], weight_decay: float) -> None:
        self.tensors = [tensor for group in parameters for tensor in group.tensors]
        self.masters = _Masters(self.tensors)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [self.masters.of[tensor] for tensor in group.tensors], "lr": group.learning_rate}
                for group in parameters
            ],
            weight_decay=weight_decay,
        )
        self.rates = [group.learning_rate for group in parameters]
        self.update = 0
        self.points: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.first_loss: float | None = None
        self.best = _Best()

    def take_step(self, rate_factor: float) -> None:
        """One step of the optimizer, each group's rate multiplied with `rate_factor`."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor
        self.optimizer.step()
        self.masters.give_back()

    def numbers(self) -> dict[str, Any]:
        """What is no tensor, as plain data."""
        best = self.best
        return {
            "update": self.update, "points": self.points, "losses": self.losses, "first_loss": self.first_loss,
            "best": {"measure": best.measure, "update": best.update, "looks_since": best.looks_since},
            "has_best": bool(best.tensors),
            "moments": [sorted(self._moments(master)) for master in self.masters.all()],
        }  # fmt: skip

    def all_tensors(self) -> dict[str, Tensor]:
        """By name: the masters, what the optimizer keeps of each, and the best tensors so far."""
        masters = self.masters.all()
        named = {f"trained.{index}": master for index, master in enumerate(masters)}
        for index, master in enumerate(masters):
            named |= {f"{name}.{index}": moment for name, moment in self._moments(master).items()}
        return named | {f"best.{index}": tensor for index, tensor in enumerate(self.best.tensors)}

    @torch.no_grad()
    def take_up(self, kept: checkpoints.Kept) -> None:
        """Becomes the fit that was kept, to the last bit. Raises RunError when it cannot be read."""
        numbers = kept.numbers
        for index, (master, names) in enumerate(zip(self.masters.all(), numbers["moments"], strict=True)):
            master.copy_(kept.read(f"trained.{index}"))
            for name in names:
                moment = kept.read(f"{name}.{index}")
                # Adam counts its steps on the CPU, wherever the tensor lies.
                where = torch.empty_like(moment if name == "step" else master)
                self.optimizer.state[master][name] = where.copy_(moment)
        self.masters.give_back()
        self.update, self.first_loss = numbers["update"], numbers["first_loss"]
        self.points, self.losses = list(numbers["points"]), list(numbers["losses"])
        self.best = _Best(**numbers["best"])
        if numbers["has_best"]:
            self.best.tensors = [
                torch.empty_like(tensor).copy_(kept.read(f"best.{index}")) for index, tensor in enumerate(self.tensors)
            ]

    def _moments(self, master: Tensor) -> dict[str, Tensor]:
        return dict(self.optimizer.state[master]) if master in self.optimizer.state else {}


def fit_graft(
    base: Base,
    graft: Graft,
    train: Sequence[EncodedExample],
    selection: Sequence[EncodedExample],
    training: TrainingSpec,
    seed: int,
    offset: np.ndarray,
) -> Curve:
    """Trains the graft's parameters in place, and leaves them as they were at the chosen update.

    selection, where there is one, chooses the epoch by log-loss; else the last update stays. offset:
    [labels], added to the labels' scores (zeros for none). Raises RunError when the loss is not a number or
    explodes.
    """
    bias = torch.tensor(offset, dtype=torch.float32, device=base.device)
    return optimise(
        graft.parameters,
        len(train),
        lambda members, dropout: _step(base, graft, [train[index] for index in members], training, bias, dropout),
        [example.label for example in selection],
        lambda: normalise(label_scores(base, selection, graft) + offset),
        training,
        seed,
        lambda examples: normalise(label_scores(base, examples, graft) + offset),
    )


def optimise(
    parameters: Sequence[ParameterGroup],
    num_train: int,
    step: Callable[[Sequence[int], int], float],
    selection_labels: Sequence[int],
    selection_scores: Callable[[], np.ndarray],
    training: TrainingSpec,
    seed: int,
    scores_of: Callable[[Sequence[EncodedExample]], np.ndarray],
) -> Curve:
    """Trains `parameters` in place, and leaves them as they were at the chosen update.

    step: (members of `num_train`, seed of the dropout) -> their mean loss, its gradient added. selection_scores:
    [selection, labels] log-probabilities as things stand; they choose the epoch by log-loss where there are
    selection_labels, else the last update stays. scores_of: the same for any texts. Raises RunError when the loss is
    not a number or explodes.
    """
    if not num_train:
        raise RunError("there are no labelled texts to train on: num_labels must be above 0 for this method")
    settled = Settled.of(training)
    total = training.num_updates(num_train)
    last = settled.last(total)
    looks = None if settled.evaluations is None else set(marks(total, settled.evaluations))
    fit = _Fit(parameters, training.weight_decay)
    keeper = checkpoints.keeper(_made_with(fit, settled, seed))
    kept = None if keeper is None else keeper.last()
    if kept is not None:
        fit.take_up(kept)
        progress.note(f"went on from update {fit.update:,} of {last:,}")
    best = fit.best
    steps = enumerate(_steps(num_train, training.batch_size, total, seed), start=1)
    with torch.random.fork_rng(devices=[]):
        for update, members in islice(steps, fit.update, None):
            loss = step(members, derive_seed(seed, "dropout", update))
            fit.first_loss = loss if fit.first_loss is None else fit.first_loss
            if not math.isfinite(loss) or loss > 5 * fit.first_loss + 20:
                raise RunError(
                    f"training diverged: the loss was {loss:.4g} at update {update} of {total}, {fit.first_loss:.4g} "
                    f"at first. Lower the learning rate (now {parameters[0].learning_rate:g}) or add warm-up"
                )
            fit.masters.take_gradients()
            norm = torch.nn.utils.clip_grad_norm_(fit.masters.all(), training.max_grad_norm)
            if not torch.isfinite(norm):
                raise RunError(f"training diverged: the gradient is not a number at update {update} of {total}")
            fit.take_step(rate_factor(update - 1, total, training))
            fit.update = update
            fit.losses.append(loss)
            progress.advance(update, last)
            seen = update * training.batch_size
            ends_epoch = seen // num_train > (seen - training.batch_size) // num_train
            if update == last or (ends_epoch if looks is None else update in looks):
                point = {"update": update, "epoch": seen / num_train, "train_loss": float(np.mean(fit.losses))}
                fit.losses = []
                if selection_labels:
                    point |= _select(selection_scores, np.array(selection_labels), update, best, fit.tensors, settled)
                point |= _watch(scores_of, settled)
                fit.points.append(point)
            if update == last or (settled.patience is not None and best.looks_since >= settled.patience):
                break
            if keeper is not None and keeper.is_due():
                keeper.keep(fit.numbers(), fit.all_tensors())
    if best.tensors:
        with torch.no_grad():
            for tensor, chosen in zip(fit.tensors, best.tensors, strict=True):
                tensor.copy_(chosen)
        return Curve(tuple(fit.points), best.update, settled.rule or "selection log-loss")
    return Curve(tuple(fit.points), last, settled.rule or "last update")


def _made_with(fit: _Fit, settled: Settled, seed: int) -> dict[str, Any]:
    """What a checkpoint of this fit hangs on, beside the texts and the machine."""
    shapes = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in fit.tensors]
    return {"training": repr(settled), "seed": seed, "tensors": text_hash("\n".join(shapes))}


def rate_factor(step: int, total: int, training: TrainingSpec) -> float:
    """What the learning rate is multiplied with at update `step` (from 0) of `total`."""
    warm = round(training.warmup * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    if training.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    return 1.0 - done if training.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def _steps(num_train: int, batch_size: int, total: int, seed: int) -> Iterator[list[int]]:
    """Exactly `batch_size` indices per update, from one shuffled pass after the other."""
    waiting: list[int] = []
    epoch = 0
    for _ in range(total):
        while len(waiting) < batch_size:
            order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(num_train)
            waiting += order.tolist()
            epoch += 1
        yield waiting[:batch_size]
        del waiting[:batch_size]


def _step(
    base: Base, graft: Graft, members: Sequence[EncodedExample], training: TrainingSpec, bias: Tensor, seed: int
) -> float:
    """Adds the gradient of the mean loss over `members`; gives that loss. seed: of the dropout.

    When memory runs out, the step begins again in smaller passes: the same step, rounded otherwise; with dropout, which
    is drawn pass by pass, under other masks.
    """
    gold_only = training.loss == "answer"
    items = [
        Item(example.tokens, (example.answers[example.label],) if gold_only else example.answers) for example in members
    ]
    labels = torch.tensor([example.label for example in members], device=base.device)

    def attempt() -> float:
        torch.manual_seed(seed)
        _forget_gradients(graft)
        total = 0.0
        for part, scored in _passes(base, items, graft):
            with watching(part):
                scores = scored()
                if gold_only:
                    loss = -scores.sum()
                else:
                    gold = labels[list(part.items)]
                    loss = torch.nn.functional.cross_entropy(scores + bias, gold, reduction="sum")
                (loss / len(members)).backward()
            total += float(loss.detach())
            progress.amount("train_tokens", part.num_tokens)
        return total / len(members)

    graft.train(True)
    try:
        return within_memory(base, attempt, is_training=True)
    finally:
        graft.train(False)


def _passes(base: Base, items: Sequence[Item], graft: Graft) -> Iterator[tuple[Batch | Part, Callable[[], Tensor]]]:
    """What goes through together, and what gives its scores [items of it, answers]."""
    num_answers = len(items[0].answers)
    chosen = on_stems(base, items, graft)
    for part in in_parts(items, chosen, base.token_budget):
        inside = [items[index] for index in part.items]
        yield part, partial(stem_scores, base, inside, graft, num_answers)
    others = sorted(set(range(len(items))) - set(chosen))
    for batch in batches(base, items, graft.num_virtual, base.token_budget, num_edited=graft.last_rows, chosen=others):
        yield batch, partial(_batch_scores, base, batch, graft, num_answers)


def _batch_scores(base: Base, batch: Batch, graft: Graft, num_answers: int) -> Tensor:
    return batch_scores(base, batch, graft, num_answers, saves_memory(base, batch))


def _forget_gradients(graft: Graft) -> None:
    for group in graft.parameters:
        for tensor in group.tensors:
            tensor.grad = None


def _select(
    scores: Callable[[], np.ndarray],
    labels: np.ndarray,
    update: int,
    best: _Best,
    tensors: Sequence[Tensor],
    settled: Settled,
) -> dict[str, float]:
    """Measures the selection texts, and keeps the tensors when they are the best so far."""
    with progress.stage("select"):
        found = scores()
    point = measured(found, labels, settled)
    loss, share = (point[f"{settled.looks_at}_{what}"] for what in ("log_loss", "accuracy"))
    if not math.isfinite(loss):
        raise RunError(f"training diverged: the {settled.looks_at} log-loss is not a number at update {update}")
    measure = loss if settled.by == "log_loss" else -share
    best.looks_since += 1
    if measure < best.measure:
        best.measure, best.update, best.looks_since = measure, update, 0
        best.tensors = [tensor.detach().clone() for tensor in tensors]
    return point


def measured(found: np.ndarray, labels: np.ndarray, settled: Settled) -> dict[str, float]:
    """What a look says: found, [texts, labels] log-probabilities of the texts that it is on."""
    point = {
        f"{settled.looks_at}_log_loss": log_loss(found, labels),
        f"{settled.looks_at}_accuracy": accuracy(found, labels),
    }
    if settled.evaluations is not None:
        point[f"{settled.looks_at}_log_loss_sd"] = float(found[np.arange(len(labels)), labels].std())
    return point


def _watch(scores_of: Callable[[Sequence[EncodedExample]], np.ndarray], settled: Settled) -> dict[str, float]:
    """The accuracy on the watched texts, where there are some."""
    if not settled.watched:
        return {}
    with progress.stage("watch"):
        found = scores_of(settled.watched)
    return {"test_accuracy": accuracy(found, np.array([example.label for example in settled.watched]))}
