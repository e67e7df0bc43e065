"""The tutorials run, print what their pages show, and what they claim is true.

Every Python block of a page stands in the chapter's code, and every text block in its output, in both languages.
"""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
CODE = TUTORIALS / "code"
PAGES = sorted(TUTORIALS.glob("[0-9]*.md"))
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)

CHAPTERS: dict[str, tuple[dict[str, Any], str]] = {}
"""Chapter -> what its lesson returned, and what it printed; each runs once."""


@pytest.fixture
def chapter(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(CODE)

    def learn(name: str) -> tuple[dict[str, Any], str]:
        if name not in CHAPTERS:
            spec = importlib.util.spec_from_file_location(name, CODE / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found = module.lesson(tmp_path)
            drawn = {path.name for path in tmp_path.glob("*.png")}
            assert drawn == {Path(link).name for link in figures(name)}, "a page shows every figure"
            CHAPTERS[name] = found, capsys.readouterr().out
        return CHAPTERS[name]

    return learn


def page_of(name: str) -> Path:
    (page,) = (page for page in PAGES if page.stem.partition("_")[2] == name)
    return page


def figures(name: str) -> list[str]:
    return re.findall(r"!\[[^]]*\]\((figures/[^)]*)\)", page_of(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_code_that_runs_and_the_output_that_it_prints(page: Path, chapter):
    name = page.stem.partition("_")[2]
    _, printed = chapter(name)
    code = (CODE / f"{name}.py").read_text(encoding="utf-8")
    for language in (page, page.parent / "zh" / page.name):
        text = language.read_text(encoding="utf-8")
        for kind, block in BLOCK.findall(text):
            assert block in (code if kind == "python" else printed), f"{language.name}:\n{block}"
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert link.startswith("http") or (language.parent / link).exists(), f"{language.name}: {link}"


def test_a_page_in_chinese_shows_the_same_blocks_and_figures():
    for page in PAGES:
        other = page.parent / "zh" / page.name
        ours, theirs = (path.read_text(encoding="utf-8") for path in (page, other))
        assert BLOCK.findall(ours) == BLOCK.findall(theirs), page.name
        assert re.findall(r"figures/[^)]*", ours) == re.findall(r"figures/[^)]*", theirs), page.name


def test_a_line(chapter):
    found, _ = chapter("a_line")
    w, b, _ = found["path"][-1]
    assert np.allclose((w, b), found["best"], atol=1e-2)
    losses = [loss for _, _, loss in found["path"]]
    assert losses == sorted(losses, reverse=True), "every step is downhill"
    small, right, large = (found["rates"][rate] for rate in (0.005, 0.1, 1.05))
    assert right[-1] < 3 < small[-1] < small[0] < large[-1]
    area, distance, age = found["weights"]
    assert area > 0 > distance and age < 0
