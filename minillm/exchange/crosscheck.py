"""Compares an exported folder with the original model, if transformers is installed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.nn.config import ModelConfig
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
PAIR = ("12 and 3 make 15", "so it is")
"""Two texts for a call of the tokenizer."""
Outputs = Callable[[Any, Any, Mapping[str, Tensor], Tensor], list[tuple[Tensor, Tensor]]]
"""(our model, theirs, the inputs of theirs, token types (B, T) for ours) -> pairs of equal outputs, ours first."""


def decoder_outputs(
    ours: Any, theirs: Any, inputs: Mapping[str, Tensor], token_types: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The logits of a decoder for real tokens; padding is at the end."""
    valid = inputs["attention_mask"].bool()
    logits = ours(inputs["input_ids"], key_valid=valid).logits
    return (
        [(logits["lm"][valid], theirs(**inputs).logits[valid])]
        if "lm" in logits
        else task_outputs(logits, theirs, inputs)
    )


def task_outputs(
    logits: Mapping[str, Tensor], theirs: Any, inputs: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The logits of a head for sequences, or for real tokens or spans."""
    expected, valid = theirs(**inputs), inputs["attention_mask"].bool()
    if "class" in logits:
        return [(logits["class"], expected.logits)]
    found = torch.stack((expected.start_logits, expected.end_logits), -1) if "span" in logits else expected.logits
    return [(logits["span" if "span" in logits else "tag"][valid], found[valid])]


def encoder_decoder_outputs(
    ours: Any, theirs: Any, inputs: Mapping[str, Tensor], token_types: Tensor
) -> list[tuple[Tensor, Tensor]]:
    tokens, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    target = tokens.flip(1)
    logits = theirs(**inputs, decoder_input_ids=target).logits
    return [(ours(tokens, target, encoder_valid=valid).logits["lm"], logits)]


def encoder_outputs(
    ours: Any, theirs: Any, inputs: Mapping[str, Tensor], token_types: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The outputs of an encoder: hidden states and logits of real tokens, and outputs for whole rows."""
    valid = inputs["attention_mask"].bool()
    types = token_types if ours.config.num_token_types else None
    output = ours(inputs["input_ids"], token_types=types, key_valid=valid)
    if not {*output.logits} & {"lm", "pair", "pooler"} and output.logits:
        return task_outputs(output.logits, theirs, inputs)
    expected = theirs(**inputs)
    by_token = {"last_hidden_state": output.hidden, "prediction_logits": output.logits.get("lm")}
    by_row = {"seq_relationship_logits": output.logits.get("pair"), "pooler_output": output.logits.get("pooler")}
    (by_token if "lm" in output.logits else by_row)["logits"] = output.logits.get("lm", output.logits.get("pair"))
    by_token, by_row = (
        {k: o for k, o in some.items() if o is not None and k in expected} for some in (by_token, by_row)
    )
    pairs = [(mine[valid], expected[key][valid]) for key, mine in by_token.items()]
    return pairs + [(mine, expected[key]) for key, mine in by_row.items()]


@torch.no_grad()
def compare(
    model: Any, tokenizer: Tokenizer, folder: Path, architecture: str, outputs: Outputs, inputs: Sequence[str]
) -> str:
    """Load the folder with transformers and compare outputs and token ids; returns the result as a sentence.

    Outputs are compared for random ids, passed as the arguments `inputs`, and for a text and a pair of texts, passed
    as the tokenizer returns them. ValueError if ids differ, or outputs differ by more than TOLERANCE.
    """
    if util.find_spec("transformers") is None:
        return "transformers is not installed, so nothing was compared"
    import transformers

    library: Any = transformers
    if not sys.stderr.isatty():
        library.utils.logging.disable_progress_bar()
    theirs = getattr(library, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    difference = _difference(outputs(model.eval(), theirs, *_random_inputs(model.config, tokenizer, inputs)), library)
    encode, texts = library.AutoTokenizer.from_pretrained(folder), _texts(tokenizer)
    for text in texts:
        if encode(text, add_special_tokens=False, verbose=False).input_ids != tokenizer.encode(text).tolist():
            raise ValueError(f"transformers {library.__version__} gives different token ids for {text!r}")
    for call in _calls(tokenizer, texts, pairs="token_type_ids" in inputs):
        given = encode(*call, return_tensors="pt", truncation=True, max_length=model.config.max_seq_len)
        if (names := set(given)) != {*inputs}:
            raise ValueError(f"transformers {library.__version__} calls the model with {sorted(names)}, not {inputs}")
        difference = max(difference, _difference(outputs(model, theirs, given, _segments(given, tokenizer)), library))
    ids = f"equal ids for {len(texts)} texts" if texts else "no text to compare ids on"
    logits = f"logits {difference:.1e} apart (relative to the largest)"
    return f"checked with transformers {library.__version__}: {logits}, {ids}"


def _difference(pairs: Sequence[tuple[Tensor, Tensor]], library: Any) -> float:
    """The largest relative difference; ValueError if it exceeds TOLERANCE."""
    difference = max(((ours - other).abs().max() / ours.abs().max()).item() for ours, other in pairs)
    if not difference < TOLERANCE:
        raise ValueError(f"transformers {library.__version__} computes different logits: {difference:.1e} apart")
    return difference


def _random_inputs(config: ModelConfig, tokenizer: Tokenizer, names: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Two rows of random ids, the second padded at its end, as their arguments, and our token types."""
    length, draws = min(LENGTH, config.max_seq_len), torch.Generator().manual_seed(0)
    tokens = torch.randint(tokenizer.vocab_size, (2, length), generator=draws)
    valid = torch.ones(2, length, dtype=torch.long)
    valid[1, max(1, length - PADDING) :] = 0
    # a RoBERTa takes every padding id for padding when it counts positions
    real = next(i for i in range(tokenizer.vocab_size) if i != tokenizer.pad_id)
    tokens = tokens.where(tokens != tokenizer.pad_id, real).where(valid.bool(), tokenizer.pad_id)
    token_types = tokens % max(1, config.num_token_types)
    inputs = {"input_ids": tokens, "attention_mask": valid, "token_type_ids": token_types}
    return {name: inputs[name] for name in names}, token_types


def _calls(tokenizer: Tokenizer, texts: Sequence[str], *, pairs: bool) -> list[tuple[str, ...]]:
    """Arguments for calls of the tokenizer: a text, and for models with segments a pair of texts."""
    try:
        calls = [PAIR[:1], PAIR]
        tokenizer.encode_batch(PAIR)
    except ValueError:  # a character that the vocabulary lacks
        calls = [(text,) for text in texts[-1:]] + [tuple(texts[-2:])] * (len(texts) > 1)
    return calls if pairs else calls[:1]


def _segments(inputs: Mapping[str, Tensor], tokenizer: Tokenizer) -> Tensor:
    """(B, T) token types: 0 up to the first separator, 1 after it."""
    tokens = inputs["input_ids"]
    if "token_type_ids" not in inputs:
        return torch.zeros_like(tokens)
    separators = (tokens == tokenizer.sep_id).long()
    return (separators.cumsum(1) - separators).clamp(max=1)


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
