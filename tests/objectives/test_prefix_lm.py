"""Prefix-LM: a beginning that is read as a whole and a rest that is predicted; together they are the text."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.prefix_lm import EncoderPrefixLM, PrefixLM

PAD, EOS = 50, 51
TEXTS = st.lists(st.lists(st.integers(0, 51), min_size=2, max_size=40), min_size=1, max_size=5)


def numbered(seed: int):
    return lambda i: np.random.default_rng([seed, i])


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, seed=st.integers(0, 99))
def test_prefix_and_labels_reconstruct_the_text_for_a_decoder(texts: list[list[int]], seed: int):
    batch = PrefixLM(pad_id=PAD).collate([np.array(text) for text in texts], numbered(seed))
    tokens, labels = batch.inputs["tokens"], batch.labels["lm"]
    for i, (text, prefix) in enumerate(zip(texts, batch.inputs["prefix_length"].tolist(), strict=True)):
        assert 1 <= prefix < len(text)
        predicted = labels[i][labels[i] != IGNORE_INDEX].tolist()
        assert tokens[i, :prefix].tolist() + predicted == text
        assert labels[i, prefix - 1] == text[prefix]
    assert batch.counts["lm"] == (labels != IGNORE_INDEX).sum()


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, seed=st.integers(0, 99))
def test_source_and_target_reconstruct_the_text_for_an_encoder_decoder(texts: list[list[int]], seed: int):
    batch = EncoderPrefixLM(pad_id=PAD, eos_id=EOS).collate([np.array(text) for text in texts], numbered(seed))
    source, labels = batch.inputs["encoder_tokens"], batch.labels["lm"]
    valid = batch.inputs.get("encoder_valid", torch.ones_like(source, dtype=torch.bool))
    for i, text in enumerate(texts):
        read, written = source[i][valid[i]].tolist(), labels[i][labels[i] != IGNORE_INDEX].tolist()
        assert read.pop() == written.pop() == EOS
        assert read + written == text[1:] and written and (read or len(text) == 2)
        assert max(len(read), len(written)) < len(text)


def test_the_prefix_length_is_uniform():
    lengths = [
        int(PrefixLM(pad_id=PAD).collate([np.arange(11)], numbered(s)).inputs["prefix_length"]) for s in range(2000)
    ]
    counts = np.bincount(lengths)[1:]
    assert len(counts) == 10 and abs(counts - 200).max() < 5 * np.sqrt(200)


def test_positions_without_a_label_have_no_gradient():
    model = build_model(ModelConfig(vocab_size=52, max_seq_len=16, d_model=16, num_layers=1, num_heads=2))
    model.init_weights(torch.Generator().manual_seed(0))
    objective = PrefixLM(pad_id=PAD)
    batch = objective.collate([np.arange(12), np.arange(5)], numbered(0))
    output = model(**batch.inputs)
    output.logits["lm"].retain_grad()
    objective.loss(output, batch.labels, training=True)["lm"].loss.backward()
    silent = batch.labels["lm"] == IGNORE_INDEX
    assert output.logits["lm"].grad[silent].eq(0).all() and output.logits["lm"].grad[~silent].ne(0).any(-1).all()


def test_predictions_depend_on_the_whole_prefix_but_not_on_later_tokens():
    model = build_model(ModelConfig(vocab_size=52, max_seq_len=16, d_model=16, num_layers=1, num_heads=2))
    model.init_weights(torch.Generator().manual_seed(0))
    tokens, prefix = torch.arange(10)[None], torch.tensor([4])
    before = model(tokens, prefix_length=prefix).logits["lm"][0]
    changed = tokens.clone()
    changed[0, 3] = 40
    assert not model(changed, prefix_length=prefix).logits["lm"][0, 0].allclose(before[0])
    changed = tokens.clone()
    changed[0, 7] = 40
    assert model(changed, prefix_length=prefix).logits["lm"][0, :7].allclose(before[:7])
