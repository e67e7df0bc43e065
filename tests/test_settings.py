"""Declaring config fields: types, ranges, and the settings without which nothing reads a field."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from minillm.config import SECTIONS, objective_class
from minillm.data.config import DataConfig
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.nn.config import ModelConfig
from minillm.registry import OBJECTIVES
from minillm.settings import Bounds, check, convert, hints, setting, unread
from minillm.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Every kind of field."""

    shape: Literal["round", "square"] = setting("round")
    count: int | None = setting(None, at_least=1)
    share: float = setting(0.5, above=0, below=1, note="a half is usual")
    path: str | None = setting(None)
    words: tuple[str, ...] = setting(())
    plain: bool = True
    side: float = setting(1.0, only={"shape": ("square",)})
    gap: float = setting(1.0, only={"count": Bounds(at_least=2), "plain": (False,)})

    def __post_init__(self) -> None:
        check("toy", self)


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        (Bounds(at_least=0), "at least 0", [0, 5], [-1]),
        (Bounds(above=0), "above 0", [1e-9], [0, -1]),
        (Bounds(at_least=0, below=1), "at least 0 and below 1", [0, 0.9], [1, -0.1]),
        (Bounds(above=0, at_most=1), "above 0 and at most 1", [1, 0.1], [0, 1.1]),
        (Bounds(at_least=0, at_most=1), "from 0 to 1", [0, 1], [-0.1, 1.1]),
        (Bounds(at_least=2), "at least 2", [2], ["2", None]),
        (Bounds(), "", ["any", None, 1], []),
    ],
)
def test_bounds_say_what_they_allow(bounds: Bounds, words: str, inside: list[Any], outside: list[Any]):
    assert str(bounds) == words
    assert all(map(bounds.allow, inside)) and not any(map(bounds.allow, outside))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": "oval"}, "toy.shape is 'oval'; it must be one of round, square"),
        ({"count": 0}, "toy.count is 0; it must be at least 1, or none"),
        ({"count": 1.0}, "toy.count is 1.0; it must be an integer or none"),
        ({"count": True}, "toy.count is True; it must be an integer or none"),
        ({"share": 1}, "toy.share is 1; it must be above 0 and below 1 (a half is usual)"),
        ({"share": "0.5"}, "toy.share is '0.5'; it must be a number"),
        ({"share": float("nan")}, "toy.share is nan; it must be a number"),
        ({"share": None}, "toy.share is None; it must be a number"),
        ({"path": 5}, "toy.path is 5; it must be text or none"),
        ({"path": "\udcff"}, "toy.path is '\\udcff'; it must be text or none"),
        ({"words": "ab"}, "toy.words is 'ab'; it must be a list of strings, none of them empty"),
        ({"words": ["a", ""]}, "toy.words is ['a', '']; it must be a list of strings, none of them empty"),
        ({"plain": 1}, "toy.plain is 1; it must be true or false"),
    ],
)
def test_a_wrong_value_in_python_is_one_sentence(wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError) as caught:
        Toy(**wrong)
    assert str(caught.value) == message


def test_values_become_the_type_of_their_field():
    toy = Toy(count=np.int64(3), share=np.float32(0.25), path=Path("a") / "b", words=["x"])  # type: ignore[arg-type]
    assert toy == Toy(count=3, share=0.25, path=str(Path("a/b")), words=("x",))
    assert [type(value) for value in (toy.count, toy.share, toy.path, toy.words)] == [int, float, str, tuple]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampleConfig(temperature="0.5"), "sample.temperature is '0.5'; it must be a number"),  # type: ignore[arg-type]
        (lambda: TrainConfig(steps=1.5), "train.steps is 1.5; it must be an integer"),  # type: ignore[arg-type]
        (lambda: TrainConfig(global_batch=10**12), "train.global_batch is 1000000000000; it must be from 1 to 1048576"),
        (lambda: ModelConfig(num_layers=10**9), "model.num_layers is 1000000000; it must be from 1 to 10000"),
        (lambda: ModelConfig(ngram_order=10**9), "model.ngram_order is 1000000000; it must be from 1 to 100"),
        (lambda: TrainConfig(micro_batch=0), "train.micro_batch is 0; it must be at least 1, or none"),
        (lambda: OptimConfig(clip=-1), "optim.clip is -1; it must be at least 0 (0 does not clip)"),
        (lambda: DataConfig(validation_fraction=1), "data.validation_fraction is 1; it must be above 0 and below 1"),
        (lambda: BeamConfig(num_best=5), "beam.num_best is 5; it must be at most beam.num_beams, 4"),
    ],
)
def test_the_sections_say_what_their_values_must_be(make: Any, message: str):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_a_path_is_text_in_the_data_section():
    config = DataConfig(source=Path("a"), validation=Path("b"), cache=Path("c"))  # type: ignore[arg-type]
    assert (config.source, config.validation, config.cache) == ("a", "b", "c")


def read(key: str, **values: Any) -> str | None:
    return unread(f"toy.{key}", Toy, {f"toy.{name}": value for name, value in vars(Toy(**values)).items()})


def test_a_field_is_read_only_with_the_settings_that_it_names():
    assert read("share") is None
    assert read("side", shape="square") is None
    assert read("side") == "toy.side has no effect with toy.shape round; leave it out, or set toy.shape to square"
    assert read("gap", count=2, plain=False) is None
    assert (
        read("gap", count=1) == "toy.gap has no effect with toy.count 1; leave it out, or set toy.count to at least 2"
    )
    assert read("gap", count=2) == "toy.gap has no effect with toy.plain true; leave it out, or set toy.plain to false"


OWNERS = [(section, owner) for section, owner in SECTIONS.items() if section != "objective"]
OWNERS += [("objective", objective_class(name)) for name in OBJECTIVES]


@pytest.mark.parametrize(("section", "owner"), OWNERS)
def test_conditions_name_keys_of_their_section_and_values_that_these_can_have(section: str, owner: type):
    for item in fields(owner):
        for other, wanted in item.metadata.get("only", {}).items():
            assert other in hints(owner) and other != item.name
            if not isinstance(wanted, Bounds):
                assert wanted and [convert(value, hints(owner)[other]) for value in wanted] == list(wanted)
