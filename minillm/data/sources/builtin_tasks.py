"""Text-to-text tasks made of what every CPython carries, and two small ones that have a right answer.

    summarize python: <a function without its docstring>   ->  the docstring's first paragraph
    tag python: <a line of code>                            ->  the class of each of its tokens
    words python: <the first line of a function>            ->  its name in words: `def getLine(self):` is "get line"
    reverse: <a short word or some digits>                  ->  the same from the end
    add: <three digits> + <three digits>                    ->  the sum, its ones first

A sum is written in the order in which it is worked out by hand, ones, tens, hundreds: 579 is "975". Each digit then
needs only those above it and the carry, where the first digit of "579" would need the whole sum (Lee et al. 2023,
"Teaching arithmetic to small transformers").

Names in words are there for the sake of the summaries, which mostly say a name again: five thousand summaries alone do
not teach so small a model to look at the source for it, and it writes fluent sentences about something else.

The first three tasks differ a little between Python releases; the last two are the same everywhere.
"""

from __future__ import annotations

import ast
import hashlib
import io
import keyword
import re
import string
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from minillm.data.sources.builtin import library_files, read_source
from minillm.data.sources.deduplicate import MAX_SEEN, shingles
from minillm.data.sources.records import Example

VERSION = 4
"""Part of the fingerprint; raised when the same Python gives other examples."""
MAX_SOURCE, MAX_SUMMARY, MAX_LINE = 2000, 200, 72
"""Characters of a function, of a docstring's first paragraph and of a single line; longer ones are left out."""
NUM_REVERSE, NUM_ADD = 40_000, 40_000

Function = ast.FunctionDef | ast.AsyncFunctionDef

_PARAGRAPH_END = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_CLASSES = {tokenize.OP: "op", tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.NAME: "name"}


def python_tasks() -> Iterator[Example]:
    """All five tasks, one after another."""
    yield from _without_repeats(_from_library())
    yield from reverse()
    yield from add()


def _from_library() -> Iterator[Example]:
    for path in library_files():
        source = read_source(path)
        group = hashlib.blake2b(source.encode("utf-8", "replace"), digest_size=8).hexdigest()  # the same on any machine
        yield from summaries(source, group=group)
        yield from tags(source, group=group)
        yield from words(source, group=group)


def _without_repeats(examples: Iterator[Example]) -> Iterator[Example]:
    """The examples but those whose target, where it is a sentence, or most of whose input stood in an earlier one."""
    inputs: set[str] = set()
    targets: set[str] = set()
    seen: set[int] = set()
    for example in examples:
        text = " ".join(example.input.split())
        target = " ".join(example.target.lower().split())
        new = shingles(text)
        prose = example.input.startswith("summarize")
        if text in inputs or (prose and (target in targets or len(new & seen) > MAX_SEEN * len(new))):
            continue
        inputs.add(text)
        if prose:
            targets.add(target)
            seen |= new
        yield example


def summaries(source: str, *, group: str) -> Iterator[Example]:
    """Each function that has a docstring and does something, and the docstring's first paragraph on one line."""
    lines = source.splitlines()
    for node in _functions(source):
        first = node.body[0]
        summary = " ".join(_PARAGRAPH_END.split(ast.get_docstring(node) or "", maxsplit=1)[0].split())
        if not 10 <= len(summary) <= MAX_SUMMARY or len(node.body) < 2:
            continue
        if first.lineno == node.lineno or node.body[1].lineno == first.end_lineno:
            continue  # on one line with other code
        code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        text = textwrap.dedent("\n".join(line.rstrip() for line in code)).strip("\n")
        if len(text) <= MAX_SOURCE:
            yield Example(f"summarize python: {text}", summary, group)


def tags(source: str, *, group: str) -> Iterator[Example]:
    """One line of each function, and the class of each token in it: keyword, name, op, number, string."""
    lines = source.splitlines()
    for node in _functions(source):
        middle = node.body[len(node.body) // 2]
        line = lines[middle.lineno - 1].strip()
        if middle.lineno == middle.end_lineno and 8 <= len(line) <= MAX_LINE and (classes := token_classes(line)):
            yield Example(f"tag python: {line}", " ".join(classes), group)


def words(source: str, *, group: str) -> Iterator[Example]:
    """The first line of each function, and the words of the function's name in lower case."""
    lines = source.splitlines()
    for node in _functions(source):
        line = lines[node.lineno - 1].strip()
        if len(line) <= MAX_LINE and (parts := _WORD.findall(node.name)):
            yield Example(f"words python: {line}", " ".join(parts).lower(), group)


def token_classes(line: str) -> list[str]:
    """The class of each token of a line of code; none where it is no code by itself."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
    except (tokenize.TokenError, SyntaxError):
        return []
    return [
        "keyword" if token.type == tokenize.NAME and keyword.iskeyword(token.string) else _CLASSES[token.type]
        for token in tokens
        if token.type in _CLASSES
    ]


def reverse() -> Iterator[Example]:
    """Different random words of 3 to 8 letters, or as many digits, and the same from the end."""
    rng = np.random.default_rng(1)
    words: set[str] = set()
    while len(words) < NUM_REVERSE:
        alphabet = string.ascii_lowercase if rng.random() < 0.75 else string.digits
        word = "".join(alphabet[i] for i in rng.integers(len(alphabet), size=rng.integers(3, 9)).tolist())
        if word not in words:
            words.add(word)
            yield Example(f"reverse: {word}", word[::-1], word)


def add() -> Iterator[Example]:
    """Different pairs of three-digit numbers, and their sum with the ones first."""
    pairs = np.random.default_rng(2).choice(900 * 900, NUM_ADD, replace=False)
    for pair in pairs.tolist():
        a, b = 100 + pair // 900, 100 + pair % 900
        yield Example(f"add: {a} + {b}", str(a + b)[::-1], f"{a} + {b}")


@lru_cache(maxsize=1)
def _functions(source: str) -> list[Function]:
    """The functions of a module, with those within others; none where it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own invalid escapes
        try:
            module = ast.parse(source)
        except SyntaxError:
            return []
    return [node for node in ast.walk(module) if isinstance(node, Function)]


TASKS = {"python-tasks": python_tasks}
"""Name after `builtin:` to what yields its examples."""
