"""Rows of text-to-text tasks: the examples of a split one by one, or mixed in shares (Raffel et al. 2020).

An example is one document on disk, `input SEP target EOS`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from minillm.data.corpus import Tokens


class TaskTokens(Tokens):
    """The examples of one split, and which task each belongs to.

    Args:
        ids: (N,) all documents `input SEP target EOS`, one after another.
        eos_id: the id after every document.
        tasks: names.
        task_of: (D,) index into `tasks` of each document.
    """

    def __init__(self, ids: np.ndarray, eos_id: int, tasks: tuple[str, ...], task_of: np.ndarray):
        super().__init__(ids, eos_id)
        self.tasks, self.task_of = tasks, task_of

    def lengths(self, sep_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(D,) tokens of each input, and of each target with its EOS."""
        bounds = np.append(self.document_starts, self.num_tokens)
        parted = np.flatnonzero(self.slice(0, self.num_tokens) == sep_id)
        return parted - bounds[:-1], bounds[1:] - parted - 1


class TaskRows:
    """The examples in order, each once; those of one task alone if it is named, the first `limit` of them."""

    def __init__(self, tokens: TaskTokens, task: str | None = None, limit: int | None = None):
        self.tokens = tokens
        self.bounds = np.append(tokens.document_starts, tokens.num_tokens)
        chosen = np.ones(len(tokens.task_of), bool) if task is None else tokens.task_of == tokens.tasks.index(task)
        self.documents = np.flatnonzero(chosen)[:limit]

    @property
    def seq_len(self) -> int:
        """Tokens in an example on average, input and target together."""
        return max(1, self.tokens.num_tokens // len(self.tokens.task_of))

    @property
    def num_offsets(self) -> int:
        return len(self.documents)

    def __len__(self) -> int:
        return len(self.documents)

    def document(self, window: int, offset: int) -> int:
        """Which document a row is."""
        return int(self.documents[window])

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        """First token of the document, and the index after its EOS."""
        document = self.document(window, offset)
        return int(self.bounds[document]), int(self.bounds[document + 1])

    def row(self, window: int, offset: int = 0) -> np.ndarray:
        """The ids of a document, int64."""
        return self.tokens.slice(*self.span(window, offset)).astype(np.int64)


class Mixture(TaskRows):
    """As many rows an epoch as there are examples, each task with its share; an epoch's offset says which examples.

    Args:
        tokens: the examples.
        mixing: "proportional": every example once; "temperature": shares by the number of a task's examples to the
            power 1/T; "equal": the same share for each. What a task has too few of comes again, what it has too many
            of waits for another epoch.
        temperature: that T.
    """

    def __init__(
        self,
        tokens: TaskTokens,
        mixing: Literal["proportional", "temperature", "equal"] = "proportional",
        temperature: float = 2.0,
    ):
        super().__init__(tokens)
        self.members = [np.flatnonzero(tokens.task_of == task) for task in range(len(tokens.tasks))]
        sizes = np.array([len(members) for members in self.members], float)
        power = {"proportional": 1.0, "temperature": 1 / temperature, "equal": 0.0}[mixing]
        shares = np.where(sizes > 0, sizes**power, 0).cumsum()
        self.ends = np.round(shares / shares[-1] * len(self)).astype(np.int64)

    def document(self, window: int, offset: int) -> int:
        """The next example of the task in whose share the window lies."""
        task = int(np.searchsorted(self.ends, window, side="right"))
        first = int(self.ends[task - 1]) if task else 0
        return int(self.members[task][(offset + window - first) % len(self.members[task])])
