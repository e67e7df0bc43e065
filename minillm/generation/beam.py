"""Beam search with length normalisation and n-best lists (Sutskever et al. 2014; Wu et al. 2016, section 7).

At every step the W likeliest continuations of each prompt's W hypotheses survive. One that ends with EOS leaves the
beam and is scored by log P / ((5 + length) / 6)^alpha, EOS counted in the length. The search of a prompt ends when no
live one can become better than the n best that have ended, or at max_new_tokens, where the live ones are scored too; to
end as soon as W have ended would often lose the best text, to W short ones that are unlikely. Of Wu et al. there is no
coverage penalty.

With W = 1 this is greedy decoding, which ends with the first EOS; with W as large as the number of texts of length
n - 1 it is exhaustive up to n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minillm.generation.config import BeamConfig
from minillm.generation.generate import Completion, Decodable, checked_prompt, prefill, require_finite
from minillm.generation.network import evaluating
from minillm.generation.sampling import forbid


class Hypothesis(NamedTuple):
    """A beginning of a continuation."""

    ids: tuple[int, ...]
    log_probability: float
    """-inf for a row that only fills the beam."""


class Search:
    """The beam of one prompt: always `num_beams` live hypotheses, the likeliest first, and those that have ended."""

    def __init__(self, prompt: tuple[int, ...], config: BeamConfig, eos_id: int | None) -> None:
        self.prompt, self.config, self.eos_id = prompt, config, eos_id
        filler = Hypothesis((), -math.inf)
        self.live = [Hypothesis((), 0.0), *[filler] * (config.num_beams - 1)]
        self.ended: list[Completion] = []

    @property
    def done(self) -> bool:
        """Whether the beam can give nothing better."""
        likeliest, wanted = self.live[0].log_probability, self.config.num_best
        if likeliest == -math.inf or len(self.ended) < wanted:
            return likeliest == -math.inf
        worst = sorted((score_of(one) for one in self.ended), reverse=True)[wanted - 1]
        return self.config.num_beams == 1 or self._score(likeliest, self.config.max_new_tokens) <= worst

    def advance(self, candidates: Sequence[tuple[float, int, int]], *, last: bool) -> list[int]:
        """Go one token on.

        Args:
            candidates: (log-probability, hypothesis, token), the likeliest first, twice as many as beams; no more can
                be needed, since each hypothesis ends in one way only.
            last: there is no token after this one.

        Returns:
            Which of the old hypotheses each of the new ones continues.
        """
        width, old = self.config.num_beams, self.live
        if self.done:
            self.live = [Hypothesis((*hypothesis.ids, 0), -math.inf) for hypothesis in old]
            return list(range(width))
        parents: list[int] = []
        self.live = []
        for rank, (log_probability, parent, token) in enumerate(candidates):
            if log_probability == -math.inf or len(self.live) == width:
                break
            if token != self.eos_id:
                self.live.append(Hypothesis((*old[parent].ids, token), log_probability))
                parents.append(parent)
            elif rank < width:
                self._end(old[parent].ids, log_probability, "eos")
        while len(self.live) < width:
            self.live.append(Hypothesis((*old[0].ids, 0), -math.inf))
            parents.append(0)
        if last:
            self.cut()
        return parents

    def cut(self) -> None:
        """There is no room for more: what is still alive ends here."""
        for ids, log_probability in self.live:
            if log_probability > -math.inf:
                self._end(ids, log_probability, "length")

    def best(self) -> list[Completion]:
        """The n best, best first; fewer where there are not as many."""
        ranked = sorted(self.ended, key=score_of, reverse=True)[: self.config.num_best]
        for rank, completion in enumerate(ranked):
            completion.sample = rank
        return ranked

    def _end(self, ids: tuple[int, ...], log_probability: float, reason: Literal["eos", "length"]) -> None:
        score = self._score(log_probability, len(ids) + (reason == "eos"))
        self.ended.append(Completion(self.prompt, 0, list(ids), reason, score=score))

    def _score(self, log_probability: float, length: int) -> float:
        """The longer, the higher: at max_new_tokens it is the most that a live hypothesis may come to."""
        return log_probability / ((5 + length) / 6) ** self.config.length_penalty


def score_of(completion: Completion) -> float:
    """A completion's score, which beam search has given it."""
    assert completion.score is not None
    return completion.score


