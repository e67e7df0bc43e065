"""The base class of all tokenizers: a table from ids to bytes, special tokens, and a hash of both.

An ordinary id stands for one or more bytes of UTF-8, a special token for none. Text never produces special tokens: the
characters "<|eos|>" in a document get ordinary ids. In our own tokenizers, the ordinary ids come first, then the
special tokens. Imported tokenizers keep their published ids, and `roles` maps our special tokens to theirs.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minillm.storage import write_text
from minillm.tokenizers.framing import Framing
from minillm.tokenizers.spans import spans_of_bytes

FILE_NAME = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""In run folders, and in folders of transformers."""
VERSION = 1
"""Of the file. Files without a version count as version 1."""
NUM_EXTRA_IDS = 100
SPECIAL_TOKENS = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|mask|>", "<|cls|>", "<|sep|>"),
    *(f"<|extra_id_{i}|>" for i in range(NUM_EXTRA_IDS)),
)
"""Beginning, end and padding, BERT's mask, classification and separator tokens (Devlin et al. 2019), and T5's sentinels
(Raffel et al. 2020). This list never changes: a tokenizer with other special tokens saves its own list, so that no
saved hash changes."""


class Tokenizer(ABC):
    """Converts text to ids and back.

    Attributes:
        kind: its name in `TokenizerConfig.kind`.
        vocab_size: the highest id + 1; the number of rows that a model's embedding needs.
        specials: name -> id of each special token.
        roles: name in `SPECIAL_TOKENS` -> id; an imported tokenizer may lack some.
        special_ids: ids without bytes: special tokens, and unused ids of a published vocabulary.
        extra_ids: T5's sentinels in order; may be empty.
        num_bytes: (vocab_size,) number of UTF-8 bytes of each id, 0 for `special_ids`.
        num_ordinary: number of ids that stand for bytes.
        prefix_ids: ids before a prompt; only imported tokenizers have them.
        more_eos_ids: ids besides EOS that end a generated text, such as the end of a turn; only imported tokenizers
            have them.
        chat_template: Jinja template of a conversation, see chat_template.py; None for a model that does not chat. It
            is not part of the hash, because it does not change the ids of a text.
        hash: SHA-256, in hex, of the canonical JSON of `to_dict()`; equal hashes mean equal ids for equal text.
    """

    prefix_ids: tuple[int, ...] = ()
    more_eos_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    first_blank: bool = False
    """Whether decoding drops the space of a text's first token, as SentencePiece does."""

    def __init__(
        self,
        kind: str,
        tokens: Sequence[bytes],
        *,
        published_specials: Mapping[str, int] | None = None,
        roles: Mapping[str, int] | None = None,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ):
        """`tokens[i]` are the bytes of id i, empty for a special token. `published_specials` keep their ids.

        Without `roles`, `special_tokens` are added at the end. With `roles`, as for imported weights, none are added.
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
                raise ValueError(f"the role {name!r} of token id {i} is unknown, or its id is not a special token")
        self.hash = hash_of(self.to_dict())

    @property
    def bos_id(self) -> int:
        """Begins a text; the fallback is CLS, then EOS."""
        return self._role("<|bos|>", "<|cls|>", "<|eos|>")

    @property
    def start_id(self) -> int:
        """The token before a document in training: EOS of the previous document, or BOS for imported tokenizers."""
        return self.bos_id if self.imported else self.eos_id

    @property
    def eos_id(self) -> int:
        """Ends a text; the fallback is SEP, as in BERT."""
        return self._role("<|eos|>", "<|sep|>")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a generated text, EOS first."""
        return (self.eos_id, *self.more_eos_ids)

    @property
    def pad_id(self) -> int:
        """Pads short rows. Padding is masked by length, so any id works; the fallback is EOS, then SEP, then 0."""
        return next((self.roles[name] for name in ("<|pad|>", "<|eos|>", "<|sep|>") if name in self.roles), 0)

    @property
    def mask_id(self) -> int:
        """Replaces a masked token; there is no fallback."""
        return self._role("<|mask|>")

    @property
    def cls_id(self) -> int:
        """Begins a BERT input; the fallback is BOS, then EOS."""
        return self._role("<|cls|>", "<|bos|>", "<|eos|>")

    @property
    def sep_id(self) -> int:
        """Ends a passage of a BERT input, or an input before its target; the fallback is PAD, then EOS."""
        return self._role("<|sep|>", "<|pad|>", "<|eos|>")

    def describe(self) -> str:
        """Kind and size."""
        return f"{self.kind} tokenizer of {self.vocab_size} ids"

    @property
    def name(self) -> str:
        """For messages, such as `bpe-4096-1f3a9c02`: kind, size and start of the hash."""
        return f"{self.kind}-{self.vocab_size}-{self.hash[:8]}"

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of `text`, none of them in `special_ids`, except the unknown token of an imported vocabulary.

        ValueError for a lone surrogate, or a character that the vocabulary lacks.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [self.encode(text) for text in texts]

    def framing(self, *, pair: bool) -> Framing:
        """Special tokens around a text, [CLS] A [SEP], or a pair, [CLS] A [SEP] B [SEP] (Devlin et al. 2019).

        An imported tokenizer has those of its post-processor.
        """
        before = tuple((self.roles[name], 0) for name in ("<|cls|>",) if name in self.roles)
        first, last = (tuple((self.roles[n], kind) for n in ("<|sep|>",) if n in self.roles) for kind in (0, pair))
        return Framing(before, first if pair else (), last, (0, 1)[: 1 + pair])

    def encode_with_spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids (N,) as in `encode`, and the [start, stop) characters (N, 2) of `text` that each stands for."""
        ids = self.encode(text)
        return ids, spans_of_bytes(text, self.num_bytes[ids])

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The bytes of `ids` (a sequence, array or CPU tensor of integers); special tokens are skipped."""
        return b"".join([self._bytes[i] for i in self._checked(ids)])

    def decode(self, ids: ArrayLike, *, keep_special: bool = False) -> str:
        """The text of `ids`; special tokens are skipped or shown by name, and invalid UTF-8 becomes U+FFFD."""
        names = {i: name.encode() for name, i in self.specials.items()} if keep_special else {}
        return b"".join([names.get(i, self._bytes[i]) for i in self._checked(ids)]).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, object]:
        """Everything that the ids depend on, as JSON values; `load.from_dict` is the inverse."""
        body: dict[str, object] = {"kind": self.kind, "specials": self.specials}
        if self.special_tokens != SPECIAL_TOKENS:
            body["special_tokens"] = list(self.special_tokens)
        return {**body, "roles": self.roles} if self.imported else body

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` and, if there is one, `chat_template.jinja` into `folder`; returns the former."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.chat_template is not None:
            write_text(path.with_name(CHAT_TEMPLATE_FILE), self.chat_template)
        write_text(path, json.dumps({"version": VERSION, "hash": self.hash, "tokenizer": self.to_dict()}))
        return path

    def _role(self, name: str, *stand_ins: str) -> int:
        """The id of the first of these roles that exists; ValueError if none does."""
        for role in (name, *stand_ins):
            if role in self.roles:
                return self.roles[role]
        raise ValueError(
            f"the imported tokenizer {self.name} has no {name} token, and none that can replace it; "
            "use a model whose tokenizer has one"
        )

    def _checked(self, ids: ArrayLike) -> list[int]:
        """`ids` as a list of int; ValueError for ids outside the vocabulary."""
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
    """`text` in UTF-8; ValueError for a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at index {error.start}, "
            "which is not a Unicode character; read the text as UTF-8 with errors='replace'"
        ) from None
