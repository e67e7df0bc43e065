# ruff: noqa: RUF001 (look-alikes of letters are what is tested)
"""Published kinds of tokenizers give the ids that the `tokenizers` library gives, however they are run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from minillm.exchange.tokenizer_in import from_model
from minillm.exchange.tokenizer_models import pre_tokenizer_of
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.load import load_tokenizer
from minillm.tokenizers.merges import GPT2, LLAMA3, PATTERN, QWEN2, SINGLE_DIGITS

TEXT = [
    "The naïve café served 1234 crêpes; wasn't that 世界 fine? We'LL it'S said.\n\n    indented\r\n\tlines, 'so'  ",
    "def add(a, b):\n    return a + b  # 12 and 3456\n" * 3,
    "ſtreet Kelvin İstanbul ﬁne 'ſ 'ſt Ⅷ ½ ٣٤ éé \u200b\ufeff 👩‍👩‍👧",
]
hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
mixed = st.text(st.sampled_from("aZ é1½ \t\n\r'’sSſtTlLdDmMvVeErR.,-_世\u0301\u200b\u00a0👩"), max_size=60)


def byte_level(
    pattern: str, *, whole_alphabet: bool = True, normalizer: Any = None, words: tuple[str, ...] = ()
) -> Any:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer_of(pattern)
    made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if whole_alphabet else []
    made.train_from_iterator(
        TEXT * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(["<|endoftext|>"])
    made.add_tokens([AddedToken(word, normalized=False) for word in words])
    return json.loads(made.to_str())


def imported(model: dict[str, Any], **named: str) -> ImportedTokenizer:
    from pathlib import Path

    return from_model(model, named or {"eos": "<|endoftext|>"}, where=Path("tokenizer.json"))


PLAIN = {name: imported(byte_level(pattern)) for name, pattern in (
    ("gpt2", GPT2), ("smollm", SINGLE_DIGITS), ("llama3", LLAMA3), ("qwen2", QWEN2), ("ours", PATTERN)
)}  # fmt: skip
ODD = {
    "nfc": imported(byte_level(QWEN2, normalizer=normalizers.NFC())),
    "missing bytes": imported(byte_level(SINGLE_DIGITS, whole_alphabet=False)),
    "added words": imported(byte_level(QWEN2, words=("<tool>", "crêpes "))),
}
each = pytest.mark.parametrize("name", [*PLAIN, *ODD])


def reference(tokenizer: ImportedTokenizer, text: str) -> list[int]:
    library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.model))
    library.encode_special_tokens = True
    return library.encode(text, add_special_tokens=False).ids


@each
@given(text=hostile | mixed)
@example(text="  12 \n 3\n\n  x <|endoftext|> <tool>crêpes  'S 'ſ")
@example(text=TEXT[0] + TEXT[2])
@example(text="\U00040000a\x00 \u1100\u1161 e\u0301")
def test_tiktoken_gives_the_ids_of_the_library(name: str, text: str):
    tokenizer = (PLAIN | ODD)[name]
    assert tokenizer.quick is not None
    assert tokenizer.encode(text).tolist() == reference(tokenizer, text)


@each
def test_a_long_text_in_blocks_gives_the_same_ids(name: str):
    tokenizer, text = (PLAIN | ODD)[name], "".join(TEXT) * 400
    assert tokenizer.encode(text).tolist() == reference(tokenizer, text)


@pytest.mark.parametrize("name", PLAIN)
@given(text=hostile)
def test_a_byte_level_text_comes_back(name: str, text: str):
    tokenizer = PLAIN[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.num_bytes[ids].sum() == len(text.encode("utf-8"))


def word_piece() -> dict[str, Any]:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    made.decoder = decoders.WordPiece()  # type: ignore[assignment]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    return json.loads(made.to_str())


def unigram() -> dict[str, Any]:
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    made.decoder = decoders.Metaspace()  # type: ignore[assignment]
    special = ["<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return json.loads(made.to_str())


WHOLE = {"WordPiece": imported(word_piece(), pad="[PAD]"), "Unigram": imported(unigram(), eos="</s>", pad="<pad>")}


@pytest.mark.parametrize("name", WHOLE)
@given(text=hostile | mixed)
@example(text="The café [MASK] </s> <extra_id_0>")
def test_other_kinds_give_the_library_its_own_ids_and_its_own_text(name: str, text: str):
    tokenizer = WHOLE[name]
    assert tokenizer.quick is None
    ids = tokenizer.encode(text).tolist()
    assert ids == reference(tokenizer, text)
    library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.model))
    assert tokenizer.decode(ids) == library.decode([i for i in ids if i not in tokenizer.special_ids])


@pytest.mark.parametrize("name", WHOLE)
def test_a_tokens_bytes_are_what_it_adds_to_a_text_that_goes_on(name: str):
    tokenizer = WHOLE[name]
    ids = tokenizer.encode("we serve crepes that see fine lines")
    assert tokenizer.decode_bytes(ids).decode().lstrip() == tokenizer.decode(ids)
    assert (tokenizer.num_bytes[ids] > 0).all()


def test_special_tokens_keep_their_ids_and_get_their_roles():
    bert, t5 = WHOLE["WordPiece"], WHOLE["Unigram"]
    assert (bert.pad_id, bert.cls_id, bert.sep_id, bert.mask_id, bert.eos_id) == (0, 2, 3, 4, 3)
    assert (t5.pad_id, t5.eos_id, t5.extra_ids) == (0, 1, (4, 3))
    assert {0, 1, 2, 3, 4} <= bert.special_ids
    with pytest.raises(ValueError, match=r"has no <\|mask\|> token, and none that can replace it"):
        _ = t5.mask_id


def test_a_vocabulary_whose_ids_are_not_in_the_order_of_its_merges_runs_fast_all_the_same():
    model = byte_level(GPT2)
    names = [*model["model"]["vocab"]]
    order = np.random.default_rng(0).permutation(len(names)).tolist()
    ids = {name: new for name, new in zip(names, order, strict=True)}
    model["model"]["vocab"] = ids
    for token in model["added_tokens"]:
        token["id"] = ids.get(token["content"], token["id"])
    tokenizer = imported(model)
    assert tokenizer.quick is not None
    for text in TEXT:
        assert tokenizer.encode(text).tolist() == reference(tokenizer, text)


def test_merges_that_tiktoken_would_make_of_another_pair_are_left_to_the_library():
    model = byte_level(GPT2)
    vocabulary, merges = model["model"]["vocab"], model["model"]["merges"]
    # "xyz" is listed as x + yz, but nothing makes yz before it: tiktoken would find xy + z
    for name in ("xy", "yz", "xyz"):
        vocabulary[name] = len(vocabulary) + 1
    merges += [["x", "y"], ["y", "z"], ["x", "yz"]]
    tokenizer = imported(model)
    assert tokenizer.quick is None
    assert tokenizer.encode("xyz").tolist() == reference(tokenizer, "xyz")


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model["model"].update(dropout=0.5),
        lambda model: model["model"].update(byte_fallback=True),
        lambda model: model["pre_tokenizer"].update(add_prefix_space=True),
        lambda model: model.update(normalizer={"type": "Lowercase"}),
        lambda model: model["model"]["merges"].pop(),
    ],
)
def test_anything_beyond_the_proof_is_left_to_the_library(change):
    model = byte_level(GPT2)
    change(model)
    assert imported(model).quick is None


@pytest.mark.parametrize("name", ["smollm", "nfc", "WordPiece", "Unigram"])
def test_it_is_the_same_after_its_file_was_read(name, tmp_path):
    tokenizer = (PLAIN | ODD | WHOLE)[name]
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.hash, again.roles, again.special_ids) == (tokenizer.hash, tokenizer.roles, tokenizer.special_ids)
    assert again.encode(TEXT[0]).tolist() == tokenizer.encode(TEXT[0]).tolist()


def test_a_kind_that_the_library_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"tokenizer\.json: its model has type 'Magic'; supported are BPE, Unigram"):
        imported({**byte_level(GPT2), "model": {"type": "Magic"}})
