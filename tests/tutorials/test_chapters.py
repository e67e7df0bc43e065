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


@pytest.fixture
def chapter(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(CODE)

    def learn(name: str) -> tuple[dict[str, Any], str]:
        spec = importlib.util.spec_from_file_location(name, CODE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = module.lesson(tmp_path)
        drawn = {path.name for path in tmp_path.glob("*.png")}
        assert drawn == {Path(link).name for link in figures(name)}, "a page shows every figure"
        return found, capsys.readouterr().out

    return learn


def page_of(name: str) -> Path:
    (page,) = (page for page in PAGES if page.stem.partition("_")[2] == name)
    return page


def figures(name: str) -> list[str]:
    return re.findall(r"!\[[^]]*\]\((figures/[^)]*)\)", page_of(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_chapter_runs_its_claims_hold_and_its_pages_show_its_code_and_output(page: Path, chapter):
    name = page.stem.partition("_")[2]
    found, printed = chapter(name)
    globals()[f"claims_of_{name}"](found)
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


def claims_of_a_line(found):
    w, b, _ = found["path"][-1]
    assert np.allclose((w, b), found["best"], atol=1e-2)
    losses = [loss for _, _, loss in found["path"]]
    assert losses == sorted(losses, reverse=True), "every step is downhill"
    small, right, large = (found["rates"][rate] for rate in (0.005, 0.1, 1.05))
    assert right[-1] < 3 < small[-1] < small[0] < large[-1]
    area, distance, age = found["weights"]
    assert area > 0 > distance and age < 0


def claims_of_a_neuron(found):
    assert found["total"] == 655 and found["decisions"] == (0, 1, 1)
    assert max(found["gates"]["AND"]) == max(found["gates"]["OR"]) == 1
    assert max(found["gates"]["XOR"]) <= 0.75 and found["best_line"] == 0.75
    assert found["two_layers"].tolist() == [0, 1, 1, 0]


def claims_of_activations(found):
    steepest = {name: float(slope.max()) for name, slope in found["slopes"].items()}
    assert steepest["sigmoid"] == pytest.approx(0.25) and steepest["tanh"] == pytest.approx(1.0)
    assert found["probabilities"].sum() == pytest.approx(1) and found["probabilities"].argmax() == 0
    assert 55 < found["boundary"] < 65 and found["accuracy"] > 0.85
    first, last = found["norms"]["sigmoid"][0], found["norms"]["sigmoid"][-1]
    assert first < 1e-6 * last, "the gradient vanishes"
    for name in ("tanh", "ReLU, variance 2 / inputs"):
        norms = found["norms"][name]
        assert norms[0] > 0.1 * norms[-1], "it does not"


def claims_of_many_neurons(found):
    assert found["difference"] < 1e-6
    assert found["flat"] == pytest.approx(found["line"], rel=1e-2)
    errors = list(found["errors"].values())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-4


def claims_of_back_propagation(found):
    assert found["dy_dx"] == 13 and found["worst"]["torch"] < 1e-12 and found["worst"]["differences"] < 1e-7
    assert found["matrix"] < 1e-12 and found["answers"] == [0, 1, 1, 0] and found["losses"][-1] < 1e-3
    engine = (CODE / "back_propagation.py").read_text(encoding="utf-8")
    engine = engine[engine.index("class Value") : engine.index("def network")]
    assert len([line for line in engine.splitlines() if line.strip()]) <= 80


def claims_of_digits(found):
    assert found["accuracy"] > 0.9 and found["confusion"].sum() == 2000 and found["weights"].shape == (128, 784)
    ends = {rule: np.hypot(*path[-1]) for rule, path in found["paths"].items()}
    assert all(end < 0.5 for end in ends.values()), ends
    assert found["gaps"][0.1] < found["gaps"][0.0]


def claims_of_words_become_vectors(found):
    assert found["ids"] == [0, 1, 2, 3, 0, 4] and found["without"] < 1e-6 < 0.1 < found["with"]
    assert all(np.ptp(scores) < 1e-3 for scores in found["rotary"].values()), "only the distance counts"
    waves = found["waves"]
    assert (waves @ waves[32]).argmax() == 32


def claims_of_attention(found):
    assert np.allclose(found["ours"], found["output"], atol=1e-6) and np.allclose(
        found["weights"].sum(-1), 1, atol=1e-6
    )
    for width, (raw, scaled, _) in found["spread"].items():
        assert raw == pytest.approx(width, rel=0.15) and scaled == pytest.approx(1, rel=0.15)
    largest = [largest for _, _, largest in found["spread"].values()]
    assert largest == sorted(largest)
    assert np.allclose(found["causal"], np.tril(found["causal"])) and np.allclose(
        found["both"], found["alone"], atol=1e-6
    )
    assert found["crossed"].shape == (1, 1, 6, 4)


def claims_of_a_block(found):
    pre, post = found["norms"]["pre"], found["norms"]["post"]
    assert pre[-1] < pre[0] and post[-1] > post[0] and len(pre) == len(post) == 24
    assert np.array_equal(found["seen"]["gpt2"], np.tril(np.ones((6, 6), bool)))
    assert found["seen"]["bert-tiny"].all() and found["seen"]["t5-mini"].all()


def claims_of_training_and_writing(found):
    losses, written = found["losses"], found["written"]
    assert np.log(256) < losses[0] < np.log(256) + 0.6 and losses[-1] < 2.5
    letters = {step: sum(c.isalpha() or c == " " for c in text) / len(text) for step, text in written.items()}
    assert letters[5] < 0.8 < letters[200], "noise becomes words"
    sharp, plain, flat = (found["distributions"][f"temperature {t}"].max() for t in (0.5, 1, 2))
    assert sharp > plain > flat and all(d.sum() == pytest.approx(1) for d in found["distributions"].values())
    assert (found["distributions"]["top-k 5"] > 0).sum() == 5


def claims_of_after_pretraining(found):
    assert found["same"] and found["merged"] and found["share"] < 0.07
    assert found["start"] == pytest.approx(np.log(2)) and found["better"] < found["start"]
    assert found["advantages"].tolist() == [0.5, -0.5] * 4 and not found["equal"].any()
