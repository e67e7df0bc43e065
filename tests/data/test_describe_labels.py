"""`minillm data` for labels, tags and answers: what was understood, with the targets of one example marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minillm.cli import main


@pytest.mark.parametrize(
    ("objective", "record", "expected"),
    [
        (
            "classify",
            {"text": "so it is", "label": "yes"},
            {"labels": {"yes": "1 (100.0%)"}, "sample": "so it is -> [[yes]]"},
        ),
        ("tag", {"words": ["so", "it"], "tags": ["O", "B-A"]}, {"sample": "so[[O]] it[[B-A]]"}),
        (
            "extract",
            {"question": "what", "context": "so it is", "answers": "it"},
            {"without an answer": 0, "sample": "what | so [[it]] is"},
        ),
        (
            "dpo",
            {"prompt": "so it", "chosen": " is", "rejected": " was"},
            {
                "better answer longer": "0 (0.0%)",
                "tokens": 12,
                "longest tokens": 9,
                "sample": "so it[[ is]] rather than:  was",
            },
        ),
        (
            "reward",
            {"prompt": [{"role": "user", "content": "so?"}], "chosen": "so it is", "rejected": "no"},
            {
                "conversations": 1,
                "better answer longer": "1 (100.0%)",
                "longest tokens": 15,
                "sample": "<|eos|><|user|>so?<|assistant|>[[so it is<|eos|>]] rather than: no<|eos|>",
            },
        ),
        (
            "grpo",
            {"prompt": "11+11=", "answer": "22"},
            {"other fields": {"answer": 1}, "sample": "11+11= | answer: 22"},
        ),
    ],
)
def test_the_command_shows_what_was_understood(
    objective: str, record: dict[str, Any], expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "data.jsonl").write_text(json.dumps(record), encoding="utf-8")
    arguments = ["data", str(tmp_path / "data.jsonl"), "--objective", objective, "--tokenizer.kind", "byte", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 1 and {key: found[key] for key in expected} == expected
    assert found["longest tokens"] == expected.get("longest tokens", found["tokens"]) > 4
