"""Published tokenizer files in, and our tokenizers out as such files: the same ids on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken_ext.openai_public
import tokenizers
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from minillm.exchange.tokenizer_in import read_tokenizer
from minillm.exchange.tokenizer_out import PATTERNS, tokenizer_json, tokenizer_settings
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.load import from_dict

TEXT = (
    "The naïve café served 1234 crêpes; wasn't that 世界 fine?\n\n" * 8
    + "    indented\r\n\tlines, 'quoted' HTTPServer  "
)
BPE = BPETokenizer.train([TEXT], 480)
TOKENIZERS = {"byte": ByteTokenizer(), "char": CharTokenizer(TEXT), "bpe": BPE}
hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
mixed = st.text(st.sampled_from("aZ é1½ \t\n\r'\u2019sStTlLdDmMvVeErR.,-/_世\u0301\u200b\u00a0"), max_size=60)


def published_pattern(kind: str) -> str:
    """The pattern of an encoding as tiktoken has it; its table, which would be fetched, is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
        patch.setattr(tiktoken_ext.openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
        return tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[kind]()["pat_str"]


STOCK = {kind: BPETokenizer(BPE._tokens, kind=kind, pattern=published_pattern(kind)) for kind in PATTERNS}


def library(tokenizer: Tokenizer, family: Any = "gpt") -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer, family)))
    made.encode_special_tokens = True
    return made


LIBRARY = {name: library(tokenizer) for name, tokenizer in (TOKENIZERS | STOCK).items()}


@pytest.mark.parametrize("name", ["byte", "bpe", *STOCK])
@given(text=hostile | mixed)
@example(text=TEXT)
@example(text="HTTPServer's I'LL/ 123456 x\u00a0\n\n  \r\n ")
def test_an_exported_tokenizer_gives_the_same_ids_and_the_text_back(name: str, text: str):
    ids = LIBRARY[name].encode(text, add_special_tokens=False).ids
    assert ids == (TOKENIZERS | STOCK)[name].encode(text).tolist()
    assert LIBRARY[name].decode(ids) == text


@given(text=st.text(st.sampled_from(sorted(set(TEXT))), max_size=40))
def test_an_exported_character_tokenizer_gives_one_id_a_character(text: str):
    ids = LIBRARY["char"].encode(text, add_special_tokens=False).ids
    assert ids == TOKENIZERS["char"].encode(text).tolist() and LIBRARY["char"].decode(ids) == text


def test_a_character_outside_an_exported_vocabulary_is_an_error_there_too():
    with pytest.raises(Exception, match="WordLevel error"):
        LIBRARY["char"].encode("☃")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_layout_around_a_text_is_the_familys(name: str):
    tokenizer = TOKENIZERS[name]
    (a,), (b,) = tokenizer.encode("T").tolist(), tokenizer.encode("h").tolist()
    assert library(tokenizer, "gpt").encode("T").ids == [a]
    assert library(tokenizer, "t5").encode("T").ids == [a, tokenizer.eos_id]
    pair = library(tokenizer, "bert").encode("T", "h")
    assert pair.ids == [tokenizer.cls_id, a, tokenizer.sep_id, b, tokenizer.sep_id]
    assert pair.type_ids == [0, 0, 0, 1, 1]


def test_settings_name_the_token_of_each_role():
    settings = tokenizer_settings(BPE, 128, ["input_ids"])
    assert settings["mask_token"] == "<|mask|>" and settings["pad_token"] == "<|pad|>"
    assert settings["bos_token"] == settings["eos_token"] == "<|eos|>"  # what a document follows here
    assert settings["model_max_length"] == 128
    assert settings["model_input_names"] == ["input_ids"] and settings["unk_token"] == "<|eos|>"


def two_files(folder: Path, special: list[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE, saved as vocab.json and merges.txt."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    trained.train_from_iterator([TEXT], trainer)
    trained.model.save(str(folder))
    return trained


def test_gpt2s_two_files_are_read_with_the_librarys_ids(tmp_path: Path):
    trained = two_files(tmp_path, ["<|endoftext|>"])
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 0}), encoding="utf-8")
    read = read_tokenizer(tmp_path)
    assert read.quick is not None and read.eos_id == 0
    assert read.encode(TEXT).tolist() == trained.encode(TEXT).ids
    assert read.encode("<|endoftext|>").tolist() != [0]  # a name in a text is text


