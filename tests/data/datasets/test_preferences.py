"""Pairs of answers: the shapes they come in, how they are tokenized, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minillm import TokenizerConfig, build_tokenizer
from minillm.data.config import DataConfig
from minillm.data.datasets.preferences import PreferenceTokens, prepare_preferences, read_preferences
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.chat_template import CHAT_TEMPLATE, CHAT_TOKENS
from minillm.tokenizers.load import with_special_tokens

TEXTS = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 55"}
USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "2?"), ("assistant", "4"), ("assistant", "5"))
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TokenizerConfig(kind="byte"), [])


@pytest.fixture(scope="module")
def chatty(tokenizer: Tokenizer) -> Tokenizer:
    extended = with_special_tokens(tokenizer, CHAT_TOKENS)
    extended.chat_template = CHAT_TEMPLATE
    return extended


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PreferenceTokens]:
    def write_and_read(tokenizer: Tokenizer, *records: Any, **fields: Any) -> PreferenceTokens:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return read_preferences(str(path), DataConfig(**fields), tokenizer)

    return write_and_read


def test_texts_are_tokenized_apart_so_that_the_prompt_is_the_same_for_both_answers(read):
    merging = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=400), ["today today"] * 50)
    (row,) = read(merging, {"prompt": "to", "chosen": "day", "rejected": " do"}).rows
    assert len(merging.encode("today")) < len(row.prompt) + len(row.chosen), "joined, they would share a token"
    assert merging.decode(row.prompt) == "to" and merging.decode(row.chosen) == "day"
    assert (row.framed, row.margin) == (False, 0.0)


def test_a_prompt_may_be_missing_and_a_margin_is_read_if_named(read, tokenizer):
    (row,) = read(tokenizer, {"chosen": "good", "rejected": "bad", "by": 2}, margin_field="by").rows
    assert len(row.prompt) == 0 and row.margin == 2.0


def test_csv_files_hold_pairs_too(tmp_path: Path, tokenizer):
    path = tmp_path / "pairs.csv"
    path.write_text("q,good,bad,extra\nWhy?,so,no,x\nHow?,thus,no,y\n", encoding="utf-8")
    config = DataConfig(source=str(path), prompt_field="q", chosen_field="good", rejected_field="bad")
    assert {tokenizer.decode(row.prompt) for row in read_preferences(str(path), config, tokenizer).rows} == {
        "Why?",
        "How?",
    }
    corpus = prepare_preferences(config, tokenizer)
    assert len(corpus.train) == len(corpus.validation) == 1 and corpus.info.train.bytes > 0


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "2?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "4", "rejected": "5"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_conversations_in_each_shape_are_the_same_pair(read, chatty, record):
    (row,) = read(chatty, record).rows
    assert row.framed
    assert chatty.decode(row.prompt, keep_special=True) == "<|eos|><|user|>2?<|assistant|>"
    answers = [chatty.decode(ids, keep_special=True) for ids in (row.chosen, row.rejected)]
    assert answers == ["4<|eos|>", "5<|eos|>"], "the end of the turn is part of the answer"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "has no field 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejected": 5}, "field 'rejected' of .* line 1 is int, not text"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [USER]}, "line 1: each user message must be followed"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "line 1: each user message must be followed"),
        ({"chosen": [USER, GOOD], "rejected": [dict(USER, content="3?"), BAD]}, "may differ only in the last answer"),
        ({"prompt": [USER], "chosen": [{"from": "gpt"}], "rejected": [BAD]}, "each message must be an object with"),
        (dict(TEXTS, by="much"), "field 'by' of .* line 1 is 'much', not a number"),
        (dict(TEXTS, rejected=" 4", by=1), "has no pairs of answers"),
    ],
)
def test_a_bad_record_is_named(read, chatty, record, message):
    with pytest.raises(ValueError, match=message):
        read(chatty, record, margin_field="by" if "by" in record else None)


def test_conversations_need_a_chat_template(read, tokenizer):
    with pytest.raises(ValueError, match=r"line 1: the tokenizer .* has no chat template"):
        read(tokenizer, {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]})


def test_empty_and_equal_answers_are_counted(read, tokenizer):
    found = read(tokenizer, TEXTS, dict(TEXTS, rejected=""), dict(TEXTS, rejected=" 4"))
    assert len(found) == 1 and "2 of 3 pairs passed over: 1 empty rejected, 1 equal answers" in found.notes[-1]


def test_the_fingerprint_is_that_of_the_ids(read, tokenizer):
    one, same = read(tokenizer, TEXTS), read(tokenizer, TEXTS)
    other = read(tokenizer, dict(TEXTS, chosen=" 5", rejected=" 44"))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    marked = one.with_reference(np.array([[1.0, 2.0]]))
    assert marked.row(0).reference == (1.0, 2.0) and marked.fingerprint == one.fingerprint
    assert np.isnan(one.row(0).reference[0])
