from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from minillm import load_config, override
from minillm.run import resume


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embedding_lr": 0.05}, ["optim.embedding_lr"]),
        ({"head_lr": 0.05, "vector_lr": 0.04}, ["optim.head_lr", "optim.vector_lr"]),
        ({"lr": 0.05}, ["the learning rate"]),  # the other rates are the same, so one line is enough
        ({"lr": 0.05, "head_lr": 0.04}, ["the learning rate", "optim.head_lr"]),
        ({"muon_lr": 0.5, "name": "muon"}, ["optim.muon_lr"]),
    ],
    ids=str,
)
def test_a_jump_of_any_learning_rate_is_reported(changes: dict[str, object], expected: list[str], monkeypatch):
    name = changes.get("name", "adamw")
    saved = override(load_config("gpt-nano"), {"optim.name": name, "optim.lr": 0.01, "model.tie_embeddings": False})
    config = override(saved, {f"optim.{key}": value for key, value in changes.items()})
    monkeypatch.setattr(resume, "load_config", lambda path: saved)
    monkeypatch.setattr(resume, "require_same_text", lambda *given: None)
    trainer = SimpleNamespace(folder=Path("run"), restore=lambda *given, **options: None)
    lines: list[str] = []
    resume.restore(trainer, config, "", SimpleNamespace(step=3), lines.append)  # type: ignore[arg-type]
    assert [line.partition(" is ")[0] for line in lines[1:]] == expected
    assert all(f"(train.steps, [schedule] or optim.{key} has changed)" in line for key, line in
               zip((key for key in changes if key != "name"), lines[1:], strict=True))  # fmt: skip
