"""How far a model has moved, measured on its own completions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from minillm import sample_beside
from minillm.run import finetune_config, train


def test_a_model_has_not_moved_from_itself_and_one_that_trained_on_has(run_of: Callable[[str], Path], tmp_path: Path):
    parent, source = run_of("llama"), tmp_path / "other.txt"
    source.write_text("What a fine day, and what a long road! " * 60, encoding="utf-8")
    prompts, config = [f"{n} and" for n in range(12)], {"max_new_tokens": 8, "seed": 3}
    same = sample_beside(parent, parent, prompts, **config)
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert all(text.startswith(prompt) for text, prompt in zip(same.texts, prompts, strict=True))
    assert len(set(same.texts)) > 6
    changes = {"data.source": source, "data.cache": tmp_path, "train.steps": 20, "optim.lr": 1e-3, "data.split": "tail"}
    other = train(finetune_config(parent, changes), tmp_path / "other", init_from=parent)
    assert sample_beside(other, parent, prompts, **config).kl > 1
    with pytest.raises(ValueError, match="have different tokenizers"):
        sample_beside(parent, run_of("char"), prompts, **config)
    with pytest.raises(ValueError, match="give at least one prompt"):
        sample_beside(parent, parent, [], **config)
