"""Masked language modelling: the layout, the masks, and where the gradient goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.data.datasets.corpus import Tokens
from minillm.data.loader import Loader, Windows, eval_batches
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.objectives.base import IGNORE_INDEX, Batch
from minillm.objectives.mlm import MaskedLM

VOCAB, EOS, PAD, MASK, CLS, SEP = 25, 20, 21, 22, 23, 24
ORDINARY = np.arange(VOCAB) < 20
IDS: dict[str, Any] = {"pad_id": PAD, "mask_id": MASK, "cls_id": CLS, "sep_id": SEP, "ordinary": ORDINARY}
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_seq_len": 32,
    "d_model": 16,
    "num_layers": 1,
    "num_heads": 2,
    "num_token_types": 2,
}


class Passages(NamedTuple):
    first: np.ndarray
    second: np.ndarray
    follows: bool


def rng_of(seed: int) -> Callable[[int], np.random.Generator]:
    return lambda row: np.random.default_rng([seed, row])


def model(heads: tuple[str, ...] = ("lm",)):
    made = build_model(ModelConfig(family="bert", heads=heads, **SHAPE))
    made.init_weights(torch.Generator().manual_seed(0))
    return made


def restored(batch: Batch) -> torch.Tensor:
    """The tokens with each label put back into its place."""
    tokens, places, labels = batch.inputs["tokens"].clone(), batch.inputs["predict_at"], batch.labels["mlm"]
    for row in range(len(tokens)):
        real = labels[row] != IGNORE_INDEX
        tokens[row, places[row, real]] = labels[row, real]
    return tokens


def test_a_row_is_between_cls_and_sep_without_the_preceding_token():
    batch = MaskedLM(**IDS, mask_rate=0.5).collate([np.arange(9), np.arange(5)], rng_of(0))
    assert restored(batch).tolist() == [[CLS, *range(1, 9), SEP], [CLS, 1, 2, 3, 4, SEP, PAD, PAD, PAD, PAD]]
    assert batch.inputs["key_valid"].sum(1).tolist() == [10, 6]
    assert batch.counts == {"mlm": 6} and (batch.labels["mlm"] != IGNORE_INDEX).sum(1).tolist() == [4, 2]
    assert set(batch.inputs) == {"tokens", "predict_at", "key_valid"}
    assert "key_valid" not in MaskedLM(**IDS).collate([np.arange(9)] * 2, rng_of(0)).inputs


def test_two_passages_have_token_types_and_label_0_if_the_second_follows():
    pairs = [Passages(np.array([1, 2]), np.array([3]), True), Passages(np.array([4]), np.array([5]), False)]
    objective = MaskedLM(**IDS, mask_rate=0.4, pairs=True)
    batch = objective.collate(pairs, rng_of(0))
    assert restored(batch).tolist() == [[CLS, 1, 2, SEP, 3, SEP], [CLS, 4, SEP, 5, SEP, PAD]]
    assert batch.inputs["token_types"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert batch.labels["pair"].tolist() == [0, 1] and batch.counts["pair"] == 2
    assert objective.heads == ("lm", "pair") and tuple(objective.targets) == ("mlm", "pair")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, EOS), min_size=1, max_size=30), min_size=1, max_size=5),
    rate=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
    whole=st.booleans(),
)
def test_special_tokens_are_never_masked_or_drawn_and_the_text_can_be_restored(
    rows: list[list[int]], rate: float, seed: int, whole: bool
):
    pieces = [b" a" if i % 3 else b"b" for i in range(20)] + [b""] * 5 if whole else None
    objective = MaskedLM(**IDS, mask_rate=rate, mask_share=0.4, random_share=0.5, pieces=pieces)
    batch = objective.collate([np.array(row) for row in rows], rng_of(seed))
    labels, tokens = batch.labels["mlm"], batch.inputs["tokens"]
    assert batch.counts["mlm"] == (labels != IGNORE_INDEX).sum()
    assert (labels[labels != IGNORE_INDEX] < EOS).all(), "EOS, [CLS], [SEP] and padding are no targets"
    longest = max(map(len, rows))
    expected = [[CLS, *row[1:], SEP] + [PAD] * (longest - len(row)) for row in rows]
    assert restored(batch).tolist() == expected
    changed = tokens[tokens != torch.tensor(expected)]
    assert ((changed < EOS) | (changed == MASK)).all(), "no special token but the mask is put in"


TOKENS = Tokens(np.append(np.random.default_rng(0).integers(0, 20, 400), EOS).astype(np.uint16), EOS)


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 30), seed=st.integers(0, 99), micro=st.integers(1, 12), world=st.sampled_from([1, 2, 3, 4]))
def test_masks_depend_on_seed_step_and_row_only(step: int, seed: int, micro: int, world: int):
    def rows(micro: int, world: int) -> list[tuple[list[int], dict[int, int]]]:
        found = []
        for rank in range(world):
            loader = Loader(
                Windows(TOKENS, 14),
                MaskedLM(**IDS).collate,
                seed=seed,
                global_batch=12,
                micro_batch=micro,
                rank=rank,
                world_size=world,
            )
            for batch in loader.batches(step):
                places, labels = batch.inputs["predict_at"].tolist(), batch.labels["mlm"].tolist()
                for tokens, at, wanted in zip(batch.inputs["tokens"].tolist(), places, labels, strict=True):
                    targets = {p: t for p, t in zip(at, wanted, strict=True) if t != IGNORE_INDEX}
                    found.append(([t for t in tokens if t != PAD], targets))
        return found

    assert rows(micro, world) == rows(12, 1)


def test_each_step_masks_different_tokens_and_validation_always_the_same():
    objective = MaskedLM(**IDS)
    windows = Windows(TOKENS, 14)
    loader = Loader(windows, objective.collate, seed=0, global_batch=4, micro_batch=4)
    first, second = (loader.batches(step)[0].inputs["predict_at"] for step in (0, 1))
    assert not torch.equal(first, second)

    def masks(batch: int) -> list[list[int]]:
        batches = eval_batches(windows, objective.collate, batch)
        return [row for b in batches for row in torch.where(b.labels["mlm"] < 0, -1, b.inputs["predict_at"]).tolist()]

    assert masks(5) == masks(5)
    assert [set(row) - {-1} for row in masks(5)] == [set(row) - {-1} for row in masks(3)]


def test_positions_without_a_label_have_no_gradient():
    objective = MaskedLM(**IDS, mask_rate=0.3, pairs=True, z_loss=0.1, label_smoothing=0.1)
    pairs = [Passages(np.arange(9), np.arange(5), True), Passages(np.arange(2), np.arange(3), False)]
    batch = objective.collate(pairs, rng_of(1))
    labels = batch.labels["mlm"]
    logits = torch.randn(*labels.shape, VOCAB, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pair = torch.zeros(2, 2, requires_grad=True)
    sums = objective.loss(Output(logits, {"lm": logits, "pair": pair}), batch.labels, training=True)
    (sums["mlm"].loss + sums["pair"].loss).backward()
    assert logits.grad is not None and (labels == IGNORE_INDEX).any()
    reached = logits.grad.abs().sum(-1) > 0
    assert torch.equal(reached, labels != IGNORE_INDEX)


def test_a_row_padded_in_a_batch_has_the_same_loss_as_alone():
    objective, bert = MaskedLM(**IDS, mask_rate=0.4), model()
    rows = [np.arange(12), np.arange(5)]
    together = objective.collate(rows, rng_of(0))
    both = objective.loss(bert(**together.inputs), together.labels, training=False)["mlm"].loss
    alone = [objective.collate([row], lambda _, i=i: rng_of(0)(i)) for i, row in enumerate(rows)]
    apart = sum(objective.loss(bert(**b.inputs), b.labels, training=False)["mlm"].loss for b in alone)
    torch.testing.assert_close(both, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_single_batch_can_be_overfitted(pairs: bool):
    objective, bert = MaskedLM(**IDS, mask_rate=0.3, pairs=pairs), model(("lm", "pair") if pairs else ("lm",))
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 20, 12) for _ in range(8)]
    examples = [Passages(row[:6], row[6:], bool(i % 2)) for i, row in enumerate(rows)] if pairs else rows
    batch = objective.collate(examples, rng_of(0))
    optimizer = torch.optim.AdamW(bert.parameters(), lr=1e-2)
    for _ in range(80):
        sums = objective.loss(bert(**batch.inputs), batch.labels, training=True)
        loss = torch.stack([score.loss / batch.counts[name] for name, score in sums.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = objective.loss(bert(**batch.inputs), batch.labels, training=False)
    assert loss < 0.2 and {name: score.correct for name, score in scores.items()} == batch.counts
