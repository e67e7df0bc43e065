"""Python source labeled by the `tokenize` module: the class of a missing token, or tags for the words of a line."""

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from minillm.data.sources.builtin import class_of, group_of, library_files, read_source

CLASSES = ("keyword", "name", "number", "operator", "string")
_WORD = re.compile(r"\w+|[^\w\s]")
REACH, PER_FILE = 100, 20
"""Characters of context on each side of a gap; gaps per file."""
LINES_PER_FILE, MIN_WORDS, MAX_CHARACTERS = 20, 4, 200
"""Lines that are tagged in a file, and their size."""
NAME = "builtin:python-token-classes"


class Gap(NamedTuple):
    """A token left out of a source file: its context, one of CLASSES, and the file."""

    before: str
    after: str
    label: str
    group: str


class TaggedLine(NamedTuple):
    """A line of source, the spans of its words, and tags in BIO: a token of several words is one entity."""

    text: str
    spans: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]
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


@cache
def tagged_lines() -> tuple[TaggedLine, ...]:
    """Lines of the standard library's source files."""
    return tuple(tag_lines((read_source(path) for path in library_files()), LINES_PER_FILE, seed=0))


def tag_lines(sources: Iterable[str], per_source: int, seed: int) -> Iterator[TaggedLine]:
    """Up to `per_source` lines of each source that no token of several lines touches; each line once."""
    seen: set[str] = set()
    for number, source in enumerate(sources):
        lines, tokens = source.splitlines(keepends=True), _tokens(source)
        by_line: dict[int, list[tokenize.TokenInfo]] = {}
        for token in tokens:
            for row in range(token.start[0], token.end[0] + 1):
                by_line.setdefault(row, []).append(token)
        whole = [row for row, own in by_line.items() if all(token.start[0] == token.end[0] for token in own)]
        order = np.random.default_rng([seed, number]).permutation(len(whole))
        found = 0
        for row in (whole[i] for i in order):
            line = _tag_line(lines[row - 1].rstrip(), by_line[row], group_of(source))
            if found < per_source and line is not None and line.text not in seen:
                seen.add(line.text)
                found += 1
                yield line


def _tag_line(line: str, tokens: Iterable[tokenize.TokenInfo], group: str) -> TaggedLine | None:
    """The words of a line without its indentation, each with the tag of the token that it is in."""
    indent = len(line) - len(line.lstrip())
    starts = {token.start[1]: (token.end[1], class_of(token)) for token in tokens}
    spans, tags, stop, label = [], [], 0, None
    for match in _WORD.finditer(line):
        first = match.start() in starts
        if first:
            stop, label = starts[match.start()]
        inside = match.start() < stop and label is not None
        spans.append((match.start() - indent, match.end() - indent))
        tags.append(f"{'B' if first else 'I'}-{label}" if inside else "O")
    fits = len(spans) >= MIN_WORDS and len(line) - indent <= MAX_CHARACTERS
    return TaggedLine(line.strip(), tuple(spans), tuple(tags), group) if fits else None


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    """The tokens that have a class; none if the source cannot be tokenized."""
    try:
        return [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if class_of(t)]
    except (tokenize.TokenError, SyntaxError):
        return []
