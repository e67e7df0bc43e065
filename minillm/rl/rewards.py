"""Rewards of completions: named ones, a trained reward model, or the user's own functions, as a weighted sum."""

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ANSWER = "answer"
"""Field with the right answer, if a reward names none."""
Function = Callable[..., Sequence[float]]
"""`(prompts, completions, **fields)`, lists of one item per completion -> one number per completion."""
Scorer = Callable[[str], Callable[[Sequence[str]], Sequence[float]]]
"""Path of a run -> function that scores texts with its reward model."""

_WEIGHT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*\*\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])-?[0-9][0-9,]*(?:\.[0-9]+)?(?![\w])")


class Judged(NamedTuple):
    """One completion and its origin."""

    prompt: str
    completion: str
    """Its text, without EOS."""
    fields: Mapping[str, Any]
    """All fields of the prompt's record."""
    where: str
    """Names the record."""


@dataclass(frozen=True)
class Term:
    """One reward of a weighted sum."""

    name: str
    weight: float
    function: Function

    def __call__(self, rows: Sequence[Judged]) -> list[float]:
        """One number per completion; ValueError that names the row for an error or a number that is not finite."""
        try:
            return self._call(rows)
        except Exception as error:
            for row in rows if len(rows) > 1 else ():
                self([row])  # raises for the row that is to blame
            where = f"{rows[0].where}, completion {rows[0].completion!r}" if len(rows) == 1 else "a whole batch"
            why = str(error) if isinstance(error, RewardError) else f"raised {type(error).__name__}: {error}"
            raise RewardError(f"reward {self.name} for {where}: {why.removeprefix('reward ')}") from error

    def _call(self, rows: Sequence[Judged]) -> list[float]:
        names = set.intersection(*(set(row.fields) for row in rows)) - {"prompts", "completions"}
        fields = {name: [row.fields[name] for row in rows] for name in sorted(names)}
        found = self.function(
            prompts=[row.prompt for row in rows], completions=[row.completion for row in rows], **fields
        )
        values = list(found)
        if len(values) != len(rows):
            raise RewardError(f"returned {len(values)} numbers for {len(rows)} completions")
        for value in values:
            if not math.isfinite(value):
                raise RewardError(f"returned {value}, which is not a finite number")
        return [float(value) for value in values]


class RewardError(ValueError):
    """A reward failed."""


class Rewards:
    """The weighted sum of rewards such as `exact` and `0.1 * length:20`; ValueError for one that does not exist."""

    def __init__(self, terms: Sequence[str], scorer: Scorer) -> None:
        self.terms = [parse_term(term, scorer) for term in terms]
        if not self.terms:
            raise ValueError("objective.rewards is empty; give at least one, such as exact")
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"objective.rewards is {names}; it names a reward twice")

    def __call__(self, rows: Sequence[Judged]) -> tuple[list[float], list[dict[str, float]]]:
        """The sum for each completion; and if there are several rewards, each of them by name, without its weight."""
        values = np.array([term(rows) for term in self.terms])  # (terms, N)
        totals = np.array([term.weight for term in self.terms]) @ values
        several = [term.name for term in self.terms] if len(self.terms) > 1 else []
        return totals.tolist(), [dict(zip(several, each, strict=False)) for each in values.T.tolist()]


def parse_term(text: str, scorer: Scorer) -> Term:
    """The reward that an item of objective.rewards names."""
    match = _WEIGHT.fullmatch(text)
    weight, name = (float(match[1]), match[2].strip()) if match else (1.0, text.strip())
    kind, _, argument = name.partition(":")
    if kind in ("exact", "number"):
        return Term(name, weight, _compared(exact if kind == "exact" else same_number, argument or ANSWER))
    if kind == "regex" and argument:
        return Term(name, weight, _matching(argument))
    if kind == "length" and argument.isdecimal() and int(argument):
        return Term(name, weight, _short(int(argument)))
    if kind == "run" and argument:
        score = scorer(argument)
        return Term(
            name,
            weight,
            lambda prompts, completions, **_: score([a + b for a, b in zip(prompts, completions, strict=True)]),
        )
    if argument and kind not in ("regex", "length", "run"):
        return Term(name, weight, imported(kind, argument))
    raise ValueError(
        f"objective.rewards has {text!r}; a reward is exact[:FIELD], number[:FIELD], regex:PATTERN, length:CHARACTERS, "
        "run:PATH, file.py:function or package.module:function"
    )


def imported(module: str, name: str) -> Function:
    """The function `name` of a module or a .py file; ValueError or OSError if there is none."""
    where = f"reward {module}:{name}"
    try:
        if module.endswith(".py"):
            if not Path(module).is_file():
                raise FileNotFoundError(f"{where}: there is no file {module} (in {Path.cwd()})")
            spec = importlib.util.spec_from_file_location(f"reward_{Path(module).stem}", module)
            assert spec is not None and spec.loader is not None, "it ends in .py"
            code = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(code)
        else:
            code = importlib.import_module(module)
    except OSError:
        raise
    except Exception as error:  # whatever the user's file does
        raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(code, name, None)
    if not callable(function):
        raise ValueError(f"{where}: {module} has no function {name}")
    return function  # type: ignore[return-value]


def exact(completion: str, answer: str) -> float:
    """1 if they are equal except for white space at both ends, else 0."""
    return float(completion.strip() == answer.strip())


def same_number(completion: str, answer: str) -> float:
    """1 if the last number of the completion is that of the answer, else 0: 12, 12.0 and "it is 12." are the same."""
    wanted, given = last_number(answer), last_number(completion)
    if wanted is None:
        raise RewardError(f"the answer {answer!r} has no number")
    return float(given is not None and given == wanted)


def last_number(text: str) -> Decimal | None:
    """The last number of a text, digits in words not included; None if it has none."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def _compared(same: Callable[[str, str], float], field: str) -> Function:
    def reward(prompts: list[str], completions: list[str], **fields: list[Any]) -> list[float]:
        if field not in fields:
            raise RewardError(f"the record has no field {field!r}")
        answers = [str(answer) for answer in fields[field]]
        return [same(completion, answer) for completion, answer in zip(completions, answers, strict=True)]

    return reward


def _matching(pattern: str) -> Function:
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"objective.rewards: the pattern {pattern!r} is not a regular expression: {error}") from None
    return lambda prompts, completions, **_: [float(bool(compiled.fullmatch(text.strip()))) for text in completions]


def _short(limit: int) -> Function:
    """1 up to `limit` characters, then falling to 0 at twice as many."""
    return lambda prompts, completions, **_: [min(1.0, max(0.0, 2 - len(text) / limit)) for text in completions]
