"""Compares decoding speed with transformers' generate, for the same trained weights, taking turns.

python scripts/bench_decode.py RUN "ROMEO:"     (RUN: a GPT-2 shape, such as gpt-shakespeare-char; needs the test extra)
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from minillm import SampleConfig, generate, load_run
from minillm.exchange.gpt2_weights import gpt2_map
from minillm.exchange.weight_map import weights_to_hf

NEW, ROUNDS = 200, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("prompt")
    args = parser.parse_args()
    run = load_run(args.run)
    c, ours = run.config.model, run.decoder
    shape: dict[str, Any] = {
        "n_positions": c.max_seq_len,
        "n_embd": c.d_model,
        "n_layer": c.num_layers,
        "n_head": c.num_heads,
    }
    shape |= {"vocab_size": c.vocab_size, "bos_token_id": None, "eos_token_id": None}
    theirs: Any = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    theirs.load_state_dict(weights_to_hf(run.model.state_dict(), gpt2_map(c), c.num_layers))
    prompt = torch.from_numpy(run.tokenizer.encode(args.prompt).astype(int))[None]

    def ours_at(temperature: float, num_draft_tokens: int) -> Callable[[], list[int]]:
        config = SampleConfig(temperature=temperature, max_new_tokens=NEW, num_draft_tokens=num_draft_tokens)
        return lambda: generate(ours, prompt.tolist(), config)[0].ids

    def theirs_at(temperature: float) -> Callable[[], list[int]]:
        choice = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": NEW, "pad_token_id": 0, **choice}
        return lambda: theirs.generate(prompt, **options)[0, prompt.size(1) :].tolist()

    parameters = sum(p.numel() for p in ours.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, batch 1, {NEW} tokens, medians of {ROUNDS}")
    print(f"minillm with the defaults of `minillm sample`: {run.compute.describe()}; transformers by default: fp32")
    print(f"same greedy tokens: {ours_at(0, 1)() == theirs_at(0)()}")
    for temperature in (0.0, 0.8):
        runs = (ours_at(temperature, 1), ours_at(temperature, 0), theirs_at(temperature))
        speeds: list[list[float]] = [[] for _ in runs]
        for _ in range(ROUNDS):
            for decode, own_speeds in zip(runs, speeds, strict=True):
                began = time.perf_counter()
                decode()
                own_speeds.append(NEW / (time.perf_counter() - began))
        lookup, plain, peer = (statistics.median(side) for side in speeds)
        print(f"temperature {temperature}: minillm {lookup:.0f} tokens/s, transformers {peer:.0f}: {lookup / peer:.2f}")
        print(f"  without prompt lookup {plain:.0f} tokens/s, {plain / peer:.2f}")


if __name__ == "__main__":
    main()
