"""What all commands share: help, exit codes, one line for a mistake."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minillm import cli, run
from minillm.cli.flags import objective_texts, section_texts
from minillm.cli.train import SHOWN
from minillm.config import SECTIONS, keys_of
from minillm.data import describe
from minillm.models import profile
from minillm.nn.config import ModelConfig
from minillm.registry import OBJECTIVES
from minillm.training.interrupt import Terminated

COMMANDS = ["train", "sample", "fill", "eval", "info", "data"]


def test_help_answers_fast_and_without_importing_torch():
    code = (
        "import sys, time\n"
        "from minillm.cli import main; main(['train', '--help'])\n"
        "print(time.process_time(), 'torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(cli.__file__).parents[2])
        for _ in range(3)
    ]
    seconds, torch_imported, numpy_imported = min(run.stderr.split() for run in runs)
    assert (torch_imported, numpy_imported) == ("False", "False")
    assert float(seconds) < 0.5


def test_it_runs_as_a_module():
    process = subprocess.run(
        [sys.executable, "-m", "minillm", "trian"], capture_output=True, text=True, cwd=Path(cli.__file__).parents[2]
    )
    assert process.returncode == 2
    assert process.stderr.startswith("minillm: error: ") and process.stderr.count("\n") == 1


def test_help_without_a_command_lists_all_of_them(command):
    outcome = command()
    assert outcome.code == 0
    assert all(f"  {name}: {cli.COMMANDS[name]}" in outcome.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(command, name: str):
    outcome = command(name, "--help")
    assert (
        outcome.code == 0 and f"Usage: minillm {name}" in outcome.out and "--json" in outcome.out
    ) or name == "train"


def test_help_all_shows_every_key_with_its_sentence_and_default(command):
    lines = command("train", "--help-all").out.splitlines()
    for section in SECTIONS:
        assert f"[{section}]:" in lines
        for key, sentence in (objective_texts() if section == "objective" else section_texts(section)).items():
            (line,) = [text for text in lines if text.startswith(f"  --{key} ")]
            assert sentence in line and ("[default: " in line or section == "objective")
    assert key_flags(lines) == {key for name in OBJECTIVES for key in keys_of(name)}


def key_flags(lines: list[str]) -> set[str]:
    """The keys whose flags a help lists."""
    words = [line.split()[0] for line in lines if line.startswith("  --")]
    return {word.removeprefix("--") for word in words if "." in word}


def test_the_help_of_train_lists_the_keys_that_people_use_first(command):
    lines = command("train", "--help").out.splitlines()
    assert key_flags(lines) == SHOWN and len(SHOWN) < 25
    text = "\n".join(lines)
    assert all(f"  --{flag}" in text for flag in ("data", "out", "resume", "init-from", "help-all"))
    assert len(lines) < 60


def test_a_key_that_the_help_does_not_list_is_accepted(command, fake_run):
    assert "optim.beta1" not in SHOWN
    assert command("train", "--optim.beta1", "0.8").code == 0
    assert fake_run.asked["config"].optim.beta1 == 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "train"]),
        (["train", "--train.stepz", "5"], ["--train.stepz", "--train.steps"]),
        (["train", "--train.steps"], ["--train.steps", "requires an argument"]),
        (["train", "--train.steps", "many"], ["train.steps", "an integer", "'many'"]),
        (["train", "--train.steps", "1", "--train.steps", "2"], ["--train.steps", "multiple"]),
        (["train", "nano"], ["'nano'", "gpt-nano"]),
        (["train", "none/such.toml"], ["none/such.toml", "gpt-nano"]),
        (["train", "gpt-nano", "second"], ["does not take the argument second", "quotes", "minillm train --help"]),
        (["sample", "runs/x", "Once", "upon"], ["argument Once", "--prompt 'Once upon'", "minillm sample --help"]),
        (["train", "--data", "a", "--data.source", "b"], ["--data", "--data.source"]),
        (["train", "--model.preset", "gpt3"], ["model.preset", "gpt2"]),
        (["info", "gpt3"], ["gpt3", "gpt2"]),
        (["data", "nothing.txt"], ["nothing.txt"]),
        (["data", "--tokenizer.kind", "bytes"], ["tokenizer.kind", "byte, char"]),
        (["sample", "nowhere"], ["nowhere", "minillm train"]),
        (["eval"], ["minillm train"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, arguments: list[str], words: list[str]):
    outcome = command(*arguments)
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith("minillm: error: ") and outcome.err.count("\n") == 1
    assert all(word in outcome.err for word in words), outcome.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\nlines"), 2, "minillm: error: two lines"),
        (PermissionError(13, "Permission denied", "my.txt"), 2, "minillm: error: my.txt: Permission denied"),
        (FileNotFoundError("no run here"), 2, "minillm: error: no run here"),
        (KeyboardInterrupt(), 130, "minillm: interrupted"),
        (Terminated(), 143, "minillm: terminated"),
        (MemoryError("9 TB"), 2, "minillm: error: out of memory: 9 TB; use smaller settings or a smaller model"),
    ],
)
def test_an_exception_becomes_a_line_and_an_exit_code(command, fake_run, monkeypatch, error, code: int, line: str):
    monkeypatch.setattr(run, "train_run", lambda *_, **__: (_ for _ in ()).throw(error))
    outcome = command("train")
    assert (outcome.code, outcome.err.strip()) == (code, line)


@pytest.mark.parametrize("size", [10**15, 10**18, 10**20])
def test_a_tensor_that_no_memory_holds_is_a_line(command, fake_run, monkeypatch, size: int):
    monkeypatch.setattr(run, "train_run", lambda *_, **__: torch.empty(size, 16))
    outcome = command("train")
    assert outcome.code == 2 and outcome.err.startswith("minillm: error: out of memory: ")
    assert outcome.err.count("\n") == 1 and "frame #" not in outcome.err


@pytest.mark.parametrize(("signal", "code"), [(None, 0), (2, 130), (15, 143)])
def test_a_training_that_a_signal_stopped_says_which_by_its_exit_code(command, fake_run, signal: int | None, code: int):
    fake_run.signal = signal
    assert command("train").code == code


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "9"}, {"KMP_BLOCKTIME": "1"}])
def test_threads_that_wait_sleep_unless_the_user_has_chosen_otherwise(chosen: dict[str, str]):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {key: value for key, value in os.environ.items() if key not in names} | chosen
    code = f"import os, minillm.__main__; print({{key: os.environ[key] for key in {names} if key in os.environ}})"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(chosen or {"OMP_WAIT_POLICY": "passive"})


def test_a_bug_shows_its_traceback(command, fake_run, monkeypatch):
    monkeypatch.setattr(run, "train_run", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        command("train")


def test_debugging_shows_the_traceback_of_a_mistake(command, monkeypatch):
    monkeypatch.setenv("MINILLM_DEBUG", "1")
    with pytest.raises(ValueError, match="expected an integer"):
        command("train", "--train.steps", "many")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path):
    (tmp_path / "my.txt").write_text("some words\n" * 9, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "minillm", "data", str(tmp_path / "my.txt"), "--tokenizer.kind", "byte"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(cli.__file__).parents[2],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141 and "Error" not in errors


FLAGS = "--help -h --version --json --prompt --data --out --resume --seed --stop --field --no-resume -- - = -x @file"
VALUES = "gpt-nano gpt2 my.toml ../x 5 -5 1e-3 1e999 nan true none [] {} auto adamw café __complete --train.steps=3"
ODD = ["--train={}", "--model.bias=", "", " ", "a\nb", "\udcff", "[bold]x[/nope]"]
KEY_FLAGS = [f"--{key}" for key in random.Random(0).sample(sorted(keys_of("mlm")), 25)]
WORDS = [*COMMANDS, *KEY_FLAGS, *FLAGS.split(), *VALUES.split(), *ODD]
LINES = """[model]|[train]|[[train]]|[optim|steps = 5|steps = '5'|lr = nan|preset = 'gpt2'|preset = 'x'|d_model = 7
x.y = [1, {}]|= 3|'''|stop = ['a']|seed = 1979-05-27|\x00|#"""
FRAGMENTS = LINES.replace("\n", "|").split("|")


@pytest.fixture
def no_work(fake_run, monkeypatch):
    """Commands that answer at once, so that only what they make of their input is left."""
    described = describe.Description("x", "", 1, 1, 1, 1, 1.0, "x")
    monkeypatch.setattr(describe, "describe", lambda *_, **__: described)
    counted = profile.profile(ModelConfig(vocab_size=9))
    monkeypatch.setattr(profile, "profile", lambda _: counted)


def test_no_input_leads_to_a_traceback(command, no_work, tmp_path: Path):
    dice = random.Random(20)
    codes = set()
    for _ in range(300):
        toml = "\n".join(dice.choices(FRAGMENTS, k=dice.randint(0, 4)))
        (tmp_path / "my.toml").write_text(toml, encoding="utf-8")
        arguments = [dice.choice(COMMANDS), *dice.choices(WORDS, k=dice.randint(0, 5))]
        if dice.random() < 0.2:
            arguments = dice.choices(WORDS, k=dice.randint(0, 4))
        outcome = command(*arguments)
        codes.add(outcome.code)
        assert outcome.code in (0, 2), (arguments, toml, outcome)
        if outcome.code == 2:
            assert outcome.err.count("minillm: error:") == 1 and outcome.err.strip().count("\n") <= 1, arguments
    assert codes == {0, 2}
