"""Byte-pair encoding: the trainer's ids are the runner's, training repeats, hostile text is quick and exact."""

from __future__ import annotations

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from minillm.tokenizers import bpe
from minillm.tokenizers.blocks import tasks, valid_blocks
from minillm.tokenizers.bpe import BPETokenizer, learn_merges, token_table

WORDS = "the theme then there aaa aaaa aaaaa banana bandana abab ababab don't DON'T we'll 1234 12 3.14 -- ---- a.b.c\n"
TEXT = WORDS * 3 + "naïve café हिन्दी हिन्दी 世界世界\n\n\n    if x:\r\n\t\treturn  x   \n" * 4
LEARNER = learn_merges([TEXT], 300)
TOKENIZER = BPETokenizer(token_table(LEARNER))
TRAINER_ID = {
    name: TOKENIZER._tokens.index(bytes(bpe.byte_alphabet()[character] for character in name))
    for name in LEARNER.get_vocab()
}
alphabet = st.one_of(st.sampled_from(sorted(set(TEXT))), st.characters(exclude_categories=["Cs"]))
like_text = st.one_of(st.text(alphabet), st.lists(st.sampled_from(TEXT.split(" ")), max_size=20).map(" ".join))


@given(text=like_text)
@example(text=TEXT)
@example(text="abanana aaaaaaa banabab")
@example(text="'\u017f 'S '\u212a x\u0085y\x1c\x1f z\u3000\u3000w")
def test_the_runner_gives_the_ids_of_the_trainer(text: str):
    assert [TRAINER_ID[token] for token in LEARNER.encode(text).tokens] == TOKENIZER.encode(text).tolist()


def test_training_repeats_exactly_and_fills_the_vocabulary_asked_for():
    first, second = (BPETokenizer.train([TEXT, WORDS], 420) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert first.vocab_size == 420
    assert len(first.encode(TEXT)) < len(TEXT.encode("utf-8")) / 1.5


def test_text_too_small_for_the_vocabulary_gives_a_smaller_one():
    assert BPETokenizer.train(["abab"], 4096).vocab_size == bpe.MIN_VOCAB_SIZE + 1
    assert BPETokenizer.train([], 4096).vocab_size == bpe.MIN_VOCAB_SIZE


def test_a_vocabulary_without_room_for_bytes_and_special_tokens_is_refused_with_the_smallest_size():
    assert BPETokenizer.train([TEXT], 362).vocab_size == 362
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size is 361, bpe needs at least 362"):
        BPETokenizer.train([TEXT], 361)


def test_training_reads_no_more_than_the_bytes_allowed():
    def documents():
        yield "é" * 2000
        raise AssertionError("read on after the limit")

    assert sum(map(len, bpe.first_bytes(documents(), 2000))) <= 1000 + 2 * bpe.LEARN_BLOCK
    assert BPETokenizer.train(documents(), 400, max_bytes=4000).encode("é" * 32).size == 1


def test_documents_with_a_lone_surrogate_are_refused_in_training():
    with pytest.raises(ValueError, match="lone surrogate"):
        BPETokenizer.train(["a\udfff"], 400)


def test_a_table_without_all_bytes_or_with_a_token_twice_is_refused():
    single = [bytes([value]) for value in range(256)]
    for tokens in (single[1:], [*single, b"a"]):
        with pytest.raises(ValueError, match="all 256 single bytes"):
            BPETokenizer(tokens)


def test_bytes_that_are_no_text_decode_to_replacement_characters_and_back_exactly():
    ids = [0xE4, 0xB8, ord("a")]
    assert TOKENIZER.decode(ids) == "\ufffda"
    assert TOKENIZER.decode_bytes(ids) == b"\xe4\xb8a"


def published_pattern(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The cut into pieces of a published encoding, read from tiktoken without its table."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    return openai_public.ENCODING_CONSTRUCTORS[name]()["pat_str"]


def runner(pattern: str) -> BPETokenizer:
    """Merges that cross every kind of piece, so that a piece cut elsewhere gives other ids."""
    tokens = [*(bytes([value]) for value in range(256)), *(a + b for a in MERGED for b in MERGED)]
    return BPETokenizer(tokens, pattern=pattern)


TRICKY = [*" \n\r\t\u3000\x1caA1.,;!?'s/_-é世。\u0301", " s", "'s", "  "]
RUNS = [" ", "\n", "\n ", "\r\n", "a", "A", "aA", "A1", "1", ".", "'", "\u3000", "世", "\u0301"]
MERGED = [b" ", b"\n", b"a", b"A", b"1", b".", b",", b"'", b"s", b"/", "。".encode()[:1]]
PATTERNS = ["own", "r50k_base", "cl100k_base", "o200k_base"]


@pytest.mark.parametrize("name", PATTERNS)
def test_blocks_give_the_ids_of_the_whole_text(name: str, monkeypatch: pytest.MonkeyPatch):
    tokenizer = runner(bpe.PATTERN if name == "own" else published_pattern(name, monkeypatch))
    whole = tiktoken.Encoding.encode_ordinary

    @given(text=st.lists(st.sampled_from(TRICKY), min_size=8, max_size=30).map("".join))
    def check(text: str):
        parts = list(valid_blocks(text, 3))
        assert "".join(parts) == text
        assert max(map(len, parts), default=0) <= 6
        cuts_at_will = any(len(part) == 6 for part in parts[:-1])
        if not cuts_at_will:
            assert [i for part in parts for i in whole(tokenizer._encoding, part)] == whole(tokenizer._encoding, text)

    check()


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("unit", RUNS)
def test_a_long_run_without_a_break_is_encoded_and_comes_back(name: str, unit: str, monkeypatch):
    tokenizer = runner(bpe.PATTERN if name == "own" else published_pattern(name, monkeypatch))
    text = unit * (200_000 // len(unit)) + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_million_letters_without_a_break_are_cut_for_the_trainer():
    rng = np.random.default_rng(0)
    genome = rng.choice(np.frombuffer(b"ACGT", np.uint8), 1_000_000).tobytes().decode("ascii")
    blocks = list(bpe.first_bytes([genome], 10**9))
    assert max(map(len, blocks)) <= 2 * bpe.LEARN_BLOCK
    assert "".join(blocks) == genome


def test_ruled_lines_give_no_token_longer_than_the_limit():
    tokenizer = BPETokenizer.train(["-" * 5000 + "é" * 5000], 4096)
    assert tokenizer.num_bytes.max() == bpe.MAX_TOKEN_BYTES
    assert len(tokenizer.encode("-" * 640)) == 10


@pytest.mark.parametrize("name", PATTERNS)
def test_a_million_blanks_before_a_word_do_not_overflow_the_pattern_engine(name: str, monkeypatch):
    tokenizer = runner(bpe.PATTERN if name == "own" else published_pattern(name, monkeypatch))
    text = " " * 1_000_000 + "x"
    assert tokenizer.num_bytes[tokenizer.encode(text)].sum() == len(text)


@given(lengths=st.lists(st.integers(1, 9)))
def test_tasks_keep_every_part_in_order(lengths: list[int]):
    parts = ["x" * length for length in lengths]
    groups = list(tasks(parts, 10))
    assert [part for group in groups for part in group] == parts
    assert all(sum(map(len, group)) >= 10 for group in groups[:-1])
    assert all(groups)
