import pytest
import torch

from minillm.models.build import build_model
from minillm.models.presets import preset

SMALL = {"vocab_size": 31, "d_model": 24, "num_heads": 4, "num_layers": 2, "max_seq_len": 12}
SHAPES = {
    "gpt": {"preset": "gpt-nano", "ngram_rows": 50, "residual_init": "scaled"},
    "gpt, tied": {"preset": "gpt2"},
    "bert": {"preset": "bert-base"},
    "bert, a class head": {"preset": "bert-mini", "heads": ("lm", "class:3")},
    "t5, tied": {"preset": "t5-small"},
    "t5": {"preset": "t5-v1.1-small"},
    "transformer": {"preset": "transformer-base"},
}


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_construction_on_the_meta_device_gives_the_same_weights_and_ties(name):
    shape = {**SMALL, **SHAPES[name]}
    config = preset(shape.pop("preset"), **shape)
    plain = build_model(config)
    plain.init_weights(torch.Generator().manual_seed(5))
    with torch.device("meta"):
        late = build_model(config)
    late.to_empty(device="cpu")
    late.init_weights(torch.Generator().manual_seed(5))
    assert (late.heads["lm"].proj.weight is late.embed.tokens.weight) == config.tie_embeddings
    assert len(list(late.parameters())) == len(list(plain.parameters()))
    assert late.state_dict().keys() == plain.state_dict().keys()
    for key, value in late.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key
    ids = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(1))
    tokens = (ids, ids) if config.family == "t5" else (ids,)
    for head, logits in late.eval()(*tokens).logits.items():
        assert torch.equal(logits, plain.eval()(*tokens).logits[head])
