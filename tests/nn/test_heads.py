import pytest
import torch

from minillm.models.build import build_model
from minillm.nn.config import HeadSpec, ModelConfig
from minillm.nn.heads import LastTokenHead, PooledHead, TokenHead

CONFIG = ModelConfig(vocab_size=11, d_model=8, num_layers=1, num_heads=2, max_seq_len=9)
VALID = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]]).bool()


@torch.no_grad()
def test_a_gpts_class_head_reads_the_rightmost_real_token_with_padding_on_either_side():
    head, hidden = LastTokenHead(CONFIG, 3), torch.randn(4, 5, 8)
    expected = torch.stack([hidden[row, last] @ head.proj.weight.T for row, last in enumerate((4, 2, 4, 3))])
    assert torch.allclose(head(hidden, key_valid=VALID), expected, atol=1e-6)
    assert torch.allclose(head(hidden), hidden[:, 4] @ head.proj.weight.T, atol=1e-6)


@torch.no_grad()
def test_a_berts_class_head_reads_the_first_real_token_with_padding_on_either_side():
    head, hidden = PooledHead(CONFIG, 3), torch.randn(4, 5, 8)
    rows = torch.stack([hidden[row, first] for row, first in enumerate((0, 0, 2, 1))])
    assert torch.allclose(head(hidden, key_valid=VALID), head.proj(torch.tanh(head.pooler(rows))), atol=1e-6)


@torch.no_grad()
def test_token_heads_give_numbers_for_each_token():
    head, hidden = TokenHead(CONFIG, 2), torch.randn(4, 5, 8)
    assert torch.allclose(head(hidden), hidden @ head.proj.weight.T + head.proj.bias, atol=1e-6)


@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_a_padded_text_has_the_classes_that_it_has_alone(padding):
    config = ModelConfig(vocab_size=11, d_model=8, num_layers=2, num_heads=2, heads=("class:3", "value"), init_std=0.5)
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(1))
    text, pads = torch.tensor([[5, 1, 2, 3]]), torch.tensor([[0, 0]])
    valid = torch.tensor([[True] * 4]), torch.tensor([[False] * 2])
    order = slice(None, None, -1 if padding == "left" else 1)
    padded = model(torch.cat((text, pads)[order], 1), key_valid=torch.cat(valid[order], 1))
    alone = model(text).logits
    assert torch.allclose(padded.logits["class"], alone["class"], atol=1e-6)
    real = slice(2, 6) if padding == "left" else slice(0, 4)
    assert torch.allclose(padded.logits["value"][:, real], alone["value"], atol=1e-6)


@pytest.mark.parametrize("wrong", ["class", "class:0", "tag:", "span:2", "classes:3"])
def test_unknown_heads_are_refused(wrong):
    with pytest.raises(ValueError, match=r"model\.heads has"):
        HeadSpec.parse(wrong)
