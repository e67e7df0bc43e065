"""Every command of the README, run as it stands there, on a text and with a number of steps that a test can afford."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
INSTALL = {"pip install -e . && minillm train", 'pip install -e ".[test]" && pytest'}
"""Run by CI; the training half of the first is run here too."""
SMALL = (
    "--train.steps 2 --train.global_batch 2 --eval.max_tokens 300 --model.d_model 16 --model.num_heads 2 "
    "--tokenizer.kind byte --sample.max_new_tokens 4 --data.validation_fraction 0.05"
)


def shortened(command: str) -> list[str]:
    """The command's words, with what makes it short at the end."""
    words = shlex.split(command)
    if "train_gpt.py" in command:
        words += ["--steps", "2"]
    elif "--init-from" in words:
        words += shlex.split("--train.steps 2 --train.global_batch 2 --eval.max_tokens 300 --data.seq_len 16")
    elif "train" in words and "--resume" not in words:
        words += shlex.split(SMALL)
    elif "--train.steps" in words:
        words[words.index("--train.steps") + 1] = "3"
    elif "sample" in words:
        words += ["--max-new-tokens", "4"]
    return words


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command, in this process where possible, since importing torch takes seconds; its exit code."""
    match words:
        case ["minillm", *arguments]:
            return main(arguments)
        case ["python", script, *arguments]:
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(script, run_name="__main__")
            return 0
        case ["torchrun", *arguments]:
            return subprocess.run([sys.executable, "-m", "torch.distributed.run", *arguments]).returncode
    raise AssertionError(f"the README has a command that this test cannot run: {words}")


def test_the_readme_shows_the_two_commands_of_a_newcomer():
    assert set(COMMANDS) >= INSTALL


def test_the_commands_work_one_after_another_as_pasted(tmp_path, monkeypatch):
    text = "Once upon a time there was a small model that read the same story again and again.\n" * 60
    for name in ("my.txt", "tinyshakespeare.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in ["minillm train", *(c for c in COMMANDS if c not in INSTALL)]:
        assert run(shortened(command), monkeypatch) == 0, command
