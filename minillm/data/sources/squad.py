"""Questions of SQuAD's files (Rajpurkar et al. 2016, 2018) as records, and the scores of the shared task."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ARTICLES, _PUNCTUATION = re.compile(r"\b(a|an|the)\b"), str.maketrans("", "", string.punctuation)


def questions(document: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """A record for each question of a file in the layout of SQuAD 1.1 and 2.0; `name` is for messages.

    Each has id, title, question, context, and answers as {"text": [...], "answer_start": [...]}, empty if the context
    does not answer the question. ValueError names the missing key.
    """
    for a, article in enumerate(_list(document, "data", name), 1):
        where = f"{name} article {a}"
        for p, paragraph in enumerate(_list(article, "paragraphs", where), 1):
            place = f"{where} paragraph {p}"
            for q, item in enumerate(_list(paragraph, "qas", place), 1):
                answers = [] if item.get("is_impossible") else _list(item, "answers", f"{place} question {q}")
                yield {
                    "id": _get(item, "id", f"{place} question {q}"),
                    "title": article.get("title", ""),
                    "question": _get(item, "question", f"{place} question {q}"),
                    "context": _get(paragraph, "context", place),
                    "answers": {
                        "text": [_get(answer, "text", f"{place} question {q}") for answer in answers],
                        "answer_start": [_get(answer, "answer_start", f"{place} question {q}") for answer in answers],
                    },
                }


def exact_match(answer: str, wanted: Sequence[str]) -> float:
    """1 if the answer equals one of those wanted, apart from case, punctuation, articles and spaces; else 0."""
    return float(any(normalized(answer) == normalized(one) for one in wanted))


def token_f1(answer: str, wanted: Sequence[str]) -> float:
    """The highest F1 of the answer's words with those of a wanted answer."""
    return max(_f1(normalized(answer).split(), normalized(one).split()) for one in wanted)


def normalized(text: str) -> str:
    """Lower case without punctuation and articles, as SQuAD's own script does it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def _list(item: Any, key: str, where: str) -> list[Any]:
    value = _get(item, key, where)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {key!r} is not a list; expected the layout of SQuAD")
    return value


def _get(item: Any, key: str, where: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise ValueError(f"{where} has no {key!r}; expected an array of records or the layout of SQuAD")
    return item[key]
