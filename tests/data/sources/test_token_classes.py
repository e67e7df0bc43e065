"""Gaps in source code, with the class that `tokenize` gives."""

from __future__ import annotations

from minillm.data.sources.token_classes import CLASSES, REACH, gaps

SOURCE = 'for name in range(10):\n    print("é", name)  # a comment\n'


def test_a_gap_leaves_out_one_token_of_its_class():
    found = list(gaps([SOURCE], 200, seed=0))
    left_out = {gap.label: set() for gap in found}
    for gap in found:
        assert SOURCE.startswith(gap.before) and SOURCE.endswith(gap.after)
        left_out[gap.label].add(SOURCE[len(gap.before) : len(SOURCE) - len(gap.after)])
    assert left_out == {
        "keyword": {"for", "in"},
        "name": {"name", "range", "print"},
        "number": {"10"},
        "operator": {"(", ")", ":", ","},
        "string": {'"é"'},
    }


def test_classes_are_drawn_evenly_and_the_same_each_time():
    found = list(gaps([SOURCE * 30], 1000, seed=1))
    shares = [sum(gap.label == label for gap in found) for label in CLASSES]
    assert min(shares) > 140 and max(shares) < 260
    assert found == list(gaps([SOURCE * 30], 1000, seed=1)) != list(gaps([SOURCE * 30], 1000, seed=2))
    assert max(len(gap.before) for gap in found) == max(len(gap.after) for gap in found) == REACH


def test_what_is_no_python_gives_none():
    assert list(gaps(["(", "", "'''", "  x\n y"], 5, seed=0)) == []
