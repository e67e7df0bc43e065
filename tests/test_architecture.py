"""Who may import whom. The arrows are the design; this file is what keeps them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import minillm

PACKAGE = Path(minillm.__file__).parent

# Room -> the modules outside itself that it may import; a name stands for itself and what is below it.
ARROWS: dict[str, set[str]] = {
    "nn": set(),
    "models": {"nn"},
    "exchange": {"nn", "models", "tokenizers"},
    "objectives": {"nn.output", "nn.kernels"},
    "generation": {"nn", "models", "tokenizers"},
    "distributed": {"nn"},
    "tokenizers": set(),
    "data": {"tokenizers"},
    "training": {"evaluation.unigram_baseline", "objectives.base", "distributed", "data.loader", "nn.output"},
    "config": {"models.presets", "config_files"},  # and every room's config, see `violations`
    "config_files": {"models.presets"},
}
LEAVES = {
    "settings",
    "storage",
    "registry",
}  # they import the standard library alone; any room may import them, nn and models settings only
ROOT = {"run", "evaluation", "exchange", "report", "cli", "__init__", "__main__"}  # they may see every part
CONFIG_READERS = {"run", "evaluation", "exchange", "report", "cli", "__init__"}
BANNED = {"transformers"}  # the oracle of the tests, never a dependency
CROSSCHECK = Path("exchange/crosscheck")  # the one place that asks it, where a user has it, whether an export is right
ONLY_TORCH = {"nn", "models"}  # the blocks are torch and nothing else
TORCH_FREE = [
    "config",
    "config_files",
    "settings",
    "storage",
    "training.interrupt",
    "cli",
    "models.presets",
    "generation.printable",
]
TORCH_FREE += [
    f"{r}.config" for r in ("nn", "data", "training", "tokenizers", "objectives", "distributed", "generation")
]
TORCH_FREE += [
    f"cli.{name}"
    for name in ("train", "sample", "fill", "eval", "info", "data", "import_", "export", "flags", "output")
]


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def covers(allowed: str, name: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


def violations(package: Path) -> list[str]:
    """Every import in the package's files that no arrow allows."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).with_suffix("")
        room = inside.parts[0]
        for full in imports(path):
            top, _, name = full.partition(".")
            if top != "minillm":
                bare = room in ONLY_TORCH | LEAVES and top not in sys.stdlib_module_names
                if (top in BANNED and inside != CROSSCHECK) or (bare and not (top == "torch" and room in ONLY_TORCH)):
                    found.append(f"{inside} imports {full}")
                continue
            leaf = name.split(".")[0]
            if leaf in LEAVES and (room not in ONLY_TORCH or inside.name == "config"):
                continue
            if covers("config", name) and room not in CONFIG_READERS | {"config"}:
                found.append(f"{inside} reads the whole config")
            elif room not in ROOT and not any(covers(one, name) for one in {room} | LEAVES | ARROWS.get(room, set())):
                owned = name.split(".")[1:2] == ["config"]
                if not (room == "config" and owned):
                    found.append(f"{inside} imports {full}")
    return found


def test_every_import_follows_the_arrows():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("nn/attention.py", "from minillm.models.gpt import GPT"),
        ("nn/attention.py", "import numpy"),
        ("nn/attention.py", "from minillm.settings import setting"),
        ("settings.py", "from minillm.nn.config import ModelConfig"),
        ("models/gpt.py", "from minillm.objectives.clm import CausalLM"),
        ("models/gpt.py", "from minillm.config import RunConfig"),
        ("objectives/clm.py", "from minillm.nn.attention import Attention"),
        ("training/trainer.py", "import minillm.models.gpt"),
        ("training/trainer.py", "def f():\n    from minillm.data.datasets import corpus"),
        ("generation/generate.py", "from minillm import models"),
        ("data/corpus.py", "from minillm.objectives.base import Batch"),
        ("exchange/gpt2_weights.py", "import transformers"),
        ("storage.py", "import numpy"),
        ("storage.py", "from minillm.training.state import TrainState"),
        ("config.py", "from minillm.models.gpt import GPT"),
        ("stranger/thing.py", "from minillm.nn import config"),
    ],
)
def test_an_import_against_the_arrows_is_found(tmp_path: Path, file: str, line: str):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line, encoding="utf-8")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/gpt.py", "from minillm.nn.block import Stack"),
        ("config.py", "from minillm.nn.config import ModelConfig\nfrom minillm.models.presets import PRESETS"),
        ("nn/config.py", "from minillm.settings import setting"),
        ("training/trainer.py", "from minillm.objectives.base import Batch"),
        ("cli/train.py", "from minillm.config import load_config"),
        ("data/cache.py", "from minillm.storage import seal"),
        ("run.py", "from minillm.training.trainer import Trainer"),
    ],
)
def test_an_import_along_the_arrows_is_fine(tmp_path: Path, file: str, line: str):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line, encoding="utf-8")
    assert violations(tmp_path) == []


def test_every_room_has_its_arrows():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - ROOT
    assert rooms <= set(ARROWS)


def test_what_must_answer_at_once_imports_no_torch():
    modules = ["minillm", *(f"minillm.{name}" for name in TORCH_FREE)]
    heavy = "{'torch', 'numpy', 'tiktoken', 'tokenizers', 'datasets', 'matplotlib', 'safetensors'}"
    code = f"import sys, {', '.join(modules)}\nprint(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert run.stdout.strip() == ""
