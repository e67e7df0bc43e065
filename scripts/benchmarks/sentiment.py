"""Fine-tuning of an encoder on labeled sentences: all weights, LoRA, and transformers' own class on the same batches.

python scripts/benchmarks/sentiment.py RUN train.jsonl test.jsonl [--seeds 3] [--only full lora transformers]

RUN is an imported encoder, such as one made by `minillm import`. Each training is a process of its own, so that its
peak memory counts nothing else. All three read the same batches in the same order and precision, for two epochs.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import minillm
from minillm.data.loader import Loader
from minillm.distributed.runtime import Runtime
from minillm.run.build import prepare_corpus, seq_len
from minillm.run.resolve import resolve
from minillm.training import precision

BATCH, MICRO_BATCH, EPOCHS, HELD_OUT = 32, 8, 2, 0.03
"""Examples of a step and of a forward pass, which holds sentences of similar lengths; share of the validation data."""
MODES = ("full", "lora", "transformers")
LR = {"full": 1e-4, "lora": 2e-3, "transformers": 1e-4}


def settings(args: argparse.Namespace, mode: str, seed: int) -> dict[str, object]:
    """What differs from the recipe finetune-classify."""
    lines = len(Path(args.train).read_text(encoding="utf-8").splitlines())
    steps = math.ceil(EPOCHS * lines * (1 - HELD_OUT) / BATCH)
    changes: dict[str, object] = {
        "data.source": args.train,
        "data.validation_fraction": HELD_OUT,
        "train.seed": seed,
        "train.steps": steps,
    }
    changes |= {"train.global_batch": BATCH, "train.micro_batch": MICRO_BATCH, "optim.lr": LR[mode]}
    changes |= {"schedule.warmup_steps": steps // 10, "eval.every": 0, "eval.max_tokens": 1000}
    return changes | ({"adapter.name": "lora"} if mode == "lora" else {})


def ours(args: argparse.Namespace, mode: str, seed: int) -> dict[str, Any]:
    """Train with minillm; accuracy on the test file, seconds and share of trained parameters."""
    config = minillm.finetune_config(args.run, settings(args, mode, seed), config="finetune-classify")
    with tempfile.TemporaryDirectory() as folder:
        out = minillm.train(config, Path(folder) / "run", init_from=args.run)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        loaded = minillm.load_run(out)
        figures = minillm.evaluate(loaded, args.test).figures()
        seconds = loaded.checkpoint.state.train.seconds
        share = trained_share(out, loaded.model)
    return {"accuracy": figures["accuracy"], "seconds": seconds, "memory": memory, "trained": share}


def trained_share(run: Path, model: Any) -> float:
    """The share of the parameters that the checkpoint of a run holds: those that were trained."""
    files = [load_file(path) for path in run.glob("step-*/model.safetensors")]
    return sum(t.numel() for t in files[-1].values()) / sum(p.numel() for p in model.parameters())


def theirs(args: argparse.Namespace, mode: str, seed: int) -> dict[str, Any]:
    """Train BertForSequenceClassification in a plain loop, as its documentation shows it."""
    from transformers import BertForSequenceClassification, get_linear_schedule_with_warmup

    config = minillm.finetune_config(args.run, settings(args, mode, seed), config="finetune-classify")
    compute, parent = precision.choose(config.train), minillm.load_run(args.run)
    corpus = prepare_corpus(config, parent.tokenizer, Runtime())
    config, objective = resolve(config, corpus, inherited=True, say=print)
    examples = objective.examples(corpus.train, config.data, seq_len(config), training=True)
    loader = Loader(examples, objective.collate, seed=seed, global_batch=BATCH, micro_batch=MICRO_BATCH)
    torch.manual_seed(seed)
    model = BertForSequenceClassification.from_pretrained(args.weights, num_labels=2).train()
    decays = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": config.optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=config.optim.lr, betas=(config.optim.beta1, config.optim.beta2), fused=True
    )
    schedule = get_linear_schedule_with_warmup(optimizer, config.schedule.warmup_steps, config.train.steps)
    seconds = 0.0
    for step in range(config.train.steps):
        batches = loader.batches(step)
        began = time.perf_counter()
        for batch in batches:
            with compute.autocast():
                logits = model(batch.inputs["tokens"], attention_mask=batch.inputs.get("key_valid")).logits
            (F.cross_entropy(logits.float(), batch.labels["class"], reduction="sum") / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accuracy = tested(model.eval(), objective, args, parent, config)
    return {"accuracy": accuracy, "seconds": seconds, "memory": memory, "trained": 1.0}


@torch.no_grad()
def tested(model: Any, objective: Any, args: argparse.Namespace, parent: Any, config: Any) -> float:
    """Accuracy of transformers' model on the test file."""
    from minillm.run.build import read_data, validation_batches

    tokens = read_data(config, args.test, parent.tokenizer)
    right = total = 0
    for batch in validation_batches(config, tokens, objective, Runtime(), max_tokens=0):
        logits = model(batch.inputs["tokens"], attention_mask=batch.inputs.get("key_valid")).logits
        right += int((logits.argmax(-1) == batch.labels["class"]).sum())
        total += len(logits)
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument(
        "--weights", required=True, help="the folder in transformers' format that RUN was imported from"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        (mode,) = args.only
        print("RESULT", json.dumps((theirs if mode == "transformers" else ours)(args, mode, args.one)))
        return
    for mode in args.only:
        found = []
        for seed in range(1, args.seeds + 1):
            command = [sys.executable, *sys.argv, "--only", mode, "--one", str(seed)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(json.loads(output.rpartition("RESULT")[2]))
            print(mode, seed, found[-1], flush=True)
        accuracies = [one["accuracy"] for one in found]
        spread = f" ± {stdev(accuracies):.4f}" if len(found) > 1 else ""
        seconds, memory = mean(one["seconds"] for one in found), max(one["memory"] for one in found) / 1e6
        print(
            f"{mode}: accuracy {mean(accuracies):.4f}{spread}, {seconds:.0f} s, peak memory {memory:.2f} GB", flush=True
        )


if __name__ == "__main__":
    main()
