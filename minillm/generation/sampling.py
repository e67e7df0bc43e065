"""From logits to the next token: pure functions on (B, V) logits in fp32, and the Sampler that strings them together.

A filter removes a token by setting its logit to -inf; it never removes the likeliest one. The order is that of
transformers: what may be said at all, repetition penalty, temperature, top-k, top-p, min-p, choice.

Randomness is a table of uniform numbers, row i of it a function of (seed, sample number of row i) alone. A row's text
therefore depends neither on the batch around it nor on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minillm.generation.config import SampleConfig


def forbid(allowed: Tensor | None, vocab_size: int, device: torch.device) -> Tensor | None:
    """(V,) to be added to logits: -inf where (V,) bool `allowed` is False. None where every id may be chosen.

    Raises:
        ValueError: `allowed` has another length than V, or allows nothing.
    """
    if allowed is None:
        return None
    if allowed.shape != (vocab_size,) or not allowed.any():
        raise ValueError(f"allowed must be {vocab_size} booleans, one of them true; got {tuple(allowed.shape)}")
    if allowed.all():
        return None
    return torch.zeros(vocab_size).masked_fill_(~allowed.cpu(), -math.inf).to(device)


def penalize_repetition(logits: Tensor, seen: Tensor, *, penalty: float) -> Tensor:
    """Make tokens that the text already holds less likely, once however often they occur (Keskar et al. 2019, eq. 2).

    Args:
        logits: (B, V).
        seen: (B, V) bool, True = occurs in the prompt or in what followed it.
        penalty: above 1 discourages, below 1 encourages; negative logits are multiplied by it, others divided.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def scale_temperature(logits: Tensor, *, temperature: float) -> Tensor:
    """Divide (B, V) logits by a temperature above 0; one so low that fp32 would overflow is as good as greedy."""
    return logits / max(temperature, 1e-30)


def keep_top_k(logits: Tensor, *, k: int) -> Tensor:
    """Keep exactly the k largest of (B, V) logits (Fan et al. 2018), also where the k-th has equals."""
    values, ids = logits.topk(min(k, logits.size(-1)))  # (B, k)
    return torch.full_like(logits, -math.inf).scatter_(-1, ids, values)


def keep_top_p(logits: Tensor, *, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches p (the nucleus of Holtzman et al. 2020)."""
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # (B, V) mass of the tokens likelier than this one
    return logits.masked_fill(torch.empty_like(ids, dtype=torch.bool).scatter_(-1, ids, before >= p), -math.inf)


def keep_min_p(logits: Tensor, *, min_p: float) -> Tensor:
    """Keep tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024); min_p above 0."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(min_p), -math.inf)


def filter_logits(logits: Tensor, config: SampleConfig) -> Tensor:
    """Temperature, top-k, top-p and min-p, those that `config` asks for. `config.temperature` must be above 0.

    Args:
        logits: (B, V) fp32; -inf where a token is forbidden.
    Returns:
        (B, V) fp32 logits of the distribution to draw from; at least one a row is finite.
    """
    logits = scale_temperature(logits, temperature=config.temperature)
    if config.top_k:
        logits = keep_top_k(logits, k=config.top_k)
    if config.top_p < 1:
        logits = keep_top_p(logits, p=config.top_p)
    if config.min_p:
        logits = keep_min_p(logits, min_p=config.min_p)
    return logits


def choose(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution.

    Args:
        logits: (B, V) fp32.
        uniforms: (B, 1) fp32 in [0, 1).
    Returns:
        (B, 1) ids; never one whose logit is -inf.
    """
    probabilities = logits.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    ids = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True).clamp_(max=logits.size(-1) - 1)
    # A parallel prefix sum may round upwards at a token of probability 0: such a draw falls to the likeliest token.
    return torch.where(probabilities.gather(-1, ids) > 0, ids, logits.argmax(-1, keepdim=True))


def uniform_table(seed: int, samples: Sequence[int], num_draws: int) -> Tensor:
    """(B, num_draws) fp32 in [0, 1); row i depends on (seed, samples[i]) alone; a longer row begins as a shorter."""
    rows = [np.random.default_rng((seed, sample)).random(num_draws, dtype=np.float32) for sample in samples]
    return torch.from_numpy(np.stack(rows))


class Sampler:
    """Chooses the next token of every row of a batch, and remembers what the repetition penalty needs."""

    def __init__(
        self,
        config: SampleConfig,
        texts: Sequence[Sequence[int]],
        samples: Sequence[int],
        *,
        vocab_size: int,
        device: torch.device,
        allowed: Tensor | None = None,
    ) -> None:
        """Sampler of B rows.

        Args:
            config: how to choose; the number of draws is its `max_new_tokens`.
            texts: ids of each prompt, for the repetition penalty.
            samples: sample number of each row, for its random numbers.
            vocab_size: V of the logits.
            device: of the logits.
            allowed: (V,) bool, False = can never be chosen; None allows every id.
        Raises:
            ValueError: `allowed` has another length than V, or allows nothing.
        """
        self.config, self.step = config, 0
        self.seen = self.uniforms = None
        self.forbidden = forbid(allowed, vocab_size, device)
        if config.repetition_penalty != 1:
            self.seen = torch.zeros(len(texts), vocab_size, dtype=torch.bool)
            for row, text in zip(self.seen, texts, strict=True):
                row[torch.tensor(text)] = True
            self.seen = self.seen.to(device)
        if config.temperature > 0:
            self.uniforms = uniform_table(config.seed, samples, config.max_new_tokens).to(device)

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) logits of any floating dtype to (B, 1) ids: the call of step n uses the n-th random number."""
        logits = logits.float()
        if self.forbidden is not None:
            logits = logits + self.forbidden
        if self.seen is not None:
            logits = penalize_repetition(logits, self.seen, penalty=self.config.repetition_penalty)
        if self.uniforms is None:
            ids = logits.argmax(-1, keepdim=True)
        else:
            ids = choose(filter_logits(logits, self.config), self.uniforms[:, self.step : self.step + 1])
        if self.seen is not None:
            self.seen.scatter_(-1, ids, True)
        self.step += 1
        return ids
