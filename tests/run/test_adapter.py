"""Runs with an adapter: what their folder holds, where their base is found, resuming, merging."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minillm import evaluate, finetune_config, load_config, load_run
from minillm.cli import main
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics
from minillm.training.trainer import Trainer

KEYS = ["--train.precision", "fp32", "--train.device", "cpu", "--eval.max_tokens", "0", "--data.split", "tail"]
KEYS += ["--optim.lr", "1e-2", "--train.log_every", "1", "--eval.every", "2", "--save.every", "2", "--save.keep", "9"]
LORA = ["--adapter.name", "lora", "--adapter.rank", "4"]


@pytest.fixture
def lora(run_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., list[str]]:
    """The command that adapts a family's run; the base is a copy that may be moved."""

    def command(name: str, out: str, *more: str, steps: int = 4) -> list[str]:
        base = tmp_path / f"base-{name}"
        if not base.exists():
            shutil.copytree(run_of(name), base)
        source = load_config(base / "config.toml").data.source
        start = ["train", "--init-from", str(base), "--out", str(tmp_path / out), "--data", source, *KEYS, *LORA]
        return [*start, "--train.steps", str(steps), *more]

    return command


def curve(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run / "metrics.jsonl")]


def same_weights(one: Path, other: Path) -> bool:
    pair = [load_file(checkpoints(run)[-1].path / "model.safetensors") for run in (one, other)]
    return pair[0].keys() == pair[1].keys() and all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


