"""Folders of weights and the hub: how a base is found, checked and named by its content.

safetensors only, and no code from the checkpoint. Knows nothing of what is loaded from a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from handful.errors import ModelError, first_line, nearest
from handful.identity import canonical_json, file_hash

_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
          "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt")  # fmt: skip
ENCODER_FILES = ("vocab.txt", "spm.model", "sentencepiece.bpe.model", "modules.json", "sentence_bert_config.json",
                 "1_Pooling/config.json")  # fmt: skip
"""What an encoder's folder may hold besides."""

ACCESS = "accept its terms on its hub page, then log in with `hf auth login`, or set HF_TOKEN"
"""How to get a gated model."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def find(
    checkpoint: str,
    revision: str | None,
    shipped: Sequence[str] = (),
    way_out: str = "name its folder with --model FOLDER",
    with_weights: bool = True,
) -> tuple[Path, str, str | None]:
    """(folder, name, hub commit or None). shipped: names inside the package. Downloads from the hub when it is neither.

    way_out: what to do where the hub cannot be reached. with_weights: False downloads configuration and tokenizer
    alone, a few MB instead of many GB. Raises ModelError when there is no such model.
    """
    if not checkpoint.strip():
        raise ModelError("the name of the model is empty: give a folder, a hub name" + _or(shipped))
    given = Path(checkpoint).expanduser()
    if given.is_dir():
        return given.resolve(), given.resolve().name, None
    if checkpoint in shipped:
        return Path(str(resources.files("handful") / "assets" / checkpoint)), checkpoint, None
    if given.is_file():
        raise ModelError(f"the model {checkpoint!r} is a file: name the folder with its config.json")
    if given.is_absolute() or checkpoint.startswith(".") or checkpoint.count("/") > 1:
        raise ModelError(f"there is no model folder {checkpoint!r}: check the path")
    return _download(checkpoint, revision, shipped, way_out, with_weights)


def _or(shipped: Sequence[str]) -> str:
    return f", or {shipped[0]}" if shipped else ""


def _download(
    name: str, revision: str | None, shipped: Sequence[str], way_out: str, with_weights: bool
) -> tuple[Path, str, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    weights = ("*.safetensors", "*.safetensors.index.json") if with_weights else ()
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=[*weights, *_FILES, *ENCODER_FILES])
    except GatedRepoError:
        raise ModelError(f"the model {name!r} is gated: {ACCESS}") from None
    except (RepositoryNotFoundError, ValueError):
        raise ModelError(
            f"there is no model {name!r}, neither a folder, nor shipped ({', '.join(shipped)}), nor on the hub."
            f"{nearest(name, shipped)}"
            if shipped
            else f"there is no model {name!r}, neither a folder nor on the hub"
        ) from None
    except Exception as error:
        raise ModelError(
            f"the model {name!r} is no folder here and the hub cannot be reached ({first_line(error)}): "
            f"download it where there is a network and {way_out}"
        ) from None
    return Path(folder), name, Path(folder).name


def check_folder(folder: Path, name: str, with_weights: bool = True) -> None:
    """Raises ModelError where a folder holds no configuration of a model, or no safetensors where they are wanted."""
    config = read_config(folder, name)
    if with_weights and not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        if pickled:
            raise ModelError(
                f"the model {name!r} has pickled weights only ({', '.join(pickled[:3])}), which can run code when "
                "they are loaded: convert them with model.save_pretrained(FOLDER) to safetensors"
            )
        raise ModelError(f"the model folder {name!r} has a config.json but no *.safetensors weights")
    if "model_type" not in config:
        raise ModelError(f"the config.json of {name!r} names no model_type: is it a Hugging Face model folder?")


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The model's configuration as plain data. Raises ModelError where there is none to read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{name!r} is no model: its folder has no config.json. Name a Hugging Face model folder, such as one "
            "written by model.save_pretrained(FOLDER)"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"the config.json of the model {name!r} cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise ModelError(f"the config.json of the model {name!r} is no table of settings")
    return config


def content_hash(folder: Path, also: Sequence[str] = ()) -> str:
    """"sha256:..." over the names and bytes of weights, configuration and tokenizer, and of the files `also`."""
    names = [*_FILES, *also, *sorted(path.name for path in folder.glob("*.safetensors"))]
    files = {name: file_hash(folder / name) for name in names if (folder / name).is_file()}
    return "sha256:" + hashlib.sha256(canonical_json(files).encode()).hexdigest()


def load_tokenizer(folder: Path, name: str) -> Any:
    """A folder's tokenizer. Raises ModelError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"the model {name!r} has no tokenizer that can be loaded ({first_line(error)}): "
            "save it into the same folder with tokenizer.save_pretrained(FOLDER)"
        ) from None
