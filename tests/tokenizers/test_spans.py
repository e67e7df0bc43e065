"""Characters of the original text for each token, in every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.load import from_dict
from minillm.tokenizers.spans import overlapping, without_blanks

TEXT = "Nai\u0308ve café\r\ncost 3.5 €  — 日本語 😀 end."


def wordpiece() -> Tokenizer:
    """A published uncased WordPiece: it drops accents and lowers case, so its tokens are not the text's."""
    words = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "na",
        "##ive",
        "cafe",
        "cost",
        "3",
        ".",
        "5",
        "—",
        "日",
        "本",
        "語",
        "end",
    ]
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    return imported(made, {"<|cls|>": 1, "<|sep|>": 2, "<|pad|>": 3})


def unigram() -> Tokenizer:
    """A published Unigram with NFKC and blanks as part of tokens."""
    characters = sorted({*"naiveïcfébosth3.5—end€日本語😀 ", "▁"})
    pieces = [("<unk>", 0.0), ("▁cost", -1.0), ("▁", -2.0), *((c, -3.0) for c in characters if c != "▁")]
    made = tokenizers.Tokenizer(models.Unigram(pieces, 0, False))
    made.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    return imported(made, {"<|pad|>": 0})


def imported(made: tokenizers.Tokenizer, roles: dict[str, int]) -> Tokenizer:
    import json

    from minillm.tokenizers.imported import ImportedTokenizer

    model: Any = json.loads(made.to_str())
    return ImportedTokenizer(model, specials={name: i for name, i in roles.items()}, roles=roles, prefix=())


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharTokenizer.train([TEXT]), BPETokenizer.train([TEXT * 9], 400)]
)
def test_spans_of_lossless_tokenizers_cover_the_text_in_order(tokenizer: Tokenizer):
    ids, spans = tokenizer.encode_with_spans(TEXT)
    assert ids.tolist() == tokenizer.encode(TEXT).tolist() and spans.shape == (len(ids), 2)
    assert spans[0, 0] == 0 and spans[-1, 1] == len(TEXT) and (np.diff(spans[:, 0]) >= 0).all()
    for i, (start, stop) in zip(ids.tolist(), spans.tolist(), strict=True):
        assert tokenizer.decode_bytes([i]) in TEXT[start:stop].encode(), "a token is inside its characters"


@given(st.text(max_size=30))
def test_spans_of_bytes_fit_any_text(text: str):
    tokenizer = ByteTokenizer()
    try:
        ids, spans = tokenizer.encode_with_spans(text)
    except ValueError:
        return  # a lone surrogate
    assert [
        text[a:b].encode().count(bytes([i])) > 0 for i, (a, b) in zip(ids.tolist(), spans.tolist(), strict=True)
    ] == [True] * len(ids)


@pytest.mark.parametrize("make", [wordpiece, unigram])
def test_normalizing_tokenizers_give_characters_of_the_original_text(make: Any):
    tokenizer = make()
    ids, spans = tokenizer.encode_with_spans(TEXT)
    assert ids.tolist() == tokenizer.encode(TEXT).tolist()
    for word in ("Nai\u0308ve", "café", "cost", "3.5", "日本語", "end"):
        start = TEXT.index(word)
        found = overlapping(spans, start, start + len(word))
        assert found is not None, word
        first, last = without_blanks(TEXT, spans[found[0], 0], spans[found[1], 1])
        assert TEXT[first:last] in (word, f"{word}."), word


def test_nothing_overlaps_a_blank_that_no_token_covers():
    _, spans = wordpiece().encode_with_spans("cost  end")
    assert overlapping(spans, 4, 6) is None and overlapping(spans, 3, 7) == (0, 1)
    assert without_blanks(" a b ", 0, 5) == (1, 4)
    assert from_dict(wordpiece().to_dict()).encode_with_spans("")[1].shape == (0, 2)
