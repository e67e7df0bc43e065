"""Recorded the run folders and exported folders beside this file, and what the code of commit 8601d3a makes of them.

The files stay as that commit wrote them: later code has to read them. A new file format gets new folders beside these:

    PYTHONPATH=CHECKOUT_OF_8601d3a python tests/old_runs/record.py OUT
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers

from minillm.cli import main

COMMON: dict[str, Any] = {
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.d_model": 16,
    "model.d_ff": 32,
    "model.max_seq_len": 48,
    "optim.lr": 0.01,
    "schedule.name": "constant",
    "schedule.warmup_steps": 0,
    "train.global_batch": 8,
    "train.micro_batch": 3,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.device": "cpu",
    "eval.every": 0,
    "eval.max_tokens": 0,
    "save.every": 0,
    "save.keep": 1,
    "sample.prompt": "7 bottles",
    "sample.max_new_tokens": 4,
}
GREEDY = ["--temperature", "0", "--max-new-tokens", "20"]
DRAWN = ["--temperature", "1", "--top-k", "12", "--seed", "3", "--max-new-tokens", "20"]
GAP = "7 bottles of <|extra_id_0|> on the wall"
# Run -> its text, its settings, the step where it stopped and the one where the resumed run ends.
RUNS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "clm": (
        "text.txt",
        {"model.preset": "gpt2", "model.dropout": 0.1, "optim.name": "muon", "optim.lr": 0.03, "optim.muon_lr": 0.05}
        | {"tokenizer.kind": "bpe", "tokenizer.vocab_size": 384, "data.split": "tail", "eval.every": 2},
        6,
        12,
    ),
    "gpt-nano": (
        "text.txt",
        {"model.preset": "gpt-nano", "model.ngram_rows": 64, "optim.name": "adamw", "tokenizer.kind": "char"},
        60,
        64,
    ),
    "mlm": (
        "text.jsonl",
        {"model.preset": "bert-tiny", "objective.name": "mlm", "objective.next_sentence": "true"}
        | {"objective.whole_words": "true", "tokenizer.kind": "bpe", "tokenizer.vocab_size": 384}
        | {"data.split": "document", "model.dropout": 0.1, "optim.name": "muon", "optim.lr": 0.03}
        | {"sample.prompt": "7 bottles of [MASK] on the wall"},
        60,
        64,
    ),
    "span": (
        "text.txt",
        {"model.preset": "t5-mini", "model.d_model": 8, "objective.name": "span", "optim.lr": 0.03}
        | {"tokenizer.kind": "byte", "data.split": "tail", "sample.prompt": GAP},
        60,
        64,
    ),
    "prefix_lm": (
        "text.txt",
        {"model.preset": "gpt2", "objective.name": "prefix_lm", "tokenizer.kind": "byte", "optim.name": "adamw"}
        | {"objective.label_smoothing": 0.1, "data.split": "tail"},
        60,
        64,
    ),
    "seq2seq": (
        "text.jsonl",
        {"model.preset": "t5-mini", "objective.name": "seq2seq", "tokenizer.kind": "char"}
        | {"data.mixing": "temperature", "sample.prompt": "less: 7 bottles"},
        60,
        64,
    ),
}
# Run -> commands that write text, as `minillm COMMAND RUN ARGUMENTS --json`.
WRITES: dict[str, list[list[str]]] = {
    "clm": [["sample", "--prompt", "7 bottles", *GREEDY], ["sample", "--prompt", "7 bottles", *DRAWN]],
    "gpt-nano": [["sample", "--prompt", "7 bottles", *GREEDY], ["sample", "--prompt", "7 bottles", *DRAWN]],
    "mlm": [["fill", "7 bottles of [MASK] on the[MASK]"]],
    "span": [["sample", "--prompt", GAP, *GREEDY]],
    "prefix_lm": [["sample", "--prompt", "7 bottles", *GREEDY], ["sample", "--prompt", "7 bottles", *DRAWN]],
    "seq2seq": [
        ["sample", "--prompt", "less: 7 bottles", *GREEDY],
        ["sample", "--prompt", "last: 7 bottles of ink on the wall", "--num-beams", "3", "--max-new-tokens", "12"],
    ],
}
WRITES["imported"] = WRITES["clm"]
EXPORTED = {"gpt2": "clm", "bert": "mlm", "t5": "span"}


def write_texts() -> None:
    """Four kilobytes, as one text and as documents that hold text-to-text examples of two tasks too."""
    verse = "{0} bottles of ink on the wall,\n{0} bottles of ink!\nIf one should happen to fall,\nwe'd write {1}.\n\n"
    verses = {n: verse.format(n, n - 1) for n in range(36, 0, -1)}
    Path("text.txt").write_text("".join(verses.values()), encoding="utf-8")
    lines = []
    for n, text in verses.items():
        task = {"input": f"less: {n} bottles", "target": f"{n - 1} bottles"}
        if n % 2:
            task = {"input": f"last: {n} bottles of ink on the wall", "target": "the wall"}
        lines.append(json.dumps({"text": text} | task) + "\n")
    Path("text.jsonl").write_text("".join(lines), encoding="utf-8")


def minillm(*arguments: object) -> Any:
    """What a command prints, read as JSON where it was asked for."""
    stream = io.StringIO()
    with redirect_stdout(stream):
        code = main([str(argument) for argument in arguments])
    assert code == 0, arguments
    return json.loads(stream.getvalue()) if "--json" in arguments else None


def flags(settings: dict[str, Any]) -> list[object]:
    """Settings as command-line flags."""
    return [part for key, value in settings.items() for part in (f"--{key}", value)]


def text_of(printed: dict[str, Any]) -> str:
    """The text that `sample` or `fill` wrote."""
    return printed["filled"] if "filled" in printed else printed["completions"][0]["text"]


def figures(run: Path, text: str) -> dict[str, float]:
    """What `minillm eval` measures."""
    found = minillm("eval", run, "--data", text, "--json")
    return {key: found[key] for key in ("loss", "bits_per_byte") if key in found}


def written(run: Path, commands: list[list[str]]) -> list[dict[str, Any]]:
    """Each command with the text that it wrote."""
    return [
        {"command": shlex.join([command, *arguments]), "text": text_of(minillm(command, run, *arguments, "--json"))}
        for command, *arguments in commands
    ]


def losses(run: Path, after: int) -> dict[str, Any]:
    """Training losses after a step, and the last validation loss."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "loss": [line["loss"] for line in lines if "loss" in line and line["step"] > after],
        "val_loss": [line["val_loss"] for line in lines if "val_loss" in line][-1],
    }


