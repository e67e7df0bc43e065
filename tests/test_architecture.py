"""Who may import whom. The arrows are the design; this file is what keeps them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import minillm
from minillm.registry import OBJECTIVES

PACKAGE = Path(minillm.__file__).parent

FLOORS = [
    "nn",
    "models",
    "inference",
    "generation",
    "distributed",
    "adapters",
    "data",
    "objectives",
    "training",
    "evaluation",
    "rl",
    "exchange",
    "inspection",
]
"""Rooms from the lowest to the highest; imports only point down. Beside them stand tokenizers, which any may read."""
# Room -> the modules outside itself that it may import; a name stands for itself and what is below it.
ARROWS: dict[str, set[str]] = {
    "nn": set(),
    "models": {"nn"},
    "tokenizers": set(),
    "inference": {"models.gpt", "nn"},
    "generation": {"models", "nn.cache", "tokenizers.base", "tokenizers.chat_template", "tokenizers.framing"},
    "distributed": {"nn.block"},
    "adapters": set(),
    "data": {"tokenizers"},
    "objectives": {"nn.config", "nn.output", "nn.kernels.cross_entropy", "data", "tokenizers"},
    "training": {"objectives.base", "distributed", "data.prefetch", "nn.kernels.quantized"},
    "evaluation": {
        *(
            "training.config",
            "training.evaluation",
            "training.precision",
            "objectives.base",
            "objectives.layout",
            "distributed.runtime",
        ),
        *("generation", "data.loader", "data.datasets", "data.sources.records", "tokenizers.base"),
    },
    "rl": {
        *("evaluation.evaluator", "training.evaluation", "training.checkpoint", "objectives.base", "objectives.policy"),
        *("data.datasets.prompts", "data.loader", "data.prefetch", "generation", "adapters.lora"),
    },
    "exchange": {
        *("models.presets", "nn.config", "nn.position", "tokenizers", "data.sources.hub", "generation.config"),
        "adapters.config",
    },
    "inspection": {"nn.attention", "nn.block", "generation", "tokenizers.base"},
    "config": {
        "models.presets",
        "nn.families",
        "config_files",
        "registry",
    },  # and every room's config, see `violations`
    "config_files": {"models.presets"},
}
LEAVES = {"settings", "storage"}  # any room may import them, nn and models settings only, for their config
STDLIB_ONLY = LEAVES | {"registry"}
ROOT = {"run", "cli", "benchmark", "__init__", "__main__"}  # they may see every part
CONFIG_READERS = ROOT - {"__main__"}
BANNED = {"transformers"}  # the oracle of the tests, never a dependency
CROSSCHECK = Path("exchange/crosscheck")  # asks it, where a user has it, whether an export is right
BENCHMARK = "benchmark"  # measures it, where a user has it
ONLY_TORCH = {"nn", "models"}  # the blocks are torch and nothing else
TORCH_FREE = [
    *("config", "config_files", "settings", "storage", "registry", "training.interrupt", "training.state"),
    *("cli", "models.presets", "generation.printable"),
]
TORCH_FREE += [f"{r}.config" for r in ("nn", "adapters", "data", "training", "tokenizers", "distributed", "generation")]
TORCH_FREE += [
    f"cli.{name}"
    for name in (
        "train",
        "sample",
        "chat",
        "fill",
        "embed",
        "predict",
        "eval",
        "info",
        "data",
        "import_",
        "export",
        "merge",
        "quantize",
    )
]
TORCH_FREE += ["cli.quantize", "cli.flags", "cli.output", "cli.attention", "cli.report"]

OUTER_VERBS = {
    # `run` and `cli` offer the verb of a room below for a whole run, or for the command line
    *("train", "sample", "fill", "evaluate", "search", "predict", "embed", "attention"),
}
"""Public names that two rooms may define."""
NAMESAKES = {
    "config": "each room's settings",
    "base": "each room's base class",
    "__init__": "Python's",
    "fill": "cli: the command of that name",
    "embed": "cli: the command of that name",
    "output": "cli: what commands print; nn: what a model returns",
    "cache": "data: on disk; nn: keys and values",
    "text": "data: a source's text; generation: text in, text out",
    "chat": "data: tokenized conversations; objectives: what is learned from them; cli: the command",
    "attention": "nn: the layer; cli: the command",
    "report": "cli: the command; run: what is printed during a run",
    "build": "models: a model; run: the parts of a run",
}
"""Names of modules that stand in several rooms, and what they are there."""
MAX_LINES, MAX_FUNCTION = 250, 50


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
                bare = room in ONLY_TORCH | STDLIB_ONLY and top not in sys.stdlib_module_names
                if (top in BANNED and inside != CROSSCHECK and room != BENCHMARK) or (
                    bare and not (top == "torch" and room in ONLY_TORCH)
                ):
                    found.append(f"{inside} imports {full}")
                continue
            leaf = name.split(".")[0]
            if leaf in LEAVES and (room not in ONLY_TORCH or inside.name == "config"):
                continue
            if covers("config", name) and room not in CONFIG_READERS | {"config"}:
                found.append(f"{inside} reads the whole config")
            elif room not in ROOT and not any(covers(one, name) for one in {room} | ARROWS.get(room, set())):
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
        ("data/corpus.py", "from minillm.objectives.base import Batch"),
        ("exchange/gpt2_weights.py", "import transformers"),
        ("exchange/folder_in.py", "from minillm.training.checkpoint import weights"),
        ("evaluation/evaluator.py", "from minillm.run.inference import LoadedRun"),
        ("evaluation/evaluator.py", "from minillm.training.trainer import Trainer"),
        ("objectives/clm.py", "from minillm.evaluation.evaluator import Measurement"),
        ("generation/text.py", "from minillm.objectives.base import Batch"),
        ("models/base.py", "from minillm.generation.generate import generate"),
        ("distributed/parallelize.py", "from minillm.training.optim import Optimizer"),
        ("tokenizers/base.py", "from minillm.data.loader import Loader"),
        ("data/loader.py", "from minillm.registry import OBJECTIVES"),
        ("registry.py", "from minillm.objectives.clm import CausalLM"),
        ("registry.py", "import numpy"),
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


def test_every_room_has_its_arrows_and_no_other():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms == set(ARROWS) | STDLIB_ONLY | ROOT


def test_every_arrow_points_down_and_is_used():
    for room, floor in zip(FLOORS, range(len(FLOORS)), strict=True):
        assert {arrow.split(".")[0] for arrow in ARROWS[room]} <= {*FLOORS[:floor], "tokenizers"}, room
    for room, arrows in ARROWS.items():
        files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else (PACKAGE / room).rglob("*.py")
        read = {name.removeprefix("minillm.") for path in files for name in imports(path)}
        assert [arrow for arrow in sorted(arrows) if not any(covers(arrow, name) for name in read)] == [], room


def sources(package: Path) -> Iterator[tuple[str, str]]:
    """Path inside the package, and content, of each of its files."""
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")


def found(package: Path, pattern: str, *allowed: str) -> list[str]:
    """Lines of the package that match, but for those of files that may hold them."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in sources(package)
        if not name.startswith(allowed or ("/",))
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(pattern, line)
    ]


