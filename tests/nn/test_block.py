from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minillm.nn.attention import AttentionInputs
from minillm.nn.block import Block, Stack, SublayerConnection
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.init import init_weights
from minillm.nn.position import T5RelativeBias
from minillm.nn.token_layout import layout_of

B, T, S, D = 2, 6, 5, 16


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"d_model": D, "num_heads": 2, "num_layers": 2, "init_std": 0.3, **changes})


def stack(shape: ModelConfig, **kind: bool) -> Stack:
    module = Stack(shape, **kind)
    init_weights(module, shape, torch.Generator().manual_seed(0))
    return module.eval()


def run(module: Stack, x: Tensor, **arguments: Any) -> Tensor:
    where = {name: arguments.pop(name) for name in ("key_valid", "document_ids") if name in arguments}
    layout = layout_of(x[..., 0], cache=arguments.get("cache"), **where)
    return module(x, layout, **arguments)


@torch.no_grad()
def test_pre_and_post_norm_follow_their_equations():
    x, double = torch.randn(B, T, D), nn.Linear(D, D)
    pre, post = SublayerConnection(double, config()), SublayerConnection(double, config(norm_order="post"))
    assert torch.equal(pre(x), x + double(pre.norm(x)))
    assert torch.equal(post(x), post.norm(x + double(x)))


@pytest.mark.parametrize("order", ["pre", "post"])
def test_residual_dropout_applies_to_the_sublayer_output_only(order):
    x = torch.randn(B, T, D)
    residual = SublayerConnection(nn.Identity(), config(dropout=0.5, norm_order=order))
    assert not torch.equal(residual(x), residual(x))
    if order == "pre":
        added = residual(x) - x
        normed = residual.norm(x)
        dropped = added.abs() < 1e-6
        assert 0.3 < dropped.float().mean() < 0.7
        assert torch.allclose(added[~dropped], 2 * normed[~dropped], atol=1e-5)
    residual.eval()
    assert torch.equal(residual(x), residual(x))


@torch.no_grad()
def test_a_block_is_attention_then_cross_attention_then_feedforward():
    block, x, source = Block(config(), cross=True), torch.randn(B, T, D), torch.randn(B, S, D)
    assert block.cross is not None
    cross = AttentionInputs(encoder_output=source)
    y = block.cross(block.attn(x, AttentionInputs()), cross)
    assert torch.equal(block(x, AttentionInputs(cross=cross)), block.ffn(y))


@pytest.mark.parametrize("position", ["rotary", "t5", "alibi", "none"])
@torch.no_grad()
def test_a_decoder_stack_is_causal_and_an_encoder_stack_is_not(position):
    x = torch.randn(B, T, D)
    changed = x.clone()
    changed[:, 3] = torch.randn(B, D)
    decoder, encoder = stack(config(position=position), causal=True), stack(config(position=position), causal=False)
    assert torch.equal(run(decoder, x)[:, :3], run(decoder, changed)[:, :3])
    assert not torch.allclose(run(decoder, x)[:, 3:], run(decoder, changed)[:, 3:])
    assert (run(encoder, x) - run(encoder, changed)).abs().amax(-1).gt(1e-6).all()


def test_encoder_buckets_distinguish_directions_and_decoder_buckets_cover_the_past_only():
    for causal in (False, True):
        position = stack(config(position="t5"), causal=causal).position
        assert isinstance(position, T5RelativeBias) and position.bidirectional is not causal


@pytest.mark.parametrize("position", ["rotary", "t5", "alibi", "none"])
@torch.no_grad()
def test_padding_on_either_side_does_not_change_an_encoders_output(position):
    encoder, x = stack(config(position=position), causal=False), torch.randn(1, 4, D)
    alone = run(encoder, x)
    for before, after in ((2, 0), (0, 2), (1, 1)):
        padded = torch.cat((torch.randn(1, before, D), x, torch.randn(1, after, D)), 1)
        valid = torch.tensor([[False] * before + [True] * 4 + [False] * after])
        answer = run(encoder, padded, key_valid=valid)
        assert torch.allclose(answer[:, before : before + 4], alone, atol=1e-5)
        assert torch.isfinite(answer).all()


@pytest.mark.parametrize("order", ["pre", "post"])
@torch.no_grad()
def test_cross_attention_reads_the_encoder_output_with_and_without_a_cache(order):
    decoder = stack(config(norm_order=order, num_kv_heads=1, position="t5"), causal=True, cross=True)
    x, source = torch.randn(B, T, D), torch.randn(B, S, D)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    full = run(decoder, x, encoder_output=source, encoder_valid=valid)
    other = source.clone()
    other[1, 3:] += 9
    assert torch.equal(full, run(decoder, x, encoder_output=other, encoder_valid=valid))
    assert not torch.allclose(full, run(decoder, x, encoder_output=other + 1, encoder_valid=valid))
    cache = KVCache(2, T, encoder_len=S)
    steps = [run(decoder, x[:, t : t + 1], encoder_output=source, encoder_valid=valid, cache=cache) for t in range(T)]
    assert torch.allclose(torch.cat(steps, 1), full, atol=1e-5)


@torch.no_grad()
def test_a_cache_stores_the_encoder_output_for_later_passes():
    shape = config(position="t5")
    decoder, x, source = stack(shape, causal=True, cross=True), torch.randn(B, T, D), torch.randn(B, S, D)
    valid = torch.arange(S) < torch.tensor([[S], [2]])
    cache = KVCache(2, T, encoder_len=S)
    first = run(decoder, x[:, :4], encoder_output=source, encoder_valid=valid, cache=cache)
    second = run(decoder, x[:, 4:], cache=cache)
    whole = run(decoder, x, encoder_output=source, encoder_valid=valid)
    assert torch.allclose(torch.cat((first, second), dim=1), whole, atol=1e-5)


@torch.no_grad()
def test_final_dropout_applies_after_the_final_norm():
    x = torch.randn(B, T, D)
    for final in (True, False):
        module = stack(config(dropout=0.5, final_dropout=final), causal=False)
        for block in module.blocks.values():
            block.eval()
        module.training = True
        assert (run(module, x) == 0).any() == final
        assert not (run(module.eval(), x) == 0).any()


def test_an_encoder_output_requires_cross_attention():
    x, source = torch.randn(B, T, D), torch.randn(B, S, D)
    with pytest.raises(ValueError, match="cross=False"):
        run(stack(config(), causal=True), x, encoder_output=source)
    with pytest.raises(ValueError, match="cross=True"):
        run(stack(config(), causal=True, cross=True), x)


@torch.no_grad()
def test_only_pre_norm_stacks_have_a_final_norm():
    assert isinstance(stack(config(), causal=True).final_norm, nn.LayerNorm)
    assert isinstance(stack(config(norm_order="post"), causal=True).final_norm, nn.Identity)


def test_shapes_hold_on_the_meta_device():
    with torch.device("meta"):
        module, x = Stack(config(position="t5"), causal=True, cross=True), torch.empty(B, T, D)
        assert run(module, x, encoder_output=torch.empty(B, S, D)).shape == (B, T, D)
