"""Compares an exported folder with what it was made of, by transformers itself where that is installed."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.run.loaded import LoadedRun

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit; fp32 rounding stays a hundred times below it."""
LENGTH, PADDING = 32, 5
TEXTS = (
    "The quick brown fox, 1234 of them; in 2024 3.14 (x) and 10,000!",
    "naïve café, the same with combining marks: nai\u0308ve cafe\u0301\r\n\r\n  and 'quotes'\tdon't DON'T",
    "def f(x):\n    return x + 1   \n\n\n",
    "日本語 и русский, 😀",
)


@torch.no_grad()
def compare(loaded: LoadedRun, folder: Path, architecture: str) -> str:
    """A sentence on how far the library's outputs are from ours, and whether its ids are ours.

    Raises:
        ValueError: they differ by more than rounding.
    """
    if util.find_spec("transformers") is None:
        return "transformers is not installed, so the logits were not compared"
    import transformers

    library: Any = transformers
    theirs = getattr(library, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    difference = max(((ours - found).abs().max() / ours.abs().max()).item() for ours, found in _outputs(loaded, theirs))
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


def _outputs(loaded: LoadedRun, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    """Pairs of what the two models compute from the same random ids, the second row padded at its end."""
    shape, model = loaded.config.model, loaded.model.eval()
    length, draws = min(LENGTH, shape.max_seq_len), torch.Generator().manual_seed(0)
    tokens = torch.randint(loaded.tokenizer.vocab_size, (2, length), generator=draws)
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[1, max(1, length - PADDING) :] = False
    if shape.family == "gpt":
        return [(model(tokens).logits["lm"], theirs(tokens).logits)]
    if shape.family == "t5":
        ours = model(tokens, tokens.flip(1), encoder_valid=valid)
        return [
            (ours.logits["lm"], theirs(input_ids=tokens, attention_mask=valid, decoder_input_ids=tokens.flip(1)).logits)
        ]
    token_types = torch.randint(shape.num_token_types, (2, length), generator=draws)
    ours = model(tokens, token_types=token_types, key_valid=valid)
    found = theirs(tokens, attention_mask=valid, token_type_ids=token_types)
    by_token: dict[str, Any] = {"last_hidden_state": ours.hidden, "prediction_logits": ours.logits.get("lm")}
    by_row = {"seq_relationship_logits": ours.logits.get("pair"), "pooler_output": ours.logits.get("pooler")}
    (by_token if "lm" in ours.logits else by_row)["logits"] = ours.logits.get("lm", ours.logits.get("pair"))
    pairs = [(mine[valid], found[name][valid]) for name, mine in by_token.items() if mine is not None and name in found]
    return pairs + [(mine, found[name]) for name, mine in by_row.items() if mine is not None and name in found]


def _encodes(loaded: LoadedRun, text: str) -> bool:
    """Whether the vocabulary covers the text; a character vocabulary may not."""
    try:
        loaded.tokenizer.encode(text)
    except ValueError:
        return False
    return True
