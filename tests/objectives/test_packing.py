"""Packed documents: one row that holds several gives what the same documents give in rows of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minillm import RunConfig, load_run, override, train
from minillm.cli import main
from minillm.data.config import DataConfig
from minillm.models.build import build_model
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.objectives.base import Batch, Setup, plain_cross_entropy_sum
from minillm.objectives.clm import CausalConfig, CausalLM, build
from minillm.tokenizers.byte import ByteTokenizer

BYTES = ByteTokenizer()
EOS, PAD = BYTES.eos_id, BYTES.pad_id
DOCUMENTS = [[5, 6, 7, 8, 9], [6, 7], [9, 8, 7, 6, 5, 4, 9]]
SCHEMES: list[dict[str, Any]] = [
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"position": "rotary"},
    {"position": "t5"},
    {"position": "alibi"},
    {"position": "none"},
    {"position": "rotary", "ngram_order": 3, "ngram_rows": 64},
]


def objective(packing: Any) -> CausalLM:
    data = DataConfig(packing=packing)
    return build(CausalConfig(), Setup(ModelConfig(), BYTES, 32, data))


def model_with(scheme: dict[str, Any]) -> GPT:
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": 32, "vocab_size": BYTES.vocab_size}
    model = build_model(ModelConfig(**shape, **scheme)).double()
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():  # tables that start at zero would hide a mistake
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def packed(documents: list[list[int]], packing: str = "documents") -> Batch:
    row = np.array([EOS, *(token for document in documents for token in (*document, EOS))])
    return objective(packing).collate([row], lambda row: pytest.fail("clm draws nothing"))


def apart(documents: list[list[int]]) -> Batch:
    rows = [np.array([EOS, *document, EOS]) for document in documents]
    return objective("stream").collate(rows, lambda row: pytest.fail("clm draws nothing"))


def loss_and_gradients(model: GPT, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = plain_cross_entropy_sum(model(**batch.inputs).logits["lm"], batch.labels["lm"])  # in float64
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_packed_row_has_the_loss_and_gradients_of_separate_rows(scheme: dict[str, Any]):
    model = model_with(scheme)
    together, separate = packed(DOCUMENTS), apart(DOCUMENTS)
    assert together.counts == separate.counts and together.num_tokens == separate.num_tokens
    (loss, gradients), (expected, wanted) = (loss_and_gradients(model, batch) for batch in (together, separate))
    torch.testing.assert_close(loss, expected)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], msg=lambda text, name=name: f"{name}: {text}")
    as_stream, _ = loss_and_gradients(model, packed(DOCUMENTS, "stream"))
    assert not torch.isclose(as_stream, expected, rtol=1e-6), "a stream sees the documents before"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_change_in_one_document_does_not_affect_others(scheme: dict[str, Any]):
    model, first = model_with(scheme), DOCUMENTS[0]
    changed = [[4, *first[1:]], *DOCUMENTS[1:]]
    with torch.no_grad():
        before, after = (model(**packed(documents).inputs).logits["lm"][0] for documents in (DOCUMENTS, changed))
        stream = [model(**packed(documents, "stream").inputs).logits["lm"][0, -1] for documents in (DOCUMENTS, changed)]
    its_own = slice(1, len(first) + 1)
    assert (before[its_own] != after[its_own]).any(-1).all()
    torch.testing.assert_close(before[len(first) + 1 :], after[len(first) + 1 :], rtol=0, atol=0)
    if scheme != SCHEMES[-2]:
        assert not torch.equal(*stream), "which is no matter of course"


def test_a_document_that_begins_before_the_window_is_separated_too():
    batch = objective("documents").collate([np.array([7, 8, EOS, 5, 6, EOS, 9])], lambda row: pytest.fail("draws"))
    assert batch.inputs["document_ids"].tolist() == [[0, 0, 1, 1, 1, 2]]
    assert batch.labels["lm"].tolist() == [[8, EOS, 5, 6, EOS, 9]]


def test_a_run_trains_and_evaluates_with_packed_documents(config: RunConfig, tmp_path: Path):
    for number in range(30):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number}.txt").write_text(f"{number} is", encoding="utf-8")
    changes = {"data.source": str(tmp_path / "texts"), "data.split": "auto", "data.packing": "documents"}
    run = load_run(train(override(config, changes), tmp_path / "run"))
    objective = run.objective
    assert isinstance(objective, CausalLM) and objective.separator == run.tokenizer.eos_id


def test_other_objectives_reject_packing_with_a_one_line_error(config_file: Path, tmp_path: Path, capsys):
    change = ["--model.preset", "bert-tiny", "--objective.name", "mlm", "--data.packing", "documents"]
    assert main(["train", *change, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("data.packing has no effect with objective.name mlm, only with clm; leave it out")
    assert not (tmp_path / "run").exists()
