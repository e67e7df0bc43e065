"""What every tokenizer is: a table from ids to bytes, special tokens behind it, and a hash that names both.

The ordinary ids come first, each standing for one or more bytes of UTF-8. The special tokens follow. They stand for no
bytes and no text produces them: a document that quotes "<|eos|>" becomes the seven characters' ordinary ids.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

FILE_NAME = "tokenizer.json"
NUM_EXTRA_IDS = 100
SPECIAL_TOKENS = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>", "<|cls|>", "<|sep|>"),
    *(f"<|extra_id_{i}|>" for i in range(NUM_EXTRA_IDS)),
)
"""BERT's mask, classification and separator tokens (Devlin et al. 2019), T5's sentinels (Raffel et al. 2020), and an
end, a beginning and a padding token that never share an id."""


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        kind: the name under which `TokenizerConfig.kind` asks for it.
        vocab_size: number of ids, special tokens included; a model's embedding needs as many rows.
        specials: id of each special token by its name.
        special_ids: every id that no text produces: special tokens, and holes in a published table.
        num_bytes: (vocab_size,) bytes of UTF-8 that each id stands for, 0 for the ids in `special_ids`.
        hash: SHA-256, in hex, of the canonical JSON of `to_dict()`; equal hashes mean equal ids for equal text.
    """

    def __init__(self, kind: str, tokens: Sequence[bytes], *, published_specials: Mapping[str, int] | None = None):
        """`tokens[i]` are the bytes of id i. `published_specials` keep their ids; the package's own follow."""
        self.kind = kind
        self.num_ordinary = len(tokens)
        self.published_specials = dict(published_specials or {})
        first = max((len(tokens) - 1, *self.published_specials.values())) + 1
        own = {name: first + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.specials = {**self.published_specials, **own}
        self.vocab_size = first + len(SPECIAL_TOKENS)
        self.special_ids = frozenset(range(self.num_ordinary, self.vocab_size))
        self.bos_id, self.eos_id, self.pad_id, self.mask_id, self.cls_id, self.sep_id = range(first, first + 6)
        self.extra_ids = tuple(range(first + 6, self.vocab_size))
        self._bytes = [*tokens, *[b""] * (self.vocab_size - self.num_ordinary)]
        self.num_bytes: NDArray[np.int32] = np.fromiter(map(len, self._bytes), np.int32, self.vocab_size)
        self.hash = hash_of(self.to_dict())

    @property
    def name(self) -> str:
        """Kind, size and the start of the hash, for messages: `bpe-4096-1f3a9c02`."""
        return f"{self.kind}-{self.vocab_size}-{self.hash[:8]}"

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, never one of `special_ids`.

        Raises:
            ValueError: text that is not valid Unicode (a lone surrogate), or a character the vocabulary lacks.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The exact bytes of `ids` (any sequence, array or CPU tensor of integers); special tokens are skipped."""
        table = self._bytes
        return b"".join([table[i] for i in self._checked(ids)])

    def decode(self, ids: ArrayLike, *, keep_special: bool = False) -> str:
        """The text of `ids`; bytes that are not valid UTF-8 become U+FFFD.

        Args:
            ids: any sequence, array or CPU tensor of integers in [0, vocab_size).
            keep_special: write special tokens by name instead of skipping them.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        if not keep_special:
            return self.decode_bytes(ids).decode("utf-8", "replace")
        names = {i: name.encode() for name, i in self.specials.items()}
        return b"".join([names.get(i, self._bytes[i]) for i in self._checked(ids)]).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, object]:
        """Everything that decides the ids, as plain JSON values; `load.from_dict` is its inverse."""
        return {"kind": self.kind, "specials": self.specials}

    def save(self, folder: Path) -> Path:
        """Writes `tokenizer.json` into `folder`, in one step, and returns its path. The file needs no other."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".json.part")
        unfinished.write_text(json.dumps({"hash": self.hash, "tokenizer": self.to_dict()}), encoding="utf-8")
        os.replace(unfinished, path)
        return path

    def require(self, found_hash: str, *, where: str) -> None:
        """Raises ValueError, naming `where`, unless `found_hash` is this tokenizer's."""
        if found_hash != self.hash:
            raise ValueError(
                f"{where} was made with another tokenizer (hash {found_hash[:8]}) than {self.name}; prepare it again"
            )

    def _checked(self, ids: ArrayLike) -> list[int]:
        """`ids` as a list of int, or ValueError naming the first that is no id of this vocabulary."""
        array = np.asarray(ids).reshape(-1)
        if array.size == 0:
            return []
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"token ids must be integers, got {array.dtype}")
        outside = (array < 0) | (array >= self.vocab_size)
        if outside.any():
            at = int(outside.argmax())
            raise ValueError(f"token id {array[at]} at index {at} is outside {self.name} (0 to {self.vocab_size - 1})")
        return array.tolist()


def hash_of(body: Mapping[str, object]) -> str:
    """SHA-256, in hex, of the canonical JSON of `body`: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def utf8(text: str) -> bytes:
    """`text` in UTF-8, or ValueError naming the lone surrogate that has no such form."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds the lone surrogate U+{ord(text[error.start]):04X} at index {error.start}, "
            "which is no Unicode character; read the text as UTF-8 with errors='replace'"
        ) from None
