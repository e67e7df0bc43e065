"""Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes, Radford et al. 2019), trained on the user's text.

The `tokenizers` library learns the merges, because it is the faster trainer. `tiktoken` applies them, because it is the
faster encoder, by a factor of about five; the ids are the same. A pattern first splits the text into pieces, and merges
never cross pieces.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers, trainers

from minillm.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from minillm.tokenizers.blocks import map_blocks, valid_blocks

PATTERN = (
    r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
"""Qwen 3.5's pattern, which llama.cpp knows: GPT-4's with two changes. Combining marks belong to words, so that accents
and Indic vowels do not split them, and every digit is a piece."""
TWO_DIGITS = PATTERN.replace(r"\p{L}\p{N}]?", r"\p{L}\p{M}\p{N}]?").replace(r"|\p{N}|", r"|\p{N}{1,2}|")
"""The pattern of tokenizers that were trained before `PATTERN` became one that llama.cpp knows."""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
MIN_PAIR_COUNT = 2
MAX_TOKEN_BYTES = 64
"""Maximum length of a learned token; longer ones only come from ruled lines."""
LEARN_BLOCK = 512
"""Characters per block in training: the trainer rereads a whole piece for each merge, so long pieces must be cut."""


class BPETokenizer(Tokenizer):
    """Byte-pair encoding by ranks, trained or published."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        *,
        kind: str = "bpe",
        pattern: str = PATTERN,
        published_specials: Mapping[str, int] | None = None,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ):
        """`tokens[i]`: bytes of id i; merges with lower ids are applied first."""
        ranks = {token: i for i, token in enumerate(tokens)}
        if len(ranks) != len(tokens) or not all(bytes([value]) in ranks for value in range(256)):
            raise ValueError("a BPE vocabulary needs distinct tokens, all 256 single bytes included")
        self.pattern, self._tokens = pattern, list(tokens)
        self._encoding = tiktoken.Encoding(kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        super().__init__(kind, tokens, published_specials=published_specials, special_tokens=special_tokens)

    @classmethod
    def train(cls, documents: Iterable[str], vocab_size: int, *, max_bytes: int = 100_000_000) -> BPETokenizer:
        """Learn merges from `documents`, which are read once, up to `max_bytes` of UTF-8.

        `vocab_size` includes the special tokens. The result is smaller if the text has too few pairs that occur twice.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(
                f"tokenizer.vocab_size is {vocab_size}, bpe needs at least {MIN_VOCAB_SIZE}: "
                f"256 bytes and {len(SPECIAL_TOKENS)} special tokens"
            )
        return cls(token_table(learn_merges(first_bytes(documents, max_bytes), vocab_size - MIN_VOCAB_SIZE)))

    def encode(self, text: str) -> NDArray[np.uint32]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return map_blocks(lambda block: self._encoding.encode_to_numpy(block, disallowed_special=()), texts)

    def to_dict(self) -> dict[str, object]:
        table = [base64.b64encode(token).decode("ascii") for token in self._tokens]
        return {**super().to_dict(), "pattern": self.pattern, "tokens": table}


def learn_merges(blocks: Iterable[str], num_merges: int) -> tokenizers.Tokenizer:
    """A `tokenizers` BPE with at most `num_merges` merges, learned from `blocks` of text split by `PATTERN`."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + num_merges,
        min_frequency=MIN_PAIR_COUNT,
        max_token_length=MAX_TOKEN_BYTES + 1,  # exclusive
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(blocks, trainer)
    return learner


def token_table(learner: tokenizers.Tokenizer) -> list[bytes]:
    """Bytes of each id: the 256 bytes, then the result of each merge, in the order learned."""
    byte_of = byte_alphabet()
    merges = json.loads(learner.to_str())["model"]["merges"]
    made = [bytes(byte_of[character] for character in left + right) for left, right in merges]
    return list(dict.fromkeys([*(bytes([value]) for value in range(256)), *made]))


def byte_alphabet() -> dict[str, int]:
    """Character of GPT-2's printable alphabet -> byte (Radford et al. 2019, their encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}


def first_bytes(documents: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Blocks of the documents until they have `max_bytes` of UTF-8; the last one may exceed it."""
    taken = 0
    for document in documents:
        for block in valid_blocks(document, LEARN_BLOCK):
            yield block
            taken += len(block.encode("utf-8"))
            if taken >= max_bytes:
                return
