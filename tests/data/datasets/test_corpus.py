import json
import sys
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets import corpus as corpus_module
from minillm.data.datasets.corpus import Tokens, prepare, read_tokens
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer

BYTE = ByteTokenizer()


@pytest.fixture
def config(tmp_path, jsonl_of):
    """Thirty documents, of which the second and the last are the same."""
    documents = [f"document {i}, é" for i in range(29)] + ["document 1, é"]
    return DataConfig(source=str(jsonl_of(documents)), cache=str(tmp_path / "cache"))


def test_each_document_is_followed_by_eos_and_found_again(config):
    corpus = prepare(config, BYTE)
    ids = corpus.train.slice(0, corpus.train.num_tokens)
    assert ids.dtype == np.uint16
    assert ids[-1] == BYTE.eos_id
    assert int((ids == BYTE.eos_id).sum()) == corpus.info.train.documents == len(corpus.train.document_starts)
    starts = corpus.train.document_starts
    first = BYTE.decode(ids[starts[1] : starts[2] - 1])
    assert first == "document 1, é"


def test_the_numbers_add_up_and_the_validation_text_comes_back(config):
    corpus = prepare(config, BYTE)
    train, validation = corpus.info.train, corpus.info.validation
    assert train.documents + validation.documents == 30
    assert train.tokens == train.bytes + train.documents == corpus.train.num_tokens
    text = corpus.validation_text_bytes()
    assert len(text) == validation.bytes
    assert text.decode().count("document") == validation.documents
    assert corpus.info.validation_source is None


def test_a_text_that_the_split_cuts_is_two_documents(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 10, encoding="utf-8")
    corpus = prepare(DataConfig(source=str(tmp_path / "a.txt"), cache=str(tmp_path / "cache")), BYTE)
    assert (corpus.train.num_tokens, corpus.validation.num_tokens) == (91, 11)
    assert corpus.validation_text_bytes() == b"0123456789"


def test_the_second_call_finds_everything_in_the_cache(config, monkeypatch):
    first = prepare(config, BYTE)
    monkeypatch.setattr(corpus_module, "_tokenize", lambda *_: pytest.fail("tokenized again"))
    again = prepare(config, BYTE)
    assert again.info == first.info
    assert np.array_equal(again.train.slice(0, 99), first.train.slice(0, 99))


def test_another_tokenizer_another_split_and_another_text_are_other_entries(config, tmp_path, jsonl_of):
    char = CharTokenizer.train(["document 0123456789, é"])
    other = str(jsonl_of([f"other {i}" for i in range(30)]))
    corpora = [
        prepare(config, BYTE),
        prepare(config, char),
        prepare(replace(config, split="tail"), BYTE),
        prepare(replace(config, validation_fraction=0.3), BYTE),
        prepare(replace(config, source=other), BYTE),
        prepare(replace(config, validation=other), BYTE),
    ]
    assert len({corpus.validation.slice(0, 999).tobytes() for corpus in corpora}) == len(corpora)
    assert len({corpus.info.fingerprint for corpus in corpora}) == 3


def test_a_builder_is_shown_training_and_validation_texts_apart(config):
    seen = {}

    def build(train, validation):
        seen["train"], seen["validation"] = list(train), list(validation)
        return CharTokenizer.train(chain(seen["train"], seen["validation"]))

    corpus = prepare(config, build)
    assert "".join(seen["validation"]).encode() == corpus.validation_text_bytes()
    assert len(seen["train"]) + len(seen["validation"]) == 30
    assert not set(seen["train"]) & set(seen["validation"])


def test_ids_beyond_sixteen_bits_are_stored_in_thirty_two(config, monkeypatch):
    wide = ByteTokenizer()
    monkeypatch.setattr(wide, "vocab_size", 70_000)
    assert prepare(config, wide).train.slice(0, 5).dtype == np.uint32


def test_text_that_quotes_a_special_token_holds_no_special_id(tmp_path):
    (tmp_path / "a.txt").write_text("<|eos|> <|pad|> " * 10, encoding="utf-8")
    corpus = prepare(DataConfig(source=str(tmp_path / "a.txt"), cache=str(tmp_path / "cache")), BYTE)
    assert len(corpus.train.document_starts) == 1


