"""Questions about Python's documentation, made by a rule: nobody asked them.

A sentence with a term in double quotes becomes a question by replacing the term with "what", and by leaving out some of
its other words. The paragraphs around the sentence are the context. A third of the questions get another context of the
same topic, which does not contain the term, and have no answer.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

NAME = "builtin:python-questions"
MAX_CONTEXT, MIN_WORDS, KEPT, UNANSWERABLE = 600, 6, 0.6, 1 / 3
"""Characters of a context; words of a sentence; share of its words that a question keeps; share without an answer."""
_SENTENCE = re.compile(r"(?<=[.:;])\s+(?=[A-Z(])")
_TERM = re.compile(r'"([^"\s](?:[^"\n]{0,38}[^"\s])?)"')


class Made(NamedTuple):
    """A question, its context, and the answer, which begins at the character `start`; "" for none."""

    question: str
    context: str
    answer: str
    start: int
    group: str


@cache
def made_questions() -> tuple[Made, ...]:
    """The questions about the topics of the language reference, in a fixed order."""
    from pydoc_data.topics import topics

    return tuple(make(topics, seed=0))


def make(topics: Mapping[str, str], seed: int) -> Iterator[Made]:
    """Questions about each topic, whose name is their group."""
    for number, name in enumerate(sorted(topics)):
        draws = np.random.default_rng([seed, number])
        contexts = list(_contexts(topics[name]))
        for context in contexts:
            for sentence in _SENTENCE.split(context):
                found = _question(sentence, context, draws)
                if found is None:
                    continue
                question, answer = found
                others = [other for other in contexts if answer.lower() not in other.lower()]
                if others and draws.random() < UNANSWERABLE:
                    yield Made(question, others[draws.integers(len(others))], "", 0, name)
                else:
                    yield Made(question, context, answer, context.index(f'"{answer}"') + 1, name)


def _contexts(text: str) -> Iterator[str]:
    """Paragraphs of prose, joined while they fit."""
    joined = ""
    for paragraph in re.split(r"\n\s*\n", text):
        if joined and len(joined) + len(paragraph) > MAX_CONTEXT:
            yield joined
            joined = ""
        joined = f"{joined}\n\n{paragraph.strip()}".strip()[:MAX_CONTEXT]
    if joined:
        yield joined


def _question(sentence: str, context: str, draws: np.random.Generator) -> tuple[str, str] | None:
    """A question and its answer, a term that the context quotes once; None if the sentence has none."""
    terms = [match for match in _TERM.finditer(sentence) if context.count(f'"{match[1]}"') == 1]
    if not terms or len(sentence.split()) < MIN_WORDS:
        return None
    term = terms[draws.integers(len(terms))]
    words = [*sentence[: term.start()].split(), "what", *sentence[term.end() :].split()]
    kept = [word for word in words if word == "what" or draws.random() < KEPT]
    return f"{' '.join(kept).rstrip('.:;')}?", term[1]
