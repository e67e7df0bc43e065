"""Compares training speed with transformers, for the same shape, batch and AdamW, taking turns.

python scripts/bench_training.py [--only bert]      (needs the test extra; on an otherwise idle machine)

Each library has its own process. As in the Trainer, minillm keeps freed memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from minillm import ModelConfig, build_model, preset
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.mlm import MaskedLM
from minillm.objectives.span import SpanCorruption
from minillm.training.config import OptimConfig
from minillm.training.memory import kept_memory
from minillm.training.optim import Optimizer

WARM_UP, ROUNDS = 2, 10
REST = 0.1
"""Seconds between turns, so that the other process's threads go to sleep."""


class Work(NamedTuple):
    """The same model in both libraries, without dropout, and its loss on one batch."""

    models: tuple[nn.Module, nn.Module]
    losses: tuple[Callable[[], Tensor], Callable[[], Tensor]]
    tokens: int


def gpt2(vocab: int = 65, context: int = 256, batch: int = 16, width: int = 384, layers: int = 6) -> Work:
    """A GPT-2 shape with a character vocabulary."""
    shape = {"vocab_size": vocab, "max_seq_len": context, "d_model": width, "num_layers": layers, "num_heads": layers}
    ours = build_model(ModelConfig(**shape))  # type: ignore[arg-type]
    none: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    none |= {"bos_token_id": None, "eos_token_id": None}
    theirs: Any = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocab, n_positions=context, n_embd=width, n_layer=layers, n_head=layers, **none
        )
    )
    rows = torch.randint(vocab, (batch, context + 1), generator=torch.Generator().manual_seed(0))

    def loss(model: Any) -> Tensor:
        logits = model(rows[:, :-1]).logits
        logits = logits["lm"] if isinstance(logits, dict) else logits  # minillm's or transformers'
        return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    return Work((ours, theirs), (lambda: loss(ours), lambda: loss(theirs)), batch * context)


def bert(vocab: int = 8192, length: int = 128, batch: int = 32) -> Work:
    """BERT-mini with masked-LM; transformers predicts all positions and ignores those without a label."""
    pad, mask, cls, sep = range(vocab - 4, vocab)
    objective = MaskedLM(pad_id=pad, mask_id=mask, cls_id=cls, sep_id=sep, ordinary=np.arange(vocab) < pad)
    rows = [np.random.default_rng(row).integers(pad, size=length - 1) for row in range(batch)]
    made = objective.collate(rows, np.random.default_rng)
    everywhere = torch.full((batch, length), IGNORE_INDEX).scatter(1, made.inputs["predict_at"], made.labels["mlm"])
    ours = build_model(preset("bert-mini", vocab_size=vocab))
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs: Any = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=vocab,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            **none,
        )
    )
    losses = (
        lambda: objective.loss(ours(**made.inputs), made.labels, training=True)["mlm"].loss / made.counts["mlm"],
        lambda: theirs(made.inputs["tokens"], labels=everywhere).loss,
    )
    return Work((ours, theirs), losses, batch * length)


def t5(vocab: int = 8192, length: int = 512, batch: int = 16, width: int = 256) -> Work:
    """A T5 1.0 shape with span corruption."""
    shape: dict[str, Any] = {"vocab_size": vocab, "d_model": width, "num_layers": 4, "num_heads": 4, "d_ff": 1024}
    objective = SpanCorruption(pad_id=0, eos_id=1, sentinels=tuple(range(vocab - 100, vocab)))
    rows = np.random.default_rng(0).integers(2, vocab - 100, size=(batch, objective.noise.raw_length(length) + 1))
    made = objective.collate(list(rows), np.random.default_rng)
    ours = build_model(preset("t5-small", dropout=0.0, head_scale=width**-0.5, **shape))
    theirs: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(d_kv=64, dropout_rate=0.0, **shape))
    theirs.config.decoder_start_token_id = 0
    losses = (
        lambda: objective.loss(ours(**made.inputs), made.labels, training=True)["lm"].loss / made.counts["lm"],
        lambda: theirs(input_ids=made.inputs["encoder_tokens"], labels=made.labels["lm"]).loss,
    )
    return Work((ours, theirs), losses, batch * (length + made.labels["lm"].size(1)))


def take_step(optimizer: Optimizer, loss: Callable[[], Tensor], dtype: torch.dtype) -> float:
    """Take a training step; returns its seconds."""
    began = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        value = loss()
    value.backward()
    nn.utils.clip_grad_norm_(list(optimizer.names), 1.0)
    optimizer.step(1.0)
    return time.perf_counter() - began


def work_on(pipe: Connection, name: str, side: int, dtype: torch.dtype, same_memory: bool) -> None:
    """The process of one library: takes a step for every message and sends back the seconds."""
    torch.manual_seed(0)
    work = KNOWN[name]()
    model = work.models[side].train()
    if side == 0:
        model.init_weights(torch.Generator().manual_seed(0))  # type: ignore[operator]
    optimizer = Optimizer(model, OptimConfig())
    with kept_memory(torch.device("cpu")) if side == 0 or same_memory else nullcontext():
        while pipe.recv():
            pipe.send((take_step(optimizer, work.losses[side], dtype), work.tokens))


def measure(name: str, dtype: torch.dtype, *, same_memory: bool) -> None:
    """Print tokens per second of both libraries, and their ratio."""
    context = torch.multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for side in (0, 1):
        here, there = context.Pipe()
        process = context.Process(target=work_on, args=(there, name, side, dtype, same_memory), daemon=True)
        process.start()
        there.close()  # so that we do not wait for a process that dies
        pipes.append(here)
        processes.append(process)
    times = np.empty((WARM_UP + ROUNDS, 2))
    for turn in times:
        for side, pipe in enumerate(pipes):
            pipe.send(True)
            turn[side], tokens = pipe.recv()
            time.sleep(REST)
    for pipe in pipes:
        pipe.send(False)
    for process in processes:
        process.join()
    times = times[WARM_UP:]
    ours, theirs = (tokens / median(side) for side in times.T)
    pairs = times[:, 1] / times[:, 0]
    print(
        f"{name} {str(dtype).removeprefix('torch.')}: minillm {ours:,.0f} tokens/s, transformers {theirs:,.0f}, "
        f"ratio {ours / theirs:.2f} ({pairs.min():.2f} to {pairs.max():.2f} in {ROUNDS} turns)",
        flush=True,
    )


KNOWN = {"gpt2": gpt2, "bert": bert, "t5": t5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=KNOWN)
    parser.add_argument("--same-memory", action="store_true", help="keep freed memory in transformers too")
    args = parser.parse_args()
    keeping = "both libraries" if args.same_memory else "minillm only"
    print(f"{torch.get_num_threads()} threads; freed memory is kept by {keeping}")
    for name in [args.only] if args.only else KNOWN:
        for dtype in (torch.float32, torch.bfloat16):
            measure(name, dtype, same_memory=args.same_memory)


if __name__ == "__main__":
    main()
