"""Pretrain a small Llama base on raw review texts: Parquet in, Hugging Face folder out.

The file reads in the order of the job: texts, tokenizer and tokens, model, optimizers, checkpoint,
training, the finished folder. It knows nothing of labels, prompts or the package `handful`: it needs
torch, transformers, tokenizers, safetensors and (only to read Parquet) pyarrow, and no network.

    python scripts/pretrain_reviews_llama.py --data FOLDER --output FOLDER

FOLDER holds train.parquet and unsupervised.parquet; only their column `text` is read, a test file
never. To train on another machine, make the tokens first (`--tokens-only`), carry OUTPUT/tokens.npy
and OUTPUT/tokenizer.json over in one folder and start there with `--tokens FOLDER/tokens.npy`.

A run that stops (Ctrl-C, SIGTERM, --max-steps, a crash) goes on with the same command and --resume.
Everything random in a step follows from the seed and the step's number, so on one machine a resumed
run gives the weights of an uninterrupted one, unless --max-minutes shortened either.

Exit codes: 0 finished, or stopped at --max-steps; 2 something to put right, said on stderr;
130 stopped by a signal, checkpoint written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")  # their ids are their places: 0, 1, 2, 3
UNK, BOS, EOS, PAD = range(4)
SOURCES = ("train.parquet", "unsupervised.parquet")
VALIDATION_SHARE = 0.01
LARGEST_WEIGHTS_BYTES = 11_700_000  # what may ship inside the package: 12 MB with tokenizer and card
MATRIX_LR, OTHER_LR = 0.02, 3e-3  # Muon; AdamW
MATRIX_DECAY = 0.1  # of the weights, times the learning rate; none on embeddings and norms
GRADIENT_NORM = 1.0
# What changes the final weights: a checkpoint is only continued under the same values.
NUMBERS = (
    *("width", "layers", "heads", "mlp", "vocabulary", "dropout"),
    *("epochs", "block", "batch", "warmup", "seed", "rate"),
)


class Refusal(Exception):
    """A person's mistake, or a run that can't go on: its message goes to stderr, exit code 2."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pretrain a small Llama base on raw review texts.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder with train.parquet and unsupervised.parquet")
    source.add_argument("--tokens", type=Path, help="tokens.npy of an earlier run, tokenizer.json beside it")
    parser.add_argument("--output", type=Path, required=True, help="folder for cache, checkpoint and model")
    parser.add_argument(
        "--base", type=Path, help="go on from the weights and the tokenizer of this model folder, not from scratch"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="times the peak learning rates; below 1 with --base")
    parser.add_argument("--tokens-only", action="store_true", help="stop when tokens.npy is written")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUTPUT, if any")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument(
        "--max-minutes", type=float, help="of training, all resumptions together; the decay fits it"
    )
    parser.add_argument("--max-steps", type=int, help="stop at this step, to go on later with --resume")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--mlp", type=int, default=704)
    parser.add_argument("--vocabulary", type=int, default=8192, help="of the tokenizer made from --data")
    parser.add_argument("--block", type=int, default=512, help="tokens per training sequence")
    parser.add_argument("--batch", type=int, default=16, help="sequences per step")
    parser.add_argument("--dropout", type=float, default=0.0, help="on attention and both residual branches")
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50, help="steps")
    parser.add_argument("--evaluate-every", type=int, default=500, help="steps")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    parser.add_argument("--allow-large", action="store_true", help="write weights of more than 12 MiB")
    args = parser.parse_args(argv)
    for name in ("epochs", "layers", "heads", "mlp", "block", "batch", "log_every", "evaluate_every"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0, got {getattr(args, name)}")
    if args.max_minutes is not None and args.max_minutes <= 0:
        parser.error(f"--max-minutes must be above 0, got {args.max_minutes}")
    if args.width <= 0 or args.width % (2 * args.heads):  # rotary positions turn pairs of a head's values
        parser.error(f"--width must be a multiple of twice --heads, got {args.width} and {args.heads}")
    smallest = len(SPECIAL_TOKENS) + 256
    if not smallest <= args.vocabulary <= 2**16:  # all bytes fit below, uint16 above
        parser.error(f"--vocabulary must lie between {smallest} and {2**16}, got {args.vocabulary}")
    if not 0 <= args.dropout < 1:
        parser.error(f"--dropout must lie in [0, 1), got {args.dropout}")
    return args


# --- texts ---------------------------------------------------------------------------------------


def refuse_test_file(path: Path) -> None:
    """A base that has seen test texts would make every figure measured with it worthless."""
    for name in (path.name, path.resolve().name):  # the second looks through a link
        if "test" in re.split(r"[^a-z]+", name.lower()):
            raise Refusal(f"{path} is named as a test file; pretraining never reads test texts")


def read_texts(folder: Path) -> list[str]:
    """Distinct texts of both sources, `<br />` as a line break, ordered by their SHA-256.

    The order depends on the texts alone, not on the files, so its first hundredth can be held out:
    the same text, or a second copy of it, always falls on the same side.
    """
    import pyarrow  # not needed with --tokens
    import pyarrow.parquet

    if not folder.is_dir():
        refuse_test_file(folder)
        raise Refusal(f"--data must be a folder with {' and '.join(SOURCES)}, got {folder}")
    by_digest: dict[str, str] = {}
    for name in SOURCES:
        path = folder / name
        refuse_test_file(path)
        try:
            column = pyarrow.parquet.read_table(path, columns=["text"]).column("text")
        except (OSError, KeyError, pyarrow.lib.ArrowException) as error:
            raise Refusal(f"can't read the column text of {path}: {error}") from error
        for text in column.to_pylist():
            if text:
                text = text.replace("<br />", "\n")
                by_digest[hashlib.sha256(text.encode()).hexdigest()] = text
    if len(by_digest) < 2:
        raise Refusal(f"{folder} holds {len(by_digest)} distinct texts; at least 2 are needed")
    return [text for _, text in sorted(by_digest.items())]


# --- tokenizer and tokens ------------------------------------------------------------------------


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE, the special tokens at ids 0 to 3. Texts can't smuggle special tokens in."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    tokenizer.encode_special_tokens = True
    # Every training text began with <s>, so a prompt has to begin with it too.
    first = SPECIAL_TOKENS[BOS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, BOS)]
    )
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as `<s>` text `</s>` one after the other: uint16 [tokens]."""
    pieces = []
    for first in range(0, len(texts), 1000):  # an encoding is a hundred times the size of its ids
        for encoding in tokenizer.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False):
            pieces.append(np.array([BOS, *encoding.ids, EOS], dtype=np.uint16))
    return np.concatenate(pieces)


def save_tokenizer(tokenizer_file: Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json the way transformers reads them."""
    tokenizer_class: Any = PreTrainedTokenizerFast  # untyped in transformers
    tokenizer_class(
        tokenizer_file=str(tokenizer_file),
        unk_token=SPECIAL_TOKENS[UNK],
        bos_token=SPECIAL_TOKENS[BOS],
        eos_token=SPECIAL_TOKENS[EOS],
        pad_token=SPECIAL_TOKENS[PAD],
    ).save_pretrained(folder)
    written = folder / "tokenizer.json"
    facts = json.loads(written.read_text(encoding="utf-8"))  # without indentation it is less than half as large
    written.write_text(json.dumps(facts, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")


def make_tokens(data: Path, output: Path, vocabulary: int, base: Path | None) -> Path:
    """Write OUTPUT/tokenizer.json, then OUTPUT/tokens.npy, and return the path of the latter.

    The tokenizer is that of `base`, where there is one.

    One array says all: held-out reviews, one `<pad>` (it occurs nowhere else), training reviews.
    """
    texts = read_texts(data)
    # The digests are spread evenly, so the first hundredth in their order are the lowest digests.
    held_out = max(1, round(VALIDATION_SHARE * len(texts)))
    if base is None:
        tokenizer = train_tokenizer(texts[held_out:], vocabulary)
    else:
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        tokenizer.encode_special_tokens = True  # texts can't smuggle special tokens in
    tokenizer.save(str(output / "tokenizer.json"))
    save_tokenizer(output / "tokenizer.json", output)
    validation = encode_texts(tokenizer, texts[:held_out])
    training = encode_texts(tokenizer, texts[held_out:])
    path, unfinished = output / "tokens.npy", output / "tokens.unfinished.npy"
    np.save(unfinished, np.concatenate([validation, np.array([PAD], dtype=np.uint16), training]))
    os.replace(unfinished, path)
    return path


@dataclass(frozen=True)
class Tokens:
    """The two streams, int32 [tokens] each, and what they were made with."""

    training: torch.Tensor
    validation: torch.Tensor
    tokenizer_file: Path
    vocabulary: int
    digest: str  # SHA-256 of the whole cache, so that a checkpoint knows its tokens


def load_tokens(path: Path, device: torch.device) -> Tokens:
    refuse_test_file(path)
    tokenizer_file = path.with_name("tokenizer.json")
    for file in (path, tokenizer_file):
        if not file.is_file():
            raise Refusal(f"there is no {file}; --tokens needs tokens.npy and tokenizer.json in one folder")
    try:
        cache = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Refusal(f"{path} is not a token cache of this script: {error}") from error
    if not isinstance(cache, np.ndarray) or cache.dtype != np.uint16 or cache.ndim != 1:
        raise Refusal(f"{path} is not a token cache of this script: expected one array uint16 [tokens]")
    try:
        vocabulary = Tokenizer.from_file(str(tokenizer_file)).get_vocab_size()
    except Exception as error:  # the class that tokenizers raises
        raise Refusal(f"can't read {tokenizer_file}: {error}") from error
    seams = np.flatnonzero(cache == PAD)
    if len(seams) != 1 or not 2 <= seams[0] <= len(cache) - 3 or cache.max() >= vocabulary:
        raise Refusal(f"{path} does not fit {tokenizer_file}, or was not made by this script")
    validation, training = (
        torch.from_numpy(part.astype(np.int32)).to(device)  # int32: uint16 can't be indexed everywhere
        for part in (cache[: seams[0]], cache[seams[0] + 1 :])
    )
    return Tokens(
        training, validation, tokenizer_file, vocabulary, hashlib.sha256(cache.tobytes()).hexdigest()
    )


def block_starts(stream: torch.Tensor, block: int) -> torch.Tensor:
    """First positions of whole blocks, int64 [blocks]; each block's last target begins the next."""
    return torch.arange(0, len(stream) - block, block)


def gather_blocks(
    stream: torch.Tensor, starts: torch.Tensor, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (the same, one token later): int64 [starts, block] each."""
    places = starts[:, None] + torch.arange(block + 1)
    rows = stream[places.to(stream.device, non_blocking=True)].long()
    return rows[:, :-1], rows[:, 1:]


def text_places(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's position in its own text, int64 [rows, block], and who sees whom, bool [rows, 1, block, block].

    A text is read from its `<s>` on as if it stood alone, as it will be when the base is used.
    """
    index = torch.arange(inputs.shape[1], device=inputs.device)
    begins = torch.where(inputs == BOS, index, 0).cummax(1).values  # a row's first piece begins where the row does
    same_text = begins[:, :, None] == begins[:, None, :]
    return index - begins, (same_text & (index[:, None] >= index))[:, None]


# --- model and optimizers ------------------------------------------------------------------------


def build_model(args: argparse.Namespace, vocabulary: int, device: torch.device) -> LlamaForCausalLM:
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=args.width,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=max(2048, args.block),
        tie_word_embeddings=True,
        attention_dropout=args.dropout,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config)
    weights_bytes = 2 * sum(parameter.numel() for parameter in model.parameters())
    if weights_bytes > LARGEST_WEIGHTS_BYTES and not args.allow_large:  # now, not after hours of training
        raise Refusal(
            f"weights in fp16 would take {weights_bytes:,} bytes, more than {LARGEST_WEIGHTS_BYTES:,};"
            " make the model smaller or add --allow-large"
        )

    def drop(module: torch.nn.Module, _: Any, branch: torch.Tensor) -> torch.Tensor:
        return F.dropout(branch, args.dropout, module.training)

    if args.dropout:  # Llama itself only knows dropout on attention weights
        for layer in model.model.layers:
            layer.self_attn.o_proj.register_forward_hook(drop)
            layer.mlp.down_proj.register_forward_hook(drop)
    module: torch.nn.Module = model  # transformers' own `to` is not typed as a method
    module.to(device)
    return model


def load_base(model: LlamaForCausalLM, folder: Path) -> str:
    """Puts the weights of an earlier model into `model`; gives their SHA-256."""
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        # tied embeddings are saved once
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Refusal(f"--base {folder}: its weights do not fit this shape: {str(error).splitlines()[0]}") from error
    if unexpected or [name for name in missing if name != "lm_head.weight"]:
        raise Refusal(f"--base {folder}: its weights do not fit this shape ({missing[:2] + unexpected[:2]})")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_optimizers(model: torch.nn.Module, rate: float) -> dict[str, torch.optim.Optimizer]:
    """Muon on the matrices inside the layers, AdamW on embeddings and norms; `initial_lr` is the peak."""
    named = dict(model.named_parameters())  # tied weights come once
    matrices = [p for name, p in named.items() if ".layers." in name and p.ndim == 2]
    others = [p for name, p in named.items() if not (".layers." in name and p.ndim == 2)]
    muon = getattr(torch.optim, "Muon", None)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "matrices": muon(matrices, lr=MATRIX_LR, weight_decay=MATRIX_DECAY)
        if muon is not None
        else torch.optim.AdamW(matrices, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=MATRIX_DECAY),
        "others": torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.0),
    }
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] *= rate
            group["initial_lr"] = group["lr"]
    return optimizers


