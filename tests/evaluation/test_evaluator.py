"""Evaluation: sums over fixed windows, ratios last."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from minillm.data.datasets.corpus import Tokens
from minillm.data.loader import Windows, eval_batches
from minillm.distributed.runtime import Runtime
from minillm.evaluation.evaluator import evaluate
from minillm.models.build import build_model
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.objectives.clm import CausalLM
from minillm.training.evaluation import Evaluation
from minillm.training.precision import Compute

COMPUTE = Compute(torch.device("cpu"), torch.float32, compile=False)
BYTES = torch.tensor([1, 2, 3, 4] * 5 + [1, 0, 0])  # of ids 0..22; 21 is EOS
TEXT = Tokens(np.array([*np.random.default_rng(0).integers(0, 20, 46), 21]), 21)  # 47 = 3 windows of 12 and one of 11


@pytest.fixture
def make_gpt() -> Callable[..., GPT]:
    """Makes a filled GPT."""

    def make(**shape: float) -> GPT:
        sizes = {"vocab_size": 23, "max_seq_len": 12, "d_model": 16, "num_layers": 2, "num_heads": 2}
        model = build_model(ModelConfig(**{**sizes, **shape}))  # type: ignore[arg-type]
        model.init_weights(torch.Generator().manual_seed(1))
        return model

    return make


def measure(model: torch.nn.Module, batch: int = 3, max_tokens: int = 0) -> Evaluation:
    objective = CausalLM(22, label_smoothing=0.3, z_loss=0.1)
    batches = eval_batches(Windows(TEXT, 12), objective.collate, batch, max_tokens=max_tokens)
    return evaluate(model, batches, objective, compute=COMPUTE, runtime=Runtime(), token_bytes=BYTES)


def by_hand(model: torch.nn.Module, windows: int) -> tuple[float, int, int]:
    """Target by target, each predicted from the tokens before it in its window and the one before the window."""
    ids = TEXT.slice(0, 47).astype(int)
    loss, num_bytes, count = 0.0, 0, 0
    for start in range(0, 12 * windows, 12):
        for at in range(start, min(start + 12, 47)):
            context = [ids[start - 1], *ids[start:at]]
            logits = model(torch.tensor([context])).logits["lm"][0, -1].double()
            loss -= logits.log_softmax(-1)[ids[at]].item()
            num_bytes += int(BYTES[ids[at]])
            count += 1
    return loss, count, num_bytes


@pytest.mark.parametrize(("max_tokens", "windows"), [(0, 4), (24, 2), (30, 2), (1, 1), (1000, 4)])
def test_every_target_counts_once_and_the_ratios_come_last(make_gpt: Callable, max_tokens: int, windows: int):
    model = make_gpt().eval()
    found = measure(model, max_tokens=max_tokens)
    loss, count, num_bytes = by_hand(model, windows)
    assert (found.targets, found.num_bytes) == (count, num_bytes)
    assert found.loss_sums["lm"] == pytest.approx(loss, rel=1e-6)
    assert found.loss == pytest.approx(loss / count, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(loss / count), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(loss / math.log(2) / num_bytes, rel=1e-6)


def test_the_batch_size_does_not_matter(make_gpt: Callable):
    model = make_gpt()
    losses = [measure(model, batch).loss for batch in (1, 2, 3, 4, 100)]
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-6)


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_is_off_meanwhile_and_the_mode_comes_back(make_gpt: Callable, mode: bool):
    model = make_gpt(dropout=0.5).train(mode)
    assert measure(model) == measure(model)
    assert model.training is mode


def test_no_gradient_is_left_behind_and_the_model_can_train_after_it(make_gpt: Callable):
    model = make_gpt(position="rotary")
    measure(model)
    assert all(p.grad is None for p in model.parameters())
    model(torch.tensor([[1, 2, 3]])).logits["lm"].sum().backward()


def test_a_hopeless_loss_has_infinite_perplexity_and_no_overflow():
    assert Evaluation({"lm": 1e6}, {"lm": 10}, {"lm": 0}, 10).perplexity == math.inf
    assert "perplexity 5.22e+173, " in Evaluation({"lm": 4000}, {"lm": 10}, {"lm": 0}, 10).describe()


def test_nothing_to_evaluate_is_an_error(make_gpt: Callable):
    objective = CausalLM(22)
    with pytest.raises(ValueError, match="no token to predict"):
        evaluate(make_gpt(), [], objective, compute=COMPUTE, runtime=Runtime(), token_bytes=BYTES)
