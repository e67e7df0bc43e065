"""How text is generated, as data. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is chosen and when generation ends."""

    prompt: str = "\n"
    """Text to continue."""
    max_new_tokens: int = 200
    """Tokens to generate at most."""
    temperature: float = 0.8
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep exactly the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together reach this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Above 1: tokens already in the text become less likely (Keskar et al. 2019)."""
    num_samples: int = 1
    """Completions of each prompt."""
    stop: tuple[str, ...] = ()
    """Strings at which a completion ends; they are not part of it."""
    num_draft_tokens: int = 1
    """Tokens guessed from the text so far and read along with the last one; the text stays the same. 0: none."""
    seed: int = 1337
    """Seed of the choices; a completion depends on it, its prompt and its sample number alone."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges = {
            "max_new_tokens": (self.max_new_tokens >= 0, "at least 0"),
            "temperature": (0 <= self.temperature < math.inf, "a number of at least 0 (0 is greedy)"),
            "top_k": (self.top_k >= 0, "at least 0 (0 keeps all tokens)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (1 keeps all tokens)"),
            "min_p": (0 <= self.min_p <= 1, "from 0 (keeps all tokens) to 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "a number above 0 (1 is no penalty)"),
            "num_samples": (self.num_samples >= 1, "at least 1"),
            "stop": (not isinstance(self.stop, str) and all(self.stop), "a list of strings, none of them empty"),
            "num_draft_tokens": (self.num_draft_tokens >= 0, "at least 0 (0 reads no guesses)"),
            "seed": (self.seed >= 0, "at least 0"),
        }
        _require("sample", self, ranges)


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """How beam search looks for likely continuations."""

    num_beams: int = 4
    """Hypotheses that are kept of each prompt at every step; 1 is greedy."""
    num_best: int = 1
    """Completions of each prompt that are returned, the best first; at most `num_beams`."""
    length_penalty: float = 0.6
    """Power of (5 + length) / 6 that divides a log-probability (Wu et al. 2016); 0: none, above: longer ones gain."""
    max_new_tokens: int = 200
    """Tokens to generate at most, EOS counted."""
    stop: tuple[str, ...] = ()
    """A text that was found ends before the first of these; the search itself does not know them."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges = {
            "num_beams": (self.num_beams >= 1, "at least 1"),
            "num_best": (1 <= self.num_best <= self.num_beams, f"from 1 to num_beams, {self.num_beams}"),
            "length_penalty": (0 <= self.length_penalty <= 10, "a number from 0, no penalty, to 10"),
            "max_new_tokens": (self.max_new_tokens >= 0, "at least 0"),
        }
        _require("beam", self, ranges)


def _require(section: str, config: object, ranges: dict[str, tuple[bool, str]]) -> None:
    """ValueError for the first key whose value is not valid."""
    for key, (valid, allowed) in ranges.items():
        if not valid:
            raise ValueError(f"{section}.{key} is {getattr(config, key)!r}; it must be {allowed}")
