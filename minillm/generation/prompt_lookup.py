"""Reading ahead: guess the next tokens from the text itself, and read them in the pass that reads the chosen one.

A decoding step reads every weight once, whether for one token or for a few. Where a text repeats itself, the tokens
that followed the same few tokens before are a good guess (prompt lookup decoding, Saxena 2023). The guess is read along
with the chosen token, and its logits are used only if it is what the sampler then chooses from the logits before it
(Leviathan et al. 2023), so the text is the same as without guessing, sampled or greedy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from minillm.generation.generate import Decodable
    from minillm.nn.cache import KVCache

LONGEST = 3
"""Tokens before the guessed one that must have stood together before; fewer are tried where these have not."""


class NgramLookup:
    """What followed each run of one to LONGEST tokens last time."""

    def __init__(self, text: Sequence[int]) -> None:
        self.recent: tuple[int, ...] = ()
        self.followed: dict[tuple[int, ...], int] = {}
        for token in text:
            self.add(token)

    def add(self, token: int) -> None:
        """The text goes on with `token`."""
        for n in range(1, len(self.recent) + 1):
            self.followed[self.recent[-n:]] = token
        self.recent = (*self.recent, token)[-LONGEST:]

    def guess(self, count: int) -> list[int]:
        """Up to `count` tokens that may come next."""
        recent, guesses = self.recent, []
        while len(guesses) < count:
            runs = (recent[-n:] for n in range(len(recent), 0, -1))
            token = next((self.followed[run] for run in runs if run in self.followed), None)
            if token is None:
                break
            guesses.append(token)
            recent = (*recent, token)[-LONGEST:]
        return guesses


class PromptLookup:
    """The next logits of one growing text, some of them from guesses that came true."""

    def __init__(self, text: Sequence[int], count: int) -> None:
        """`count` tokens are guessed at most."""
        self.lookup, self.count = NgramLookup(text), count
        self.ahead: deque[tuple[int, Tensor]] = deque()
        """Guessed tokens that are in the cache, and the logits after each."""

    def confirm(self, token: int, cache: KVCache) -> Tensor | None:
        """Logits (1, V) after the chosen `token` if it had been guessed; else the wrong guesses leave the cache."""
        self.lookup.add(token)
        if not self.ahead:
            return None
        guess, logits = self.ahead.popleft()
        if guess == token:
            return logits
        cache.rewind(len(self.ahead) + 1)
        self.ahead.clear()
        return None

    def read(self, model: Decodable, token: Tensor, cache: KVCache, *, most: int) -> Tensor:
        """Read the chosen token (1, 1) and at most `most` guesses; logits (1, V) after the chosen one."""
        guesses = self.lookup.guess(min(self.count, most, cache.max_len - cache.length - 1))
        tokens = torch.cat((token, token.new_tensor([guesses])), 1) if guesses else token
        logits = model.step(tokens, cache)  # (1, T, V)
        self.ahead.extend((guess, logits[:, i]) for i, guess in enumerate(guesses, 1))
        return logits[:, 0]
