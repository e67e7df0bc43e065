from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minillm.generation.adapters import ConditionedDecoder
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import generate
from minillm.generation.text import allowed_ids, complete, search, stream_text
from minillm.generation.text_stream import TextStream
from minillm.models.build import build_model
from minillm.models.gpt import GPT
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
fast = settings(
    deadline=None, max_examples=200, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


STAND_IN: Any = object  # passes for any type


class Scripted(STAND_IN):
    """A model that says given bytes, then EOS, whatever was asked: row i says scripts[i]."""

    writes, draft_cost = "continuation", 0.0

    def __init__(self, *scripts, vocab_size=TOKENIZER.vocab_size):
        self.config, self.vocab_size = ModelConfig(vocab_size=vocab_size, max_seq_len=1000), vocab_size
        self.training, self.prompts = False, []
        self.scripts = [[*script, TOKENIZER.eos_id] for script in scripts]

    def start(self, tokens, *, max_len, key_valid=None, prefix_length=None):
        self.prompts = tokens.tolist()
        cache = KVCache(1, max_len)
        cache.length = tokens.size(1)
        return cache, self.logits(0)

    def step(self, tokens, cache):
        cache.length += tokens.size(1)
        said = cache.length - len(self.prompts[0])
        return torch.stack([self.logits(n) for n in range(said - tokens.size(1) + 1, said + 1)], 1)

    def logits(self, said):
        logits = torch.zeros(len(self.scripts), self.vocab_size)
        for row, script in zip(logits, self.scripts, strict=True):
            row[script[min(said, len(script) - 1)]] = 9
        return logits

    def parameters(self):
        return iter([torch.zeros(1)])

    def train(self, mode=True):
        self.training = mode


def say(text, *, pieces=None, **config):
    script = text if isinstance(text, bytes) else text.encode()
    config = SampleConfig(**{"temperature": 0, "max_new_tokens": 100, **config})
    on_text = None if pieces is None else lambda row, piece: pieces.append(piece)
    (completion,) = complete(Scripted(script), TOKENIZER, ["hm"], config, on_text=on_text)
    return completion


def pushed(pieces, stop):
    out = []
    stream = TextStream(stop, out.append)
    if not any(stream.push(piece) for piece in pieces):
        stream.close()
    return out


def test_a_text_ends_at_eos_and_holds_no_trace_of_it():
    completion = say("a text")
    assert (completion.text, completion.finish_reason) == ("a text", "eos")
    assert completion.ids == list(b"a text")
    assert completion.prompt_ids == tuple(b"hm")


def test_a_text_ends_before_a_stop_string_that_spans_tokens():
    completion = say("one two three", stop=("two",))
    assert (completion.text, completion.finish_reason) == ("one ", "stop")
    assert completion.ids == list(b"one two")


def test_nothing_of_a_stop_string_is_streamed_and_a_near_miss_is_streamed_whole():
    pieces = []
    completion = say("a\n\nb\n\n\nc", pieces=pieces, stop=("\n\n\n",))
    assert "".join(pieces) == completion.text == "a\n\nb"
    assert pieces == ["a", "\n\nb"]


def test_a_text_that_ends_within_a_stop_string_keeps_what_it_has():
    pieces = []
    assert say("so it en", pieces=pieces, stop=("end",)).text == "so it en"
    assert pieces[-1] == "en"
    assert say("so it end", max_new_tokens=8, stop=("end",)).text == "so it en"


def test_text_comes_in_pieces_of_whole_characters_as_soon_as_they_are_whole():
    pieces = []
    assert say("aé☃🎈z", pieces=pieces).text == "aé☃🎈z"
    assert pieces == ["a", "é", "☃", "🎈", "z"]


def test_a_character_cut_by_the_length_limit_is_left_out():
    pieces = []
    completion = say("ab☃", pieces=pieces, max_new_tokens=4)
    assert (completion.text, completion.finish_reason) == ("ab", "length")
    assert completion.ids == list("ab☃".encode()[:4])
    assert pieces == ["a", "b"]


def test_bytes_that_are_no_characters_become_replacement_characters():
    assert say(b"a\xffb\xe2\x98c").text == "a\ufffdb\ufffdc"


def test_stop_strings_beyond_ascii_are_found():
    assert say("ça va ☃ bien", stop=("☃",)).text == "ça va "


def test_a_stop_string_in_the_prompt_ends_nothing():
    assert say("on", stop=("hm", "mo")).text == "on"


small_text = st.text("ab☃é", max_size=12)
stops = st.lists(st.text("ab☃é", min_size=1, max_size=4), max_size=3)


@fast
@given(small_text, stops, st.data())
def test_where_the_tokens_are_cut_makes_no_difference_to_the_text(text, stop, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    ends = [text.index(s) + len(s) for s in stop if s in text]
    if ends:
        first_end = min(ends)
        start = first_end - max(len(s) for s in stop if text[:first_end].endswith(s))
        text = text[:start]
    assert "".join(pushed(pieces, stop)) == text
    assert "".join(pushed([bytes([b]) for b in raw], stop)) == text


@fast
@given(st.lists(st.binary(max_size=4), max_size=8))
def test_any_bytes_stream_as_they_decode_at_once_but_for_an_unfinished_character_at_the_end(pieces):
    out = pushed(pieces, [])
    text, whole = "".join(out), b"".join(pieces).decode("utf-8", "replace")
    assert whole == text or (whole[:-1] == text and whole[-1] == "\ufffd")
    assert "" not in out


def test_rows_of_a_batch_are_streamed_side_by_side_and_end_each_by_itself():
    heard = []
    config = SampleConfig(temperature=0, stop=("!",))
    model = Scripted(b"yes!no", b"no", b"maybe")
    rows = complete(model, TOKENIZER, ["a", "bc", ""], config, on_text=lambda row, piece: heard.append((row, piece)))
    assert [(row.text, row.finish_reason) for row in rows] == [("yes", "stop"), ("no", "eos"), ("maybe", "eos")]
    assert heard[:6] == [(0, "y"), (1, "n"), (2, "m"), (0, "e"), (1, "o"), (2, "a")]
    assert model.prompts == [[0, 97], [98, 99], [0, TOKENIZER.eos_id]]


def test_only_ordinary_tokens_and_eos_are_allowed_not_padding_nor_other_specials():
    allowed = allowed_ids(TOKENIZER, TOKENIZER.vocab_size + 30)
    assert allowed.nonzero().flatten().tolist() == [*range(256), TOKENIZER.eos_id]


def test_a_random_model_with_a_padded_table_speaks_no_special_or_padded_id():
    config = ModelConfig(vocab_size=400, max_seq_len=8, d_model=8, num_layers=1, num_heads=1, d_ff=8)
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    sample = SampleConfig(temperature=100, max_new_tokens=50, num_samples=8)
    rows = complete(model, TOKENIZER, ["ab", ""], sample)
    assert {token for row in rows for token in row.ids} <= set(range(256))
    assert len(rows) == 16


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused():
    with pytest.raises(ValueError, match=r"the tokenizer has 362 ids and the model 300, .* use the tokenizer"):
        complete(Scripted(b"", vocab_size=300), TOKENIZER, ["a"], SampleConfig())


def test_any_tokenizer_of_this_shape_will_do():
    class Letters(STAND_IN):
        first_blank = False
        vocab_size, eos_id, pad_id, extra_ids, prefix_ids, num_bytes = 3, 2, 2, (), (), np.array([1, 1, 0])
        eos_ids = (2,)

        def encode(self, text):
            return np.array(["ab".index(c) for c in text], np.uint32)

        def decode_bytes(self, ids):
            return b"".join([b"a", b"b", b""][i] for i in ids)

    config = ModelConfig(vocab_size=3, max_seq_len=8, d_model=8, num_layers=1, num_heads=1, d_ff=8)
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    (row,) = complete(model, Letters(), ["abba"], SampleConfig(max_new_tokens=30))
    assert set(row.text) <= set("ab")
    assert row.prompt_ids == (0, 1, 1, 0)


@pytest.mark.parametrize("beams", [False, True])
def test_a_single_text_is_one_prompt(beams: bool):
    if beams:
        (row,) = search(Scripted(b"yes"), TOKENIZER, "the cat", BeamConfig(num_beams=1))
    else:
        (row,) = complete(Scripted(b"yes"), TOKENIZER, "the cat", SampleConfig(temperature=0))
    assert (row.prompt_ids, row.text) == (tuple(b"the cat"), "yes")


def tiny(family: Any) -> Any:
    shape = ModelConfig(
        family=family,
        vocab_size=TOKENIZER.vocab_size,
        d_model=16,
        num_heads=2,
        num_layers=2,
        max_seq_len=32,
        init_std=0.5,
    )
    model = build_model(shape)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def test_a_model_that_writes_no_text_is_refused():
    with pytest.raises(ValueError, match="a bert model writes no text"):
        complete(tiny("bert"), TOKENIZER, "a", SampleConfig())


def test_an_encoder_decoder_reads_its_prompt_in_both_directions_with_or_without_prefix():
    model, config = tiny("t5"), SampleConfig(max_new_tokens=5)
    with_prefix, without = (complete(model, TOKENIZER, "ab", config, prefix=prefix) for prefix in (True, False))
    assert with_prefix == without
    with pytest.raises(ValueError, match="leave out prefix"):
        generate(ConditionedDecoder(model, [[1]]), [[0]], config, prefix=True)


def test_a_decoder_reads_its_prompt_in_both_directions_if_told_to():
    model, greedy = tiny("gpt"), SampleConfig(temperature=0, max_new_tokens=9)
    beam, prompt = BeamConfig(num_beams=1, max_new_tokens=9), "once upon"
    allowed, found = allowed_ids(TOKENIZER, TOKENIZER.vocab_size), []
    for prefix in (True, False):
        (row,) = generate(model, [[*prompt.encode()]], greedy, prefix=prefix, allowed=allowed, eos_id=TOKENIZER.eos_id)
        assert complete(model, TOKENIZER, prompt, greedy, prefix=prefix)[0].ids == row.ids
        assert search(model, TOKENIZER, prompt, beam, prefix=prefix)[0].ids == row.ids
        found.append(row.ids)
    assert found[0] != found[1]


def test_the_text_comes_as_events_which_add_up_to_the_completions():
    model = Scripted("zwölf!".encode(), b"xxSTOPyy", b"")
    config = SampleConfig(temperature=0, stop=("STOP",))
    whole = complete(model, TOKENIZER, ["a", "bc", ""], config)
    texts: list[str] = [""] * 3
    reasons: list[str | None] = [None] * 3
    for event in stream_text(model, TOKENIZER, ["a", "bc", ""], config):
        texts[event.row] += event.text
        reasons[event.row] = event.finish_reason
    assert texts == [row.text for row in whole] == ["zwölf!", "xx", ""]
    assert reasons == [row.finish_reason for row in whole] == ["eos", "stop", "eos"]
