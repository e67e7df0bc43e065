"""A GPT that was trained by prefix language modelling reads its prompts as in training, wherever a run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minillm import RunConfig, SampleConfig, load_run, override, sample, train
from minillm.generation.config import BeamConfig
from minillm.generation.generate import generate
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.prefix_lm import PrefixLM
from minillm.run import search, session, writing

PREFIX_LM: dict[str, object] = {"objective.name": "prefix_lm", "model.num_layers": 2, "optim.lr": 3e-2}


def by_hand(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy continuation of bytes by forward as training calls it."""
    ids: list[int] = []
    for _ in range(num_tokens):
        text, prefix = torch.tensor([[*prompt, *ids]]), torch.tensor([len(prompt)])
        with torch.no_grad():
            ids.append(int(model(text, prefix_length=prefix).logits["lm"][0, -1, :256].argmax()))
    return ids


def test_a_run_samples_and_searches_so_and_shows_it_while_it_trains(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown = []
    monkeypatch.setattr(session, "preview", lambda *given: shown.append(given[-1].prefix_prompts) or "")
    loaded = load_run(train(override(config, PREFIX_LM), tmp_path / "run"))
    assert loaded.objective.prefix_prompts and shown == [True] * 4
    prompt, ids = "3 and 4", list(b"3 and 4")
    (drawn,) = sample(loaded, SampleConfig(prompt=prompt, temperature=0, max_new_tokens=8))
    (found,) = search(loaded, prompt, BeamConfig(num_beams=1, max_new_tokens=8))
    assert drawn.ids == found.ids == by_hand(loaded.model, ids, 8)


def test_a_model_of_another_objective_reads_causally(finished: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(writing, "complete", lambda *_, prefix, **__: read.append(prefix) or [])
    sample(finished, SampleConfig(prompt="3 and 4"))
    assert read == [False]


def test_texts_learned_by_heart_are_continued_from_any_prefix():
    rows = [np.random.default_rng(7).permutation(32)[:16] for _ in range(1)]
    rows += [np.roll(rows[0], 5), rows[0][::-1].copy()]
    model = build_model(ModelConfig(vocab_size=34, max_seq_len=16, d_model=32, num_layers=2, num_heads=2))
    model.init_weights(torch.Generator().manual_seed(0))
    objective, optimizer = PrefixLM(pad_id=33), torch.optim.AdamW(model.parameters(), 5e-3)
    for step in range(200):
        batch = objective.collate(rows * 4, lambda i, step=step: np.random.default_rng([step, i]))
        optimizer.zero_grad()
        loss = objective.loss(model(**batch.inputs), batch.labels, training=True)["lm"].loss / batch.counts["lm"]
        loss.backward()
        optimizer.step()
    # with one token only, two of the texts could go on in two ways
    prompts = [row[:n].tolist() for row in rows for n in range(3, 15)]
    written = generate(model, prompts, SampleConfig(temperature=0, max_new_tokens=13), prefix=True)
    expected = [row[n:].tolist() for row in rows for n in range(3, 15)]
    assert [w.ids[: len(e)] for w, e in zip(written, expected, strict=True)] == expected
