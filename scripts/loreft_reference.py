"""Writes tests/reference/loreft.safetensors: what pyreft 0.1.0's LoReFT class computes, for ours to be held against.

    python scripts/loreft_reference.py [--output FILE]

pyreft needs transformers 4.45.1, so the script makes an environment of its own in a temporary folder and runs itself
there. It writes the one file: random rows [n, width], R, W and b, the edited rows, and the gradients of their weighted
sum. Needs a package index that pip knows. Run once; the file is committed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[1] / "tests" / "reference" / "loreft.safetensors"
TORCH = "torch==2.13.0"
PINS = ("transformers==4.45.1", "numpy", "datasets", "accelerate", "sentencepiece", "protobuf", "matplotlib")
"""What pyreft and pyvene import; the rest of what they ask for (notebooks, dashboards) is left out."""
BARE = ("pyreft==0.1.0", "pyvene==0.1.8")
ROWS, WIDTH, RANK = 7, 24, 4


def compute(output: Path) -> None:
    """Runs where pyreft is installed."""
    import pyreft
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(0)
    edit = pyreft.LoreftIntervention(embed_dim=WIDTH, low_rank_dimension=RANK, dtype=torch.float32)
    h = torch.randn(ROWS, WIDTH, requires_grad=True)
    counts = torch.linspace(-1.0, 2.0, ROWS * WIDTH).reshape(ROWS, WIDTH)
    edited = edit(h)
    (edited * counts).sum().backward()
    source = edit.learned_source
    tensors = {
        "h": h, "R": edit.rotate_layer.weight.T, "W": source.weight, "b": source.bias, "counts": counts,
        "edited": edited, "grad_h": h.grad, "grad_W": source.weight.grad, "grad_b": source.bias.grad,
    }  # fmt: skip
    versions = {"pyreft": "0.1.0", "transformers": transformers.__version__, "torch": torch.__version__}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, output, versions)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the environment and has it write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        compute(args.output)
        return
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for wanted in ([TORCH], list(PINS), ["--no-deps", *BARE]):
            subprocess.run([*pip, *wanted], check=True)
        subprocess.run([python, __file__, "--inside", "--output", str(args.output.resolve())], check=True)
    print(args.output)


if __name__ == "__main__":
    main()
