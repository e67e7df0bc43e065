"""The models that are trained in the benchmark: ours and transformers', with the same weights, batch and loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.exchange.gpt2_weights import gpt2_map
from minillm.exchange.weight_map import weights_to_hf
from minillm.models.build import build_model
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig
from minillm.objectives.base import IGNORE_INDEX, Batch
from minillm.objectives.clm import CausalLM
from minillm.objectives.mlm import MaskedLM
from minillm.objectives.span import SpanCorruption

VOCAB = 8192
"""Of BERT and T5; the GPT has a character vocabulary."""
CHARACTERS, CONTEXT, WIDTH, LAYERS = 65, 256, 384, 6


class Shape(NamedTuple):
    """One model, its objective and one batch."""

    title: str
    config: ModelConfig
    objective: Any
    batch: Batch
    num_tokens: int
    """Tokens of a step, padding included."""
    comparable: bool = False
    """Whether peers have our weights, plain torch included, so that losses are equal."""


def gpt() -> Shape:
    """nanoGPT's 10.7 M parameters."""
    config = preset(
        "gpt2", vocab_size=CHARACTERS, max_seq_len=CONTEXT, d_model=WIDTH, num_layers=LAYERS, num_heads=LAYERS
    )
    rows = torch.randint(CHARACTERS, (16, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    objective = CausalLM(0)
    batch = objective.collate(list(rows.numpy()), np.random.default_rng)
    return Shape(f"train GPT {LAYERS} x {WIDTH}, batch 16 x {CONTEXT}", config, objective, batch, 16 * CONTEXT, True)


def bert(length: int = 128, rows: int = 32) -> Shape:
    """Published BERT-mini's shape with masked tokens."""
    pad, mask, cls, sep = range(VOCAB - 4, VOCAB)
    objective = MaskedLM(pad_id=pad, mask_id=mask, cls_id=cls, sep_id=sep, ordinary=np.arange(VOCAB) < pad)
    texts = [np.random.default_rng(row).integers(pad, size=length - 1) for row in range(rows)]
    batch = objective.collate(texts, np.random.default_rng)
    config = preset("bert-base", vocab_size=VOCAB, num_layers=4, d_model=256, num_heads=4, dropout=0.0, heads=("lm",))
    return Shape(f"train BERT 4 x 256, batch {rows} x {length}", config, objective, batch, rows * length)


def t5(length: int = 512, rows: int = 16) -> Shape:
    """T5 1.0's design with corrupted spans."""
    objective = SpanCorruption(pad_id=0, eos_id=1, sentinels=tuple(range(VOCAB - 100, VOCAB)))
    texts = np.random.default_rng(0).integers(2, VOCAB - 100, size=(rows, objective.noise.raw_length(length) + 1))
    batch = objective.collate(list(texts), np.random.default_rng)
    config = preset("t5-small", dropout=0.0, head_scale=256**-0.5, **T5_SHAPE)
    targets = batch.labels["lm"].size(1)
    title = f"train T5 4+4 x 256, batch {rows} x ({length} + {targets})"
    return Shape(title, config, objective, batch, rows * (length + targets))


T5_SHAPE: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 256, "num_layers": 4, "num_heads": 4, "d_ff": 1024}
SHAPES: dict[str, Callable[[], Shape]] = {"gpt": gpt, "bert": bert, "t5": t5}


def ours(shape: Shape) -> Any:
    """Our model; the same weights each time."""
    model = build_model(shape.config)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def transformers_gpt(shape: Shape) -> tuple[nn.Module, Callable[[], Tensor]]:
    """transformers' GPT-2 with our weights, and its mean loss of the batch."""
    import transformers

    settings: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    settings |= {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": LAYERS, "vocab_size": CHARACTERS}
    settings |= {"bos_token_id": None, "eos_token_id": None, "activation_function": "gelu"}
    model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
    weights = ours(shape).state_dict()
    model.load_state_dict(weights_to_hf(weights, gpt2_map(shape.config), LAYERS))
    tokens, labels = shape.batch.inputs["tokens"], shape.batch.labels["lm"]

    def loss() -> Tensor:
        device = model.device
        logits = model(tokens.to(device)).logits.float()
        return F.cross_entropy(logits.flatten(0, 1), labels.to(device).flatten())

    return model, loss


def transformers_bert(shape: Shape) -> tuple[nn.Module, Callable[[], Tensor]]:
    """transformers' BERT with its own initial weights; it predicts all positions and ignores those without a label."""
    import transformers

    settings: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": VOCAB}
    settings |= {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    model: Any = transformers.BertForMaskedLM(transformers.BertConfig(**settings))
    tokens, made = shape.batch.inputs["tokens"], shape.batch
    labels = torch.full_like(tokens, IGNORE_INDEX).scatter(1, made.inputs["predict_at"], made.labels["mlm"])
    return model, lambda: model(tokens.to(model.device), labels=labels.to(model.device)).loss


def transformers_t5(shape: Shape) -> tuple[nn.Module, Callable[[], Tensor]]:
    """transformers' T5 with its own initial weights."""
    import transformers

    model: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(d_kv=64, dropout_rate=0.0, **T5_SHAPE))
    model.config.decoder_start_token_id = 0
    tokens, labels = shape.batch.inputs["encoder_tokens"], shape.batch.labels["lm"]
    return model, lambda: model(input_ids=tokens.to(model.device), labels=labels.to(model.device)).loss