@torch.inference_mode()
def beam_search(
    model: Decodable,
    prompts: Sequence[Sequence[int]],
    config: BeamConfig,
    *,
    eos_id: int | None = None,
    allowed: Tensor | None = None,
) -> list[Completion]:
    """The likeliest continuations of each prompt that a beam finds, all prompts in one batch.

    A prompt's completions depend on the prompt and `config` alone, not on the other prompts.

    Args:
        model: put into evaluation mode meanwhile; an encoder-decoder comes as `Conditioned` on its sources.
        prompts: ids, of any lengths; an empty prompt starts a document, that is, continues EOS.
        config: width, length penalty, and how many to return.
        eos_id: the id that ends a hypothesis; None: none does.
        allowed: (V,) bool, False = never chosen; None: every id may be.
    Returns:
        Completions with their scores, those of a prompt side by side, the best first; `sample` is the rank from 0.
    Raises:
        ValueError: an empty prompt without `eos_id`, an id outside the vocabulary, or logits that are not finite.
    """
    searches = [Search(checked_prompt(ids, eos_id, model.config.vocab_size), config, eos_id) for ids in prompts]
    if searches and config.max_new_tokens:
        with evaluating(model):
            _search(model, searches, config, allowed)
    else:
        for search in searches:
            search.cut()
    return [completion for search in searches for completion in search.best()]


def _search(model: Decodable, searches: list[Search], config: BeamConfig, allowed: Tensor | None) -> None:
    """Run all beams to their ends; row b * num_beams + w of a batch is hypothesis w of prompt b."""
    width = config.num_beams
    cache, logits = prefill(model, [search.prompt for search in searches], config.max_new_tokens)
    require_finite(logits)
    forbidden = forbid(allowed, logits.size(-1), logits.device)
    cache.repeat(width)
    logits = logits.repeat_interleave(width, 0)  # (B W, V)
    for remaining in range(config.max_new_tokens - 1, -1, -1):
        candidates = _candidates(logits, searches, forbidden)
        parents = [
            b * width + w
            for b, search in enumerate(searches)
            for w in search.advance(candidates[b], last=not remaining)
        ]
        if not remaining or all(search.done for search in searches):
            return
        tokens = [[hypothesis.ids[-1]] for search in searches for hypothesis in search.live]  # (B W, 1)
        if cache.length == cache.max_len:
            written = config.max_new_tokens - remaining
            cache, logits = prefill(model, _texts(searches), remaining, written=written)
            continue
        if parents != list(range(len(parents))):
            cache.reorder(torch.tensor(parents, device=logits.device))
        logits = model.step(torch.tensor(tokens, device=logits.device), cache)[:, 0]


def _candidates(logits: Tensor, searches: list[Search], forbidden: Tensor | None) -> list[list[tuple[float, int, int]]]:
    """(log-probability, hypothesis, token) of each beam's likeliest continuations, from its rows' logits (B W, V)."""
    logits = logits.float() if forbidden is None else logits.float() + forbidden
    so_far = torch.tensor([[h.log_probability for h in search.live] for search in searches], device=logits.device)
    total = so_far[..., None] + logits.log_softmax(-1).unflatten(0, so_far.shape)  # (B, W, V)
    width, vocab_size = total.shape[1:]
    values, places = total.flatten(1).topk(min(2 * width, width * vocab_size))  # (B, 2 W)
    return [
        [(value, place // vocab_size, place % vocab_size) for value, place in zip(*row, strict=True)]
        for row in zip(values.tolist(), places.tolist(), strict=True)
    ]


def _texts(searches: list[Search]) -> list[list[int]]:
    """What each row of the batch has come to; a finished beam rides along as short as can be."""
    return [
        [0] if search.done else [*search.prompt, *hypothesis.ids] for search in searches for hypothesis in search.live
    ]
