"""How long real IMDB reviews are, kept as numbers, so that a benchmark needs neither texts nor tokenizer.

    HANDFUL_DATA=FOLDER python benchmarks/imdb_lengths.py

counts the tokens of the 25,000 training reviews with the tokenizer of the base that ships and writes
imdb_lengths.json. `draw` gives lengths of that distribution, scaled to another mean: another tokenizer
stretches all texts by about the same factor. Drawing needs numpy alone.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("imdb_lengths.json")
TOKENIZER = "reviews-llama-5m"


def draw(count: int, mean: float, seed: int) -> np.ndarray:
    """[count] token lengths in random order, with about that mean however few they are.

    They are the middles of `count` equal shares of the scaled lengths, not a random sample: the tail comes in
    its true proportion, and runs with different counts stay comparable.
    """
    lengths = stored()
    places = (np.arange(count) + 0.5) / count * len(lengths)
    chosen = lengths[places.astype(int)] * (mean / lengths.mean())
    whole = np.maximum(1, np.rint(chosen).astype(int))
    return np.random.default_rng(seed).permutation(whole)


def stored() -> np.ndarray:
    """[25000] token lengths as counted, ascending."""
    counts = json.loads(FILE.read_text(encoding="utf-8"))["reviews_by_length"]
    return np.repeat([int(length) for length in counts], list(counts.values()))


def write() -> None:
    """Counts and writes FILE. Raises handful's DataError when the reviews are not at hand."""
    from handful.data import Imdb, load_dataset
    from handful.models.causal_lm import CausalLM

    texts = [example.fields["text"] for example in load_dataset(Imdb()).train]  # with line breaks for <br />
    encoded = CausalLM(TOKENIZER).load_tokenizer()(texts, add_special_tokens=False)["input_ids"]
    lengths = sorted(map(len, encoded))
    content = {
        "what": "tokens of the 25,000 training reviews of IMDB (Maas et al. 2011), whole and uncut",
        "tokenizer": TOKENIZER,
        "mean": round(float(np.mean(lengths)), 2),
        "reviews_by_length": {str(length): count for length, count in sorted(Counter(lengths).items())},
    }
    FILE.write_text(json.dumps(content, separators=(",", ":")).replace('",', '",\n') + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