NAMES = "|".join([*OBJECTIVES, "gpt", "bert", "t5"])
FORBIDDEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "asks for an objective or a family by name": (
        r"(\bfamily|objective(\.name|_name)?) ?(==|!=|(not )?in [({\[])"
        rf"|[!=]= ?[\"']({NAMES})[\"']|case [\"']({NAMES})[\"']",
        # nn/position.py knows T5's scheme by that name
        ("registry.py", "models/presets.py", "models/build.py", "nn/config.py", "nn/position.py", "exchange/"),
    ),
    "asks what a model has": (r"(hasattr|getattr)\(([\w.]*\.)?model, *[\"']", ()),
    "asks what wraps a model": (
        r"isinstance\([^)]*(DistributedDataParallel|DataParallel|FSDP|FSDPModule|Prefixed|Conditioned|Cached|Seq2Seq)\b",
        ("distributed/parallelize.py",),  # which wraps it
    ),
    "has a training loop": (
        r"\.backward\(|torch\.autograd\.grad\(",
        ("training/step.py", "benchmark/"),
    ),  # the peers' loops
    "makes an optimizer": (r"torch\.optim\.|AdamW\(", ("training/optim.py", "benchmark/")),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file(what: str):
    pattern, allowed = FORBIDDEN[what]
    assert found(PACKAGE, pattern, *allowed) == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("asks for an objective or a family by name", 'if config.objective.name == "clm":'),
        ("asks for an objective or a family by name", "if config.model.family != other:"),
        ("asks for an objective or a family by name", 'if config.model.family in ("gpt", "t5"):'),
        ("asks for an objective or a family by name", 'kind = 1 if name == "seq2seq" else 0'),
        ("asks for an objective or a family by name", 'case "bert":'),
        ("asks what a model has", 'if hasattr(model, "step"):'),
        ("asks what a model has", 'step = getattr(self.model, "step", None)'),
        ("asks what wraps a model", "if isinstance(model, Prefixed):"),
        ("asks what wraps a model", "isinstance(self.take_step.model, nn.parallel.DistributedDataParallel)"),
        ("has a training loop", "loss.backward()"),
        ("makes an optimizer", "optimizer = torch.optim.AdamW(model.parameters())"),
    ],
)
def test_what_no_file_may_do_is_found(tmp_path: Path, what: str, line: str):
    (tmp_path / "run.py").write_text(line + "\n", encoding="utf-8")
    assert len(found(tmp_path, FORBIDDEN[what][0], *FORBIDDEN[what][1])) == 1


