"""Learning-rate schedules."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.training.config import ScheduleConfig
from minillm.training.schedule import lr_scale

NAMES: list[Any] = ["constant", "cosine", "linear", "wsd", "inverse_sqrt"]
ENDING = ["cosine", "linear", "wsd"]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[ScheduleConfig, int]:
    steps = draw(st.integers(1, 400))
    config = ScheduleConfig(
        name=draw(st.sampled_from(NAMES)),
        warmup_steps=draw(st.integers(0, 2 * steps)),
        final_ratio=draw(st.floats(0, 1)),
        decay_fraction=draw(st.floats(0.001, 1)),
    )
    return config, steps


@settings(deadline=None, max_examples=60)
@given(schedules())
def test_the_learning_rate_peaks_at_the_end_of_warm_up(case: tuple[ScheduleConfig, int]):
    config, steps = case
    factors = [lr_scale(step, config, steps) for step in range(1, steps + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    warm = config.warmup_steps
    assert factors[:warm] == [step / warm for step in range(1, min(warm, steps) + 1)]
    assert all(a >= b - 1e-12 for a, b in pairwise(factors[max(0, warm - 1) :]))


@pytest.mark.parametrize("name", ENDING)
@pytest.mark.parametrize("warmup", [0, 10])
def test_the_last_step_and_later_ones_are_at_the_final_ratio(name: str, warmup: int):
    config = ScheduleConfig(name=name, warmup_steps=warmup, final_ratio=0.25)  # pyright: ignore[reportArgumentType]
    assert lr_scale(100, config, 100) == pytest.approx(0.25)
    assert lr_scale(150, config, 100) == pytest.approx(0.25)
    assert lr_scale(99, config, 100) > 0.25


def test_the_shapes_have_their_published_values():
    def at(step: int, **config) -> float:
        return lr_scale(step, ScheduleConfig(**config), 100)

    assert at(60, name="cosine", warmup_steps=20, final_ratio=0.1) == pytest.approx(0.1 + 0.9 / 2)
    assert at(40, name="cosine", final_ratio=0.0) == pytest.approx((1 + math.cos(0.4 * math.pi)) / 2)
    assert at(60, name="linear", warmup_steps=20, final_ratio=0.0) == pytest.approx(0.5)
    assert [at(s, name="wsd", decay_fraction=0.2, final_ratio=0.0) for s in (1, 80, 90)] == [1, 1, pytest.approx(0.5)]
    assert at(40, name="inverse_sqrt", warmup_steps=10) == pytest.approx(0.5)  # sqrt(10 / 40)
    assert at(100, name="constant") == 1


def test_a_long_decay_begins_at_the_end_of_warm_up():
    config = ScheduleConfig(name="wsd", warmup_steps=90, decay_fraction=0.5, final_ratio=0.0)
    assert [lr_scale(s, config, 100) for s in (90, 95, 100)] == [1, pytest.approx(0.5), 0]