def test_own_validation_text_is_taken_whole(config, tmp_path):
    (tmp_path / "own.txt").write_text("own validation", encoding="utf-8")
    corpus = prepare(replace(config, validation=str(tmp_path / "own.txt")), BYTE)
    assert corpus.validation_text_bytes() == b"own validation"
    assert corpus.info.train.documents == 30
    with pytest.raises(ValueError, match=r"data.validation .* is the training text itself: give another text"):
        prepare(replace(config, validation=config.source), BYTE)


def test_read_tokens_splits_nothing_off(config):
    tokens = read_tokens(config.source, DataConfig(cache=config.cache), BYTE)
    assert len(tokens.document_starts) == 30


@pytest.mark.parametrize(("seq_len", "fits"), [(30, True), (31, False)])
def test_two_windows_of_text_are_enough_and_less_is_refused_with_both_numbers(tmp_path, seq_len, fits):
    (tmp_path / "a.txt").write_text("x" * 59, encoding="utf-8")  # and two EOS
    config = DataConfig(source=str(tmp_path / "a.txt"), cache=str(tmp_path / "cache"), seq_len=seq_len)
    if fits:
        prepare(config, BYTE)
    else:
        with pytest.raises(ValueError, match=r"a.txt has 61 tokens, but at least 62 are needed, two windows of 31"):
            prepare(config, BYTE)


def test_a_text_too_short_to_split_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="only 1 characters, too few to split"):
        prepare(DataConfig(source=str(tmp_path / "a.txt"), cache=str(tmp_path / "cache")), BYTE)


def test_what_is_passed_over_is_counted_and_said_again_from_the_cache(tmp_path):
    path = tmp_path / "text" / "a.jsonl"
    path.parent.mkdir()
    lines = [json.dumps({"text": text}) for text in ["", None, *(f"document {i}" for i in range(25)), ""]]
    path.write_text("\n".join(lines), encoding="utf-8")
    config = DataConfig(source=str(path), cache=str(tmp_path / "cache"))
    note = f"{path}: 3 of 28 documents passed over: empty"
    assert prepare(config, BYTE).notes == prepare(config, BYTE).notes == (note,)
    assert read_tokens(str(path), config, BYTE).notes == (note,)
    (path.parent / "b.pdf").write_text("%PDF", encoding="utf-8")
    left_out, passed_over = read_tokens(str(path.parent), config, BYTE).notes
    assert left_out == f"left out of {path.parent}: 1 not text (.pdf)"
    assert passed_over == f"{path.parent}: 3 of 28 documents passed over: empty"


def test_validation_documents_that_are_trained_on_are_counted(config, jsonl_of):
    held_out = [f"document {i}, é" for i in range(3)] + [f"new {i}" for i in range(5)]
    corpus = prepare(replace(config, validation=str(jsonl_of(held_out))), BYTE)
    assert corpus.notes == ("3 of 8 validation documents (38%) are in the training text too",)
    corpus = prepare(replace(config, validation=str(jsonl_of(held_out[3:]))), BYTE)
    assert corpus.notes == ()


def test_a_field_that_no_source_has_is_refused_and_a_field_of_either_source_is_not(tmp_path, jsonl_of):
    (tmp_path / "a.txt").write_text("some text " * 30, encoding="utf-8")
    plain = DataConfig(source=str(tmp_path / "a.txt"), cache=str(tmp_path / "cache"), field="body")
    with pytest.raises(ValueError, match=r"data.field body has no effect: .*a.txt has no fields; leave it out"):
        prepare(plain, BYTE)
    (tmp_path / "b.jsonl").write_text('{"body": "validation"}', encoding="utf-8")
    prepare(replace(plain, validation=str(tmp_path / "b.jsonl")), BYTE)


def test_the_bars_go_to_standard_error_and_only_to_a_terminal_and_where_asked_for(config, capsys, monkeypatch):
    prepare(DataConfig(source=config.source, cache=config.cache + "1"), BYTE, progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    prepare(config, BYTE)
    assert capsys.readouterr() == ("", "")
    prepare(DataConfig(source=config.source, cache=config.cache + "2"), BYTE, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err and "tokenizing" in err


def test_document_starts_follow_each_eos():
    assert Tokens(np.array([5, 0, 0, 7, 0], np.uint16), eos_id=0).document_starts.tolist() == [0, 2, 3]
