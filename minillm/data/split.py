"""Which part of a text is for training and which for validation; the two never overlap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from minillm.data.files import CHUNK_BYTES
from minillm.data.text import Section, Text

DOCUMENTS_FROM = 20
"""Number of documents from which `auto` splits by document."""


def split_text(text: Text, how: Literal["auto", "tail", "document"], fraction: float) -> tuple[Section, Section]:
    """The training and the validation section of a text.

    Args:
        text: what is split.
        how: "tail" gives validation the end of the text, cut at a character, "document" whole documents; "auto" is
            "document" from 20 documents on.
        fraction: share of the characters that validation gets, at most (0..1, both excluded).

    Raises:
        ValueError: the fraction is out of range, or one of the two would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"data.validation_fraction must be between 0 and 1, both excluded, not {fraction}")
    if how == "auto":
        how = "document" if len(text.documents) >= DOCUMENTS_FROM else "tail"
    return split_tail(text, fraction) if how == "tail" else split_documents(text, fraction)


def split_tail(text: Text, fraction: float) -> tuple[Section, Section]:
    """The first characters of all documents one after another, and the rest; the document at the cut is cut in two."""
    ends = text.documents["chars"].cumsum()
    train_chars = int(ends[-1] * (1 - fraction))
    if train_chars < 1:
        raise ValueError(f"the text has only {ends[-1]} characters, too few to split: give more text")
    spans = text.spans
    cut = int(np.searchsorted(ends, train_chars))  # the document that holds the last training character
    inside = train_chars - int(ends[cut] - text.documents["chars"][cut])
    byte = _byte_of_character(text, int(spans[cut, 0]), inside)
    train = np.concatenate((spans[:cut], [[spans[cut, 0], byte]]))
    validation = np.concatenate(([[byte, spans[cut, 1]]], spans[cut + 1 :]))
    return Section(text, train), Section(text, validation[validation[:, 0] < validation[:, 1]])


def split_documents(text: Text, fraction: float) -> tuple[Section, Section]:
    """Whole documents, chosen in the order of their hashes while they fit in validation's share.

    Documents of equal content have equal hashes and stay together, so that none is on both sides.
    """
    hashes, group = np.unique(text.documents["hash"], return_inverse=True)
    if len(hashes) < 2:
        raise ValueError("data.split document needs two different documents: take data.split tail or data.validation")
    sizes = np.bincount(group, weights=text.documents["chars"]).astype(np.int64)
    limit, taken = int(sizes.sum() * fraction), 0
    chosen = np.zeros(len(hashes), bool)
    for i, size in enumerate(sizes.tolist()):
        if taken + size <= limit:
            chosen[i], taken = True, taken + size
    if not chosen.any():
        chosen[sizes.argmin()] = True
    in_validation = chosen[group]
    return Section(text, text.spans[~in_validation]), Section(text, text.spans[in_validation])


def _byte_of_character(text: Text, start: int, count: int) -> int:
    """The byte after `count` characters from byte `start`: UTF-8 characters start with a byte that is not 10xxxxxx."""
    with text.path.open("rb") as file:
        file.seek(start)
        while True:
            data = np.frombuffer(file.read(CHUNK_BYTES), np.uint8)
            starts = np.flatnonzero((data & 0xC0) != 0x80)
            if count < len(starts) or len(data) == 0:
                return start + (int(starts[count]) if len(data) else 0)
            start, count = start + len(data), count - len(starts)