def by_room(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> the rooms that have it, for each name that several have."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, room in pairs:
        rooms[name].add(room)
    return {name: sorted(places) for name, places in rooms.items() if len(places) > 1}


def room_of(file: str) -> str:
    return file.split("/")[0]


def test_a_modules_name_stands_in_one_room():
    namesakes = by_room((Path(file).stem, room_of(file)) for file, _ in sources(PACKAGE))
    assert set(namesakes) == set(NAMESAKES), namesakes


def test_a_public_name_is_defined_in_one_room():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = [
        (node.name, room_of(file))
        for file, text in sources(PACKAGE)
        for node in ast.parse(text).body
        if isinstance(node, kinds) and not node.name.startswith("_") and not file.startswith("objectives/")
    ]
    doubles = by_room(defined)
    assert set(doubles) == OUTER_VERBS, doubles
    assert all("run" in rooms for rooms in doubles.values())


def test_no_file_and_no_function_is_long():
    long = [f"{file}: {len(text.splitlines())}" for file, text in sources(PACKAGE)]
    assert [line for line in long if int(line.split(": ")[1]) > MAX_LINES] == []
    functions = [
        (f"{file}: {node.name}", code_lines(node))
        for file, text in sources(PACKAGE)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 500 and [one for one in functions if one[1] > MAX_FUNCTION] == []


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which of a command is its help."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_what_must_answer_at_once_imports_no_torch():
    modules = ["minillm", *(f"minillm.{name}" for name in TORCH_FREE)]
    heavy = "{'torch', 'numpy', 'tiktoken', 'tokenizers', 'datasets', 'matplotlib', 'safetensors'}"
    code = f"import sys, {', '.join(modules)}\nprint(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert run.stdout.strip() == ""


def test_the_reading_paths_are_as_short_as_promised():
    guide = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    attention, step = guide.split("**How does ")[1:]
    listed = re.findall(r"^\d+\. `(minillm/\S+)` \((\d+)(?: lines)?\)", attention, re.MULTILINE)
    lengths = [len((PACKAGE.parent / file).read_text(encoding="utf-8").splitlines()) for file, _ in listed]
    assert [int(said) for _, said in listed] == lengths
    assert 0 < len(lengths) <= 5 and sum(lengths) <= 500 and f"{sum(lengths)} lines in total" in attention

    files = re.findall(r"^\d+\. `(minillm/\S+)`", step, re.MULTILINE)
    assert 0 < len(files) <= 14 and [file for file in files if not (PACKAGE.parent / file).is_file()] == []
