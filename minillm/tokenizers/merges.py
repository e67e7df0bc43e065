"""Decides whether tiktoken gives the same ids as a published byte-level BPE; patterns of published pre-tokenizers.

A published BPE applies a list of merges. tiktoken merges any two neighbors whose concatenation is a token, lowest rank
first. Let a token's rank be the position of its merge. If, for every token alone, tiktoken's last merge is the listed
pair, then the ids are equal for any text. Proof: when all ranks below r are done and no merge has crossed a token's
boundaries, the parts inside are the same as for the token alone. So the pair of rank r that tiktoken finds is the
listed one.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from minillm.tokenizers.bpe import PATTERN, TWO_DIGITS, byte_alphabet

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SINGLE_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""SmolLM's: every digit is a piece, the rest is split as by GPT-2; spaces before a digit stay together."""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
"""Qwen 3.5's, with marks as a part of words; for text without U+017F it equals `PATTERN`."""
SPLITS = (PATTERN, TWO_DIGITS, LLAMA3, QWEN2, QWEN35)
"""Patterns for which tests show that both regular expression engines give the same pieces."""

_BYTE_OF = byte_alphabet()


class ByteMerges(NamedTuple):
    """A byte-level BPE for tiktoken."""

    pattern: str
    tokens: list[bytes]
    """The 256 bytes and the result of each merge, by rank."""
    ids: list[int]
    """The published id of each; 0 for a missing byte."""
    missing_bytes: frozenset[int]
    """Single bytes that the vocabulary lacks; texts with one of them need the slow path."""


def byte_merges(model: Mapping[str, Any]) -> ByteMerges | None:
    """The content of a `tokenizer.json` for tiktoken; None if the ids may differ."""
    bpe, pattern = model["model"], cut_pattern(model["pre_tokenizer"])
    plain = not any(bpe.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    composed = model["normalizer"] is None or model["normalizer"] == {"type": "NFC"}
    if bpe["type"] != "BPE" or pattern is None or not plain or not composed or bpe.get("byte_fallback"):
        return None
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in bpe["merges"]]
    names = [left + right for left, right in merges]
    vocabulary = bpe["vocab"]
    added = {token["content"] for token in model["added_tokens"]}
    made = {name for name in vocabulary if name not in added and len(name) > 1}
    if made != set(names) or len(made) != len(names) or not _is_proved(merges):
        return None
    singles = [name for name, _ in sorted(_BYTE_OF.items(), key=lambda item: item[1])]
    return ByteMerges(
        pattern,
        [bytes(_BYTE_OF[character] for character in name) for name in (*singles, *names)],
        [vocabulary.get(name, 0) for name in (*singles, *names)],
        frozenset(value for name, value in _BYTE_OF.items() if name not in vocabulary),
    )


def last_merge(token: str, ranks: Mapping[str, int]) -> tuple[str, str] | None:
    """The last pair merged to form `token`; None if the merges below its rank leave more than two parts."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(left + right, math.inf) for left, right in pairwise(parts)]
        best = min(found)
        if best >= ranks[token]:
            return None
        at = found.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _is_proved(merges: Sequence[tuple[str, ...]]) -> bool:
    """Whether every token's last merge is the listed pair."""
    if any(character not in _BYTE_OF for pair in merges for part in pair for character in part):
        return False
    ranks = {left + right: rank for rank, (left, right) in enumerate(merges)}
    return all(last_merge(left + right, ranks) == (left, right) for left, right in merges)


def cut_pattern(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """The pattern equivalent to a published pre-tokenizer; None if it is not supported."""
    if pre_tokenizer is None:
        return None
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    last = steps[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    match [step["type"] for step in steps[:-1]]:
        case [] if last["use_regex"]:
            return GPT2
        case ["Digits"] if last["use_regex"] and steps[0]["individual_digits"]:
            return SINGLE_DIGITS
        case ["Split"] if not last["use_regex"]:
            step = steps[0]
            pattern = step["pattern"].get("Regex")
            if step["behavior"] == "Isolated" and not step["invert"] and pattern in SPLITS:
                return pattern
    return None
