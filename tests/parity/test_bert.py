"""BERT against transformers' BertForPreTraining, on random weights of odd sizes."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from minillm.exchange.bert_weights import bert_map, config_from_hf, modern_names
from minillm.exchange.weight_map import weights_from_hf, weights_to_hf
from minillm.models.build import build_model

LAYERS, VOCAB, B, T = 3, 67, 3, 17
IGNORE = -100


def foreign_config(dropout=0.0, attention_dropout=0.0):
    return BertConfig(
        vocab_size=VOCAB,
        max_position_embeddings=23,
        hidden_size=30,
        num_hidden_layers=LAYERS,
        num_attention_heads=5,
        intermediate_size=77,
        type_vocab_size=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
    )


@pytest.fixture(scope="module")
def theirs(randomize):
    torch.manual_seed(0)
    model = BertForPreTraining(foreign_config()).eval()
    randomize(model)
    return model


@pytest.fixture(scope="module")
def config(theirs):
    return config_from_hf(theirs.config.to_dict())


@pytest.fixture
def ours(theirs, config):
    model = build_model(config)
    model.load_state_dict(weights_from_hf(theirs.state_dict(), bert_map(config), LAYERS))
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    """Rows of 17, 9 and 12 real tokens; three predictions a row, one of them padding."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB, (B, T), generator=generator)
    token_types = torch.randint(3, (B, T), generator=generator)
    valid = torch.arange(T) < torch.tensor([[17], [9], [12]])
    predict_at = torch.tensor([[2, 7, 16], [1, 8, 0], [11, 3, 5]])
    labels = torch.tensor([[5, 66, 3], [4, 9, IGNORE], [1, 0, 8]])
    return tokens, token_types, valid, predict_at, labels, torch.tensor([0, 1, 1])


def test_logits_of_both_heads_equal_transformers_with_padding(theirs, ours, batch, relative):
    tokens, token_types, valid, *_ = batch
    with torch.no_grad():
        reference = theirs(tokens, attention_mask=valid.long(), token_type_ids=token_types)
        output = ours(tokens, token_types=token_types, key_valid=valid)
    assert relative(output.logits["lm"][valid], reference.prediction_logits[valid]) < 1e-5
    assert relative(output.logits["pair"], reference.seq_relationship_logits) < 1e-5


def test_loss_and_gradients_equal_transformers_with_padding(theirs, ours, batch, relative, check_gradients):
    tokens, token_types, valid, predict_at, labels, pair = batch
    dense = torch.full_like(tokens, IGNORE)
    for row in range(B):
        for at, label in zip(predict_at[row], labels[row], strict=True):
            dense[row, at] = label if label != IGNORE else dense[row, at]
    reference = theirs(
        tokens, attention_mask=valid.long(), token_type_ids=token_types, labels=dense, next_sentence_label=pair
    ).loss
    output = ours(tokens, token_types=token_types, key_valid=valid, predict_at=predict_at)
    loss = F.cross_entropy(output.logits["lm"].flatten(0, 1), labels.flatten()) + F.cross_entropy(
        output.logits["pair"], pair
    )
    assert relative(loss, reference) < 1e-5
    theirs.zero_grad()
    reference.backward()
    loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    check_gradients(ours, weights_from_hf(gradients, bert_map(ours.config), LAYERS))


def test_export_after_import_is_bitwise_and_has_exactly_transformers_keys(theirs, ours):
    back = weights_to_hf(ours.state_dict(), bert_map(ours.config), LAYERS)
    assert back.keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back[name], weight), name


def test_without_a_pair_head_it_is_their_masked_lm_and_reads_a_pretraining_file_too(theirs, config, batch, relative):
    tokens, token_types, valid, *_ = batch
    config = replace(config, heads=("lm",))
    model = build_model(config).eval()
    model.load_state_dict(weights_from_hf(theirs.state_dict(), bert_map(config), LAYERS))
    masked = BertForMaskedLM(theirs.config).eval()
    masked.load_state_dict(weights_to_hf(model.state_dict(), bert_map(config), LAYERS))
    with torch.no_grad():
        reference = masked(tokens, attention_mask=valid.long(), token_type_ids=token_types).logits
        output = model(tokens, token_types=token_types, key_valid=valid)
    assert relative(output.logits["lm"][valid], reference[valid]) < 1e-5
    assert "pair" not in output.logits


def test_a_file_of_the_first_release_without_tied_weights_imports_the_same(theirs, config):
    full = theirs.state_dict()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
        for name, weight in full.items()
        if not name.startswith("cls.predictions.decoder")
    }
    old["bert.embeddings.position_ids"] = torch.arange(23)[None]
    expected = weights_from_hf(full, bert_map(config), LAYERS)
    imported = weights_from_hf(modern_names(old), bert_map(config), LAYERS)
    assert imported.keys() == expected.keys()
    assert all(torch.equal(imported[name], expected[name]) for name in expected)


def test_a_file_whose_two_copies_of_one_weight_differ_is_refused(theirs, config):
    state = {**theirs.state_dict(), "cls.predictions.decoder.bias": torch.zeros(VOCAB)}
    with pytest.raises(ValueError, match=r"'cls\.predictions\.decoder\.bias' differs"):
        weights_from_hf(state, bert_map(config), LAYERS)


def test_dropout_falls_where_theirs_does(batch, dropouts):
    tokens, token_types, *_ = batch
    foreign = foreign_config(dropout=0.25, attention_dropout=0.125)
    BertForPreTraining(foreign).train()(tokens, token_type_ids=token_types)
    theirs, dropouts[:] = sorted(dropouts), []
    build_model(config_from_hf(foreign.to_dict())).train()(tokens, token_types=token_types)
    assert sorted(dropouts) == theirs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_act", "quick_gelu"),
        ("position_embedding_type", "x"),
    ],
)
def test_arithmetic_that_this_model_lacks_is_refused_by_key(theirs, key, value):
    with pytest.raises(ValueError, match=key):
        config_from_hf({**theirs.config.to_dict(), key: value})
