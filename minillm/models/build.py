"""Builds a model from its config."""

from typing import Any

from minillm.models.bert import BERT
from minillm.models.gpt import GPT
from minillm.models.mlp import MLP
from minillm.models.t5 import T5
from minillm.models.vit import ViT
from minillm.nn.config import ModelConfig
from minillm.nn.families import FAMILIES as SPECS

FAMILIES = {"gpt": GPT, "bert": BERT, "t5": T5, "vit": ViT, "mlp": MLP}


def build_model(config: ModelConfig) -> Any:
    """A model with undefined weights; `model.init_weights()` initializes them.

    Under `torch.device("meta")` no memory is allocated until `model.to_empty(device=...)`. ValueError without
    vocab_size, or without input_shape.
    """
    if SPECS[config.family].features:
        if not config.input_shape:
            raise ValueError("model.input_shape is not set; training takes the shape of its data")
    elif config.vocab_size is None:
        raise ValueError("model.vocab_size is not set; take the tokenizer's vocab_size")
    return FAMILIES[config.family](config)
