"""What every tokenizer is: a table from ids to bytes, special tokens behind it, and a hash that names both.

An ordinary id stands for one or more bytes of UTF-8, a special token for none, and no text produces it: a document that
quotes "<|eos|>" becomes the seven characters' ordinary ids. In a tokenizer of this package the ordinary ids come first
and its own special tokens follow. An imported one keeps the ids it was published with, wherever its special tokens are,
and `roles` say which of them serve as which of ours.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minillm.storage import write_text

FILE_NAME = "tokenizer.json"
VERSION = 1
"""Of the file; files from before there was a version have none, and count as version 1."""
NUM_EXTRA_IDS = 100
SPECIAL_TOKENS = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>", "<|cls|>", "<|sep|>"),
    *(f"<|extra_id_{i}|>" for i in range(NUM_EXTRA_IDS)),
)
"""BERT's mask, classification and separator tokens (Devlin et al. 2019), T5's sentinels (Raffel et al. 2020), and an
end, a beginning and a padding token that never share an id. This list never changes: a tokenizer with others brings its
own, and saves it, so that the hash of no saved tokenizer changes."""


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        kind: the name under which `TokenizerConfig.kind` asks for it.
        vocab_size: the highest id and one; a model's embedding needs as many rows.
        specials: id of each special token by its name.
        roles: id of each of `SPECIAL_TOKENS` that there is; an imported tokenizer may lack some.
        special_ids: every id that stands for no bytes: special tokens, and holes in a published table.
        extra_ids: T5's sentinels, in their order; none where there are none.
        num_bytes: (vocab_size,) bytes of UTF-8 that each id stands for, 0 for the ids in `special_ids`.
        num_ordinary: number of ids that stand for bytes.
        prefix_ids: what a text to be continued begins with; only imported tokenizers have it.
        hash: SHA-256, in hex, of the canonical JSON of `to_dict()`; equal hashes mean equal ids for equal text.
    """

    prefix_ids: tuple[int, ...] = ()
    first_blank: bool = False
    """Whether the blank of a text's first token belongs to the token alone, as in SentencePiece's vocabularies."""

    def __init__(
        self,
        kind: str,
        tokens: Sequence[bytes],
        *,
        published_specials: Mapping[str, int] | None = None,
        roles: Mapping[str, int] | None = None,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ):
        """`tokens[i]` are the bytes of id i, none where it is special. `published_specials` keep their ids.

        Without `roles`, `special_tokens` follow. With them, as imported weights need it, nothing is added, and each
        name of `SPECIAL_TOKENS` that they hold stands for the id given.
        """
        self.special_tokens = tuple(special_tokens)
        self.kind = kind
        self.published_specials = dict(published_specials or {})
        self.vocab_size = max((len(tokens) - 1, *self.published_specials.values())) + 1
        self.imported = roles is not None
        self.specials = dict(self.published_specials)
        if roles is None:
            roles = {name: self.vocab_size + i for i, name in enumerate(self.special_tokens)}
            self.specials |= roles
            self.vocab_size += len(roles)
        self.roles = dict(roles)
        self.extra_ids = tuple(self.roles[name] for name in SPECIAL_TOKENS[-NUM_EXTRA_IDS:] if name in self.roles)
        self._bytes = [*tokens, *[b""] * (self.vocab_size - len(tokens))]
        self.num_bytes: NDArray[np.int32] = np.fromiter(map(len, self._bytes), np.int32, self.vocab_size)
        self.special_ids = frozenset(np.flatnonzero(self.num_bytes == 0).tolist())
        self.num_ordinary = self.vocab_size - len(self.special_ids)
        for name, i in self.roles.items():
            if name not in {*SPECIAL_TOKENS, *self.special_tokens} or i not in self.special_ids:
                raise ValueError(f"the role {name!r} of token id {i} is unknown, or its id is no special token's")
        self.hash = hash_of(self.to_dict())

    @property
    def bos_id(self) -> int:
        """Begins a text; where an imported tokenizer has no such token, what begins a BERT input, or EOS."""
        return self._role("<|bos|>", "<|cls|>", "<|eos|>")

    @property
    def start_id(self) -> int:
        """What the first token of a document follows in training: here the EOS of the one before, elsewhere its BOS."""
        return self.bos_id if self.imported else self.eos_id

    @property
    def eos_id(self) -> int:
        """Ends a text; in a tokenizer of BERT's kind its separator does."""
        return self._role("<|eos|>", "<|sep|>")

    @property
    def pad_id(self) -> int:
        """Fills up short rows; any id serves, since padding is masked by length, so that EOS or 0 can stand in."""
        return next((self.roles[name] for name in ("<|pad|>", "<|eos|>", "<|sep|>") if name in self.roles), 0)

    @property
    def mask_id(self) -> int:
        """Stands for a masked token; nothing can stand in for it."""
        return self._role("<|mask|>")

    @property
    def cls_id(self) -> int:
        """Begins a BERT input; a beginning or an end of text can stand in."""
        return self._role("<|cls|>", "<|bos|>", "<|eos|>")

    @property
    def sep_id(self) -> int:
        """Ends a passage of a BERT input, or an input before its target; padding or EOS can stand in."""
        return self._role("<|sep|>", "<|pad|>", "<|eos|>")

    @property
    def name(self) -> str:
        """Kind, size and the start of the hash, for messages: `bpe-4096-1f3a9c02`."""
        return f"{self.kind}-{self.vocab_size}-{self.hash[:8]}"

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, never one of `special_ids`, but for the unknown token of an imported vocabulary with holes.

        ValueError for a lone surrogate, or a character that the vocabulary lacks.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The exact bytes of `ids` (a sequence, array or CPU tensor of integers); special tokens are skipped."""
        return b"".join([self._bytes[i] for i in self._checked(ids)])

    def decode(self, ids: ArrayLike, *, keep_special: bool = False) -> str:
        """The text of `ids`, special tokens skipped or by name; bytes that are not valid UTF-8 become U+FFFD."""
        names = {i: name.encode() for name, i in self.specials.items()} if keep_special else {}
        return b"".join([names.get(i, self._bytes[i]) for i in self._checked(ids)]).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, object]:
        """Everything that decides the ids, as plain JSON values; `load.from_dict` is its inverse."""
        body: dict[str, object] = {"kind": self.kind, "specials": self.specials}
        if self.special_tokens != SPECIAL_TOKENS:
            body["special_tokens"] = list(self.special_tokens)
        return {**body, "roles": self.roles} if self.imported else body

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` into `folder`, in one step, and return its path. The file needs no other."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": VERSION, "hash": self.hash, "tokenizer": self.to_dict()}))
        return path

    def _role(self, name: str, *stand_ins: str) -> int:
        """The id of the first of these that there is, or ValueError that names the tokenizer and what it lacks."""
        for role in (name, *stand_ins):
            if role in self.roles:
                return self.roles[role]
        raise ValueError(
            f"the tokenizer {self.name} has no {name} token, nor one that could stand in for it; "
            "it was imported without one, so take a model whose tokenizer has it"
        )

    def _checked(self, ids: ArrayLike) -> list[int]:
        """`ids` as a list of int, or ValueError naming the first that is no id of this vocabulary."""
        array = np.asarray(ids).reshape(-1)
        if array.size and not np.issubdtype(array.dtype, np.integer):
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
