"""From a config to a model; the only place that branches on the model family."""

from __future__ import annotations

from typing import Any

from minillm.models.bert import BERT
from minillm.models.gpt import GPT
from minillm.models.t5 import T5
from minillm.nn.config import ModelConfig

FAMILIES = {"gpt": GPT, "bert": BERT, "t5": T5}


def build_model(config: ModelConfig) -> Any:
    """Allocate the GPT, BERT or T5 that `config` describes; `model.init_weights()` fills it.

    Under `torch.device("meta")` nothing is allocated either.

    Raises:
        ValueError: no vocab_size yet, or a family that does not exist.
    """
    if config.vocab_size is None:
        raise ValueError("model.vocab_size is not set; take the tokenizer's vocab_size")
    if config.family not in FAMILIES:
        raise ValueError(f"model.family is {config.family!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[config.family](config)
