"""Everything that a CUDA GPU has to answer, in one run; results as JSON, written after each part.

python scripts/benchmarks/gpu.py tinyshakespeare.txt --out gpu.json [--only checks train decode shakespeare]

checks: the tests that need CUDA. train: GPT-2 124 M by `minillm train`, beside the same shape in plain torch. decode:
that model, beside transformers' generate if it is installed. shakespeare: the published recipe and ours, by character.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).parent
STEPS, ROWS, CONTEXT, LIMIT = 60, 32, 1024, 240
NEW = 128
SHAKESPEARE = {"published recipe": "gpt-shakespeare-char", "ours": "gpt-shakespeare-best"}
Results = list[dict[str, Any]]


def run(*command: str, limit: int = LIMIT) -> str:
    """The output of a command; RuntimeError with its end if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr


def metrics(folder: Path) -> Results:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def checks(text: Path, folder: Path) -> Results:
    """The tests that need CUDA."""
    tests = str(HERE.parents[1] / "tests" / "cuda")
    options = ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default", "-m", "cuda", "-q"]
    command = [sys.executable, "-m", "pytest", *options, tests]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=HERE.parents[1])
    passed = re.search(r"(\d+) passed", done.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, re.MULTILINE)
    result = {"work": "tests that need CUDA", "passed": int(passed[1]) if passed else 0, "failed": failed}
    return [result | ({"end": (done.stdout + done.stderr)[-3000:]} if failed or not passed else {})]


def train(text: Path, folder: Path) -> Results:
    """Tokens per second of GPT-2 124 M, context 1024."""
    flags = f"--train.steps {STEPS} --train.global_batch {ROWS} --train.log_every 1 --tokenizer.kind byte"
    flags += f" --model.vocab_size 50304 --eval.every 0 --eval.max_tokens 1024 --save.every 0 --data {text}"
    flags += " --data.split tail --sample.max_new_tokens 8"
    config = folder / "gpt2.toml"
    config.write_text('[model]\npreset = "gpt2"\n', encoding="utf-8")
    run(sys.executable, "-m", "minillm", "train", str(config), "--out", str(folder / "gpt2"), *flags.split())
    seconds = [line["seconds"] for line in metrics(folder / "gpt2") if "grad_norm" in line]
    steps = [after - before for before, after in pairwise(seconds)]
    ours = ROWS * CONTEXT / median(steps[STEPS // 3 :])
    peer, memory = map(
        float, run(sys.executable, "-m", "minillm.benchmark.plain_gpt", "--rows", str(ROWS)).split()[-2:]
    )
    work = {"work": f"train GPT-2 124 M, {ROWS} x {CONTEXT} tokens", "dtype": "bf16", "unit": "tokens/s"}
    share = {"flop_per_token": 6 * 124e6 + 12 * 12 * 768 * CONTEXT}
    return [
        {**work, **share, "side": "minillm train", "value": ours, "ratio": ours / peer},
        {**work, "side": "plain torch, compiled", "value": peer, "peak_gib": memory},
    ]


def decode(text: Path, folder: Path) -> Results:
    """Tokens per second of GPT-2 124 M for one row and for 64."""
    from minillm import ModelConfig, SampleConfig, build_model, generate, preset
    from minillm.inference.graph import GraphDecoder
    from minillm.run.decoding import make_decoder
    from minillm.training.precision import Compute

    config: ModelConfig = preset("gpt2", vocab_size=50304)
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(0))
    compute = Compute(torch.device("cuda"), torch.bfloat16, compile=False)
    decoder, line = make_decoder(model.to("cuda").eval(), compute, {})
    results: Results = [{"work": "decode", "side": "minillm", "note": line}]
    greedy = SampleConfig(temperature=0.0, max_new_tokens=NEW, num_draft_tokens=0)
    sides: dict[str, Callable[[torch.Tensor], object]] = {
        "minillm": lambda rows: generate(decoder, rows.tolist(), greedy)
    }
    if isinstance(decoder, GraphDecoder):
        sides["minillm without CUDA graphs"] = lambda rows: generate(decoder.plain, rows.tolist(), greedy)
    try:
        from transformers import GPT2Config, GPT2LMHeadModel

        settings: dict[str, Any] = {"vocab_size": 50304, "bos_token_id": None, "eos_token_id": None}
        untyped: Any = GPT2LMHeadModel(GPT2Config(**settings))
        peer = untyped.to("cuda", torch.bfloat16).eval()
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}
        sides["transformers"] = lambda rows: peer.generate(rows, attention_mask=torch.ones_like(rows), **options)
    except ImportError as error:
        results.append({"work": "decode", "side": "transformers", "note": f"not measured: {error}"})
    for batch in (1, 64):
        rows = torch.randint(50000, (batch, 16), device="cuda")
        speeds = {}
        for side, write in sides.items():
            write(rows)
            torch.cuda.synchronize()
            began = time.perf_counter()
            write(rows)
            torch.cuda.synchronize()
            speeds[side] = batch * NEW / (time.perf_counter() - began)
        for side, value in speeds.items():
            ratio = value / speeds.get("transformers", value)
            work = f"decode GPT-2 124 M, batch {batch}"
            results.append({"work": work, "side": side, "dtype": "bf16", "value": value, "unit": "tokens/s"})
            results[-1] |= {"ratio": ratio} if side.startswith("minillm") else {}
    return results


def shakespeare(text: Path, folder: Path) -> Results:
    """Validation loss on the whole tail of tiny Shakespeare, and the seconds of training to 1.47."""
    results: Results = []
    for side, config in SHAKESPEARE.items():
        out = folder / config
        run(sys.executable, "-m", "minillm", "train", config, "--data", str(text), "--out", str(out))
        curve = [line for line in metrics(out) if "val_loss" in line]
        reached = [line["seconds"] for line in curve if line["val_loss"] <= 1.47]
        best = min(curve, key=lambda line: line["val_loss"])
        results.append(
            {"work": "tiny Shakespeare by character", "side": side, "value": best["val_loss"], "unit": "nats"}
            | {"step": best["step"], "seconds": curve[-1]["seconds"], "to_1.47": min(reached, default=None)}
        )
    return results


PARTS: dict[str, Callable[[Path, Path], Results]] = {
    "checks": checks,
    "train": train,
    "decode": decode,
    "shakespeare": shakespeare,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tiny Shakespeare")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU")
    results: Results = [{"device": torch.cuda.get_device_name(), "torch": torch.__version__}]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            began = time.perf_counter()
            try:
                results += PARTS[name](args.text.resolve(), Path(folder))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                results.append({"work": name, "error": str(error)})
            results.append({"work": name, "value": round(time.perf_counter() - began, 1), "unit": "seconds in all"})
            args.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
            print(json.dumps(results[-4:], indent=1), flush=True)


if __name__ == "__main__":
    main()
