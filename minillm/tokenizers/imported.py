"""Published tokenizers in the form of a `tokenizer.json` of the `tokenizers` library.

GPT-2 and Llama 3 use byte-level BPE (Radford et al. 2019), BERT uses WordPiece (Wu et al. 2016), T5 Unigram (Kudo
2018). The library can run all of them. A byte-level BPE for which tiktoken provably gives the same ids (see
`merges.py`) runs in tiktoken, which is several times faster, except for texts that the proof does not cover.

WordPiece and Unigram normalize case, accents and spaces, so decoding does not always restore a text. A token's bytes
are those that it adds in the middle of a text, including the space before a word. The unknown token has no bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import ArrayLike, NDArray
from tokenizers import normalizers

from minillm.tokenizers.base import Tokenizer, utf8
from minillm.tokenizers.blocks import map_blocks
from minillm.tokenizers.bpe import byte_alphabet
from minillm.tokenizers.framing import PLAIN, Framing
from minillm.tokenizers.merges import ByteMerges, byte_merges

KINDS = ("BPE", "Unigram", "WordLevel", "WordPiece")
LAYOUT = {"truncation": None, "padding": None, "post_processor": None}
"""Parts that add special tokens or change the length; objectives and generation do that here."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTES = {character: bytes([value]) for character, value in byte_alphabet().items()}


class ImportedTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, without the parts that add special tokens."""

    def __init__(
        self,
        model: Mapping[str, Any],
        *,
        specials: Mapping[str, int],
        roles: Mapping[str, int],
        prefix: Sequence[int],
        more_eos_ids: Sequence[int] = (),
        unknown: str | None = None,
    ):
        """A tokenizer from `model`, the content of a `tokenizer.json`.

        `prefix` are ids before a prompt, such as Llama's <s>. `unknown` is the published unknown token if `model` does
        not name one; it has no effect here.
        """
        self.more_eos_ids, self.unknown = tuple(more_eos_ids), unknown
        self._stored, self.prefix_ids = dict(model), tuple(prefix)  # as hashed
        self._runner = runner(model)
        self.model = settled(self._runner, model)
        self.first_blank = not is_byte_level(self.model)
        table = token_bytes(self.model, self._runner.get_vocab(with_added_tokens=True), specials)
        super().__init__("imported", table, published_specials=specials, roles=roles)

    @cached_property
    def quick(self) -> QuickBPE | None:
        merges = byte_merges(self.model)
        return None if merges is None else QuickBPE(self.model, merges)

    def encode(self, text: str) -> NDArray[np.uint32]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        for text in texts:
            utf8(text)
        if self.quick is None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(self._encode_slowly, texts))
        ready = [self.quick.prepare(text) for text in texts]
        covered = [text for text in ready if text is not None]
        ids = iter(map_blocks(self.quick.encode, covered))
        return [self._encode_slowly(text) if own is None else next(ids) for text, own in zip(texts, ready, strict=True)]

    def encode_with_spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        utf8(text)
        encoding = self._runner.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.uint32), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def _encode_slowly(self, text: str) -> NDArray[np.uint32]:
        return np.array(self._runner.encode(text, add_special_tokens=False).ids, np.uint32)

    def decode(self, ids: ArrayLike, *, keep_special: bool = False) -> str:
        """The text of `ids` as the library decodes it, for example without a space before the first word."""
        if is_byte_level(self.model):
            return super().decode(ids, keep_special=keep_special)
        shown = [i for i in self._checked(ids) if keep_special or i not in self.special_ids]
        return self._runner.decode(shown, skip_special_tokens=False)

    def framing(self, *, pair: bool) -> Framing:
        if self.model.get("post_processor") is None:
            return PLAIN[pair]
        whole = {**self.model, "truncation": None, "padding": None}
        encoded = tokenizers.Tokenizer.from_str(json.dumps(whole)).encode("a", "b" if pair else None)
        special = tuple(zip(encoded.ids, encoded.type_ids, strict=True))
        places = [[i for i, of in enumerate(encoded.sequence_ids) if of == number] for number in range(1 + pair)]
        between = special[places[0][-1] + 1 : places[-1][0]] if pair else ()
        types = tuple(encoded.type_ids[place[0]] for place in places)
        return Framing(special[: places[0][0]], between, special[places[-1][-1] + 1 :], types)

    def to_dict(self) -> dict[str, object]:
        body = {**super().to_dict(), "prefix": list(self.prefix_ids), "model": self._stored}
        more = {"more_eos_ids": list(self.more_eos_ids), "unknown": self.unknown}
        return body | {key: value for key, value in more.items() if value}  # without them, hashes stay as they were


class QuickBPE:
    """tiktoken with a published vocabulary; a table maps ranks to published ids."""

    def __init__(self, model: Mapping[str, Any], merges: ByteMerges):
        ranks = {token: rank for rank, token in enumerate(merges.tokens)}
        self._encoding = tiktoken.Encoding("imported", pat_str=merges.pattern, mergeable_ranks=ranks, special_tokens={})
        self._ids = np.array(merges.ids, np.uint32)
        self._missing = merges.missing_bytes
        self._words = [token["content"] for token in model["added_tokens"] if not token["special"]]
        self._normalize = normalizers.NFC().normalize_str if model["normalizer"] else None

    def prepare(self, text: str) -> str | None:
        """The normalized text, or None if it contains an added token or a byte that the vocabulary lacks."""
        plain = text if self._normalize is None or text.isascii() else self._normalize(text)
        added = any(word in text or word in plain for word in self._words)
        lacking = self._missing and not self._missing.isdisjoint(plain.encode("utf-8"))
        return None if added or lacking else plain

    def encode(self, block: str) -> NDArray[np.uint32]:
        return self._ids[self._encoding.encode_to_numpy(block, disallowed_special=())]


def runner(model: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The library's tokenizer for the content of a `tokenizer.json`; ValueError if it is not supported."""
    kind = model["model"].get("type") if isinstance(model.get("model"), dict) else None
    if kind not in (None, *KINDS):
        raise ValueError(f"its model has type {kind!r}; supported are {', '.join(KINDS)}")
    try:
        made = tokenizers.Tokenizer.from_str(json.dumps({**model, **LAYOUT}))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"the tokenizers library cannot read it: {error}") from None
    if (kind := type(made.model).__name__) not in KINDS:  # files of early versions leave it for the library to infer
        raise ValueError(f"its model has type {kind!r}; supported are {', '.join(KINDS)}")
    made.encode_special_tokens = True  # a special token's name in a text is text
    return made


