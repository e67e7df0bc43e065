from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from minillm.models.build import build_model
from minillm.models.presets import preset
from minillm.models.t5 import T5
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.attention import EagerAttention

POSITIONS = get_args(get_type_hints(ModelConfig)["position"])
VOCAB = 11
SOURCE = torch.tensor([[5, 1, 2, 3, 4, 0, 7], [5, 6, 6, 2, 8, 8, 8], [9, 3, 1, 1, 1, 1, 1]])
SOURCE_VALID = torch.arange(7) < torch.tensor([[7], [4], [1]])
TARGET = torch.tensor([[0, 3, 3, 1, 9], [0, 2, 7, 7, 4], [0, 9, 8, 10, 2]])


def make_t5(**changes: Any) -> T5:
    shape = {"vocab_size": VOCAB, "d_model": 24, "num_layers": 2, "num_heads": 3, "d_ff": 40, "max_seq_len": 9}
    model = build_model(preset("t5-mini", **{**shape, **changes}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_predictions_depend_on_the_whole_source_but_not_on_later_target_tokens(position):
    model = make_t5(position=position)
    before = model(SOURCE, TARGET).logits["lm"]
    for j in range(TARGET.size(1)):
        changed = TARGET.clone()
        changed[:, j] = 6
        moved = (model(SOURCE, changed).logits["lm"] != before).any(-1)
        assert not moved[:, :j].any() and moved[:, j:].all()
    for j in range(SOURCE.size(1)):
        changed = SOURCE.clone()
        changed[:, j] = 10
        assert (model(changed, TARGET).logits["lm"] != before).any(-1).all()
        assert (model.encode(changed) != model.encode(SOURCE)).any(-1).all()


@pytest.mark.parametrize("ngram_order", [1, 3])
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_a_ragged_batch_equals_its_rows_one_by_one(position, ngram_order):
    model = make_t5(position=position, ngram_order=ngram_order)
    together = model(SOURCE, TARGET, encoder_valid=SOURCE_VALID).logits["lm"]
    for row, length in enumerate(SOURCE_VALID.sum(1)):
        alone = model(SOURCE[row : row + 1, :length], TARGET[row : row + 1]).logits["lm"][0]
        assert torch.allclose(together[row], alone, atol=1e-5)


@torch.no_grad()
def test_padding_on_the_left_of_targets_changes_nothing():
    model = make_t5()
    valid = torch.arange(5) >= torch.tensor([[0], [2], [4]])
    together = model(SOURCE, TARGET, decoder_valid=valid).logits["lm"]
    for row, start in enumerate((0, 2, 4)):
        alone = model(SOURCE[row : row + 1], TARGET[row : row + 1, start:]).logits["lm"][0]
        assert torch.allclose(together[row, start:], alone, atol=1e-5)


@pytest.mark.parametrize(("norm_order", "ngram_order"), [("pre", 1), ("post", 1), ("pre", 3)])
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_cached_decoding_equals_uncached_with_padding_on_both_sides(position, norm_order, ngram_order):
    model = make_t5(position=position, norm_order=norm_order, num_kv_heads=1, ngram_order=ngram_order)
    begin_valid = torch.arange(2) >= torch.tensor([[0], [1], [0]])
    valid = torch.cat((begin_valid, torch.ones(3, 3, dtype=torch.bool)), dim=1)
    expected = model(SOURCE, TARGET, encoder_valid=SOURCE_VALID, decoder_valid=valid).logits["lm"]
    output = model.encode(SOURCE, key_valid=SOURCE_VALID)
    cache, logits = model.start(
        TARGET[:, :2], encoder_output=output, encoder_valid=SOURCE_VALID, max_len=5, key_valid=begin_valid
    )
    assert torch.allclose(logits, expected[:, 1], atol=1e-5)
    for t in range(2, 5):
        assert torch.allclose(model.step(TARGET[:, t : t + 1], cache)[:, 0], expected[:, t], atol=1e-5)


@torch.no_grad()
def test_the_sources_keys_and_values_are_computed_once():
    model, calls = make_t5(), []
    blocks: Any = model.decoder.blocks
    for block in blocks.values():
        for projection in (block.cross.sublayer.k, block.cross.sublayer.v):
            projection.register_forward_hook(lambda *_: calls.append(1))
    cache, _ = model.start(TARGET[:, :1], encoder_output=model.encode(SOURCE), max_len=5)
    for t in range(1, 5):
        model.step(TARGET[:, t : t + 1], cache)
    assert len(calls) == 2 * 2


@torch.no_grad()
def test_the_vocabulary_head_runs_at_the_predicted_positions_alone():
    model, at, widths = make_t5(), torch.tensor([[3], [0], [4]]), []
    everywhere = model(SOURCE, TARGET).logits["lm"]
    model.heads.get_submodule("lm.proj").register_forward_hook(
        lambda module, args, output: widths.append(args[0].shape[:2])
    )
    chosen = model(SOURCE, TARGET, predict_at=at).logits["lm"]
    assert widths == [(3, 1)]
    assert torch.allclose(chosen, everywhere.take_along_dim(at[..., None], dim=1), atol=1e-6)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_sequence_longer_than_max_seq_len_raises(side):
    long, short = torch.zeros(1, 10, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"10 tokens are more than model\.max_seq_len 9"):
        make_t5()(*((long, short) if side == "source" else (short, long)))


def test_decoding_without_a_source_raises():
    with pytest.raises(ValueError, match="encoder_output"):
        make_t5().decode(TARGET)


@pytest.mark.parametrize("name", ["t5-small", "t5-v1.1-small", "t5-mini", "transformer-base"])
@torch.no_grad()
def test_logits_start_with_variance_one(name):
    model = build_model(preset(name, vocab_size=500, num_layers=2)).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    tokens = torch.randint(500, (4, 16), generator=torch.Generator().manual_seed(1))
    other = torch.randint(500, (4, 16), generator=torch.Generator().manual_seed(2))
    assert 0.8 < model(tokens, other).logits["lm"].std() < 1.25


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo does so itself
def test_a_compiled_training_pass_has_the_same_gradients(monkeypatch):
    """The kernels that work out their own gradients, attention's and RMSNorm's, under torch.compile."""
    model = make_t5().train()

    def gradients(run: Any) -> list[Tensor]:
        model.zero_grad()
        run(SOURCE, TARGET, encoder_valid=SOURCE_VALID).logits["lm"].square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    seen: list[Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            EagerAttention, "apply", lambda *args, of=EagerAttention.apply: seen.append(of(*args)) or seen[-1]
        )
        plain = gradients(model)
    assert len(seen) == 4, "self-attention of encoder and decoder, which have trained biases"
    torch._dynamo.reset()
    traced = gradients(torch.compile(model, backend="aot_eager", fullgraph=True))
    for mine, theirs in zip(traced, plain, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
