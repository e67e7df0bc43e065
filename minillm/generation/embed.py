"""Sentence embeddings: one vector for each text, pooled from its hidden states (Reimers and Gurevych 2019).

The six kinds of pooling are those of the sentence-transformers library.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minillm.generation.adapters import evaluating
from minillm.generation.config import EmbedConfig
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.framing import PLAIN

Text = str | tuple[str, str]
"""A text or a pair of texts, which are read together."""
BATCH_TOKENS = 4096
"""Tokens of a batch, padding included; on two CPU cores, larger batches are no faster."""


def _mean(hidden: Tensor, weights: Tensor) -> Tensor:
    return (hidden * weights).sum(1) / weights.sum(1)


def _last(hidden: Tensor, valid: Tensor) -> Tensor:
    return hidden.take_along_dim(valid.sum(1, keepdim=True).long() - 1, 1)[:, 0]


POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, valid: hidden[:, 0],
    "mean": _mean,
    "max": lambda hidden, valid: hidden.masked_fill(valid == 0, -torch.inf).amax(1),
    "last": _last,
    "mean_sqrt_len": lambda hidden, valid: (hidden * valid).sum(1) / valid.sum(1).sqrt(),
    "weighted_mean": lambda hidden, valid: _mean(hidden, valid * valid.cumsum(1)),
}
"""Name -> function of hidden states (B, T, D), padded at the end, and validity (B, T, 1), 1 or 0 -> (B, D)."""


@torch.inference_mode()
def embed_texts(
    model: Any, tokenizer: Tokenizer, texts: Sequence[Text], config: EmbedConfig, *, prompt: str | None = None
) -> Tensor:
    """The vectors of `texts` (N, D), fp32, on the CPU. Texts of similar length are read together.

    `prompt` names one of `config.prompts`; None: `config.prompt`. ValueError for a text without tokens or a character
    that the tokenizer lacks.
    """
    rows = _encode(model, tokenizer, texts, config, config.prompt_text(prompt or config.prompt))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]), reverse=True)
    device = next(model.parameters()).device
    vectors = torch.empty(len(rows), model.config.d_model)
    with evaluating(model):
        while order:
            size = max(1, BATCH_TOKENS // len(rows[order[0]][0]))
            batch, order = order[:size], order[size:]
            hidden, valid = _hidden(model, [rows[i] for i in batch], device)
            vectors[batch] = POOLING[config.pooling or "mean"](hidden.float(), valid).cpu()
    return F.normalize(vectors, dim=-1) if config.normalize else vectors


def similarity(queries: Tensor, vectors: Tensor, kind: str) -> Tensor:
    """(Q, N) similarity of `queries` (Q, D) to `vectors` (N, D), a larger number for a closer pair; `kind` as in
    `EmbedConfig.similarity`."""
    if kind in ("euclidean", "manhattan"):
        return -torch.cdist(queries, vectors, p=2.0 if kind == "euclidean" else 1.0)
    if kind == "cosine":
        queries, vectors = F.normalize(queries, dim=-1), F.normalize(vectors, dim=-1)
    return queries @ vectors.T


def _encode(
    model: Any, tokenizer: Tokenizer, texts: Sequence[Text], config: EmbedConfig, prompt: str
) -> list[tuple[list[int], list[int]]]:
    """Ids and token types of each text, with special tokens, truncated."""
    length = min(config.max_tokens or model.config.max_seq_len, model.config.max_seq_len)
    parts = [(text,) if isinstance(text, str) else text for text in texts]
    ids = iter(tokenizer.encode_batch([prompt * (not i) + part for row in parts for i, part in enumerate(row)]))
    # in training, our own tokenizers put special tokens around a text for encoders only
    framed = tokenizer.imported or model.writes == "nothing"
    frames = [tokenizer.framing(pair=pair) if framed else PLAIN[pair] for pair in (False, True)]
    rows = [frames[len(row) - 1].around([next(ids) for _ in row], length) for row in parts]
    for number, (read, _) in enumerate(rows, 1):
        if not read:
            raise ValueError(f"text {number} has no tokens, so it has no embedding")
    return rows


def _hidden(model: Any, rows: Sequence[tuple[list[int], list[int]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Hidden states (B, T, D) and validity (B, T, 1) of rows of ids and token types."""
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    valid = (torch.arange(int(lengths.max())) < lengths[:, None]).to(device)  # (B, T)
    tokens, types = (pad_sequence([torch.tensor(row[i]) for row in rows], True).to(device) for i in (0, 1))
    key_valid = None if bool(valid.all()) else valid
    if model.writes == "answer":
        hidden = model.encode(tokens, key_valid=key_valid)
    else:
        nowhere = tokens.new_empty(len(rows), 0)  # no vocabulary logits
        num_types = model.config.num_token_types
        read = {"token_types": types.clamp(max=num_types - 1)} if num_types else {}
        hidden = model(tokens, key_valid=key_valid, predict_at=nowhere, **read).hidden
    return hidden, valid[..., None].float()
