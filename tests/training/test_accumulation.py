"""The gradient of a step is the big batch's however that is cut into micro-batches, for each objective."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from minillm.distributed.runtime import Runtime
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.base import Batch, Objective
from minillm.objectives.clm import CausalLM
from minillm.objectives.mlm import MaskedLM
from minillm.objectives.prefix_lm import EncoderPrefixLM, PrefixLM
from minillm.objectives.seq2seq import Seq2Seq
from minillm.objectives.span import SpanCorruption
from minillm.training.config import OptimConfig
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute
from minillm.training.step import StepFunction

PAD, EOS, SEP, WORDS, VOCAB = 24, 23, 22, 18, 25
SHAPE: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 24, "num_layers": 2, "num_heads": 3, "max_seq_len": 20}
LOSS: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-3}
MASKED: dict[str, Any] = {"mask_id": 18, "cls_id": 19, "sep_id": SEP, "ordinary": np.arange(VOCAB) < WORDS}
OBJECTIVES: dict[str, tuple[str, Objective]] = {
    "clm": ("gpt", CausalLM(PAD, **LOSS)),
    "prefix_lm": ("gpt", PrefixLM(pad_id=PAD, **LOSS)),
    "mlm": ("bert", MaskedLM(pad_id=PAD, **MASKED, mask_rate=0.4, pairs=True, **LOSS)),
    "span": ("t5", SpanCorruption(pad_id=PAD, eos_id=EOS, sentinels=(18, 19, 20), **LOSS)),
    "encoder prefix_lm": ("t5", EncoderPrefixLM(pad_id=PAD, eos_id=EOS, **LOSS)),
    "seq2seq": ("t5", Seq2Seq(pad_id=PAD, eos_id=EOS, sep_id=SEP, max_len=20, **LOSS)),
}
LENGTHS = [12, 2, 7, 15, 3, 2, 9, 5]


class Passages(NamedTuple):
    first: np.ndarray
    second: np.ndarray
    follows: bool


def rows(objective: Objective) -> list[Any]:
    """Examples of very different lengths, in the form that the objective's collate wants."""
    rng = np.random.default_rng(4)
    drawn = [rng.integers(0, WORDS, length + 1) for length in LENGTHS]
    if isinstance(objective, MaskedLM):
        return [Passages(row[: len(row) // 2], row[len(row) // 2 :], bool(len(row) % 2)) for row in drawn]
    if isinstance(objective, Seq2Seq):
        return [np.concatenate([row[: len(row) // 3], [SEP], row[len(row) // 3 :], [EOS]]) for row in drawn]
    return drawn


def gradient(family: str, objective: Objective, split: Sequence[int]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the rows in micro-batches of these sizes; each row keeps its own generator."""
    heads = {"num_token_types": 2, "heads": ("lm", "pair")} if family == "bert" else {}
    model = build_model(ModelConfig(**SHAPE | heads, family=family))  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(1))
    examples, batches = rows(objective), list[Batch]()
    for begin, end in pairwise(np.cumsum([0, *split]).tolist()):
        batches.append(objective.collate(examples[begin:end], lambda i, begin=begin: np.random.default_rng(begin + i)))
    config = OptimConfig()
    compute = Compute(torch.device("cpu"), torch.float32, compile=False)
    step = StepFunction(
        model, objective, Optimizer(model, config), compute=compute, runtime=Runtime(), clip=config.clip, seed=3
    )
    counts = {name: float(sum(batch.counts[name] for batch in batches)) for name in batches[0].counts}
    loss = step.gradient(1, batches, counts=counts).item()
    return loss, torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("split", [[4, 4], [1, 7], [3, 1, 2, 2], [1] * 8], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_with_different_numbers_of_targets_give_the_gradient_of_the_whole_batch(
    name: str, split: list[int]
):
    whole_loss, whole = gradient(*OBJECTIVES[name], [8])
    loss, found = gradient(*OBJECTIVES[name], split)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert (found - whole).norm() <= 1e-6 * whole.norm()
