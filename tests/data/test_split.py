import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.data import split as split_module
from minillm.data.datasets.text import Section
from minillm.data.split import split_text

DOCUMENTS = st.lists(st.text("ab é漢😀\n", min_size=1, max_size=40), min_size=1, max_size=30)
FRACTION = st.floats(0.01, 0.9)


def documents_of(section: Section) -> list[str]:
    documents, parts = [], []
    for text, last in section.pieces():
        parts.append(text)
        if last:
            documents.append("".join(parts))
            parts = []
    return documents


@settings(deadline=None, max_examples=60)
@given(documents=DOCUMENTS, fraction=FRACTION)
def test_a_tail_split_uses_every_character_once_and_cuts_at_most_one_document(text_of, documents, fraction):
    whole = "".join(documents)
    text = text_of(documents)
    if int(len(whole) * (1 - fraction)) < 1:
        with pytest.raises(ValueError, match="too few to split"):
            split_text(text, "tail", fraction)
        return
    train, validation = (documents_of(part) for part in split_text(text, "tail", fraction))
    assert "".join(train) == whole[: int(len(whole) * (1 - fraction))]
    assert "".join(validation) == whole[int(len(whole) * (1 - fraction)) :]
    assert all(train) and all(validation)
    uncut = train + validation == documents
    assert uncut or [*train[:-1], train[-1] + validation[0], *validation[1:]] == documents


@settings(deadline=None, max_examples=60)
@given(documents=DOCUMENTS, fraction=FRACTION)
def test_a_document_split_uses_each_document_once_and_never_has_one_on_both_sides(text_of, documents, fraction):
    text = text_of(documents)
    if len(set(documents)) < 2:
        with pytest.raises(ValueError, match="two different documents"):
            split_text(text, "document", fraction)
        return
    train, validation = (documents_of(part) for part in split_text(text, "document", fraction))
    assert not set(train) & set(validation)
    assert train and validation
    assert sorted(train + validation) == sorted(documents)
    assert [d for d in documents if d in set(train)] == train


def test_validation_gets_no_more_than_its_share_of_the_characters(text_of):
    documents = [f"{i} " * (1 + i % 7) for i in range(300)]
    _, validation = split_text(text_of(documents), "document", 0.1)
    share = sum(map(len, documents_of(validation))) / sum(map(len, documents))
    assert 0.09 < share <= 0.1


def test_which_documents_validate_does_not_depend_on_their_order(text_of):
    documents = [f"document {i}" for i in range(50)]
    there = documents_of(split_text(text_of(documents), "document", 0.2)[1])
    back = documents_of(split_text(text_of(documents[::-1]), "document", 0.2)[1])
    assert there == back[::-1]


def test_tiny_shakespeare_has_the_published_numbers_of_characters(text_of):
    train, validation = split_text(text_of(["x" * 1_115_394]), "tail", 0.1)
    assert (train.num_bytes, validation.num_bytes) == (1_003_854, 111_540)


def test_the_cut_is_found_beyond_the_first_chunk_and_inside_wide_characters(text_of, monkeypatch):
    monkeypatch.setattr(split_module, "CHUNK_BYTES", 7)
    train, _ = split_text(text_of(["漢字é" * 20, "b" * 40]), "tail", 0.5)
    assert documents_of(train) == [("漢字é" * 20)[:50]]


@pytest.mark.parametrize(("number", "how"), [(19, "tail"), (20, "document")])
def test_auto_splits_by_document_from_twenty_on(text_of, number, how):
    text = text_of([f"document {i}" for i in range(number)])
    auto, named = split_text(text, "auto", 0.3), split_text(text, how, 0.3)
    assert [documents_of(part) for part in auto] == [documents_of(part) for part in named]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 3.0])
def test_a_share_outside_zero_to_one_is_refused(text_of, fraction):
    with pytest.raises(ValueError, match=r"data.validation_fraction must be between 0 and 1"):
        split_text(text_of(["some text"]), "auto", fraction)