def settled(made: tokenizers.Tokenizer, model: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `model`, with every default that the library applied in `made`, its `runner`, filled in."""
    return json.loads(made.to_str()) | {part: model.get(part) for part in LAYOUT}


def is_byte_level(model: Mapping[str, Any]) -> bool:
    """Whether each token decodes to the same bytes in any context."""
    return (model["decoder"] or {}).get("type") == "ByteLevel"


def token_bytes(model: Mapping[str, Any], vocabulary: Mapping[str, int], specials: Mapping[str, int]) -> list[bytes]:
    """The bytes that each id adds to a decoded text; empty for special tokens and unused ids."""
    added = {token["content"] for token in model["added_tokens"]}
    # without a decoder, tokens are joined with spaces
    decoder: dict[str, Any] = model["decoder"] or {"type": "WordPiece", "prefix": ""}
    steps = decoder.get("decoders", [decoder])
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, i in vocabulary.items():
        table[i] = token.encode("utf-8") if token in added else _spell(token, steps)
    for i in specials.values():
        table[i] = b""
    return table


def _spell(token: str, steps: Sequence[Mapping[str, Any]]) -> bytes:
    """The library decoder's output for a token that is not the first of a text."""
    for step in steps:
        match step["type"]:
            case "ByteLevel":
                return b"".join([_BYTES.get(character, character.encode("utf-8")) for character in token])
            case "WordPiece":
                prefix = step["prefix"]
                token = token.removeprefix(prefix) if prefix and token.startswith(prefix) else f" {token}"
            case "BPEDecoder":
                token = token.replace(step["suffix"], " ")
            case "Metaspace":
                token = token.replace(step["replacement"], " ")
            case "Replace":
                token = token.replace(step["pattern"]["String"], step["content"])
            case "ByteFallback" if match := _BYTE.fullmatch(token):
                return bytes([int(match[1], 16)])
    return token.encode("utf-8")
