"""GPT-2's shape against transformers' GPT2LMHeadModel, on random weights of odd sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from minillm.exchange.gpt2_weights import config_from_hf, gpt2_map
from minillm.exchange.weight_map import Rule, WeightMap, weights_from_hf, weights_to_hf
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig

LAYERS = 3
RULES = gpt2_map(ModelConfig())


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=67,
        n_positions=29,
        n_embd=30,
        n_layer=LAYERS,
        n_head=5,
        n_inner=77,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, so that a swapped one shows
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)
    return model


@pytest.fixture
def ours(theirs: GPT2LMHeadModel) -> torch.nn.Module:
    model = build_model(config_from_hf(theirs.config.to_dict()))
    model.load_state_dict(weights_from_hf(theirs.state_dict(), RULES, LAYERS))
    return model.eval()


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_logits_loss_and_gradients_equal_transformers(theirs, ours):
    tokens = torch.randint(67, (3, 23), generator=torch.Generator().manual_seed(1))
    reference = theirs(tokens, labels=tokens)
    logits = ours(tokens).logits["lm"]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert relative(logits, reference.logits) < 1e-5
    assert relative(loss, reference.loss) < 1e-5
    theirs.zero_grad()
    reference.loss.backward()
    loss.backward()
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    grads["lm_head.weight"] = grads["transformer.wte.weight"]
    expected = weights_from_hf(grads, RULES, LAYERS)
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, expected[name]) < 1e-5 or expected[name].abs().max() < 1e-5, name


def test_left_padded_batch_equals_transformers(theirs, ours):
    tokens = torch.randint(67, (2, 11), generator=torch.Generator().manual_seed(2))
    valid = torch.arange(11) >= torch.tensor([[4], [0]])
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        reference = theirs(tokens, attention_mask=valid.long(), position_ids=positions).logits
        logits = ours(tokens, key_valid=valid).logits["lm"]
    assert relative(logits[valid], reference[valid]) < 1e-5


def test_export_after_import_is_bitwise_and_has_exactly_transformers_keys(theirs, ours):
    back = weights_to_hf(ours.state_dict(), RULES, LAYERS)
    assert back.keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back[name], weight), name


def test_a_tied_file_without_its_head_and_with_mask_buffers_imports_the_same(theirs):
    full = theirs.state_dict()
    tied = {name: weight for name, weight in full.items() if name != "lm_head.weight"}
    tied["transformer.h.0.attn.bias"] = torch.ones(1, 1, 29, 29)
    expected = weights_from_hf(full, RULES, LAYERS)
    imported = weights_from_hf(tied, RULES, LAYERS)
    assert imported.keys() == expected.keys()
    assert all(torch.equal(imported[name], expected[name]) for name in expected)


def test_missing_and_left_over_keys_are_named(theirs):
    state = theirs.state_dict()
    with pytest.raises(ValueError, match=r"lack 'transformer\.h\.3\.ln_1\.weight'"):
        weights_from_hf(state, RULES, LAYERS + 1)
    with pytest.raises(ValueError, match=r"cannot be imported, such as transformer\.h\.2"):
        weights_from_hf(state, RULES, LAYERS - 1)
    ours = weights_from_hf(state, RULES, LAYERS)
    with pytest.raises(ValueError, match="no Hugging Face name, among them extra"):
        weights_to_hf({**ours, "extra": torch.ones(1)}, RULES, LAYERS)
    with pytest.raises(ValueError, match=r"lacks 'a\.weight'"):
        weights_to_hf({}, WeightMap((Rule("b.weight", "a.weight"),)), 0)


@pytest.mark.parametrize("key", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_arithmetic_that_this_model_lacks_is_refused_by_key(theirs, key):
    with pytest.raises(ValueError, match=key):
        config_from_hf({**theirs.config.to_dict(), key: True})


def test_an_unknown_activation_is_refused_by_name(theirs):
    with pytest.raises(ValueError, match="quick_gelu"):
        config_from_hf({**theirs.config.to_dict(), "activation_function": "quick_gelu"})
