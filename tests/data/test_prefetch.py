"""Batches made ahead in a thread: the same ones, whatever is asked for and whatever changes meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.data.datasets.corpus import Tokens
from minillm.data.loader import Loader, Windows
from minillm.data.prefetch import Prefetched

Made = list[tuple[list[int], float]]


def collate(rows: object, rng: Callable[[int], np.random.Generator]) -> Made:
    return [(row.tolist(), float(rng(i).random())) for i, row in enumerate(rows)]  # type: ignore[attr-defined]


def loader(**sizes: int) -> Loader[Made]:
    windows = Windows(Tokens(np.arange(97, dtype=np.uint16), eos_id=96), 8)
    return Loader(windows, collate, **{"seed": 3, "global_batch": 4, "micro_batch": 4, **sizes})


@pytest.fixture
def ahead():
    source = Prefetched(loader())
    yield source
    source.close()


@settings(deadline=None, max_examples=30)
@given(steps=st.lists(st.integers(0, 9), max_size=12))
def test_any_order_of_steps_gives_the_batches_of_the_plain_source(steps: list[int]):
    source, plain = Prefetched(loader()), loader()
    assert [source.batches(step) for step in steps] == [plain.batches(step) for step in steps]
    source.close()


def test_the_next_step_is_made_in_the_thread_while_the_caller_computes():
    made: list[tuple[int, str]] = []
    second = threading.Event()

    class Noted(Loader[Made]):
        def batches(self, step: int) -> list[Made]:
            made.append((step, threading.current_thread().name))
            if step == 1:
                second.set()
            return super().batches(step)

    plain = loader()
    source = Prefetched(Noted(plain.windows, collate, seed=3, global_batch=4, micro_batch=4))
    source.batches(0)
    assert second.wait(10), "nobody asked for step 1 yet"
    assert source.batches(1) == plain.batches(1)
    source.close()
    assert [step for step, _ in made][:2] == [0, 1] and made[1][1].startswith("batches")
    assert [step for step, _ in made].count(1) == 1, "what was made ahead is used"


def test_each_batch_is_prepared_once():
    source = Prefetched(loader(micro_batch=2), prepare=lambda batch: [*batch, ([], 0.5)])
    for step in (0, 1, 5):
        assert source.batches(step) == [[*batch, ([], 0.5)] for batch in loader(micro_batch=2).batches(step)]
    source.close()


def test_an_error_in_the_thread_is_raised_where_the_step_is_asked_for():
    class Broken(Loader[Made]):
        def batches(self, step: int) -> list[Made]:
            if step == 2:
                raise OSError("the disk is gone")
            return super().batches(step)

    source = Prefetched(Broken(loader().windows, collate, seed=3, global_batch=4, micro_batch=4))
    source.batches(0)
    assert source.batches(1) == loader().batches(1), "which begins step 2, but does not need it"
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            source.batches(2)
    assert source.batches(3) == loader().batches(3)
    source.close()


def test_halving_the_micro_batch_drops_what_was_made_ahead(ahead: Prefetched[Made]):
    ahead.batches(0)
    assert ahead.halve_micro_batch() == 2
    assert ahead.batches(1) == loader(micro_batch=2).batches(1) and len(ahead.batches(2)) == 2
    assert ahead.halve_micro_batch() == 1 and ahead.halve_micro_batch() is None


def test_going_on_elsewhere_drops_what_was_made_ahead(ahead: Prefetched[Made]):
    ahead.batches(0)
    ahead.go_on(1, 30)
    plain = loader()
    plain.go_on(1, 30)
    assert ahead.batches(1) == plain.batches(1) != loader().batches(1)
    assert ahead.examples_before(2) == plain.examples_before(2) == 34
    assert ahead.describe(1) == plain.describe(1)


def test_an_error_in_what_is_dropped_is_nobodys_error():
    class Broken(Loader[Made]):
        def batches(self, step: int) -> list[Made]:
            if step == 1 and self.micro_batch == 4:
                raise MemoryError
            return super().batches(step)

    source = Prefetched(Broken(loader().windows, collate, seed=3, global_batch=4, micro_batch=4))
    source.batches(0)
    assert source.halve_micro_batch() == 2
    assert source.batches(1) == loader(micro_batch=2).batches(1)
    source.close()


def test_closing_ends_the_thread():
    before = set(threading.enumerate())
    source = Prefetched(loader())
    source.batches(0)
    source.batches(1)
    started = set(threading.enumerate()) - before
    assert len(started) == 1
    source.close()
    assert not any(thread.is_alive() for thread in started)
    source.close()  # once more does no harm