# --- checkpoint ----------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run is. With the seed, `step` alone gives the place in the data and all randomness."""

    step: int = 0
    seconds: float = 0.0  # of training and evaluation, over all resumptions
    curve: list[dict[str, Any]] = field(default_factory=list)  # step, validation loss in nats per token


def state_slots(
    model: torch.nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> Iterator[tuple[str, torch.nn.Parameter, dict[str, Any]]]:
    """("matrices/NAME" or "others/NAME", parameter, its optimizer state) for every parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for kind, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield f"{kind}/{names[parameter]}", parameter, optimizer.state[parameter]


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    progress: Progress,
    identity: dict[str, Any],
) -> None:
    """One safetensors file, replaced as a whole, so that a crash leaves the earlier one."""
    tensors = {}
    for name, parameter, state in state_slots(model, optimizers):
        tensors[f"{name}/weight"] = parameter.detach().cpu().contiguous()
        for slot, value in state.items():
            tensors[f"{name}/state/{slot}"] = value.detach().cpu().contiguous()
    metadata = {"progress": json.dumps(asdict(progress)), "identity": json.dumps(identity)}
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata=metadata)
    os.replace(unfinished, path)


def load_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    identity: dict[str, Any],
) -> Progress:
    """Put weights and optimizer state back in place and say where the run was."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        saved = json.loads(metadata["identity"])
        changed = [
            f"{key}: {saved.get(key)} then, {now} now" for key, now in identity.items() if saved.get(key) != now
        ]
        if changed:
            raise Refusal(f"{path} belongs to another run ({'; '.join(changed)}); choose another --output")
        keys = set(file.keys())
        for name, parameter, state in state_slots(model, optimizers):
            parameter.data.copy_(file.get_tensor(f"{name}/weight"))
            prefix = f"{name}/state/"
            for key in sorted(key for key in keys if key.startswith(prefix)):
                slot, value = key.removeprefix(prefix), file.get_tensor(key)
                # AdamW keeps its scalar step count on the CPU, whatever the device.
                state[slot] = value.to(parameter.device) if value.ndim else value
        return Progress(**json.loads(metadata["progress"]))


# --- training ------------------------------------------------------------------------------------


HEAD_ROWS = {"cpu": 512, "cuda": 16384}  # a CPU's cache holds the logits of few; a GPU wants long products


@torch.compile(disable=not torch.cuda.is_available())
def losses_and_errors(logits: torch.Tensor, gold: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the cross-entropies of logits [rows, vocabulary], and what `scale` times it sends back into them."""
    wide = logits.float()
    lse = wide.logsumexp(1, keepdim=True)
    loss = (lse - wide.gather(1, gold[:, None])).sum()
    is_gold = torch.arange(wide.shape[1], device=wide.device) == gold[:, None]
    return loss, (((wide - lse).exp() - is_gold.float()) * scale).to(logits.dtype)


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear head, in chunks of rows, so that all logits are never there at once.

    The gradients are made on the way forward, where a chunk's softmax is at hand: three matrix products a
    chunk, none twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, wants_gradients: bool
    ) -> torch.Tensor:
        """hidden [rows, width], weight [vocabulary, width], targets int64 [rows]; products in hidden's dtype."""
        matrix = weight.to(hidden.dtype)
        total = torch.zeros((), device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_gradients else None
        d_weight = torch.zeros_like(weight) if wants_gradients else None
        step = HEAD_ROWS[hidden.device.type]
        for first in range(0, len(hidden), step):
            rows = hidden[first : first + step]
            loss, error = losses_and_errors(rows @ matrix.T, targets[first : first + step], 1 / len(hidden))
            total += loss
            if d_hidden is not None and d_weight is not None:
                torch.mm(error, matrix, out=d_hidden[first : first + step])
                d_weight += error.T @ rows
        if d_hidden is not None and d_weight is not None:
            ctx.save_for_backward(d_hidden, d_weight)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grads[0], d_weight * grads[0], None, None


@torch.compile(disable=not torch.cuda.is_available())
def hidden_rows(model: LlamaForCausalLM, inputs: torch.Tensor) -> torch.Tensor:
    """What the last layer gives for int64 [rows, block]: [rows, block, width]. Compiled where there is a GPU."""
    positions, seen = text_places(inputs)
    result = model.model(input_ids=inputs, position_ids=positions, attention_mask=seen, use_cache=False)
    hidden: torch.Tensor = result.last_hidden_state
    return hidden


def block_losses(
    model: LlamaForCausalLM, stream: torch.Tensor, starts: torch.Tensor, block: int
) -> torch.Tensor:
    """Mean loss in nats per token over the blocks at `starts`: fp32 scalar on the model's device."""
    inputs, targets = gather_blocks(stream, starts, block)
    on_gpu = stream.device.type == "cuda"
    with torch.autocast(stream.device.type, torch.bfloat16, enabled=on_gpu):
        hidden = hidden_rows(model, inputs).flatten(0, 1)
    weight = model.get_output_embeddings().weight
    hidden = hidden.to(torch.bfloat16) if on_gpu else hidden
    loss: torch.Tensor = LinearCrossEntropy.apply(hidden, weight, targets.flatten(), torch.is_grad_enabled())
    return loss


@torch.no_grad()
def validation_loss(model: torch.nn.Module, stream: torch.Tensor, block: int, batch: int) -> float:
    """Mean loss in nats per token over the held-out stream, dropout off."""
    block = min(block, len(stream) - 1)
    model.eval()
    batches = torch.split(block_starts(stream, block), batch)
    total = sum(block_losses(model, stream, starts, block).double() * len(starts) for starts in batches)
    model.train()
    return float(total) / sum(len(starts) for starts in batches)


def epoch_starts(stream: torch.Tensor, block: int, seed: int, epoch: int) -> torch.Tensor:
    """First positions of an epoch's blocks in random order, int64 [blocks]: depends on nothing but the arguments.

    Every epoch cuts the stream elsewhere, so that no text is cut at the same place twice.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    shift = torch.randint(block, (1,), generator=generator)
    starts = block_starts(stream[: len(stream) - block + 1], block)  # as many whatever the shift
    return (starts + shift)[torch.randperm(len(starts), generator=generator)]


def write_log(output: Path, **facts: Any) -> None:
    line = json.dumps(facts)
    print(line, flush=True)
    with (output / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a flag, so that a step is never cut in half."""

    def __init__(self) -> None:
        self.signalled = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        self.signalled = True


def train(
    args: argparse.Namespace, model: torch.nn.Module, tokens: Tokens, stop: StopRequest, base_digest: str = ""
) -> tuple[Progress, bool]:
    """Train to the end of the epochs or of the time; returns progress and whether the end was reached.

    The learning rate rises over the warm-up, stays, and over the second half of the run falls to
    zero. With --max-minutes, "half" counts steps or minutes, whichever are further on, so a run that
    time cuts short still ends with a finished decay.
    """
    starts = epoch_starts(tokens.training, args.block, args.seed, 0)
    steps_per_epoch = len(starts) // args.batch
    if not steps_per_epoch:
        raise Refusal(
            f"{len(starts)} training blocks do not fill one batch of {args.batch}; lower --batch or --block"
        )
    num_steps = max(1, round(args.epochs * steps_per_epoch))
    optimizers = build_optimizers(model, args.rate)
    identity = {name: getattr(args, name) for name in NUMBERS} | {"tokens": tokens.digest, "base": base_digest}
    checkpoint = args.output / "checkpoint.safetensors"
    progress = load_checkpoint(checkpoint, model, optimizers, identity) if checkpoint.exists() else Progress()
    write_log(args.output, event="start", step=progress.step, num_steps=num_steps, device=device_name(tokens))

    model.train()
    begun = time.monotonic() - progress.seconds
    saved = logged = time.monotonic()
    recent: list[torch.Tensor] = []  # losses since the last line; left on the device so as not to wait for it
    order, order_epoch = torch.empty(0, dtype=torch.int64), -1
    while True:
        progress.seconds = time.monotonic() - begun
        share = progress.step / num_steps
        if args.max_minutes is not None:
            share = max(share, progress.seconds / 60 / args.max_minutes)
        if share >= 1:
            break
        at_limit = args.max_steps is not None and progress.step >= args.max_steps
        if stop.signalled or at_limit:
            save_checkpoint(checkpoint, model, optimizers, progress, identity)
            return progress, False

        factor = min(1.0, (progress.step + 1) / max(1, args.warmup), 2 * (1 - share))
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        epoch, place = divmod(progress.step, steps_per_epoch)
        if epoch != order_epoch:
            order, order_epoch = epoch_starts(tokens.training, args.block, args.seed, epoch), epoch
        torch.manual_seed(args.seed * 100_003 + progress.step)  # dropout: nothing to save but the step
        loss = block_losses(model, tokens.training, order[place * args.batch :][: args.batch], args.block)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        recent.append(loss.detach())

        if progress.step % args.log_every == 0 or progress.step == num_steps:
            train_loss = torch.stack(recent).mean().item()
            if not math.isfinite(train_loss):
                raise Refusal(f"the loss is {train_loss} at step {progress.step}; the last checkpoint stays")
            speed = len(recent) * args.batch * args.block / (time.monotonic() - logged)
            write_log(args.output, step=progress.step, train_loss=train_loss, tokens_per_second=round(speed))
            recent, logged = [], time.monotonic()
        if progress.step % args.evaluate_every == 0 and progress.step < num_steps:
            evaluate(args, model, tokens, progress)
            logged = time.monotonic()
        if time.monotonic() - saved > 60 * args.checkpoint_minutes:
            progress.seconds = time.monotonic() - begun
            save_checkpoint(checkpoint, model, optimizers, progress, identity)
            saved = time.monotonic()
    evaluate(args, model, tokens, progress)
    return progress, True


def evaluate(args: argparse.Namespace, model: torch.nn.Module, tokens: Tokens, progress: Progress) -> None:
    loss = validation_loss(model, tokens.validation, args.block, args.batch)
    progress.curve.append({"step": progress.step, "validation_loss": loss})
    write_log(args.output, step=progress.step, validation_loss=loss)


# --- the finished folder -------------------------------------------------------------------------


def device_name(tokens: Tokens) -> str:
    if tokens.training.is_cuda:
        return f"{torch.cuda.get_device_name()}, bf16 autocast"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads, fp32"


def write_model(
    args: argparse.Namespace, model: LlamaForCausalLM, tokens: Tokens, progress: Progress
) -> None:
    """Weights in fp16, config, generation config, tokenizer and card: what from_pretrained reads."""
    model.config.attention_dropout = 0.0  # a matter of this training, not of the base
    save_tokenizer(tokens.tokenizer_file, args.output)
    (args.output / "README.md").write_text(card(args, model, tokens, progress), encoding="utf-8")
    module: torch.nn.Module = model
    module.half()
    model.save_pretrained(args.output)
    (args.output / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone


def card(args: argparse.Namespace, model: LlamaForCausalLM, tokens: Tokens, progress: Progress) -> str:
    tokens_seen = progress.step * args.batch * args.block
    curve = "\n".join(f"| {point['step']:,} | {point['validation_loss']:.3f} |" for point in progress.curve)
    matrices = f"Muon {MATRIX_LR}" if hasattr(torch.optim, "Muon") else f"AdamW {OTHER_LR}"
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [llama, movie-reviews, from-scratch, toy]
---
# {args.output.resolve().name}

A Llama of {model.num_parameters():,} parameters (width {args.width}, {args.layers} layers,
{args.heads} heads, MLP {args.mlp}, tied embeddings, byte-level BPE of {tokens.vocabulary:,}),
pretrained from scratch by `scripts/pretrain_reviews_llama.py` of handful on raw review texts: no labels,
no test file. A toy for trying methods on, not fit for real decisions.

| fact | value |
|---|---|
| tokens in the training texts | {len(tokens.training):,} |
| tokens seen | {tokens_seen:,} |
| epochs | {tokens_seen / len(tokens.training):.2f} |
| steps | {progress.step:,} of {args.batch} blocks of {args.block} tokens; a text sees itself alone |
| minutes | {progress.seconds / 60:.1f} |
| device | {device_name(tokens)} |
| optimizer | {matrices}, weight decay {MATRIX_DECAY}, on the layers' matrices; AdamW {OTHER_LR} on the rest |
| schedule | {args.warmup} steps of warm-up, constant, linear decay over the second half |
| dropout, seed | {args.dropout}, {args.seed} |

Loss on {len(tokens.validation):,} held-out tokens of the same source, in nats per token:

| step | validation loss |
|---|---|
{curve}
"""


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        return pretrain(args)
    except Refusal as refusal:
        print(f"pretrain_reviews_llama: {refusal}", file=sys.stderr)
        return 2


def pretrain(args: argparse.Namespace) -> int:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise Refusal("--device cuda, but torch sees no GPU here; use --device auto or cpu")
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if (args.output / "model.safetensors").exists():
        if args.resume:  # so that "again until it is done" ends
            print(f"{args.output} holds a finished model; nothing to do", file=sys.stderr)
            return 0
        raise Refusal(f"{args.output} holds a finished model; choose another --output")
    checkpoint = args.output / "checkpoint.safetensors"
    if checkpoint.exists() and not args.resume:
        raise Refusal(f"{checkpoint} is of an unfinished run; add --resume or choose another --output")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"can't make the folder {args.output}: {error}") from error

    cache = args.tokens or args.output / "tokens.npy"
    if args.tokens is None and not (args.resume and cache.exists()):
        cache = make_tokens(args.data, args.output, args.vocabulary, args.base)
    tokens = load_tokens(cache, device)
    if args.tokens_only:
        return 0
    model = build_model(args, tokens.vocabulary, device)
    base_digest = load_base(model, args.base) if args.base is not None else ""
    stop = StopRequest()
    progress, finished = train(args, model, tokens, stop, base_digest)
    if not finished:
        print(f"stopped at step {progress.step}; the same command with --resume goes on", file=sys.stderr)
        return 130 if stop.signalled else 0
    write_model(args, model, tokens, progress)
    checkpoint.unlink(missing_ok=True)  # last: until the model is there, the checkpoint is the run
    return 0


if __name__ == "__main__":
    sys.exit(main())
