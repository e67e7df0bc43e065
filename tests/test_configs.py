"""Every config that comes with the package loads, survives a round trip and builds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minillm.config import load_config, save_config
from minillm.config_files import own_configs
from minillm.models.build import build_model
from minillm.nn.families import FAMILIES

NAMES = list(own_configs())


def test_there_are_configs():
    assert "gpt-nano" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_rebuilt_by_its_resolved_copy(tmp_path: Path, name: str):
    config = load_config(name)
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_a_model_that_reads_a_training_example(name: str):
    config = load_config(name)
    if FAMILIES[config.model.family].features:
        shape = replace(config.model, input_shape=config.model.input_shape or (3,))
        with torch.device("meta"):
            output = build_model(shape)(torch.zeros(2, *shape.input_shape))
        assert all(len(logits) == 2 for logits in output.logits.values())
        return
    shape = replace(config.model, vocab_size=config.model.vocab_size or config.tokenizer.vocab_size)
    length = config.data.seq_len or shape.max_seq_len
    sides = 2 if shape.family == "t5" else 1
    with torch.device("meta"):
        output = build_model(shape)(*[torch.zeros(2, length, dtype=torch.long)] * sides)
    assert output.logits["lm"].shape == (2, length, shape.vocab_size)
