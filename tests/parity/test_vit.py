"""ViT against transformers' ViTForImageClassification, on random weights of odd sizes; images are not square."""

import re

import pytest
import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTForImageClassification

from minillm.models.build import build_model
from minillm.models.presets import preset

HEADS = ("class:7",)
NAMES = {
    r"^vit\.embeddings\.cls_token$": "embed.class_token.weight",
    r"^vit\.embeddings\.position_embeddings$": "embed.position.table.weight",
    r"^vit\.embeddings\.patch_embeddings\.projection\.": "embed.proj.",
    r"^vit\.layers\.": "encoder.blocks.",
    r"\.layernorm_before\.": ".attn.norm.",
    r"\.attention\.o_proj\.": ".attn.sublayer.out.",
    r"\.attention\.(q|k|v)_proj\.": r".attn.sublayer.\1.",
    r"\.layernorm_after\.": ".ffn.norm.",
    r"\.mlp\.fc1\.": ".ffn.sublayer.up.",
    r"\.mlp\.fc2\.": ".ffn.sublayer.down.",
    r"^vit\.layernorm\.": "encoder.final_norm.",
    r"^classifier\.": "heads.class.proj.",
}
CONFIG = preset(
    "vit-base",
    **dict(input_shape=(2, 20, 15), patch_size=5, num_layers=3, d_model=28, num_heads=4, d_ff=49, heads=HEADS),
)


def ours_from(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Their tensors under our names, in our shapes."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.flatten(1) if tensor.ndim == 4 else tensor.squeeze(0) if tensor.ndim == 3 else tensor
    return found


@pytest.fixture(scope="module")
def models(randomize):
    torch.manual_seed(0)
    theirs = ViTForImageClassification(
        ViTConfig(
            hidden_size=28,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=49,
            image_size=[20, 15],  # type: ignore[arg-type]
            patch_size=5,
            num_channels=2,
            num_labels=7,  # type: ignore[call-arg]
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).eval()
    randomize(theirs)
    ours = build_model(CONFIG)
    ours.load_state_dict(ours_from(theirs.state_dict()))
    return ours.eval(), theirs


def test_logits_equal_those_of_transformers(models, relative):
    ours, theirs = models
    images = torch.randn(3, 2, 20, 15)
    expected = theirs(images, output_hidden_states=True)
    found = ours(images)
    assert relative(found.logits["class"], expected.logits) < 1e-5
    assert relative(ours.embed(images), expected.hidden_states[0]) < 1e-5
    assert found.hidden.shape == (3, 1 + 4 * 3, 28)


def test_gradients_equal_those_of_transformers(models, check_gradients):
    ours, theirs = models
    images, labels = torch.randn(3, 2, 20, 15), torch.tensor([1, 6, 0])
    for model in models:
        model.zero_grad()
    F.cross_entropy(theirs(images).logits, labels).backward()
    F.cross_entropy(ours(images).logits["class"], labels).backward()
    check_gradients(ours, ours_from({name: p.grad for name, p in theirs.named_parameters()}))