def test_robertas_two_files_have_its_special_tokens_and_layout(tmp_path: Path):
    two_files(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}), encoding="utf-8")
    library: Any = transformers.RobertaTokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    read = read_tokenizer(tmp_path)
    assert (read.cls_id, read.sep_id, read.mask_id, read.pad_id) == (0, 2, 4, 1)
    for pair in ((TEXT,), (TEXT, "a café")):
        ids, _ = read.framing(pair=len(pair) > 1).around([read.encode(text) for text in pair], 10_000)
        assert ids == library(*pair).input_ids


def test_berts_vocabulary_file_is_read_lower_case_unless_a_file_says_no(tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "cat", "##s", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    read = read_tokenizer(tmp_path)
    assert read.encode("The cats!").tolist() == [5, 7, 8, 9]
    assert read.decode([5, 7, 8, 9]) == "the cats!"
    assert (read.pad_id, read.cls_id, read.sep_id, read.mask_id) == (0, 2, 3, 4)
    assert read.prefix_ids == (2,)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert read_tokenizer(tmp_path).encode("The cats!").tolist() == [6, 7, 8, 9]


def test_tokenizer_settings_outdo_the_config_for_roles(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(BPE, "gpt")), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": BPE.pad_id}), encoding="utf-8")
    assert read_tokenizer(tmp_path).eos_id == BPE.pad_id
    settings = {"eos_token": {"content": "<|sep|>", "lstrip": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert read_tokenizer(tmp_path).eos_id == BPE.sep_id


POSTLESS = '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "post_processor": %s}'


def test_parts_that_a_tokenizer_file_lacks_are_none(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(POSTLESS % "null", encoding="utf-8")
    assert read_tokenizer(tmp_path).encode("aa").tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "WordLevel", "Unigram"])
def test_what_a_tokenizer_file_of_an_early_version_leaves_out_is_the_librarys_default(tmp_path: Path, kind: str):
    words: dict[str, Any] = {character: i for i, character in enumerate("[]UNKabcĠ")}
    model: dict[str, Any] = {"vocab": words | {"[UNK]": 9, "ab": 10}, "merges": ["a b"]}
    if kind in ("WordPiece", "WordLevel"):
        model = {"vocab": model["vocab"], "unk_token": "[UNK]"} | (
            {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100} if kind == "WordPiece" else {}
        )
    elif kind == "Unigram":
        model = {"vocab": [["[UNK]", 0.0], *([word, -1.0] for word in "abcĠ")], "unk_id": 0}
    file = {
        "version": "1.0",
        "model": model,  # without its type
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},  # without use_regex
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    read, library = read_tokenizer(tmp_path), tokenizers.Tokenizer.from_str(json.dumps(file))
    assert read.model["model"]["type"] == kind == type(library.model).__name__
    for text in ("ab cab", "a b", "abc"):
        ids = library.encode(text).ids
        assert read.encode(text).tolist() == ids
        assert read.decode(ids) == library.decode([i for i in ids if i not in read.special_ids])  # of [UNK] no text
    stored = {**file, "added_tokens": [], "normalizer": None}  # as an earlier version saved it
    loaded = from_dict(ImportedTokenizer(stored, specials={}, roles={}, prefix=()).to_dict())
    assert loaded.encode("ab cab").tolist() == library.encode("ab cab").ids


@pytest.mark.parametrize("sign", ["config.json", "added_tokens.json"])
def test_a_vocabulary_without_its_pre_tokenization_is_refused(tmp_path: Path, sign: str):
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    (tmp_path / sign).write_text('{"model_type": "qwen2"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.json does not say .*save_pretrained"):
        read_tokenizer(tmp_path)


def test_berts_settings_decide_about_accents_and_ideographs(tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "café", "cafe", "世界", "世", "界"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    assert read_tokenizer(tmp_path).encode("CAFÉ 世界").tolist() == [6, 8, 9]
    settings = {"strip_accents": False, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert read_tokenizer(tmp_path).encode("CAFÉ 世界").tolist() == [5, 7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spiece.model", "x", r"SentencePiece's format, which cannot be read; create a tokenizer\.json"),
        ("tokenizer.json", "{", r"tokenizer\.json is not valid JSON"),
        ("tokenizer.json", '{"model": {"type": "Magic"}}', r"tokenizer\.json: its model has type 'Magic'"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}', r"tokenizer\.json: the tokenizers library cannot read it"),
        ("tokenizer.json", "[" * 100_000, r"tokenizer\.json is not valid JSON"),
        ("tokenizer.json", POSTLESS % '{"type": "Odd"}', r"tokenizer\.json: its post_processor cannot be read"),
        ("vocab.txt", "a\nb", r"vocab\.txt is damaged or not supported"),
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_named(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        read_tokenizer(tmp_path)
