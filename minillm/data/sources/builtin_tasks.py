"""Text-to-text tasks: three made from Python's standard library, and two synthetic ones with one correct answer.

    summarize python: <a function without its docstring>   ->  the docstring's first paragraph
    tag python: <a line of code>                            ->  the class of each of its tokens
    words python: <the first line of a function>            ->  its name in words: `def getLine(self):` is "get line"
    reverse: <a short word or some digits>                  ->  the same characters in reverse order
    add: <three digits> + <three digits>                    ->  the sum, last digit first

Sums are written in the order in which they are computed by hand: 579 is "975". Each digit then depends only on two
digits and the carry, whereas the first digit of "579" depends on the whole sum (Lee et al. 2023, "Teaching arithmetic
to small transformers").

`words` supports the summaries, which mostly repeat a function's name: the summaries alone are too few to teach a small
model to copy from the source.

The first three tasks differ a little between Python releases; the last two are the same everywhere.
"""

import ast
import io
import re
import string
import textwrap
import tokenize
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from minillm.data.sources.builtin import class_of, group_of, library_files, parse_python, read_source
from minillm.data.sources.deduplicate import MAX_SEEN, shingles
from minillm.data.sources.records import Example

NAME = "builtin:python-tasks"
VERSION = 4
"""Part of the fingerprint; increase it when the same Python gives different examples."""
MAX_SOURCE, MAX_SUMMARY, MAX_LINE = 2000, 200, 72
"""Maximum characters of a function, of a docstring's first paragraph and of a single line."""
NUM_REVERSE, NUM_ADD = 40_000, 40_000

Function = ast.FunctionDef | ast.AsyncFunctionDef

_PARAGRAPH_END = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def python_tasks() -> Iterator[Example]:
    yield from _without_repeats(_from_library())
    yield from reverse()
    yield from add()


def _from_library() -> Iterator[Example]:
    for path in library_files():
        source = read_source(path)
        for task in (summaries, tags, words):
            yield from task(source, group=group_of(source))


def _without_repeats(examples: Iterator[Example]) -> Iterator[Example]:
    """Drops examples whose input occurred before, and summaries whose target or most of whose input did."""
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
    """Each function with a docstring and a body, and the docstring's first paragraph as one line."""
    lines = source.splitlines()
    for node in _functions(source):
        first = node.body[0]
        summary = " ".join(_PARAGRAPH_END.split(ast.get_docstring(node) or "", maxsplit=1)[0].split())
        if not 10 <= len(summary) <= MAX_SUMMARY or len(node.body) < 2:
            continue
        if first.lineno == node.lineno or node.body[1].lineno == first.end_lineno:
            continue  # the docstring shares a line with other code
        code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        text = textwrap.dedent("\n".join(line.rstrip() for line in code)).strip("\n")
        if len(text) <= MAX_SOURCE:
            yield Example(f"summarize python: {text}", summary, group)


def tags(source: str, *, group: str) -> Iterator[Example]:
    """One line of each function, and the class of each of its tokens: keyword, name, op, number, string."""
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
    """The class of each token of a line of code; empty if the line alone is not valid code."""
    try:
        found = map(class_of, tokenize.generate_tokens(io.StringIO(line).readline))
        return ["op" if name == "operator" else name for name in found if name]
    except (tokenize.TokenError, SyntaxError):
        return []


def reverse() -> Iterator[Example]:
    """Distinct random strings of 3 to 8 letters or digits, reversed."""
    rng = np.random.default_rng(1)
    words: set[str] = set()
    while len(words) < NUM_REVERSE:
        alphabet = string.ascii_lowercase if rng.random() < 0.75 else string.digits
        word = "".join(alphabet[i] for i in rng.integers(len(alphabet), size=rng.integers(3, 9)).tolist())
        if word not in words:
            words.add(word)
            yield Example(f"reverse: {word}", word[::-1], word)


def add() -> Iterator[Example]:
    """Distinct pairs of three-digit numbers, and their sums with the last digit first."""
    pairs = np.random.default_rng(2).choice(900 * 900, NUM_ADD, replace=False)
    for pair in pairs.tolist():
        a, b = 100 + pair // 900, 100 + pair % 900
        yield Example(f"add: {a} + {b}", str(a + b)[::-1], f"{a} + {b}")


@lru_cache(maxsize=1)
def _functions(source: str) -> list[Function]:
    """The functions of a module, including nested ones; empty if it does not parse."""
    return [node for node in ast.walk(parse_python(source)) if isinstance(node, Function)]
