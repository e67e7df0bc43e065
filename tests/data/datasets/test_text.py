import json

import numpy as np
import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets import text as text_module
from minillm.data.datasets.text import read_text
from minillm.tokenizers.bpe import BPETokenizer


def test_documents_are_laid_down_in_order_without_the_empty_ones(text_of):
    text = text_of(["é", "", "two", "two"])
    assert text.path.read_bytes() == "étwotwo".encode()
    assert text.spans.tolist() == [[0, 2], [2, 5], [5, 8]]
    assert text.documents["chars"].tolist() == [1, 3, 3]
    assert len(set(text.documents["hash"].tolist())) == 2


def test_a_long_document_comes_in_pieces_cut_after_a_word(text_of, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 16)
    document = "Ein schöner Satz.\r\n\r\n  Noch einer, 漢字 😀 und 12345.\n" * 3
    pieces = list(text_of([document, "short"]).whole().pieces())
    assert "".join(piece.text for piece in pieces) == document + "short"
    assert [piece.last for piece in pieces].count(True) == 2
    assert all(piece.text[-1].isalnum() for piece in pieces if not piece.last)


@pytest.mark.parametrize("document", ["\n" * 100, "x" * 100, "。\n" * 40, "😀" * 40])
def test_a_document_without_words_is_cut_where_it_can_be(text_of, monkeypatch, document):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 16)
    pieces = list(text_of([document]).whole().texts())
    assert "".join(pieces) == document
    assert len(pieces) > 2 and all(pieces[:-1])


def test_the_pieces_tokens_are_those_of_the_whole_document(text_of, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 64)
    words = ["it's", "don't.", "\n", "\r\n", "\n\n  ", "12345", "é漢", "x_1", "...", "\t", " ", "A", "word,"]
    document = "".join(np.random.default_rng(0).choice(words, 3000)) + " end"
    tokenizer = BPETokenizer.train([document], 600)
    pieces = [tokenizer.encode(piece) for piece in text_of([document]).whole().texts()]
    assert len(pieces) > 50
    assert np.array_equal(np.concatenate(pieces), tokenizer.encode(document))


def test_no_more_documents_are_read_than_asked_for(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(9)) + "never read", "utf-8")
    config = DataConfig(max_documents=4)
    assert len(read_text(str(path), config, tmp_path / "cache").documents) == 4
    with pytest.raises(ValueError, match="line 10 is not JSON"):
        read_text(str(path), DataConfig(), tmp_path / "cache")
    with pytest.raises(ValueError, match=r"data.max_documents is 0; it must be at least 1"):
        read_text(str(path), DataConfig(max_documents=0), tmp_path / "cache")


def test_a_source_without_text_and_one_that_is_not_unicode_are_refused_by_name(tmp_path):
    (tmp_path / "mark.txt").write_text("\ufeff", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mark.txt has no text"):
        read_text(str(tmp_path / "mark.txt"), DataConfig(), tmp_path / "cache")
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.jsonl has no text: give a source with at least one document"):
        read_text(str(path), DataConfig(), tmp_path / "cache")
    path.write_text('{"text": "fine"}\n{"text": "\\ud800"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"field 'text' of .*a.jsonl line 2 is not valid Unicode"):
        read_text(str(path), DataConfig(), tmp_path / "cache")


def test_a_change_of_the_file_is_seen(tmp_path):
    path = tmp_path / "a.txt"
    for content in ("before", "after it"):
        path.write_text(content, encoding="utf-8")
        assert read_text(str(path), DataConfig(), tmp_path / "cache").path.read_text(encoding="utf-8") == content
