"""Prompt lookup decoding (Saxena 2023): draft the next tokens from the text itself and verify them in the same pass.

A decoding step reads every weight once, for one token or for a few. If a text repeats itself, the tokens that followed
an earlier occurrence of the last few tokens are a good draft. The model reads the draft together with the chosen token;
its logits are used only if the sampler then chooses the draft (Leviathan et al. 2023). The text is therefore the same
as without drafts, sampled or greedy.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from minillm.generation.adapters import Decodable
from minillm.nn.cache import KVCache

MAX_NGRAM = 3
"""Longest run of tokens that is looked up; shorter runs are tried if it has not occurred before."""


class NgramLookup:
    """Stores which token last followed each run of one to MAX_NGRAM tokens."""

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


class PromptLookup:
    """Decodes one row with drafts of at most `num_draft_tokens` tokens."""

    def __init__(self, text: Sequence[int], num_draft_tokens: int) -> None:
        self.lookup, self.num_draft_tokens = NgramLookup(text), num_draft_tokens
        self.drafted: deque[tuple[int, Tensor]] = deque()
        """Draft tokens in the cache, and the logits (1, V) after each."""

    def accept(self, token: int, cache: KVCache) -> Tensor | None:
        """The logits (1, V) after the chosen `token` if it is the draft; else None, and drafts are removed."""
        self.lookup.add(token)
        if not self.drafted:
            return None
        draft, logits = self.drafted.popleft()
        if draft == token:
            return logits
        cache.rewind(len(self.drafted) + 1)
        self.drafted.clear()
        return None

    def step(self, model: Decodable, token: Tensor, cache: KVCache, *, max_drafts: int) -> Tensor:
        """Read the chosen token (1, 1) and at most `max_drafts` drafts -> logits (1, V) after the token."""
        drafts = self.lookup.draft(min(self.num_draft_tokens, max_drafts, cache.max_len - cache.length - 1))
        tokens = torch.cat((token, token.new_tensor([drafts])), 1) if drafts else token
        logits = model.step(tokens, cache)  # (1, T, V)
        self.drafted.extend((draft, logits[:, i]) for i, draft in enumerate(drafts, 1))
        return logits[:, 0]
