"""Sentence embeddings: pooling by its definition, whatever texts are read together, and the similarity of vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from minillm import build_model, preset
from minillm.generation.config import EmbedConfig
from minillm.generation.embed import POOLING, embed_texts, similarity
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
TEXTS = ["a", "some words", "some other words that are longer", "", "words", ("one", "and another"), ("", "x")]
DEFINITIONS: dict[str, Any] = {
    "cls": lambda rows: rows[0],
    "mean": lambda rows: sum(rows) / len(rows),
    "max": lambda rows: torch.stack(rows).max(0).values,
    "last": lambda rows: rows[-1],
    "mean_sqrt_len": lambda rows: sum(rows) / math.sqrt(len(rows)),
    "weighted_mean": lambda rows: sum(i * row for i, row in enumerate(rows, 1)) / sum(range(1, len(rows) + 1)),
}


def model_of(name: str, **changes: Any) -> Any:
    shape = {"vocab_size": TOKENIZER.vocab_size, "num_layers": 2, "d_model": 24, "num_heads": 4, "d_ff": 30}
    model = build_model(preset(name, **shape, max_seq_len=40, init_std=0.3, **changes))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def states(model: Any, text: Any) -> list[Tensor]:
    """The hidden states of [CLS] A [SEP] or [CLS] A [SEP] B [SEP], read alone."""
    parts = (text,) if isinstance(text, str) else text
    ids, types = [TOKENIZER.cls_id], [0]
    for kind, part in enumerate(parts):
        ids += [*TOKENIZER.encode(part).tolist(), TOKENIZER.sep_id]
        types += [kind] * (len(ids) - len(types))
    with torch.no_grad():
        return list(model(torch.tensor([ids]), token_types=torch.tensor([types])).hidden[0])


def test_every_pooling_has_a_definition():
    assert POOLING.keys() == DEFINITIONS.keys()


@pytest.mark.parametrize("pooling", POOLING)
def test_texts_read_together_have_the_vectors_of_their_definition(pooling: Any, monkeypatch):
    model = model_of("bert-mini")
    expected = torch.stack([DEFINITIONS[pooling](states(model, text)) for text in TEXTS])
    for tokens in (1, 64, 4096):
        monkeypatch.setattr("minillm.generation.embed.BATCH_TOKENS", tokens)
        found = embed_texts(model, TOKENIZER, TEXTS, EmbedConfig(pooling=pooling))
        assert torch.allclose(found, expected, atol=1e-5), tokens


@pytest.mark.parametrize("name", ["modernbert-mini", "llama-small", "t5-mini"])
def test_every_family_has_vectors_that_do_not_depend_on_the_other_texts(name):
    model = model_of(name)
    texts = [text for text in TEXTS if text]
    together = embed_texts(model, TOKENIZER, texts, EmbedConfig())
    alone = torch.cat([embed_texts(model, TOKENIZER, [text], EmbedConfig()) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5) and together.std(0).min() > 0


def test_a_normalized_vector_has_length_one_and_the_same_direction():
    model = model_of("bert-mini")
    plain, unit = (
        embed_texts(model, TOKENIZER, TEXTS, EmbedConfig(normalize=normalize)) for normalize in (False, True)
    )
    assert torch.allclose(unit.norm(dim=1), torch.ones(len(TEXTS)))
    assert torch.allclose(plain / plain.norm(dim=1, keepdim=True), unit, atol=1e-6)


def test_a_text_is_read_up_to_the_maximum_number_of_tokens():
    model = model_of("bert-mini")
    first, cut, longer = embed_texts(model, TOKENIZER, ["abcdef", "abcdefgh", "abcde"], EmbedConfig(max_tokens=8))
    assert torch.allclose(first, cut) and not torch.allclose(first, longer)
    assert embed_texts(model, TOKENIZER, ["a" * 99], EmbedConfig()).shape == (1, 24)


def test_a_prompt_is_put_before_the_text():
    model, prompts = model_of("bert-mini"), ("query=Q: ", "text=T: ")
    by_hand = embed_texts(model, TOKENIZER, ["Q: a", "T: a", "a"], EmbedConfig())
    found = [
        embed_texts(model, TOKENIZER, ["a"], EmbedConfig(prompts=prompts, prompt="query")),
        embed_texts(model, TOKENIZER, ["a"], EmbedConfig(prompts=prompts, prompt="query"), prompt="text"),
        embed_texts(model, TOKENIZER, ["a"], EmbedConfig(prompts=prompts)),
    ]
    assert torch.allclose(torch.cat(found), by_hand, atol=1e-6)
    with pytest.raises(ValueError, match=r"embed\.prompt is 'title'; embed\.prompts has query, text"):
        embed_texts(model, TOKENIZER, ["a"], EmbedConfig(prompts=prompts), prompt="title")


def test_similarity_is_larger_for_closer_vectors():
    query, vectors = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0], [1.0, -2.0]])
    expected = {"cosine": [1.0, -0.6], "dot": [10.0, -3.0], "euclidean": [-math.sqrt(5), -4.0], "manhattan": [-3, -4]}
    for kind, values in expected.items():
        assert similarity(query, vectors, kind)[0].tolist() == pytest.approx(values), kind


def test_a_decoder_reads_no_special_tokens_and_so_nothing_of_an_empty_text():
    model, ids = model_of("llama-small"), TOKENIZER.encode("some words").tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).hidden[0, -1]
    assert torch.allclose(embed_texts(model, TOKENIZER, ["some words"], EmbedConfig(pooling="last"))[0], expected)
    with pytest.raises(ValueError, match="text 2 has no tokens, so it has no embedding"):
        embed_texts(model, TOKENIZER, ["a", ""], EmbedConfig())