@pytest.mark.parametrize("name", ["bert", "t5", pytest.param("qwen3-untied", marks=pytest.mark.slow)])
def test_an_adapter_of_each_family_trains_and_is_used_like_any_run(
    lora, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    assert main(lora(name, "run", "--adapter.rank-stabilized", "true")) == 0
    said = capsys.readouterr().err
    assert " of them trained (" in said and " MB with gradients and optimizer state (all trained: " in said
    folder = tmp_path / "run"
    held = load_file(folder / "step-000004" / "model.safetensors")
    assert held and all(key.endswith((".lora_a", ".lora_b")) for key in held)
    state = load_file(folder / "step-000004" / "optimizer.safetensors")
    assert {key.rpartition("/")[0] for key in state} == held.keys()

    lines = [line["val_loss"] for line in curve(folder) if "val_loss" in line]
    assert lines[0] == pytest.approx(evaluate(load_run(tmp_path / f"base-{name}")).loss, rel=1e-5)
    last = folder / "step-000004"
    assert lines[-1] != pytest.approx(lines[0], rel=1e-5)
    assert evaluate(load_run(last)).loss == pytest.approx(lines[-1], rel=1e-5)
    assert main(["fill", str(last), "7 and [MASK]"] if name == "bert" else ["sample", str(last)]) == 0

    assert main(["merge", str(last), str(tmp_path / "merged")]) == 0
    shutil.rmtree(tmp_path / f"base-{name}")
    shutil.rmtree(folder)
    merged = load_run(tmp_path / "merged")
    assert not merged.config.adapter.on and evaluate(merged).loss == pytest.approx(lines[-1], rel=1e-5)
    assert main(["train", "--resume", "--out", str(tmp_path / "merged")]) == 2
    assert "was imported or merged, not trained" in capsys.readouterr().err


def test_a_resumed_adapter_has_the_bits_of_an_uninterrupted_one(lora, tmp_path: Path, monkeypatch):
    dropout = ["--adapter.dropout", "0.1"]
    assert main(lora("gpt2", "whole", *dropout)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for later in (tmp_path / "stopped").glob("step-00000[34]"):
        shutil.rmtree(later)
    assert main(["train", "--resume", "--out", str(tmp_path / "stopped")]) == 0
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    assert same_weights(tmp_path / "stopped", tmp_path / "whole")

    def killed(trainer: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # before the first step
        patch.setattr(Trainer, "fit", killed)
        assert main(lora("gpt2", "killed", *dropout)) == 130
    assert main(["train", "--resume", "--out", str(tmp_path / "killed")]) == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


def test_accumulation_does_not_change_an_adapters_gradient(lora, tmp_path: Path):
    for micro in ("8", "3"):
        assert main(lora("gpt2", micro, "--model.dropout", "0", "--train.micro_batch", micro, steps=2)) == 0
    norms = [[line["grad_norm"] for line in curve(tmp_path / name) if "grad_norm" in line] for name in ("8", "3")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_the_base_may_move_with_the_run_and_another_base_is_one_clear_error(
    lora, run_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(lora("gpt2", "run", steps=1)) == 0
    (tmp_path / "elsewhere").mkdir()
    for name in ("run", "base-gpt2"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    folder, base = tmp_path / "elsewhere" / "run", tmp_path / "elsewhere" / "base-gpt2"
    load_run(folder)

    shutil.move(base, tmp_path / "elsewhere" / "renamed")
    capsys.readouterr()
    assert main(["sample", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"{folder} needs the weights of" in said and "does not exist; restore it, or set adapter.base" in said
    assert main(["train", "--resume", "--out", str(folder), "--adapter.base", str(base.with_name("renamed"))]) == 0
    load_run(folder)

    shutil.rmtree(base.with_name("renamed"))
    shutil.copytree(run_of("char"), base.with_name("renamed"))
    capsys.readouterr()
    assert main(["eval", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "does not fit the weights of" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter.targets", "query"], "adapter.targets has 'query', which matches none of: "),
        (["--optim.name", "muon"], "optim.name muon trains the weights that adapter.name lora freezes"),
        (["--adapter.rank", "0"], "adapter.rank is 0; it must be at least 1"),
        (["--adapter.name", "none"], "adapter.rank has no effect with adapter.name none"),
    ],
)
def test_settings_that_contradict_an_adapter_are_refused(lora, tmp_path: Path, capsys, arguments, message):
    command = lora("gpt2", "run")
    at = command.index(arguments[0]) if arguments[0] in command else len(command)
    assert main([*command[:at], *arguments, *command[at + 2 :]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_an_adapter_needs_a_parent_and_a_run_without_one_cannot_be_merged(
    config_file: Path, run_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", str(config_file), *LORA, "--out", str(tmp_path / "run")]) == 2
    assert "adapter.name lora needs the weights of another run; give it with --init-from" in (capsys.readouterr().err)
    assert main(["merge", str(run_of("gpt2")), str(tmp_path / "merged")]) == 2
    assert "has no adapter to merge" in capsys.readouterr().err


def test_an_adapter_can_be_the_base_of_another_and_of_a_plain_run(lora, tmp_path: Path):
    """With an adapted vocabulary head, whose weight is no longer the token table after merging."""
    assert main(lora("gpt2", "first", "--adapter.targets", "q", "--adapter.targets", "heads.lm.proj", steps=1)) == 0
    first, source = tmp_path / "first", load_config(tmp_path / "first" / "config.toml").data.source
    config = finetune_config(first)
    assert not config.adapter.on and not config.model.tie_embeddings
    expected = evaluate(load_run(first)).loss
    for out, more in (("second", [*LORA, "--adapter.train", "embed"]), ("plain", [])):
        start = ["train", "--init-from", str(first), "--out", str(tmp_path / out), "--data", source, *KEYS, *more]
        assert main([*start, "--train.steps", "1"]) == 0
        assert curve(tmp_path / out)[0]["val_loss"] == pytest.approx(expected, rel=1e-5)
        best = min(line["val_loss"] for line in curve(tmp_path / out) if "val_loss" in line)
        assert evaluate(load_run(tmp_path / out)).loss == pytest.approx(best, rel=1e-5)
    shutil.rmtree(tmp_path / "base-gpt2")
    with pytest.raises(FileNotFoundError, match=f"{first} needs the weights of"):
        load_run(tmp_path / "second")


def test_a_new_head_is_kept_with_the_adapter(run_of, tmp_path: Path, capsys):
    source = tmp_path / "labels.csv"
    source.write_text("text,label\n" + "".join(f"so it {n},{'ab'[n % 2]}\n" for n in range(40)), encoding="utf-8")
    start = ["train", "--init-from", str(run_of("bert")), "--objective.name", "classify", "--data", str(source), *LORA]
    keys = ["--train.steps", "2", "--train.device", "cpu", "--train.precision", "fp32", "--optim.lr", "1e-2"]
    assert main([*start, *keys, "--data.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]) == 0
    held = load_file(checkpoints(tmp_path / "run")[-1].path / "model.safetensors")
    heads = {name for name in held if ".lora_" not in name}
    assert heads == {f"heads.class.{part}.{kind}" for part in ("pooler", "proj") for kind in ("weight", "bias")}
    loaded = load_run(checkpoints(tmp_path / "run")[-1].path)
    assert torch.equal(loaded.model.heads["class"].proj.weight, held["heads.class.proj.weight"])
    about = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    capsys.readouterr()
    assert main(["info", str(tmp_path / "run"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    counts = (shown["parameters"]["total"], shown["parameters"]["trained"])
    assert (
        counts
        == (about["parameters"], about["trained_parameters"])
        == (counts[0], sum(map(torch.numel, held.values())))
    )
    assert shown["training_bytes"] == 4 * counts[0] + 12 * counts[1]


def test_new_special_tokens_are_trained_with_the_adapter(lora, tmp_path: Path):
    """Conversations add the tokens of the roles to the vocabulary, and so rows to the tied tables."""
    conversations = tmp_path / "conversations.jsonl"
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}] for n in range(20)]
    conversations.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns), encoding="utf-8")
    command = lora("gpt2", "run", "--objective.name", "chat", steps=2)
    command[command.index("--data") + 1] = str(conversations)
    at = command.index("--data.split")
    assert main([*command[:at], *command[at + 2 :], "--data.cache", str(tmp_path / "cache")]) == 0
    last = checkpoints(tmp_path / "run")[-1].path
    assert "embed.tokens.weight" in load_file(last / "model.safetensors")
    lines = [line["val_loss"] for line in curve(tmp_path / "run") if "val_loss" in line]
    loaded = load_run(last)
    assert evaluate(loaded).loss == pytest.approx(lines[-1], rel=1e-5)
    assert "lora of rank 4 merged into" in loaded.describe() and loaded.config.model.tie_embeddings
