"""CoNLL files, and entities as conlleval counts them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data.sources.conll import (
    Entity,
    Sentence,
    check_tags,
    count_entities,
    entities,
    read_conll,
    scheme_of,
    to_bio,
)

FILE = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n \nGerman JJ B-NP B-MISC\r\n\n"
    "-DOCSTART- -X- O O\n# id = 7\n# NN B-NP O"
)


def test_columns_documents_comments_and_blank_lines(tmp_path: Path):
    path = tmp_path / "train.conll"
    path.write_text(FILE, encoding="utf-8", newline="")
    first, second, third = read_conll(path, None)
    assert first == Sentence(("EU", "rejects"), ("B-ORG", "O"), f"{path} line 3", f"{path} document 1")
    assert second.words == ("German",) and second.tags == ("B-MISC",) and second.where == f"{path} line 7"
    assert third.words == ("#",) and third.group == f"{path} document 2", "a word may be a number sign"
    assert next(read_conll(path, 2)).tags == ("NNP", "VBZ")


def test_tabs_separate_words_with_spaces_and_a_short_line_raises(tmp_path: Path):
    path = tmp_path / "train.txt"
    path.write_text("New York\tLOC\nis\tO\n", encoding="utf-8")
    assert next(read_conll(path, None)).words == ("New York", "is")
    path.write_text("a O\nword\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"train\.txt line 2 has 1 column\(s\), but each line needs a word and, in the"
    ):
        list(read_conll(path, None))
    with pytest.raises(ValueError, match=r"line 1 has 2 column\(s\), but each line needs a tag in column 4"):
        list(read_conll(path, 4))


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("O B-PER I-PER", "bio"),
        ("O B-PER E-PER S-LOC", "bioes"),
        ("NN VB O", "none"),
        ("O O", "none"),
        ("B-PER L-PER", "none"),
        ("I-PER O", "bio"),
    ],
)
def test_the_scheme_of_tags(tags: str, scheme: str):
    assert scheme_of(tags.split()) == scheme


def sentence(tags: str) -> Sentence:
    return Sentence(tuple("abcdefgh"[: len(tags.split())]), tuple(tags.split()), "x.conll line 9", "")


@pytest.mark.parametrize(
    ("scheme", "tags", "word"),
    [
        ("bio", "O I-PER", "b"),
        ("bio", "B-LOC I-PER", "b"),
        ("bio", "B-LOC E-LOC", "b"),
        ("bio", "B-LOC I", "b"),
        ("bioes", "B-LOC O", "b"),
        ("bioes", "O B-LOC", "the end of the sentence"),
        ("bioes", "S-LOC E-LOC", "b"),
        ("bioes", "B-LOC I-LOC S-LOC", "c"),
    ],
)
def test_a_tag_that_cannot_follow_raises_with_its_word(scheme, tags: str, word: str):
    with pytest.raises(
        ValueError, match=rf"x\.conll line 9: the tag '.*' of '{word}' cannot follow .* in {scheme.upper()}"
    ):
        check_tags(sentence(tags), scheme)
    check_tags(sentence(tags), "none")


def test_valid_tags_pass():
    check_tags(sentence("B-A I-A I-A B-A O B-B"), "bio")
    check_tags(sentence("S-A B-A I-A E-A S-B O"), "bioes")


def test_iob1_becomes_bio():
    assert to_bio(["I-A", "I-A", "B-A", "O", "I-B", "I-A"]) == tuple(["B-A", "I-A", "B-A", "O", "B-B", "B-A"])


def test_entities_of_words_and_their_counts():
    assert entities(["B-A", "I-A", "O", "S-B"]) == [Entity(0, 2, "A"), Entity(3, 4, "B")]
    counts = count_entities([["B-A", "I-A", "B-A"], ["O"]], [["B-A", "I-A", "O"], ["B-A"]])
    assert counts.tolist() == [[1, 1, 2], [0, 1, 0]]


def by_conlleval(tags: list[str]) -> list[Entity]:
    """The rules of conlleval.pl as they are written there."""
    found, start = [], 0
    before, label = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        kind, _, own = tag.partition("-")
        ends = (before, kind) in {(a, b) for a in "BI" for b in "BSO"} | {(a, b) for a in "ES" for b in "BIESO"}
        if ends or (before != "O" and label != own):
            found.append(Entity(start, i, label))
        begins = kind in ("B", "S") or (before in ("E", "S", "O") and kind in ("E", "I"))
        if begins or (kind != "O" and label != own):
            start = i
        before, label = kind, own
    return found


@given(st.lists(st.sampled_from(["O", *(f"{kind}-{label}" for kind in "BIES" for label in "AB")]), max_size=9))
def test_entities_are_those_of_conlleval_for_any_sequence(tags: list[str]):
    assert entities(tags) == by_conlleval(tags)
