"""Two answers to a prompt as two rows of a batch: the one that is preferred, then the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.data.datasets.preferences import PreferenceIds, PreferenceTokens


class AnswerRow(NamedTuple):
    """A prompt and one answer to it."""

    ids: np.ndarray
    """(N,) prompt and answer, with special tokens."""
    start: int
    """Index of the answer's first token."""


@dataclass(frozen=True, kw_only=True)
class AnswerLayout:
    """The special tokens around a prompt and an answer, and what is cut from a pair that is too long.

    The beginning of the prompt is cut, the same for both answers; then the end of an answer that is too long even with
    one token of the prompt. Conversations have their own special tokens.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    max_len: int
    """Maximum tokens of a row."""
    blank: int | None = None
    """The token before an answer, if there is neither a prompt nor `before`; None: nothing has to be there."""

    def rows(self, example: PreferenceIds) -> tuple[AnswerRow, AnswerRow]:
        """The preferred answer and the other, each with the prompt."""
        before, prompt, after = self._parts(example)
        answers = [np.concatenate((ids, after)) for ids in (example.chosen, example.rejected)]
        room = self.max_len - len(before)
        kept = prompt[max(0, len(prompt) - max(1, room - max(map(len, answers)))) :]
        start = len(before) + len(kept)
        chosen, rejected = (np.concatenate((before, kept, ids[: self.max_len - start])) for ids in answers)
        return AnswerRow(chosen.astype(np.int64), start), AnswerRow(rejected.astype(np.int64), start)

    def text(self, ids: np.ndarray) -> np.ndarray:
        """(N,) the row of a whole text; its beginning is cut if it is too long."""
        room = max(1, self.max_len - len(self.before) - len(self.after))
        return np.concatenate((self.before, ids[-room:], self.after)).astype(np.int64)

    def describe_cuts(self, tokens: PreferenceTokens) -> list[str]:
        """The number of pairs that are cut."""
        prompts = answers = 0
        for example in tokens.rows:
            before, prompt, after = self._parts(example)
            longest = max(len(example.chosen), len(example.rejected)) + len(after)
            prompts += len(before) + len(prompt) + longest > self.max_len
            answers += len(before) + min(1, len(prompt)) + longest > self.max_len
        if not prompts:
            return []
        long = f"{prompts:,} of {len(tokens):,} pairs are longer than {self.max_len} tokens"
        cut = f"their prompts lose the beginning, and {answers:,} of them lose the end of an answer"
        return [f"{long}: {cut}; raise data.seq_len to keep it"]

    def _parts(self, example: PreferenceIds) -> tuple[Sequence[int], np.ndarray, Sequence[int]]:
        before, after = ((), ()) if example.framed else (self.before, self.after)
        if self.blank is not None and not len(before) + len(example.prompt):
            before = (self.blank,)
        return before, example.prompt, after


def figures_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> (2,) the sum and the number of these values (B), for `Score.figures`."""
    return {name: torch.stack([x.detach().sum(), x.new_tensor(float(len(x)))]) for name, x in values.items()}
