"""Heads for sequences, tokens and spans against transformers': logits, losses and gradients, padding on either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from minillm.exchange.architectures import family_of, model_from_hf, model_to_hf
from minillm.exchange.task_heads import objective_of
from minillm.exchange.weight_map import weights_from_hf
from minillm.models.build import build_model
from minillm.nn.output import Output
from minillm.objectives.extract import Extract
from minillm.objectives.text_labels import Classify, ClassifyMany, Regress
from minillm.objectives.text_layout import TextLayout

VOCAB, B, T, PAD = 61, 3, 13, 2
LENGTHS = (13, 7, 10)
NONE = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": PAD}
BERT: dict[str, Any] = {"vocab_size": VOCAB, "max_position_embeddings": 40, "hidden_size": 30, "num_hidden_layers": 2}
BERT |= {"num_attention_heads": 5, "intermediate_size": 77, "type_vocab_size": 2, "hidden_dropout_prob": 0.0}
BERT |= {"attention_probs_dropout_prob": 0.0}
DISTILBERT: dict[str, Any] = {"vocab_size": VOCAB, "max_position_embeddings": 40, "dim": 30, "n_layers": 2}
DISTILBERT |= {"n_heads": 5, "hidden_dim": 77, "dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0}
GPT2: dict[str, Any] = {"vocab_size": VOCAB, "n_positions": 40, "n_embd": 30, "n_layer": 2, "n_head": 5}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 40}
LABELS = ("cat", "dog", "owl", "yak", "zebu")
NAMED = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
SHAPES = {
    "BertForSequenceClassification": BERT | NAMED,
    "BertForTokenClassification": BERT | NAMED,
    "BertForQuestionAnswering": BERT,
    "RobertaForSequenceClassification": BERT | NAMED | {"type_vocab_size": 1},
    "RobertaForTokenClassification": BERT | NAMED | {"type_vocab_size": 1},
    "RobertaForQuestionAnswering": BERT | {"type_vocab_size": 1},
    "DistilBertForTokenClassification": DISTILBERT | NAMED,
    "DistilBertForQuestionAnswering": DISTILBERT,
    "GPT2ForSequenceClassification": GPT2 | NAMED,
    "GPT2ForTokenClassification": GPT2 | NAMED | {"classifier_dropout": 0.0},
    "GPT2ForQuestionAnswering": GPT2,
    "LlamaForSequenceClassification": LLAMA | NAMED,
    "LlamaForTokenClassification": LLAMA | NAMED,
}
LAYOUT = TextLayout(before=(), between=(), after=(), max_len=T)


@pytest.fixture(scope="module")
def pair(randomize) -> Callable[..., tuple[Any, Any]]:
    """Transformers' model of a class with random weights, and ours with the same."""

    def make(name: str, **settings: Any) -> tuple[Any, Any]:
        library: Any = transformers
        torch.manual_seed(0)
        theirs = getattr(library, name)
        theirs = theirs(theirs.config_class(**{**SHAPES[name], **NONE, **settings})).eval()
        randomize(theirs)
        with torch.no_grad():  # larger ones saturate the softmax, and gradients are then rounding errors
            for parameter in theirs.parameters():
                parameter.mul_(0.5)
        described = theirs.config.to_dict() | {"architectures": [name]}
        config, weights = model_from_hf(described, theirs.state_dict())
        ours = build_model(config)
        ours.load_state_dict({key: weights[key] for key in ours.state_dict()})
        return theirs, ours.eval()

    return make


