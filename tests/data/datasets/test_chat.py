"""Conversations as a data set: the tokenizer gets role tokens, rows are packed, and what is cut is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data.config import DataConfig
from minillm.data.datasets.chat import ChatIds, ChatRows, ChatTokens, pack, prepare_chat, read_chat, with_template
from minillm.data.sources.conversations import Dialogue, Message
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.chat_template import CHAT_TEMPLATE, CHAT_TOKENS


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "talk.jsonl"
    turns = [[("user", f"Number {n}?"), ("assistant", f"{n}.")] for n in range(40)]
    named = [[{"role": role, "content": content} for role, content in talk] for talk in turns]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in named), encoding="utf-8")
    return str(path)


def tokens(*lengths: tuple[int, int]) -> ChatTokens:
    """Conversations of so many prompt and answer tokens."""
    made: Any = ChatTokens.__new__(ChatTokens)
    made.conversations = [
        ChatIds(np.arange(a + b), np.arange(a + b) >= a, ((a, a + b),), f"{a} {b}") for a, b in lengths
    ]
    made.num_tokens = sum(map(sum, lengths))
    return made


def test_a_tokenizer_without_a_template_gets_ours_and_its_role_tokens(source):
    base = ByteTokenizer()
    corpus = prepare_chat(DataConfig(source=source), base)
    assert corpus.tokenizer.chat_template == CHAT_TEMPLATE and base.chat_template is None
    assert corpus.tokenizer.vocab_size == base.vocab_size + len(CHAT_TOKENS)
    again = prepare_chat(DataConfig(source=source), corpus.tokenizer)
    assert again.tokenizer is corpus.tokenizer and again.info == corpus.info
    built = prepare_chat(
        DataConfig(source=source), lambda train, validation: CharTokenizer.train([*train, *validation])
    )
    assert built.tokenizer.kind == "char" and built.tokenizer.chat_template == CHAT_TEMPLATE


def test_the_split_is_disjoint_and_whole(source):
    corpus = prepare_chat(DataConfig(source=source, validation_fraction=0.25), ByteTokenizer())
    train, held = ({c.question for c in part.conversations} for part in (corpus.train, corpus.validation))
    assert len(train) == 30 and len(held) == 10 and not train & held
    assert corpus.notes == (f"{source}: 40 conversations, each with messages",)
    assert len(read_chat(source, DataConfig(), corpus.tokenizer).conversations) == 40


def test_a_conversation_that_the_template_rejects_is_named(source):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ValueError, match=r"talk\.jsonl line \d+: the chat template rejects the conversation: no"):
        read_chat(source, DataConfig(), tokenizer)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80))
def test_packing_keeps_every_item_and_never_overfills(sizes):
    bins = pack(sizes, 50)
    assert sorted(i for members in bins for i in members) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in members) <= 50 for members in bins)


def test_packing_wastes_little():
    sizes = np.random.default_rng(0).integers(5, 60, 400).tolist()
    assert len(pack(sizes, 128)) <= 1.02 * sum(sizes) / 128 + 1


def test_rows_hold_conversations_cut_to_the_length():
    rows = ChatRows(tokens((3, 4), (5, 20), (2, 2)), 10, packed=True)
    members = [[c.question for c in rows.row(i)] for i in range(len(rows))]
    assert members == [["5 20"], ["3 4", "2 2"]]
    assert [len(c.ids) for c in rows.row(0)] == [11], "ten inputs have eleven tokens"
    assert [rows.span(i) for i in range(2)] == [(0, 10), (10, 19)]
    assert len(ChatRows(tokens((3, 4), (5, 20), (2, 2)), 10, packed=False)) == 3


def test_a_conversation_without_an_answer_left_is_in_no_row():
    rows = ChatRows(tokens((30, 5), (2, 2)), 10, packed=True)
    assert [[c.question for c in rows.row(i)] for i in range(len(rows))] == [["2 2"]]
    with pytest.raises(ValueError, match=r"no answer starts within the first 10 tokens: raise data\.seq_len"):
        ChatRows(tokens((30, 5)), 10, packed=True)


def test_ids_are_those_of_the_template():
    tokenizer = with_template(ByteTokenizer())
    talk = Dialogue("Hi", "Yes", (Message("user", "Hi"), Message("assistant", "Yes")), "line 1", "Hi")
    (found,) = ChatTokens([talk], tokenizer).conversations
    names = {name: tokenizer.specials[name] for name in ("<|eos|>", "<|user|>", "<|assistant|>")}
    expected = [names["<|eos|>"], names["<|user|>"], *b"Hi", names["<|assistant|>"], *b"Yes", names["<|eos|>"]]
    assert found.ids.tolist() == expected and found.is_target.tolist() == [False] * 5 + [True] * 4
