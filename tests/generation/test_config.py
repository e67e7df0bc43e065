import subprocess
import sys

import pytest

from minillm.generation.config import SampleConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("num_samples", 0),
        ("stop", ("a", "")),
        ("stop", "abc"),
        ("seed", -1),
    ],
)
def test_a_value_outside_its_range_is_refused_in_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^sample\.{key} is .*; it must be .*$"):
        SampleConfig(**{key: value})


def test_the_ends_of_the_ranges_are_allowed():
    SampleConfig(max_new_tokens=0, temperature=0, top_k=0, top_p=1, min_p=1, num_samples=1, stop=(), seed=0)


def test_the_config_imports_no_torch():
    program = "import sys, minillm.generation.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
