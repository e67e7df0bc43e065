"""What completions are worth, and what happens if a reward fails or is cheated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from minillm.rl.rewards import Judged, RewardError, Rewards


def no_runs(path: str) -> Any:
    raise AssertionError(f"no reward asks for the run {path}")


def judge(terms: str | list[str], completions: list[str], answer: Any = "12") -> list[float]:
    rows = [
        Judged("5+7=", text, {"prompt": "5+7=", "answer": answer}, f"a.jsonl line {i}")
        for i, text in enumerate(completions)
    ]
    return Rewards([terms] if isinstance(terms, str) else terms, no_runs)(rows)[0]


def test_exact_compares_everything_but_white_space_at_the_ends():
    assert judge("exact", ["12", " 12\n", "12.", "012", "1 2", "", "12 12"]) == [1, 1, 0, 0, 0, 0, 0]
    assert judge("exact", ["12"], answer=12) == [1]
    assert judge("exact:prompt", ["5+7=", "12"]) == [1, 0]


def test_number_takes_the_last_number_whatever_its_form():
    right = ["12", "it is 12.", "5 + 7 = 12", "12.0", "first 11, no: 12", "#### 12", "$12", "(12)", "12,"]
    assert judge("number", right) == [1] * len(right)
    wrong = ["", "twelve", "12 or 13", "-12", "120", "1.2", "12x", "x12", "v1.12", "12 11", "12/13"]
    assert judge("number", wrong) == [0] * len(wrong)
    assert judge("number", ["1,234,567", "1234567.00", "1 234 567"], answer="1,234,567") == [1, 1, 0]
    assert judge("number", ["-3", "3", "2-3"], answer="-3") == [1, 0, 0]
    assert judge("number", ["9" * 5000, "12"]) == [0, 1]


def test_listing_all_numbers_does_not_win():
    everything = " ".join(map(str, range(100)))
    assert judge("number", [everything]) == [0] and judge("exact", [everything]) == [0]


def test_an_answer_without_a_number_is_a_mistake_in_the_data():
    with pytest.raises(RewardError, match=r"reward number for a\.jsonl line 0, completion '3': the answer 'x' has no"):
        judge("number", ["3", "4"], answer="x")


def test_regex_must_match_the_whole_text():
    assert judge("regex:[0-9]+", ["12", "12 ", "a12", "12b", "1\n2"]) == [1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="the pattern '\\(' is not a regular expression"):
        judge("regex:(", ["1"])


def test_length_falls_from_one_to_zero():
    assert judge("length:4", ["", "1234", "123456", "12345678", "1" * 99]) == [1, 1, 0.5, 0, 0]


def test_a_sum_has_weights_and_its_parts_are_reported():
    rows = [Judged("", "12", {"answer": "12"}, "a"), Judged("", "123456", {"answer": "12"}, "b")]
    totals, parts = Rewards(["2 * exact", "-0.5*length:4"], no_runs)(rows)
    assert totals == [2 - 0.5, -0.25]
    assert parts == [{"exact": 1.0, "length:4": 1.0}, {"exact": 0.0, "length:4": 0.5}]
    assert Rewards(["exact"], no_runs)(rows)[1] == [{}, {}], "a single reward is the sum"


def test_a_users_function_gets_prompts_completions_and_all_fields(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def reward(prompts, completions, answer, **others):\n"
        "    assert sorted(others) == ['prompt'] and prompts == others['prompt']\n"
        "    return [len(p) + 10 * len(c) + 100 * a for p, c, a in zip(prompts, completions, answer)]\n",
        encoding="utf-8",
    )
    assert judge(f"{path}:reward", ["x", "yy"], answer=3) == [314, 324]


def test_a_function_of_a_package():
    rows = [Judged("", "ab", {}, "a"), Judged("", "c", {}, "b")]
    assert Rewards(["0.5*tests.rl.test_rewards:num_letters"], no_runs)(rows)[0] == [1.0, 0.5]


def num_letters(completions: list[str], **_: Any) -> list[int]:
    return [len(text) for text in completions]


def broken(completions: list[str], **_: Any) -> list[float]:
    return [1 / (len(text) - 2) for text in completions]


def undefined(completions: list[str], **_: Any) -> list[float]:
    return [math.nan if text == "nan" else 1.0 for text in completions]


def too_few(completions: list[str], **_: Any) -> list[float]:
    return [1.0 for _ in completions[1:]]


def only_together(completions: list[str], **_: Any) -> list[float]:
    if len(completions) > 1:
        raise KeyError("several")
    return [1.0]


HERE = "tests.rl.test_rewards"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"for a\.jsonl line 1, completion 'ab': raised ZeroDivisionError: division by zero"),
        ("undefined", r"for a\.jsonl line 2, completion 'nan': returned nan, which is not a finite number"),
        ("too_few", r"for a\.jsonl line 0, completion 'x': returned 0 numbers for 1 completions"),
        ("only_together", r"for a whole batch: raised KeyError: 'several'"),
    ],
)
def test_a_failure_names_the_row(name: str, message: str):
    with pytest.raises(RewardError, match=rf"^reward {HERE}:{name} {message}$"):
        judge(f"{HERE}:{name}", ["x", "ab", "nan"])


@pytest.mark.parametrize("term", ["exat", "regex", "length:x", "length:0", "run", ""])
def test_an_unknown_reward_raises(term: str):
    with pytest.raises(ValueError, match=r"objective\.rewards has .* a reward is exact\[:FIELD\]"):
        Rewards([term], no_runs)


def test_a_function_that_does_not_exist_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.py"):
        Rewards([f"{tmp_path}/none.py:f"], no_runs)
    with pytest.raises(ValueError, match=r"tests\.rl\.test_rewards has no function nothing"):
        Rewards([f"{HERE}:nothing"], no_runs)
    (tmp_path / "bad.py").write_text("1 +", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.py:f cannot be imported: SyntaxError"):
        Rewards([f"{tmp_path}/bad.py:f"], no_runs)


def test_no_reward_and_the_same_reward_twice_raise():
    with pytest.raises(ValueError, match=r"objective\.rewards is empty"):
        Rewards([], no_runs)
    with pytest.raises(ValueError, match="it names a reward twice"):
        Rewards(["exact", "2*exact"], no_runs)


def test_a_reward_model_scores_prompt_and_completion_together():
    asked = []

    def scorer(path: str) -> Any:
        def score(texts: list[str]) -> list[float]:
            asked.append((path, texts))
            return [float(len(text)) for text in texts]

        return score

    rows = [Judged("ab", "cde", {}, "a"), Judged("", "f", {}, "b")]
    assert Rewards(["run:runs/judge"], scorer)(rows)[0] == [5.0, 1.0]
    assert asked == [("runs/judge", ["abcde", "f"])]
