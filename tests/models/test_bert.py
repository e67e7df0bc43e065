from typing import Any, get_args, get_type_hints

import pytest
import torch

from minillm.models.bert import BERT
from minillm.models.build import build_model
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig

POSITIONS = get_args(get_type_hints(ModelConfig)["position"])
TOKENS = torch.tensor([[5, 1, 2, 3, 4, 0, 7], [5, 6, 6, 2, 8, 8, 8]])


def make_bert(**changes: Any) -> BERT:
    shape = {"vocab_size": 11, "d_model": 24, "num_layers": 2, "num_heads": 3, "init_std": 0.5, "max_seq_len": 9}
    model = build_model(preset("bert-tiny", **{**shape, **changes}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


@pytest.mark.parametrize(("norm_order", "ngram_order"), [("pre", 1), ("post", 1), ("post", 3)])
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_padding_does_not_change_the_output(position, norm_order, ngram_order):
    std = 0.5 / ngram_order  # three vectors are added up: larger numbers round more
    model = make_bert(
        position=position, norm_order=norm_order, heads=("lm", "pair"), ngram_order=ngram_order, init_std=std
    )
    token_types = (torch.arange(7) > 2).long().expand(2, 7)
    valid = torch.arange(7) < torch.tensor([[7], [4]])
    together = model(TOKENS, token_types=token_types, key_valid=valid)
    for row, length in enumerate((7, 4)):
        alone = model(TOKENS[row : row + 1, :length], token_types=token_types[:1, :length])
        assert torch.allclose(together.logits["lm"][row, :length], alone.logits["lm"][0], atol=1e-5)
        assert torch.allclose(together.logits["pair"][row], alone.logits["pair"][0], atol=1e-5)


@torch.no_grad()
def test_predictions_depend_on_tokens_on_both_sides():
    model = make_bert()
    before = model(TOKENS).logits["lm"]
    for j in range(7):
        changed = TOKENS.clone()
        changed[:, j] = 9
        assert (model(changed).logits["lm"] != before).any(-1).all()


@torch.no_grad()
def test_packed_documents_do_not_attend_to_each_other():
    model = make_bert()
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1]]).expand(2, 7)
    packed = model(TOKENS, document_ids=documents).logits["lm"]
    apart = torch.cat((model(TOKENS[:, :3]).logits["lm"], model(TOKENS[:, 3:]).logits["lm"]), dim=1)
    assert torch.allclose(packed, apart, atol=1e-5)


@torch.no_grad()
def test_the_vocabulary_head_runs_at_the_predicted_positions_alone():
    model, at, widths = make_bert(), torch.tensor([[3, 0], [6, 6]]), []
    everywhere = model(TOKENS).logits["lm"]
    model.heads.get_submodule("lm.proj").register_forward_hook(
        lambda module, args, output: widths.append(args[0].shape[:2])
    )
    chosen = model(TOKENS, predict_at=at).logits["lm"]
    assert widths == [(2, 2)]
    assert torch.allclose(chosen, everywhere.take_along_dim(at[..., None], dim=1), atol=1e-6)


@torch.no_grad()
def test_token_types_are_zero_by_default():
    model = make_bert()
    assert torch.equal(model(TOKENS).logits["lm"], model(TOKENS, token_types=torch.zeros_like(TOKENS)).logits["lm"])
    assert not torch.equal(model(TOKENS).logits["lm"], model(TOKENS, token_types=torch.ones_like(TOKENS)).logits["lm"])


def test_pooler_and_pair_head_exist_only_if_configured():
    assert not [name for name in make_bert().state_dict() if "pair" in name]
    assert "pair" not in make_bert()(TOKENS).logits
    assert make_bert(heads=("lm", "pair"))(TOKENS).logits["pair"].shape == (2, 2)


def test_a_sequence_longer_than_the_position_table_raises():
    with pytest.raises(ValueError, match=r"10 tokens are more than model\.max_seq_len 9"):
        make_bert()(torch.zeros(1, 10, dtype=torch.long))


def test_the_first_loss_is_the_logarithm_of_the_vocabulary():
    model = make_bert(vocab_size=1000, d_model=64, num_heads=4, init_std=0.02)
    loss = torch.nn.functional.cross_entropy(model(TOKENS).logits["lm"].flatten(0, 1), TOKENS.flatten())
    assert abs(loss.item() - torch.tensor(1000.0).log().item()) < 0.1
