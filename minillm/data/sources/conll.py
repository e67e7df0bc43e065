"""Words with tags from CoNLL files: a word a line, its tag in the last column, a blank line after each sentence.

Files of the shared tasks differ in the number of columns, in the scheme of their tags, and in lines that separate
documents (Tjong Kim Sang and De Meulder 2003). `to_bio` converts the scheme of 2003, in which most entities begin with
I-, and `check_tags` finds tags that cannot follow each other.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from minillm.data.sources.files import read_plain

Scheme = Literal["auto", "bio", "bioes", "iob1", "none"]
DOCUMENT = "-DOCSTART-"
_LAST, _FIRST = ("E", "S"), ("B", "S")


class Sentence(NamedTuple):
    """The words of a sentence and their tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str
    """Names the sentence in an error message."""
    group: str
    """Its document; "" if the file does not say."""


class Entity(NamedTuple):
    """An entity of the words [start, stop)."""

    start: int
    stop: int
    label: str


def read_conll(path: Path, column: int | None) -> Iterator[Sentence]:
    """The sentences of a file; `column` is that of the tags, counted from 1, or None for the last.

    Columns are separated by tabs or, in lines without a tab, by spaces. ValueError for a line with too few columns.
    """
    text = "".join(piece.text for piece in read_plain(path))
    words, tags, start, document = [], [], 0, 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith(DOCUMENT):
            if words:
                group = f"{path} document {document}" if document else ""
                yield Sentence(tuple(words), tuple(tags), f"{path} line {start}", group)
            words, tags = [], []
            document += line.startswith(DOCUMENT)
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        if line.startswith("# ") and " = " in line:  # metadata, as in CoNLL-U
            continue
        if len(cells) < (column or 2):
            need = f"a tag in column {column}" if column else "a word and, in the last column, its tag"
            raise ValueError(f"{path} line {number} has {len(cells)} column(s), but each line needs {need}: correct it")
        start = start if words else number
        words.append(cells[0].strip())
        tags.append(cells[column - 1 if column else -1].strip())


def scheme_of(tags: Sequence[str]) -> Scheme:
    """The scheme that all tags of a data set fit: bioes or bio if they are O or have prefixes, else none."""
    prefixes = {tag.partition("-")[0] for tag in tags}
    if not all(tag == "O" or "-" in tag for tag in tags) or not prefixes <= {"O", *"BIES"} or prefixes == {"O"}:
        return "none"
    return "bioes" if prefixes & {"E", "S"} else "bio"


def check_tags(sentence: Sentence, scheme: Scheme) -> None:
    """ValueError, naming the word, for a tag that the scheme does not allow after the one before it."""
    if scheme not in ("bio", "bioes"):
        return
    before = "O"
    for number, tag in enumerate([*sentence.tags, "O"]):
        prefix, _, label = tag.partition("-")
        opened = before[0] in ("B", "I")
        inside = opened and before[2:] == label
        wrong = prefix not in {"O", *("BI" if scheme == "bio" else "BIES")} or (prefix != "O") != bool(label)
        if (
            wrong
            or (prefix in ("I", "E") and not inside)
            or (scheme == "bioes" and opened and prefix not in ("I", "E"))
        ):
            word = sentence.words[number] if number < len(sentence.words) else "the end of the sentence"
            raise ValueError(
                f"{sentence.where}: the tag {tag!r} of {word!r} cannot follow {before!r} in {scheme.upper()}; correct "
                "it, or set data.tag_scheme: iob1, or none for tags that do not mark entities"
            )
        before = tag


def to_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """IOB1 tags, in which B- only separates entities of one type, as BIO."""
    found = ["O"] * len(tags)
    for start, stop, label in entities(tags):
        found[start:stop] = [f"B-{label}", *[f"I-{label}"] * (stop - start - 1)]
    return tuple(found)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of any tags as conlleval counts them, also of sequences that the scheme does not allow."""
    found: list[Entity] = []
    start, before, label = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        begins = prefix != "O" and (prefix in _FIRST or before in ("O", *_LAST) or own != label)
        if before != "O" and (begins or prefix == "O"):
            found.append(Entity(start, i, label))
        if begins:
            start = i
        before, label = prefix, own
    return found


def count_entities(wanted: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, 3) for each sentence the number of entities that are correct, found and wanted."""
    pairs = [(set(entities(a)), set(entities(b))) for a, b in zip(wanted, found, strict=True)]
    return np.array([(len(a & b), len(b), len(a)) for a, b in pairs]).reshape(-1, 3)
