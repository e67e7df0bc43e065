"""T5 v1.0 and v1.1 against transformers' T5ForConditionalGeneration, on random weights of odd sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from minillm.exchange.t5_weights import config_from_hf, t5_map
from minillm.exchange.weight_map import weights_from_hf, weights_to_hf
from minillm.models.build import build_model

LAYERS, VOCAB, B, S, T = 2, 67, 3, 27, 13
IGNORE = -100


def foreign_config(version, dropout=0.0):
    return T5Config(
        vocab_size=VOCAB,
        d_model=30,
        d_kv=7,
        d_ff=77,
        num_layers=LAYERS,
        num_heads=5,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=11,
        dropout_rate=dropout,
        feed_forward_proj="relu" if version == "v1.0" else "gated-gelu",
        tie_word_embeddings=version == "v1.0",  # type: ignore[call-arg]
    )


@pytest.fixture(scope="module", params=["v1.0", "v1.1"])
def theirs(request, randomize):
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(foreign_config(request.param)).eval()
    if request.param == "v1.1":  # a published file unties it on loading; a new model shares one table
        model.lm_head.weight = nn.Parameter(torch.empty(VOCAB, 30))
    randomize(model)
    return model


@pytest.fixture(scope="module")
def config(theirs):
    return config_from_hf(theirs.config.to_dict())


@pytest.fixture
def ours(theirs, config):
    model = build_model(config)
    model.load_state_dict(weights_from_hf(theirs.state_dict(), t5_map(config), LAYERS))
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    """Sources of 27, 11 and 19 tokens, targets of 13, 8 and 1."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(VOCAB, (B, S), generator=generator)
    target = torch.randint(VOCAB, (B, T), generator=generator)
    labels = torch.randint(VOCAB, (B, T), generator=generator)
    source_valid = torch.arange(S) < torch.tensor([[27], [11], [19]])
    target_valid = torch.arange(T) < torch.tensor([[13], [8], [1]])
    return source, source_valid, target, target_valid, labels.masked_fill(~target_valid, IGNORE)


def test_logits_loss_and_gradients_equal_transformers_with_padding(theirs, ours, batch, relative, check_gradients):
    source, source_valid, target, target_valid, labels = batch
    reference = theirs(source, attention_mask=source_valid.long(), decoder_input_ids=target, labels=labels)
    output = ours(source, target, encoder_valid=source_valid)
    assert relative(output.logits["lm"][target_valid], reference.logits[target_valid]) < 1e-5
    loss = F.cross_entropy(output.logits["lm"].flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    assert relative(loss, reference.loss) < 1e-5
    theirs.zero_grad()
    reference.loss.backward()
    loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    check_gradients(ours, weights_from_hf(gradients, t5_map(ours.config), LAYERS))


def test_the_head_is_shared_and_scaled_in_the_first_version_only(theirs, ours):
    first = theirs.config.feed_forward_proj == "relu"
    assert (ours.heads["lm"].proj.weight is ours.embed.tokens.weight) == first
    assert ours.config.head_scale == (30**-0.5 if first else None)


def test_export_after_import_is_bitwise_and_has_exactly_transformers_keys(theirs, ours):
    back = weights_to_hf(ours.state_dict(), t5_map(ours.config), LAYERS)
    assert back.keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back[name], weight), name


def test_a_file_without_copies_of_the_shared_table_imports_the_same(theirs, config):
    full = theirs.state_dict()
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    copies += ["lm_head.weight"] if config.tie_embeddings else []
    short = {name: weight for name, weight in full.items() if name not in copies}
    short["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 5)
    expected = weights_from_hf(full, t5_map(config), LAYERS)
    imported = weights_from_hf(short, t5_map(config), LAYERS)
    assert imported.keys() == expected.keys()
    assert all(torch.equal(imported[name], expected[name]) for name in expected)


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_dropout_falls_where_theirs_does(version, batch, dropouts):
    source, _, target, *_ = batch
    foreign = foreign_config(version, dropout=0.25)
    T5ForConditionalGeneration(foreign).train()(source, decoder_input_ids=target)
    theirs, dropouts[:] = sorted(dropouts), []
    build_model(config_from_hf(foreign.to_dict())).train()(source, target)
    assert sorted(dropouts) == theirs


@pytest.mark.parametrize(("key", "value"), [("num_decoder_layers", 3), ("feed_forward_proj", "gated-quick_gelu")])
def test_arithmetic_that_this_model_lacks_is_refused_by_key(config, key, value):
    with pytest.raises(ValueError, match=key):
        config_from_hf({**foreign_config("v1.0").to_dict(), key: value})
