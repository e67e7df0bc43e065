"""Beam search with length normalization and n-best lists (Sutskever et al. 2014; Wu et al. 2016, section 7).

Each step keeps the W most likely continuations of a prompt's W hypotheses. A hypothesis that ends with EOS leaves the
beam with the score log P / ((5 + length) / 6)^alpha, where length includes EOS. The search for a prompt ends when no
live hypothesis can beat the n best finished ones, or at max_new_tokens, where live ones are scored too. Ending as soon
as W hypotheses have finished would often return short, unlikely texts. There is no coverage penalty.

W = 1 is greedy decoding, which ends with the first EOS. With W at least the number of texts of length n - 1, the search
is exhaustive up to length n.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minillm.generation.adapters import Decodable, EndIds, checked_prompt, end_ids, evaluating
from minillm.generation.config import BeamConfig
from minillm.generation.generate import Completion, prefill, require_finite, require_rows, window_start
from minillm.generation.sampling import forbid


class Hypothesis(NamedTuple):
    """An unfinished continuation."""

    ids: tuple[int, ...]
    log_probability: float
    """Sum over `ids`; -inf for a placeholder."""


class Search:
    """The beam of one prompt: `num_beams` live hypotheses, most likely first, and the finished ones."""

    def __init__(self, prompt: tuple[int, ...], config: BeamConfig, eos_id: EndIds, context: int) -> None:
        self.prompt, self.config, self.ends = prompt, config, end_ids(eos_id)
        self.tokens_cut = window_start(len(prompt), context)
        filler = Hypothesis((), -math.inf)
        self.live = [Hypothesis((), 0.0), *[filler] * (config.num_beams - 1)]
        self.ended: list[Completion] = []

    @property
    def done(self) -> bool:
        """Whether no live hypothesis can be among the n best."""
        likeliest, num_best = self.live[0].log_probability, self.config.num_best
        if likeliest == -math.inf or len(self.ended) < num_best:
            return likeliest == -math.inf
        worst = sorted((score_of(completion) for completion in self.ended), reverse=True)[num_best - 1]
        return self.config.num_beams == 1 or self._score(likeliest, self.config.max_new_tokens) <= worst

    def advance(self, candidates: Sequence[tuple[float, int, int]], *, last: bool) -> list[int]:
        """Extend the hypotheses by one token; returns the index of the old hypothesis that each new one continues.

        Args:
            candidates: (log-probability, hypothesis, token), most likely first: for each beam, one more than there are
                ids that end a text. These are enough, because no more continuations of a hypothesis end.
            last: whether this is the last token.
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
            if token not in self.ends:
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
        """Finish all live hypotheses at the maximum length."""
        for ids, log_probability in self.live:
            if log_probability > -math.inf:
                self._end(ids, log_probability, "length")

    def best(self) -> list[Completion]:
        """The n best finished completions, best first."""
        ranked = sorted(self.ended, key=score_of, reverse=True)[: self.config.num_best]
        for rank, completion in enumerate(ranked):
            completion.sample = rank
        return ranked

    def _end(self, ids: tuple[int, ...], log_probability: float, reason: Literal["eos", "length"]) -> None:
        score = self._score(log_probability, len(ids) + (reason == "eos"))
        cut = self.tokens_cut
        self.ended.append(Completion(self.prompt, 0, list(ids), reason, score=score, prompt_tokens_cut=cut))

    def _score(self, log_probability: float, length: int) -> float:
        """Increases with length, so the value at max_new_tokens bounds the score of a live hypothesis."""
        return log_probability / ((5 + length) / 6) ** self.config.length_penalty


def score_of(completion: Completion) -> float:
    """The score of a completion from beam search."""
    assert completion.score is not None
    return completion.score


@torch.inference_mode()
def beam_search(
    model: Decodable,
    prompts: Sequence[Sequence[int]],
    config: BeamConfig,
    *,
    prefix: bool = False,
    eos_id: EndIds = None,
    allowed: Tensor | None = None,
) -> list[Completion]:
    """The most likely continuations of each prompt, best first; other arguments and errors as in `generate`.

    They depend on the prompt and `config` only, not on other prompts. `sample` is the rank from 0.
    """
    require_rows(len(prompts) * config.num_beams)
    shape = model.config
    searches = [
        Search(checked_prompt(ids, eos_id, shape.vocab_size), config, eos_id, shape.max_seq_len) for ids in prompts
    ]
    if searches and config.max_new_tokens:
        with evaluating(model):
            _search(model, searches, config, prefix, allowed)
    else:
        for search in searches:
            search.cut()
    return [completion for search in searches for completion in search.best()]


def _search(model: Decodable, searches: list[Search], config: BeamConfig, prefix: bool, allowed: Tensor | None) -> None:
    """Run all searches; row b * num_beams + w of a batch is hypothesis w of prompt b."""
    width = config.num_beams
    cache, logits = prefill(model, [search.prompt for search in searches], config.max_new_tokens, prefix=prefix)
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
            num_written = config.max_new_tokens - remaining
            cache, logits = prefill(model, _texts(searches), remaining, prefix=prefix, num_written=num_written)
            continue
        if parents != list(range(len(parents))):
            cache.reorder(torch.tensor(parents, device=logits.device))
        logits = model.step(torch.tensor(tokens, device=logits.device), cache)[:, 0]


def _candidates(logits: Tensor, searches: list[Search], forbidden: Tensor | None) -> list[list[tuple[float, int, int]]]:
    """(log-probability, hypothesis, token) of each beam's most likely continuations, from logits (B W, V)."""
    logits = logits.float() if forbidden is None else logits.float() + forbidden
    before = torch.tensor([[h.log_probability for h in search.live] for search in searches], device=logits.device)
    total = before[..., None] + logits.log_softmax(-1).unflatten(0, before.shape)  # (B, W, V)
    width, vocab_size = total.shape[1:]
    per_beam = max(2, 1 + len(searches[0].ends))
    values, indices = total.flatten(1).topk(min(per_beam * width, width * vocab_size))  # (B, per_beam W)
    return [
        [(value, index // vocab_size, index % vocab_size) for value, index in zip(*row, strict=True)]
        for row in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def _texts(searches: list[Search]) -> list[list[int]]:
    """The text of each row of the batch. Finished beams stay in the batch, as short as possible."""
    return [
        [0] if search.done else [*search.prompt, *hypothesis.ids] for search in searches for hypothesis in search.live
    ]
