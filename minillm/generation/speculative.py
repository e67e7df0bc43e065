"""Speculative decoding (Leviathan et al. 2023): draft the next tokens cheaply and verify them in one pass of the model.

A decoding step reads every weight once, for one token or for a few. The model reads the draft together with the chosen
token; its logits are used only if the sampler then chooses the drafted token. So each token is drawn from the model's
own distribution with the row's own random number, and the text is the same as without drafts, sampled or greedy. The
paper's rejection sampling has the same distribution, but another text.

Drafts come from the text itself (prompt lookup, Saxena 2023) or from a smaller model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minillm.generation.adapters import Decodable
from minillm.nn.cache import KVCache

MAX_NGRAM = 3
"""Longest run of tokens that is looked up; shorter runs are tried if it has not occurred before."""
MEMORY = 0.9
"""Weight of the earlier drafts in the mean share that was accepted."""
RETRY = 32
"""While drafts do not pay off, one is tried after this many tokens."""


class Draft(NamedTuple):
    """A smaller model with the same vocabulary, for speculative decoding."""

    model: Decodable
    cost: float
    """Of one of its steps, as a fraction of a step of the model that verifies."""


class Drafter(Protocol):
    """A source of drafts for one row."""

    cost: float
    """Of drafting one token, as a fraction of a step of the model that verifies it."""

    def add(self, token: int) -> None:
        """Append a token to the text."""
        ...

    def draft(self, num_tokens: int) -> list[int]:
        """At most `num_tokens` tokens that may come next."""
        ...


class NgramLookup:
    """Drafts the token that last followed the longest run of one to MAX_NGRAM tokens that ends the text."""

    cost = 0.0

    def __init__(self, text: Sequence[int]) -> None:
        self.recent: tuple[int, ...] = ()
        self.followed: dict[tuple[int, ...], int] = {}
        for token in text:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token to the text."""
        for n in range(1, len(self.recent) + 1):
            self.followed[self.recent[-n:]] = token
        self.recent = (*self.recent, token)[-MAX_NGRAM:]

    def draft(self, num_tokens: int) -> list[int]:
        """At most `num_tokens` tokens that may come next."""
        recent, drafted = self.recent, []
        while len(drafted) < num_tokens:
            runs = (recent[-n:] for n in range(len(recent), 0, -1))
            token = next((self.followed[run] for run in runs if run in self.followed), None)
            if token is None:
                break
            drafted.append(token)
            recent = (*recent, token)[-MAX_NGRAM:]
        return drafted


class ModelDrafter:
    """Drafts the most likely tokens of a smaller model, which has the vocabulary of the model that verifies them."""

    def __init__(self, model: Decodable, text: Sequence[int], *, cost: float = 0.0) -> None:
        self.model, self.text, self.cost = model, list(text), cost
        self.cache: KVCache | None = None
        self.device = next(model.parameters()).device

    def add(self, token: int) -> None:
        """Append a token to the text."""
        self.text.append(token)

    def draft(self, num_tokens: int) -> list[int]:
        """At most `num_tokens` tokens that may come next; none once the text exceeds the context."""
        context = self.model.config.max_seq_len
        if num_tokens < 1 or len(self.text) + num_tokens > context:
            return []
        ids = torch.tensor([self.text], device=self.device)
        cache = self.cache
        if cache is None:
            cache, logits = self.model.start(ids, max_len=context)
        else:
            logits = self.model.step(ids[:, cache.length :], cache)[:, -1]
        drafted = [logits.argmax(-1, keepdim=True)]
        while len(drafted) < num_tokens:
            drafted.append(self.model.step(drafted[-1], cache)[:, -1].argmax(-1, keepdim=True))
        cache.rewind(cache.length - len(self.text))
        self.cache = cache
        return torch.cat(drafted, 1)[0].tolist()


class Verifier:
    """Decodes one row with drafts of at most `num_draft_tokens` tokens, as long as they pay off."""

    def __init__(self, drafter: Drafter, num_draft_tokens: int, *, cost: float = 0.0) -> None:
        """`cost` of reading one more token in a step, as a fraction of the step."""
        self.drafter, self.num_draft_tokens, self.cost = drafter, num_draft_tokens, cost
        self.accepted = 1.0
        """Mean share of accepted drafts; optimistic at first."""
        self.waiting = 0
        self.drafted: deque[tuple[int, Tensor]] = deque()
        """Draft tokens in the cache, and the logits (1, V) after each."""

    def accept(self, token: int, cache: KVCache) -> Tensor | None:
        """The logits (1, V) after the chosen `token` if it is the draft; else None, and drafts are removed."""
        self.drafter.add(token)
        if not self.drafted:
            return None
        draft, logits = self.drafted.popleft()
        self.accepted = MEMORY * self.accepted + (1 - MEMORY) * (draft == token)
        if draft == token:
            return logits
        cache.rewind(len(self.drafted) + 1)
        self.drafted.clear()
        return None

    def step(self, model: Decodable, token: Tensor, cache: KVCache, *, max_drafts: int) -> Tensor:
        """Read the chosen token (1, 1) and at most `max_drafts` drafts -> logits (1, V) after the token."""
        limit = min(self.num_draft_tokens, max_drafts, cache.max_len - cache.length - 1)
        drafts = self.drafter.draft(limit) if self._pays_off() else []
        tokens = torch.cat((token, token.new_tensor([drafts])), 1) if drafts else token
        logits = model.step(tokens, cache)  # (1, T, V)
        self.drafted.extend((draft, logits[:, i]) for i, draft in enumerate(drafts, 1))
        return logits[:, 0]

    def _pays_off(self) -> bool:
        """Whether an accepted draft saves more than a rejected one costs; else once in RETRY tokens."""
        self.waiting += 1
        if self.accepted <= self.cost + self.drafter.cost and self.waiting < RETRY:
            return False
        self.waiting = 0
        return True


def verifier_for(
    model: Decodable, texts: Sequence[Sequence[int]], num_draft_tokens: int, draft: Draft | None
) -> Verifier | None:
    """None without drafts, and for several rows: only for one does a pass over a few tokens cost little more."""
    if len(texts) > 1 or not num_draft_tokens:
        return None
    drafter = NgramLookup(texts[0]) if draft is None else ModelDrafter(draft.model, texts[0], cost=draft.cost)
    return Verifier(drafter, num_draft_tokens, cost=model.draft_cost)