def rows(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of odd lengths without the padding id, padded at `side`."""
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(PAD + 1, VOCAB, (B, T), generator=draws)
    valid = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    valid = valid if side == "right" else valid.flip(1)
    return tokens.where(valid, torch.tensor(PAD)), valid


def theirs_of(model: Any, name: str, tokens: torch.Tensor, valid: torch.Tensor) -> Any:
    """With positions from the first real token, as minillm counts them; a RoBERTa does so itself."""
    own = name.startswith("Roberta") or ("Bert" in name and bool(valid[:, 0].all()))
    positions = {} if own else {"position_ids": (valid.long().cumsum(1) - 1).clamp(min=0)}
    return model(tokens, attention_mask=valid.long(), **positions)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers_with_padding_on_either_side(name: str, side: str, pair, relative):
    theirs, ours = pair(name)
    tokens, valid = rows(side)
    with torch.no_grad():
        found, expected = ours(tokens, key_valid=valid).logits, theirs_of(theirs, name, tokens, valid)
    if "class" in found and "bert" in name.lower() and side == "left":  # theirs reads the first token, here padding
        right, mask = rows("right")
        expected = theirs(right, attention_mask=mask.long())
        tokens, valid = right.flip(1), mask.flip(1)
        expected_rows = [theirs(row[real][None]).logits for row, real in zip(*rows("left"), strict=True)]
        expected.logits = torch.cat(expected_rows)
    if "class" in found:
        assert relative(found["class"], expected.logits) < 1e-5
    elif "tag" in found:
        assert relative(found["tag"][valid], expected.logits[valid]) < 1e-5
    else:
        logits = torch.stack([expected.start_logits, expected.end_logits], -1)
        assert relative(found["span"][valid], logits[valid]) < 1e-5


OBJECTIVES: dict[str, tuple[type[Classify], Any]] = {
    "single_label_classification": (Classify, torch.tensor([4, 0, 2])),
    "multi_label_classification": (ClassifyMany, (torch.arange(15).reshape(3, 5) % 4 == 0).float()),
    "regression": (Regress, torch.tensor([0.5, -1.0, 3.0])),
}


@pytest.mark.parametrize("problem", OBJECTIVES)
@pytest.mark.parametrize("name", [name for name in SHAPES if "Sequence" in name])
def test_losses_and_gradients_of_sequences_equal_transformers(name, problem, pair, relative, check_gradients):
    kind, labels = OBJECTIVES[problem]
    settings: dict[str, Any] = {"id2label": {0: "x"}, "label2id": {"x": 0}} if kind is Regress else {}
    theirs, ours = pair(name, problem_type=problem, **settings)
    tokens, valid = rows("right")
    expected = theirs(tokens, attention_mask=valid.long(), labels=labels)
    expected.loss.backward()
    objective = kind(PAD, layout=LAYOUT, labels=LABELS)
    score = objective.loss(ours(tokens, key_valid=valid), {kind.label_set: labels}, training=True)[kind.label_set]
    loss = score.loss / labels.numel()
    loss.backward()
    assert relative(loss, expected.loss) < 1e-5
    check_gradients(ours, gradients(theirs, ours, name))


@pytest.mark.parametrize("name", [name for name in SHAPES if "Token" in name or "Question" in name])
def test_losses_and_gradients_of_tokens_and_spans_equal_transformers(name, pair, relative, check_gradients):
    theirs, ours = (model.double() for model in pair(name))  # in fp32 the smallest gradients are rounding errors
    tokens = torch.randint(PAD + 1, VOCAB, (B, T), generator=torch.Generator().manual_seed(2))
    if "Token" in name:
        labels = torch.randint(5, (B, T), generator=torch.Generator().manual_seed(3))
        labels[0, 3:] = -100
        expected = theirs(tokens, labels=labels).loss
        loss = F.cross_entropy(ours(tokens).logits["tag"].flatten(0, 1), labels.flatten())
    else:
        span = torch.tensor([[2, 5], [0, 0], [7, 12]])
        expected = theirs(tokens, start_positions=span[:, 0], end_positions=span[:, 1]).loss
        settings: dict[str, Any] = {"stride": 0, "max_question_len": 9, "max_answer_len": 9, "null_threshold": None}
        extract = Extract(PAD, layout=LAYOUT, token_types=False, **settings)
        labels = {"span": span, "real": torch.ones(B, T, dtype=torch.bool)}
        loss = extract.loss(ours(tokens), labels, training=True)["span"].loss / B
    expected.backward()
    loss.backward()
    assert relative(loss, expected) < 1e-5
    check_gradients(ours, gradients(theirs, ours, name))


def gradients(theirs: Any, ours: Any, name: str) -> dict[str, torch.Tensor]:
    """Their gradients under our names."""
    found = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in theirs.named_parameters()}
    family = family_of(ours.config)
    if table := family.shifted_positions:
        found[table] = found[table][PAD + 1 :]
    return weights_from_hf(found, family.rules(ours.config), 2)


@pytest.mark.parametrize("name", SHAPES)
def test_an_export_is_the_import_again_with_its_labels(name: str, pair):
    theirs, ours = pair(name)
    described = theirs.config.to_dict() | {"architectures": [name]}
    objective = objective_of(described)
    assert objective["name"] == {"Seq": "classify", "Tok": "tag", "Que": "extract"}[name.partition("For")[2][:3]]
    assert objective.get("labels", LABELS) == LABELS
    settings, weights = model_to_hf(ours.config, ours.state_dict(), PAD)
    assert settings["architectures"] == [name]
    own = theirs.state_dict()
    assert {key for key in weights} == {key for key in own if "position_ids" not in key}
    if table := family_of(ours.config).shifted_positions:  # the rows before the first position are never used
        own[table][: PAD + 1] = 0
    assert all(torch.equal(weights[key], own[key]) for key in weights)


def test_a_head_that_no_model_here_has_is_refused_in_one_line(pair):
    _, ours = pair("DistilBertForTokenClassification")
    described = {**DISTILBERT, **NAMED, "model_type": "distilbert"}
    with pytest.raises(ValueError, match=r"DistilBertForSequenceClassification has a ReLU .* as a DistilBertModel"):
        model_from_hf(described | {"architectures": ["DistilBertForSequenceClassification"]}, ours.state_dict())
    with pytest.raises(ValueError, match=r"num_token_types is 0, as in a DistilBERT, whose class head has a ReLU"):
        model_to_hf(replace(ours.config, heads=("class:5",)), {})


def test_padding_does_not_change_our_loss_of_spans():
    logits = torch.randn(1, T, 2, generator=torch.Generator().manual_seed(0))
    real = torch.arange(T)[None] < 7
    settings: dict[str, Any] = {"stride": 0, "max_question_len": 9, "max_answer_len": 9, "null_threshold": None}
    extract = Extract(PAD, layout=LAYOUT, token_types=False, **settings)
    span = torch.tensor([[2, 5]])
    padded = extract.loss(Output(logits, {"span": logits}), {"span": span, "real": real}, training=True)["span"].loss
    short = logits[:, :7]
    alone = extract.loss(Output(short, {"span": short}), {"span": span, "real": real[:, :7]}, training=True)[
        "span"
    ].loss
    torch.testing.assert_close(padded, alone)