def train(name: str) -> dict[str, Any]:
    """Make a run, and resume a copy of it."""
    text, settings, stop, end = RUNS[name]
    run, copy = Path("trained", name), Path("copies", name)
    minillm("train", *flags(COMMON | settings | {"train.steps": stop}), "--data", text, "--out", run)
    assert len(list(run.glob("step-*"))) == 1, f"{name}: the best checkpoint is not the last one"
    shutil.copytree(run, copy)
    minillm("train", "--resume", "--out", copy, "--train.steps", end)
    resumed = {"steps": end} | losses(copy, after=stop)
    return {"data": text} | figures(run, text) | {"written": written(run, WRITES[name]), "resumed": resumed}


def without_heads(folder: Path, out: Path) -> Path:
    """An exported BERT as an encoder with a pooler and no vocabulary head."""
    torch.manual_seed(0)
    transformers.BertModel.from_pretrained(folder).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, out / name)
    return out


def in_fp32(run: Path) -> Path:
    """Imported runs take the precision that is fast on the machine; their figures here must not depend on it."""
    config = run / "config.toml"
    text = config.read_text(encoding="utf-8")
    assert 'precision = "auto"' in text
    config.write_text(text.replace('precision = "auto"', 'precision = "fp32"'), encoding="utf-8")
    return run


def record() -> dict[str, Any]:
    """Everything, in the current folder."""
    write_texts()
    runs = {name: train(name) for name in RUNS}
    folders = {}
    for family, name in EXPORTED.items():
        folder, back = Path("exported", family), Path("copies", family)
        minillm("export", Path("trained", name), folder)
        minillm("import", folder, back)
        text = RUNS[name][0]
        folders[family] = {"data": text} | figures(in_fp32(back), text) | {"written": written(back, WRITES[name])}

    imported, encoder, child = Path("trained", "imported"), Path("trained", "encoder"), Path("copies", "child")
    minillm("import", Path("exported", "gpt2"), imported)
    runs["imported"] = {"data": "text.txt"} | figures(in_fp32(imported), "text.txt")
    runs["imported"]["written"] = written(imported, WRITES["imported"])
    minillm("import", without_heads(Path("exported", "bert"), Path("bare")), encoder)
    settings = {key: value for key, value in COMMON.items() if not key.startswith(("model.", "sample."))}
    begin = flags(settings | {"train.steps": 4, "objective.next_sentence": "true"})  # which reads the pooler
    minillm("train", "--init-from", encoder, *begin, "--data", "text.jsonl", "--out", child)
    child_figures = {"flags": " ".join(map(str, begin))} | losses(child, after=0)
    runs["encoder"] = {"data": "text.jsonl", "child": child_figures}
    return {"trained": runs, "exported": folders}


def tidy(about: Path) -> None:
    """Take the recording machine's name out of a run.json, and what no later code reads out of its folder."""
    values = json.loads(about.read_text(encoding="utf-8"))
    values["machine"] = {"system": "Linux", "processors": 2}
    about.write_text(json.dumps(values, indent=1), encoding="utf-8")
    for name in (".lock", "curve.png"):
        (about.parent / name).unlink(missing_ok=True)


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as temporary, chdir(temporary):
        here = str(Path.cwd()).encode()
        os.environ["XDG_CACHE_HOME"] = str(Path(temporary, "cache"))
        expected = record()
        for about in Path("trained").glob("*/run.json"):
            tidy(about)
        for name in ("trained", "exported"):
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(name, out / name)
        for name in ("text.txt", "text.jsonl"):
            shutil.copy(name, out / name)
    for file in out.rglob("*"):
        assert not file.is_file() or here not in file.read_bytes(), f"{file} names a folder of this machine"
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
