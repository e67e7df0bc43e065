"""The README and the pages in docs/: every command runs as it is written, with settings small enough for a test, and
links, files and settings that the text names exist. A comment before a block of code says what is special about it:

    <!-- not run: REASON -->    it takes long or needs a network, a GPU or another file; only its flags are checked
    <!-- file: NAME -->         it is the content of a file that commands read
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from minillm.cli import build_app, main
from minillm.config import KEYS, SECTIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
INSTALL = {"pip install -e . && minillm train", 'pip install -e ".[test]" && pytest'}
"""Run by CI; the training in the first one is run here too."""
SHORT = {"--train.steps": "2", "--train.global_batch": "2", "--eval.max_tokens": "300"}
SMALL = SHORT | {"--model.d_model": "16", "--model.num_heads": "2", "--tokenizer.kind": "byte"}
PREPARED = {
    "my.txt": "Once upon a time there was a small model that read the same story again and again.\n" * 60,
    "tinyshakespeare.txt": "ROMEO:\nO, she doth teach the torches to burn bright!\n" * 100,
    "reviews.csv": "review\n" + "I liked the old story best.\nThe new one is too long for me.\n" * 80,
    "labels.csv": "text,label\n" + "".join(f"Film {n} was good.,yes\nFilm {n} was dull.,no\n" for n in range(40)),
}
"""Files of the reader's own that the commands name."""


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    """The first word or words of the comment before it: `not run`, `file`, or nothing."""
    note: str
    language: str
    body: str


def blocks(*pages: Path) -> list[Block]:
    pattern = re.compile(r"(?:<!-- (not run|file): ([^>\n]*) -->\n)?^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [Block(*match) for page in pages for match in pattern.findall(page.read_text(encoding="utf-8"))]


def commands(*, run: bool) -> list[str]:
    """The lines of all sh blocks that are run here, or of those that are not."""
    shell = [block for block in blocks(*PAGES) if block.language == "sh"]
    lines = [line for block in shell if (block.kind != "not run") == run for line in block.body.splitlines()]
    return [line for line in lines if line not in INSTALL]


def shortened(command: str) -> list[str]:
    """The command's words, with what makes it short in place of its own settings or at the end."""
    words, changes = shlex.split(command), {}
    if "--resume" in words:
        changes = {"--train.steps": "3"}
    elif {"grpo", "ppo"} & {*words}:  # whole groups of completions
        changes = SHORT | {"--train.global_batch": "8"}
    elif "--init-from" in words:
        changes = SHORT | {"--data.seq_len": "16"}
    elif {"mlp-digits", "linear"} & {*words}:  # they have no tokens
        changes = SHORT
    elif "train" in words:
        changes = SMALL if len(words) > 2 else SMALL | {"--data.validation_fraction": "0.02"}
    elif re.search("train_gpt.py|pretrain_|finetune_", command):
        changes = {"--steps": "2"}
    elif re.search("minillm sample|sample.py", command):
        changes = {"--max-new-tokens": "4"}
    if {"--train.epochs", "gpt-small-data"} & {*words}:  # instead of train.steps
        changes = {f: value for f, value in changes.items() if f != "--train.steps"} | {"--train.epochs": "0.1"}
    for flag, value in changes.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
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
    raise AssertionError(f"a command that this test cannot run: {words}")


def test_the_readme_shows_the_two_commands_of_a_newcomer():
    assert {line for block in blocks(README) for line in block.body.splitlines()} >= INSTALL


@pytest.mark.timeout(300)
def test_the_commands_work_one_after_another_as_pasted(tmp_path, monkeypatch):
    files = PREPARED | {block.note: block.body for block in blocks(*PAGES) if block.kind == "file"}
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in ["minillm train", *commands(run=True)]:
        assert run(shortened(command), monkeypatch) == 0, command
    for program in (block.body for block in blocks(*PAGES) if block.language == "python"):
        exec(re.sub(r'("train.steps"): \d+', r'\1: 2, "train.global_batch": 2', program), {})


@pytest.mark.parametrize("command", [line for line in commands(run=False) if line.startswith("minillm ")])
def test_the_flags_of_a_command_that_is_not_run_exist(command):
    build_app().parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_settings_that_the_text_names_exist(page):
    text = page.read_text(encoding="utf-8")
    keys = set(re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_0-9]+)\b(?!\.json|\()", text)) - {"tokenizer.json"}
    owned = {key for key in keys if key.startswith("objective.")}  # each objective has its own
    assert keys - owned <= set(KEYS)
    files = set(re.findall(r"`((?:minillm|tests|scripts|configs|docs)/[\w./-]+)`", text))
    assert {name for name in files if not (ROOT / name).exists()} == set()
