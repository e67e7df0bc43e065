"""Predicting masked tokens with an encoder that reads both sides of a gap (Devlin et al. 2019)."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.generation.adapters import evaluating
from minillm.generation.text import allowed_ids
from minillm.models.bert import BERT
from minillm.tokenizers.base import Tokenizer

MASK = re.compile(r"\[MASK\]|<\|mask\|>")
"""A gap in a text."""


class Candidate(NamedTuple):
    """One token for one gap."""

    text: str
    probability: float


@dataclass(frozen=True)
class Filled:
    """A text with its gaps filled."""

    text: str
    """The text with the most likely token in each gap."""
    candidates: list[list[Candidate]]
    """For each gap, the most likely tokens, best first, predicted while all other gaps are masked."""


@torch.inference_mode()
def fill_gaps(model: BERT, tokenizer: Tokenizer, text: str, *, top_k: int = 5) -> Filled:
    """The `top_k` most likely tokens for each gap of `text`, written [MASK] or <|mask|>.

    The model reads [CLS] text [SEP]. If the tokenizer has tokens that begin with a space, the space before a gap is
    part of the token that fills it. Probabilities are normalized over tokens of text. ValueError if there is no gap or
    the text is too long for the model.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    parts = MASK.split(text)
    if len(parts) == 1:
        raise ValueError(f"{text!r} has no gap to fill; write [MASK] in place of each missing token")
    if len(tokenizer.encode(" a")) == 1:
        parts = [part.removesuffix(" ") for part in parts[:-1]] + parts[-1:]
    ids = [tokenizer.cls_id]
    gaps = []
    for number, part in enumerate(parts):
        if number:
            gaps.append(len(ids))
            ids.append(tokenizer.mask_id)
        ids += tokenizer.encode(part).tolist()
    ids.append(tokenizer.sep_id)
    if len(ids) > model.config.max_seq_len:
        raise ValueError(
            f"the text has {len(ids) - 2} tokens and this model reads {model.config.max_seq_len - 2}; shorten it"
        )
    with evaluating(model):
        likeliest, probabilities = _scores(model, tokenizer, ids, gaps, top_k)
    candidates = [
        [Candidate(tokenizer.decode_bytes([i]).decode("utf-8", "replace"), p) for i, p in zip(row, shares, strict=True)]
        for row, shares in zip(likeliest.tolist(), probabilities.tolist(), strict=True)
    ]
    for gap, token in zip(gaps, likeliest[:, 0].tolist(), strict=True):
        ids[gap] = token
    return Filled(tokenizer.decode(ids), candidates)


def _scores(model: BERT, tokenizer: Tokenizer, ids: list[int], gaps: list[int], top_k: int) -> tuple[Tensor, Tensor]:
    """Ids and probabilities (gaps, k) on the CPU, best first."""
    device = next(model.parameters()).device
    predict_at = torch.tensor([gaps], device=device)
    logits = model(torch.tensor([ids], device=device), predict_at=predict_at).logits["lm"][0].float().cpu()  # (gaps, V)
    allowed = allowed_ids(tokenizer, logits.size(-1))
    allowed[list(tokenizer.eos_ids)] = False
    shares = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
    best = shares.topk(min(top_k, int(allowed.sum())))
    return best.indices, best.values
