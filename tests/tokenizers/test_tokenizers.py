"""What every kind of tokenizer keeps: exact round trips, special tokens that no text makes, a file with a hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.tokenizers.base import SPECIAL_TOKENS, Tokenizer, hash_of
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.config import TokenizerConfig
from minillm.tokenizers.load import build_tokenizer, load_tokenizer
from minillm.tokenizers.stock import SOURCES

TEXT = "The naïve café served 1234 crêpes; wasn't that 世界 fine?\n\n" * 8 + "    indented\r\n\tlines, 'quoted'  "
BPE = BPETokenizer.train([TEXT], 480)
HOLED = BPETokenizer(BPE._tokens, kind="gpt2", pattern=r"\s+|\S+", published_specials={"<|endoftext|>": 500})
TOKENIZERS = [ByteTokenizer(), CharTokenizer(TEXT), BPE, HOLED]
ANY_TEXT = [ByteTokenizer(), BPE, HOLED]

each = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
each_byte_level = pytest.mark.parametrize("tokenizer", ANY_TEXT, ids=lambda tokenizer: tokenizer.kind)


@each_byte_level
@given(text=st.text())
@example(text="<|eos|> and <|extra_id_0|> are quoted here")
@example(text="\U0010ffff\x00\ufeff \u2028")
def test_any_unicode_text_comes_back_unchanged(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.uint32
    assert ids.flags.writeable
    assert tokenizer.special_ids.isdisjoint(ids.tolist())
    assert tokenizer.num_bytes[ids].sum() == len(text.encode("utf-8"))


@given(text=st.text(alphabet=sorted(set(TEXT))))
def test_a_character_tokenizer_gives_one_id_a_character_and_the_text_back(text: str):
    tokenizer = CharTokenizer(TEXT)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.num_bytes[ids].sum() == len(text.encode("utf-8"))


@each
def test_special_tokens_follow_the_ordinary_ids_and_stand_for_no_bytes(tokenizer: Tokenizer):
    own = [tokenizer.specials[name] for name in SPECIAL_TOKENS]
    assert own == list(range(tokenizer.vocab_size - len(SPECIAL_TOKENS), tokenizer.vocab_size))
    first_three = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    assert [*first_three, tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id, *tokenizer.extra_ids] == own
    assert tokenizer.special_ids == set(range(tokenizer.num_ordinary, tokenizer.vocab_size))
    assert np.flatnonzero(tokenizer.num_bytes == 0).tolist() == sorted(tokenizer.special_ids)
    assert tokenizer.num_bytes.shape == (tokenizer.vocab_size,)


@each
def test_decoding_skips_special_tokens_unless_asked_to_show_them(tokenizer: Tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("café"), tokenizer.extra_ids[7], tokenizer.eos_id]
    assert tokenizer.decode(ids) == "café"
    assert tokenizer.decode_bytes(ids) == "café".encode()
    assert tokenizer.decode(ids, keep_special=True) == "<|bos|>café<|extra_id_7|><|eos|>"


@each
def test_a_lone_surrogate_is_named_with_its_place(tokenizer: Tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at index 2"):
        tokenizer.encode("ca\ud800fe")


@each
def test_an_id_outside_the_vocabulary_is_named_with_its_place(tokenizer: Tokenizer):
    for bad in (tokenizer.vocab_size, -1):
        with pytest.raises(ValueError, match=rf"token id {bad} at index 1"):
            tokenizer.decode([0, bad])
    with pytest.raises(ValueError, match="must be integers"):
        tokenizer.decode_bytes([0.5])


@each
def test_no_text_and_no_ids_are_valid(tokenizer: Tokenizer):
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.encode("").dtype == np.uint32
    assert tokenizer.decode([]) == ""


@each
def test_a_batch_encodes_as_its_texts_one_by_one(tokenizer: Tokenizer):
    texts = ["café", "", "fine fine", TEXT * 300, "a"]
    batch = tokenizer.encode_batch(texts)
    assert len(batch) == len(texts)
    for text, ids in zip(texts, batch, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))
        assert tokenizer.decode(ids) == text


@each
def test_a_saved_tokenizer_loads_as_the_same(tokenizer: Tokenizer, tmp_path: Path):
    path = tokenizer.save(tmp_path / "run")
    assert [path] == list((tmp_path / "run").iterdir())
    loaded = load_tokenizer(tmp_path / "run")
    assert (loaded.hash, loaded.name, loaded.specials) == (tokenizer.hash, tokenizer.name, tokenizer.specials)
    np.testing.assert_array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))


@each
def test_any_changed_value_in_the_file_is_refused_by_name(tokenizer: Tokenizer, tmp_path: Path):
    path = tokenizer.save(tmp_path)
    text = path.read_text(encoding="utf-8")
    renamed, other_kind = text.replace('"<|pad|>"', '"<|pat|>"'), text.replace('"kind": "', '"kind": "x')
    for damaged in (text[:-9], renamed, other_kind, "", "[]"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
            load_tokenizer(tmp_path)


def test_a_hash_recomputed_over_foreign_content_does_not_make_it_ours(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    for body in ({"kind": "wordpiece"}, {**BPE.to_dict(), "tokens": ["YQ=="]}, {**BPE.to_dict(), "pattern": "("}, []):
        path.write_text(json.dumps({"hash": hash_of(body), "tokenizer": body}), encoding="utf-8")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"tokenizer\.json has no tokenizer that this version"):
            load_tokenizer(tmp_path)
    body = {**ByteTokenizer().to_dict(), "specials": {"<|eos|>": 0}}
    path.write_text(json.dumps({"hash": hash_of(body), "tokenizer": body}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"tokenizer\.json was written by a version of minillm with other special tokens"
    ):
        load_tokenizer(tmp_path)


def test_a_file_says_its_version_and_may_have_none(tmp_path: Path):
    path = BPE.save(tmp_path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored.pop("version") == 1 and [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert load_tokenizer(tmp_path).hash == BPE.hash
    path.write_text(json.dumps({**stored, "version": 2}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json was written by a newer minillm"):
        load_tokenizer(tmp_path)


def test_a_file_of_another_program_or_none_is_refused_by_name(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)
    for foreign in (b'{"version": "1.0", "model": {"type": "BPE"}}', b"\xff\x00"):
        (tmp_path / "tokenizer.json").write_bytes(foreign)
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged or was not written by minillm"):
            load_tokenizer(tmp_path)


def test_different_tokenizers_have_different_hashes():
    assert len({tokenizer.hash for tokenizer in TOKENIZERS}) == len(TOKENIZERS)
    assert CharTokenizer("ab").hash != CharTokenizer("ac").hash


def test_hashes_do_not_change_between_versions():
    assert ByteTokenizer().hash == "4c5f5937829693076b9d13fdf72098d007c770c8584f17abbc75f2a9a27fa59f"
    assert CharTokenizer("ab").hash == "f78a41ea70312cb9f2bcf30939543b9d03d2cb0fb2dcf8b95b5f15b87d91f742"


def test_only_the_kinds_that_learn_read_the_documents():
    def documents():
        yield "abc"
        read.append(True)

    read: list[bool] = []
    assert build_tokenizer(TokenizerConfig(kind="byte"), documents()).kind == "byte"
    assert not read
    assert build_tokenizer(TokenizerConfig(kind="char"), documents()).vocab_size == 3 + len(SPECIAL_TOKENS)
    assert read
    assert build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=400), documents()).kind == "bpe"
    config = TokenizerConfig(kind="bpe", vocab_size=400, train_bytes=4)
    assert build_tokenizer(config, ["abab", "cdcdcd"]).hash == BPETokenizer.train(["abab"], 400).hash


def test_a_character_outside_the_vocabulary_is_named_with_its_place():
    tokenizer = CharTokenizer("acd")
    between, beyond = r"'b' \(U\+0062\) at index 2", r"'😀' \(U\+1F600\) at index 1"
    for text, name in (("acb", between), ("a\U0001f600", beyond)):
        with pytest.raises(ValueError, match=rf"character {name} is not among the 3 characters"):
            tokenizer.encode(text)
    with pytest.raises(ValueError, match="at least one character"):
        CharTokenizer.train([])


def test_every_kind_of_the_config_is_built_by_someone():
    kinds = get_args(get_type_hints(TokenizerConfig)["kind"])
    assert sorted(kinds) == sorted(["byte", "char", "bpe", "imported", *SOURCES])


@pytest.mark.parametrize("key", ["vocab_size", "train_bytes"])
def test_a_count_below_one_is_refused_by_key(key: str):
    with pytest.raises(ValueError, match=rf"tokenizer\.{key} is 0; it must be at least 1"):
        replace(TokenizerConfig(), **{key: 0})


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_special_tokens_are_a_tokenizers_own_data_and_change_no_other_tokenizer(tmp_path: Path, kind: str):
    chat = (*SPECIAL_TOKENS, "<|user|>", "<|assistant|>")
    table = [bytes([value]) for value in range(256)]
    make: dict[str, Callable[..., Tokenizer]] = {
        "byte": ByteTokenizer,
        "char": lambda **own: CharTokenizer("abc", **own),
        "bpe": lambda **own: BPETokenizer(table, **own),
    }
    plain, own = make[kind](), make[kind](special_tokens=chat)
    assert own.vocab_size == plain.vocab_size + 2 and own.roles["<|assistant|>"] == own.vocab_size - 1
    assert own.roles["<|assistant|>"] in own.special_ids and own.eos_id == plain.eos_id
    assert own.hash != plain.hash and "special_tokens" not in plain.to_dict()
    own.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.hash == own.hash and again.specials == own.specials and type(again) is type(own)
