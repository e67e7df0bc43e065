"""What generation starts from: a decoder continues the prompt itself, an encoder-decoder reads it and begins a target.

A text may name T5's sentinels, `<|extra_id_0|>` and so on, to an encoder-decoder. Then its answer may name them too:
that is how a model of span corruption is asked what stands in a gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.generation.conditioned import Conditioned
from minillm.generation.generate import Decodable

SENTINEL = re.compile(r"<\|extra_id_(\d{1,2})\|>")


class Tokenizer(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def first_blank(self) -> bool: ...

    @property
    def prefix_ids(self) -> tuple[int, ...]: ...

    @property
    def extra_ids(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> np.ndarray:
        """(vocab_size,) bytes that each id stands for; 0 for special ids."""
        ...

    def encode(self, text: str) -> np.ndarray: ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


class Beginning(NamedTuple):
    """A model that has read what it was given, and the ids that it goes on with."""

    model: Decodable
    prompts: list[list[int]]
    allowed: Tensor
    """(V,) bool, False for ids that are never generated."""
    spell: Callable[[int], bytes]
    """The bytes that an id adds to the text."""
    lead: bytes = b""
    """What a text may begin with that is no part of it: the blank of an answer's first token."""


Prompt = str | Sequence[int]
"""A text, or the very ids that a model reads, which not every tokenizer makes of a text again."""


def begin(model: Any, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> Beginning:
    """Encode the prompts; an encoder-decoder, known by its `encode`, reads them here and starts with the pad token.

    Raises:
        ValueError: a prompt that the tokenizer cannot encode, or one longer than the encoder can read.
    """
    allowed = allowed_ids(tokenizer, model.config.vocab_size or tokenizer.vocab_size)
    if not hasattr(model, "encode"):
        ids = [[*tokenizer.prefix_ids, *tokenizer.encode(p).tolist()] if isinstance(p, str) else [*p] for p in prompts]
        return Beginning(model, ids, allowed, lambda token: tokenizer.decode_bytes([token]))
    names: dict[int, bytes] = {}
    if any(isinstance(prompt, str) and SENTINEL.search(prompt) for prompt in prompts):
        names = {token: f"<|extra_id_{i}|>".encode() for i, token in enumerate(tokenizer.extra_ids)}
        allowed[list(names)] = True
    sources = [source_ids(tokenizer, prompt) for prompt in prompts]
    longest, room = max(map(len, sources), default=0), model.config.max_seq_len
    if longest > room:
        raise ValueError(f"a prompt has {longest} tokens, EOS counted, and this model reads {room}; shorten it")
    conditioned = Conditioned(model, sources)
    starts = [[tokenizer.pad_id] for _ in prompts]
    lead = b" " if tokenizer.first_blank else b""
    return Beginning(
        conditioned, starts, allowed, lambda token: names.get(token) or tokenizer.decode_bytes([token]), lead
    )


def source_ids(tokenizer: Tokenizer, text: Prompt) -> list[int]:
    """What an encoder reads: the text's ids with those of its sentinels, and EOS; ids are left as they are."""
    if not isinstance(text, str):
        return [*text]
    ids: list[int] = []
    for number in SENTINEL.findall(text):
        if int(number) >= len(tokenizer.extra_ids):
            raise ValueError(
                f"the prompt has <|extra_id_{number}|>, but this tokenizer has {len(tokenizer.extra_ids)} such tokens"
            )
    for i, part in enumerate(SENTINEL.split(text)):
        ids += [tokenizer.extra_ids[int(part)]] if i % 2 else tokenizer.encode(part).tolist()
    return [*ids, tokenizer.eos_id]


def allowed_ids(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """(vocab_size,) bool: ids that spell text, and EOS. Other special ids and padding of the table are not allowed."""
    if vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}: they do not belong together; "
            "use the tokenizer of the model's run"
        )
    allowed = torch.zeros(vocab_size, dtype=torch.bool)
    allowed[: tokenizer.vocab_size] = torch.from_numpy(np.asarray(tokenizer.num_bytes) > 0)
    allowed[tokenizer.eos_id] = True
    return allowed
