"""Builds a model from its config."""

from typing import Any

from minillm.models.bert import BERT
from minillm.models.gpt import GPT
from minillm.models.t5 import T5
from minillm.nn.config import ModelConfig

FAMILIES = {"gpt": GPT, "bert": BERT, "t5": T5}


def build_model(config: ModelConfig) -> Any:
    """A GPT, BERT or T5 with undefined weights; `model.init_weights()` initializes them.

    Under `torch.device("meta")` no memory is allocated until `model.to_empty(device=...)`. ValueError without
    vocab_size.
    """
    if config.vocab_size is None:
        raise ValueError("model.vocab_size is not set; take the tokenizer's vocab_size")
    return FAMILIES[config.family](config)
