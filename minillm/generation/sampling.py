"""From logits to the next token: pure functions on (B, V) logits in fp32, and the Sampler that applies them in order.

A filter removes a token by setting its logit to -inf; it never removes the most likely one. The order is that of
transformers: allowed ids, repetition penalty, temperature, top-k, top-p, min-p, draw.

The random numbers of a row depend on (seed, sample number) only, not on the rest of the batch or the device.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from minillm.generation.config import SampleConfig

BLOCK = 256
"""Uniform numbers drawn at a time for each row."""
NUCLEUS = (256, 4096)
"""Top-p first sorts only this many of the largest logits. If they do not suffice, it sorts the whole vocabulary."""
ROUNDING = 1e-5
"""Bound on the rounding error of a sum of probabilities."""


def forbid(allowed: Tensor | None, vocab_size: int, device: torch.device) -> Tensor | None:
    """(V,) to add to logits: -inf where `allowed` (V,) is False; None if all are allowed, ValueError if none is."""
    if allowed is None:
        return None
    if allowed.shape != (vocab_size,) or not allowed.any():
        raise ValueError(f"allowed must be {vocab_size} booleans, one of them true; got {tuple(allowed.shape)}")
    if allowed.all():
        return None
    return torch.zeros(vocab_size).masked_fill_(~allowed.cpu(), -math.inf).to(device)


def penalize_repetition(logits: Tensor, seen: Tensor, *, penalty: float) -> Tensor:
    """Make tokens with `seen` (B, V) less likely (Keskar et al. 2019, eq. 2).

    Negative logits (B, V) are multiplied by `penalty`, others are divided by it.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def scale_temperature(logits: Tensor, *, temperature: float) -> Tensor:
    """Divide (B, V) logits by a temperature above 0. The lower bound avoids overflow; it is as good as greedy."""
    return logits / max(temperature, 1e-30)


def keep_top_k(logits: Tensor, *, k: int) -> Tensor:
    """Keep exactly the k largest of (B, V) logits (Fan et al. 2018), even if others equal the k-th."""
    values, ids = logits.topk(min(k, logits.size(-1)))  # (B, k)
    return torch.full_like(logits, -math.inf).scatter_(-1, ids, values)


def keep_top_p(logits: Tensor, *, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens with total probability p (nucleus, Holtzman et al. 2020).

    Of equal logits, those with the smallest ids are kept.
    """
    if logits.device.type == "cpu":  # on an accelerator, sorting is fast and waiting for this result is not
        for k in NUCLEUS:
            if k < logits.size(-1) and (few := _top_p_of_largest(logits, p, k)) is not None:
                return few
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # (B, V) mass of more likely tokens
    return logits.masked_fill(torch.empty_like(ids, dtype=torch.bool).scatter_(-1, ids, before >= p), -math.inf)


def _top_p_of_largest(logits: Tensor, p: float, k: int) -> Tensor | None:
    """`keep_top_p` by sorting only the `k` largest logits; None if others might be kept, or if rounding decides."""
    ids = logits.topk(k).indices.sort(-1).values  # (B, k) ascending, so that the stable sort keeps ties in order
    ordered, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    probabilities = logits.softmax(-1).gather(-1, ids)
    before = probabilities.cumsum(-1) - probabilities  # (B, k)
    dropped = before >= p
    smallest = ordered.masked_fill(dropped, math.inf).amin(-1)  # (B,) of those that are kept
    if ((before - p).abs() <= ROUNDING).any() or (smallest <= ordered[:, -1]).any():
        return None
    return torch.full_like(logits, -math.inf).scatter_(-1, ids, ordered.masked_fill(dropped, -math.inf))


def keep_min_p(logits: Tensor, *, min_p: float) -> Tensor:
    """Keep tokens at least min_p times as likely as the most likely one (Nguyen et al. 2024); min_p above 0."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(min_p), -math.inf)


def filter_logits(logits: Tensor, config: SampleConfig) -> Tensor:
    """Apply temperature (above 0), top-k, top-p and min-p to (B, V) fp32 logits; each row keeps a finite logit."""
    logits = scale_temperature(logits, temperature=config.temperature)
    if config.top_k:
        logits = keep_top_k(logits, k=config.top_k)
    if config.top_p < 1:
        logits = keep_top_p(logits, p=config.top_p)
    if config.min_p:
        logits = keep_min_p(logits, min_p=config.min_p)
    return logits


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """(B, 1) ids drawn from logits (B, V) by inverting the cumulative distribution at `uniforms` (B, 1) in [0, 1).

    A token whose logit is -inf is never drawn.
    """
    probabilities = logits.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    ids = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True).clamp_(max=logits.size(-1) - 1)
    # A parallel prefix sum may round up at a token of probability 0; then the most likely token is drawn.
    return torch.where(probabilities.gather(-1, ids) > 0, ids, logits.argmax(-1, keepdim=True))


def uniform_columns(seed: int, samples: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """Endless (B, 1) columns of fp32 in [0, 1), one per step; row i depends on (seed, samples[i]) only."""
    streams = [np.random.default_rng((seed, sample)) for sample in samples]
    while True:
        block = np.stack([stream.random(BLOCK, dtype=np.float32) for stream in streams])  # (B, BLOCK)
        yield from torch.from_numpy(block).to(device).split(1, dim=1)


class Sampler:
    """Chooses the next token of every row of a batch."""

    def __init__(
        self,
        config: SampleConfig,
        texts: Sequence[Sequence[int]],
        samples: Sequence[int],
        like: Tensor,
        allowed: Tensor | None = None,
    ) -> None:
        """`texts` are the ids of each row, for the repetition penalty; `samples` its sample number, for random numbers.

        `like` (..., V) has the vocabulary size and device of the logits; `allowed` (V,) is as in `forbid`.
        """
        self.config = config
        self.seen = self.uniforms = None
        self.forbidden = forbid(allowed, like.size(-1), like.device)
        if config.repetition_penalty != 1:
            self.seen = torch.zeros(len(texts), like.size(-1), dtype=torch.bool)
            for row, text in zip(self.seen, texts, strict=True):
                row[torch.tensor(text)] = True
            self.seen = self.seen.to(like.device)
        if config.temperature > 0:
            self.uniforms = uniform_columns(config.seed, samples, like.device)

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) logits -> (B, 1) ids; each call uses the next random number of each row."""
        logits = logits.float()
        if self.forbidden is not None:
            logits = logits + self.forbidden
        if self.seen is not None:
            logits = penalize_repetition(logits, self.seen, penalty=self.config.repetition_penalty)
        if self.uniforms is None:
            ids = logits.argmax(-1, keepdim=True)
        else:
            ids = draw(filter_logits(logits, self.config), next(self.uniforms))
        if self.seen is not None:
            self.seen.scatter_(-1, ids, True)
        return ids

    def restart(self, row: int, text: Sequence[int]) -> None:
        """Let a new text take the place of a row; its random numbers are the caller's."""
        if self.seen is not None:
            self.seen[row] = False
            self.seen[row, torch.tensor(text, device=self.seen.device)] = True

    def take(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.seen = None if self.seen is None else self.seen[rows]
