"""Compares an exported folder with the original model, if transformers is installed."""

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.tokenizers.base import Tokenizer

TOLERANCE = 1e-3
"""Maximum difference of logits, relative to the largest logit; a hundred times the rounding error of fp32."""
LENGTH, PADDING = 32, 5
TEXTS = (
    "The quick brown fox, 1234 of them; in 2024 3.14 (x) and 10,000!",
    "naïve café, the same with combining marks: nai\u0308ve cafe\u0301\r\n\r\n  and 'quotes'\tdon't DON'T",
    "def f(x):\n    return x + 1   \n\n\n",
    "日本語 и русский, 😀",
)
NUM_RANDOM_TEXTS, RANDOM_IDS = 4, 48
"""Number of texts of random tokens, which even a small character vocabulary covers, and tokens per text."""
Outputs = Callable[[Any, Any, Tensor, Tensor], list[tuple[Tensor, Tensor]]]
"""(our model, theirs, tokens (B, T), key_valid (B, T)) -> pairs of equal outputs, ours first."""


def decoder_outputs(ours: Any, theirs: Any, tokens: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The logits of a decoder, without padding."""
    return [(ours(tokens).logits["lm"], theirs(tokens).logits)]


def encoder_decoder_outputs(ours: Any, theirs: Any, tokens: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    target = tokens.flip(1)
    logits = theirs(input_ids=tokens, attention_mask=valid, decoder_input_ids=target).logits
    return [(ours(tokens, target, encoder_valid=valid).logits["lm"], logits)]


def encoder_outputs(ours: Any, theirs: Any, tokens: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The outputs of an encoder: hidden states and logits of real tokens, and outputs for whole rows."""
    num_types = ours.config.num_token_types
    types = tokens % num_types if num_types else None
    output = ours(tokens, token_types=types, key_valid=valid)
    expected = theirs(tokens, attention_mask=valid, **({} if types is None else {"token_type_ids": types}))
    by_token = {"last_hidden_state": output.hidden, "prediction_logits": output.logits.get("lm")}
    by_row = {"seq_relationship_logits": output.logits.get("pair"), "pooler_output": output.logits.get("pooler")}
    (by_token if "lm" in output.logits else by_row)["logits"] = output.logits.get("lm", output.logits.get("pair"))
    by_token, by_row = (
        {k: o for k, o in some.items() if o is not None and k in expected} for some in (by_token, by_row)
    )
    pairs = [(mine[valid], expected[key][valid]) for key, mine in by_token.items()]
    return pairs + [(mine, expected[key]) for key, mine in by_row.items()]


@torch.no_grad()
def compare(model: Any, tokenizer: Tokenizer, folder: Path, architecture: str, outputs: Outputs) -> str:
    """Load the folder with transformers and compare outputs and token ids; returns the result as a sentence.

    ValueError if ids differ, or outputs differ by more than TOLERANCE.
    """
    if util.find_spec("transformers") is None:
        return "transformers is not installed, so nothing was compared"
    import transformers

    library: Any = transformers
    if not sys.stderr.isatty():
        library.utils.logging.disable_progress_bar()
    theirs = getattr(library, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    length, draws = min(LENGTH, model.config.max_seq_len), torch.Generator().manual_seed(0)
    tokens = torch.randint(tokenizer.vocab_size, (2, length), generator=draws)
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[1, max(1, length - PADDING) :] = False  # the second row is padded at its end
    pairs = outputs(model.eval(), theirs, tokens, valid)
    difference = max(((ours - other).abs().max() / ours.abs().max()).item() for ours, other in pairs)
    if not difference < TOLERANCE:
        raise ValueError(f"transformers {library.__version__} computes different logits: {difference:.1e} apart")
    encode, texts = library.AutoTokenizer.from_pretrained(folder), _texts(tokenizer)
    for text in texts:
        if encode(text, add_special_tokens=False).input_ids != tokenizer.encode(text).tolist():
            raise ValueError(f"transformers {library.__version__} gives different token ids for {text!r}")
    ids = f"equal ids for {len(texts)} texts" if texts else "no text to compare ids on"
    logits = f"logits {difference:.1e} apart (relative to the largest)"
    return f"checked with transformers {library.__version__}: {logits}, {ids}"


def _texts(tokenizer: Tokenizer) -> list[str]:
    """Texts that the vocabulary covers."""
    ordinary, draws = tokenizer.num_bytes.nonzero()[0], torch.Generator().manual_seed(0)
    random = torch.randint(len(ordinary), (NUM_RANDOM_TEXTS, RANDOM_IDS), generator=draws).numpy()
    covered = []
    for text in (*TEXTS, *(tokenizer.decode(ids) for ids in ordinary[random])):
        with suppress(ValueError):
            tokenizer.encode(text)
            covered.append(text)
    return covered
