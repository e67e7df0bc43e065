"""Gaps in Python source, labeled with the class of the missing token by the `tokenize` module."""

import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from minillm.data.sources.builtin import class_of, group_of, library_files, read_source

CLASSES = ("keyword", "name", "number", "operator", "string")
REACH, PER_FILE = 100, 20
"""Characters of context on each side of a gap; gaps per file."""
NAME = "builtin:python-token-classes"


class Gap(NamedTuple):
    """A token left out of a source file: its context, one of CLASSES, and the file."""

    before: str
    after: str
    label: str
    group: str


@cache
def python_token_classes() -> tuple[Gap, ...]:
    """Gaps of the standard library's source files; finding them takes seconds, so they are kept."""
    return tuple(gaps((read_source(path) for path in library_files()), PER_FILE, seed=0))


def gaps(sources: Iterable[str], per_source: int, seed: int) -> Iterator[Gap]:
    """`per_source` gaps from each source, drawn evenly from the classes in it; none if it cannot be tokenized."""
    for number, source in enumerate(sources):
        rng = np.random.default_rng([seed, number])
        found = _by_class(source)
        present = [label for label, spans in enumerate(found) if spans]
        for _ in range(per_source if present else 0):
            label = int(rng.choice(present))
            start, stop = found[label][rng.integers(len(found[label]))]
            before, after = source[max(0, start - REACH) : start], source[stop : stop + REACH]
            yield Gap(before, after, CLASSES[label], group_of(source))


def _by_class(source: str) -> list[list[tuple[int, int]]]:
    """For each class, the (start, stop) characters of its tokens."""
    lines = source.splitlines(keepends=True)
    starts = np.cumsum([0, *map(len, lines)])
    found: list[list[tuple[int, int]]] = [[] for _ in CLASSES]
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if name := class_of(token):
                start, stop = (int(starts[row - 1]) + column for row, column in (token.start, token.end))
                found[CLASSES.index(name)].append((start, stop))
    except (tokenize.TokenError, SyntaxError):
        return [[] for _ in CLASSES]
    return found
