"""Compares an exported folder with what it was made of, by transformers itself where that is installed."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import torch

from minillm.run.loaded import LoadedRun

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit; fp32 rounding stays a hundred times below it."""
LENGTH = 32
TEXTS = ("The quick brown fox, 1234 of them.", "naïve café\n\n  and 'quotes'\tdon't", "def f(x):\n    return x + 1\n")


@torch.no_grad()
def compare(loaded: LoadedRun, folder: Path, architecture: str) -> str:
    """A sentence on how far the library's logits are from ours, and whether its ids are ours.

    Raises:
        ValueError: they differ by more than rounding.
    """
    if util.find_spec("transformers") is None:
        return "transformers is not installed, so the logits were not compared"
    import transformers

    library: Any = transformers
    theirs = getattr(library, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    tokens, ours = _inputs(loaded), loaded.model.eval()
    if loaded.config.model.family == "t5":
        pair = tokens, tokens.flip(1)
        wanted, found = ours(*pair).logits, theirs(input_ids=pair[0], decoder_input_ids=pair[1]).logits
    else:
        output, reference = ours(tokens), theirs(tokens)
        wanted = output.logits if loaded.config.model.lm_head else output.hidden
        found = next(iter(reference.to_tuple()))
    difference = ((wanted - found).abs().max() / wanted.abs().max()).item()
    if not difference < TOLERANCE:
        raise ValueError(
            f"transformers {library.__version__} computes other logits from {folder}: {difference:.1e} apart"
        )
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    texts = [text for text in TEXTS if _encodes(loaded, text)]
    for text in texts:
        if tokenizer(text, add_special_tokens=False).input_ids != loaded.tokenizer.encode(text).tolist():
            raise ValueError(
                f"transformers {library.__version__} gives other ids than this run's tokenizer for {text!r}"
            )
    return (
        f"checked with transformers {library.__version__}: logits {difference:.1e} apart (relative to the largest), "
        f"equal ids for {len(texts)} texts"
    )


def _inputs(loaded: LoadedRun) -> torch.Tensor:
    """(2, T) random ids of the tokenizer's."""
    length = min(LENGTH, loaded.config.model.max_seq_len)
    return torch.randint(loaded.tokenizer.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))


def _encodes(loaded: LoadedRun, text: str) -> bool:
    """Whether the vocabulary covers the text; a character vocabulary may not."""
    try:
        loaded.tokenizer.encode(text)
    except ValueError:
        return False
    return True
