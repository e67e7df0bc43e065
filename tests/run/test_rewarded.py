"""GRPO and PPO through the command line: on texts, on conversations, with a reward model, with LoRA."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm import load_run
from minillm.cli import main
from minillm.training.metrics import read_metrics

QUICK = ["--train.steps", "2", "--train.global_batch", "8", "--objective.num_generations", "4"]
QUICK += ["--objective.max_new_tokens", "3", "--train.device", "cpu", "--train.precision", "fp32", "--eval.every", "2"]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    records = [{"prompt": f"{n} and", "answer": f" {n}"} for n in range(20)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def start(parent: Path, prompts: str, out: Path, *more: str, recipe: str = "grpo") -> int:
    cache = ["--data.cache", str(out.parent / "cache")]
    given = [(flag, value) for flag, value in zip(QUICK[::2], QUICK[1::2], strict=True) if flag not in more]
    quick = [word for pair in given for word in pair]
    own = ["--init-from", str(parent), "--data", prompts, "--out", str(out)]
    return main(["train", recipe, *own, *quick, *cache, *more])


def test_a_run_trains_evaluates_samples_and_resumes(
    run_of: Callable[[str], Path], prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, updates = tmp_path / "run", ["--objective.num_updates", "2", "--objective.kl", "0.1", "--save.every", "1"]
    updates += ["--optim.average", "0.2"]
    assert start(run_of("llama"), prompts, out, *updates, "--train.steps", "3") == 0
    said = capsys.readouterr().err
    assert "reward 0." in said and '"completion"' in said
    assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"reward", "length", "truncated"}
    assert main(["sample", str(out), "--prompt", "7 and", "--max-new-tokens", "3"]) == 0

    stopped = tmp_path / "stopped"
    shutil.copytree(out, stopped)
    for name in ("step-000002", "step-000003"):
        shutil.rmtree(stopped / name, ignore_errors=True)
    assert main(["train", "--resume", "--out", str(stopped)]) == 0

    def curve(run: Path) -> list[dict]:
        return [{k: v for k, v in x.items() if k != "seconds"} for x in read_metrics(run / "metrics.jsonl")]

    assert curve(stopped) == curve(out)


def test_several_rewards_are_given_as_several_flags(run_of: Callable[[str], Path], prompts: str, tmp_path: Path):
    rewards = ["--objective.rewards", "exact", "--objective.rewards", "0.5*length:3"]
    assert start(run_of("llama"), prompts, tmp_path / "run", *rewards) == 0
    assert load_run(tmp_path / "run").config.objective.rewards == ("exact", "0.5*length:3")


def test_ppo_learns_from_a_reward_model(
    run_of: Callable[[str], Path], prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n} and", "chosen": " yes", "rejected": " no"} for n in range(20)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judge = tmp_path / "judge"
    quick = ["--train.steps", "2", "--train.device", "cpu", "--data.cache", str(tmp_path / "cache")]
    parent = run_of("llama")
    assert main(["train", "reward", "--init-from", str(parent), "--data", str(pairs), *quick, "--out", str(judge)]) == 0
    rewards = ["--objective.rewards", f"run:{judge}", "--objective.num_generations", "1"]
    assert start(parent, prompts, tmp_path / "run", *rewards, recipe="ppo") == 0
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert {"value_error", "kl", "reward"} <= lines[0].keys()
    assert "newly initialized: heads.value" in capsys.readouterr().err
    assert start(parent, prompts, tmp_path / "no", "--objective.rewards", f"run:{parent}") == 2
    assert "predict needs a run with" in capsys.readouterr().err


def test_with_lora_the_base_is_the_reference_and_no_copy_is_kept(
    run_of: Callable[[str], Path], prompts: str, tmp_path: Path
):
    lora = ["--adapter.name", "lora", "--objective.kl", "0.1", "--train.steps", "3", "--objective.rewards", "length:2"]
    assert start(run_of("llama"), prompts, tmp_path / "run", *lora, "--optim.lr", "0.01") == 0
    assert not (tmp_path / "run" / "reference").exists()
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-9) and lines[-1]["kl"] > 1e-9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective.kl", "0.1", "--objective.kl_estimator", "k1"], "objective.kl_estimator is k1, whose gradient"),
        (["--objective.rewards", "exat"], "objective.rewards has 'exat'; a reward is exact[:FIELD]"),
        (["--train.global_batch", "6"], "train.global_batch is 6 completions; it must be a multiple of 4"),
        (["--objective.rewards", "exact:right"], "the record has no field 'right'"),
        (["--objective.top_k", "5"], "Unknown option"),
        (["--model.dropout", "0.1"], "objective grpo needs a model without dropout"),
        (["--objective.max_new_tokens", "99"], "shorten the prompt or lower objective.max_new_tokens"),
    ],
)
def test_a_mistake_is_one_line(
    run_of: Callable[[str], Path],
    prompts: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
):
    assert start(run_of("llama"), prompts, tmp_path / "run", *flags) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
