"""The Transformer of Vaswani et al. 2017, a T5 of other parts, against torch's nn.Transformer."""

from typing import Any

import torch

from minillm.models.build import build_model
from minillm.models.presets import preset

SOURCE = torch.tensor([[5, 1, 2, 3, 4, 0, 7], [5, 6, 6, 2, 8, 8, 8]])
TARGET = torch.tensor([[0, 3, 3, 1, 9], [0, 2, 7, 7, 4]])


@torch.no_grad()
def test_post_norm_and_sinusoidal_positions_make_the_first_transformer():
    shape = {"vocab_size": 11, "d_model": 24, "num_layers": 2, "num_heads": 4, "d_ff": 40, "embed_scale": 24**0.5}
    ours = build_model(preset("transformer-base", **shape, dropout=0.0)).eval()
    ours.init_weights(torch.Generator().manual_seed(1))
    theirs = torch.nn.Transformer(24, 4, 2, 2, 40, dropout=0.0, batch_first=True).eval()
    theirs.encoder.norm = theirs.decoder.norm = None  # a later addition
    for part in ("encoder", "decoder"):
        for mine, block in zip(getattr(theirs, part).layers, getattr(ours, part).blocks.values(), strict=True):
            copy_block(block, mine)
    vectors = [ours.embed(tokens, torch.arange(tokens.size(1))) for tokens in (SOURCE, TARGET)]
    causal = torch.nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(*vectors, tgt_mask=causal, tgt_is_causal=True) @ ours.embed.tokens.weight.T
    assert torch.allclose(ours(SOURCE, TARGET).logits["lm"], expected, atol=1e-5)


def copy_block(ours: Any, theirs: Any) -> None:
    """One of our blocks' weights, made random, into a layer of torch's."""
    for parameter in ours.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2)
    attentions = [(ours.attn, theirs.self_attn)]
    attentions += [(ours.cross, theirs.multihead_attn)] if ours.cross is not None else []
    for number, (residual, attention) in enumerate(attentions, 1):
        parts = (residual.sublayer.q, residual.sublayer.k, residual.sublayer.v)
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        attention.out_proj.load_state_dict(residual.sublayer.out.state_dict())
        getattr(theirs, f"norm{number}").load_state_dict(residual.norm.state_dict())
    theirs.linear1.load_state_dict(ours.ffn.sublayer.up.state_dict())
    theirs.linear2.load_state_dict(ours.ffn.sublayer.down.state_dict())
    getattr(theirs, f"norm{len(attentions) + 1}").load_state_dict(ours.ffn.norm.state_dict())
