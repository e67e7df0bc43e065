"""Predicting masked tokens with an encoder that reads both sides of a gap (Devlin et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.generation.adapters import Network, TextCodec, evaluating
from minillm.generation.text import allowed_ids
from minillm.nn.output import Output

MASK = re.compile(r"\[MASK\]|<\|mask\|>")
"""How a gap is written in a text."""


class MaskCodec(TextCodec, Protocol):
    """What filling gaps needs of a tokenizer."""

    @property
    def mask_id(self) -> int: ...

    @property
    def cls_id(self) -> int: ...

    @property
    def sep_id(self) -> int: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class MaskedModel(Network, Protocol):
    """A model that predicts the tokens at given positions; BERT is one."""

    def __call__(self, tokens: Tensor, *, predict_at: Tensor) -> Output: ...


class Candidate(NamedTuple):
    """One token for one gap."""

    text: str
    probability: float


@dataclass(frozen=True)
class Filled:
    """A text with its gaps filled."""

    text: str
    """The text with the likeliest token in each gap."""
    candidates: list[list[Candidate]]
    """For each gap, the likeliest tokens, best first, predicted while all other gaps are still masked."""


@torch.inference_mode()
def fill_gaps(model: MaskedModel, tokenizer: MaskCodec, text: str, *, top_k: int = 5) -> Filled:
    """The likeliest tokens in the gaps of `text`.

    If the tokenizer has tokens that begin with a blank, the blank before a gap belongs to the token that fills it.
    The probabilities are normalized over tokens that stand for text.

    Args:
        model: trained on masked tokens, set to evaluation mode during the call; it reads [CLS] text [SEP].
        tokenizer: the model's.
        text: with [MASK] or <|mask|> at each gap.
        top_k: candidates for each gap; fewer if the vocabulary is smaller.

    Raises:
        ValueError: no gap, a text longer than the model reads, or one that the tokenizer cannot encode.
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
    chosen = np.array(ids)
    chosen[gaps] = likeliest[:, 0].numpy()
    return Filled(tokenizer.decode(chosen.tolist()), candidates)


def _scores(
    model: MaskedModel, tokenizer: MaskCodec, ids: list[int], gaps: list[int], top_k: int
) -> tuple[Tensor, Tensor]:
    """Ids and probabilities (gaps, k) on the CPU, the best first."""
    device = next(model.parameters()).device
    places = torch.tensor([gaps], device=device)
    logits = model(torch.tensor([ids], device=device), predict_at=places).logits["lm"][0].float().cpu()  # (gaps, V)
    allowed = allowed_ids(tokenizer, logits.size(-1))
    allowed[tokenizer.eos_id] = False
    shares = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
    best = shares.topk(min(top_k, int(allowed.sum())))
    return best.indices, best.values
