"""`minillm attention`: for GPT, BERT and T5, as text, picture, page and data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minillm import load_run
from minillm.cli import main
from minillm.run.looking import attention


def test_a_gpt_shows_each_token_and_what_its_heads_do(run_of: Callable, capsys: pytest.CaptureFixture[str]):
    found = attention(run_of("gpt2"), "7 and 7 make 14")
    (part,) = found.parts
    assert part.name == "decoder" and part.queries == part.keys and part.queries[0] == "<|eos|>"
    assert "".join(part.keys[1:]) == "7 and 7 make 14"
    assert part.weights.shape == (2, 2, len(part.keys), len(part.keys))
    assert np.allclose(part.weights.sum(-1), 1, atol=1e-5)
    assert main(["attention", str(run_of("gpt2")), "7 and 7", "--layer", "1", "--head", "0"]) == 0
    shown = capsys.readouterr().out
    assert "decoder, layer 1, head 0\n" in shown and "layer 0" not in shown.split("most on")[0]
    assert re.search(r"most on the previous token: layer \d, head \d, weight 0\.\d\d", shown)


def test_a_bert_shows_gaps_and_both_sides(run_of: Callable):
    found = attention(run_of("bert"), "7 and [MASK] make 14")
    (part,) = found.parts
    assert part.queries[0] == "<|cls|>" and part.queries[-1] == "<|sep|>" and "<|mask|>" in part.queries
    assert part.weights[:, :, 1, 2:].min() > 0 and not found.scores


def test_a_t5_shows_encoder_decoder_and_cross_attention(run_of: Callable):
    loaded = load_run(run_of("t5"))
    found = attention(loaded, "7 and <|extra_id_0|> make 14", target="<|extra_id_0|> 7")
    names = [(part.name, part.queries, part.keys) for part in found.parts]
    (encoder, source, _), (decoder, target, _), (cross, from_, to) = names
    assert (encoder, decoder, cross) == ("encoder", "decoder", "cross-attention")
    assert from_ == target and to == source and "<|extra_id_0|>" in source and target[1] == "<|extra_id_0|>"
    assert (np.triu(found.parts[1].weights, 1) == 0).all()
    answered = attention(loaded, "7 and <|extra_id_0|> make 14")
    assert len(answered.parts[1].queries) > 1, "without a target it reads its own answer"


def test_files_hold_the_weights(run_of: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (part,) = attention(run_of("gpt2"), "7 and 7").parts
    for name in ("a.json", "a.html", "a.png", "b.png"):
        one = ["--layer", "0", "--head", "1"] if name == "b.png" else []
        assert main(["attention", str(run_of("gpt2")), "7 and 7", *one, "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"written: {tmp_path / name}\n"
    stored = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert np.allclose(stored["parts"][0]["weights"], part.weights, atol=1e-7) and stored["text"] == "7 and 7"
    assert len(stored["heads"]) == 4
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and not re.search(r"https?://|src=|href=|import |fetch\(", page)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" != (tmp_path / "b.png").read_bytes()


def test_a_text_cannot_end_the_script_of_the_page(run_of: Callable, tmp_path: Path):
    assert main(["attention", str(run_of("gpt2")), "</script> and", "--out", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "a.html").read_text(encoding="utf-8").count("</script>") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7", "--layer", "2"], "--layer 2 does not exist: the model has layers 0 to 1"),
        (["7", "--head", "-1"], "--head -1 does not exist: the model has heads 0 to 1"),
        (["7", "--out", "a.txt"], "--out a.txt must end in .html, .png, .json"),
        (["7", "--target", "8"], "--target has no effect"),
        (["7 and " * 90], "tokens are more than model.max_seq_len 64"),
    ],
)
def test_a_mistake_is_one_line(
    run_of: Callable, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["attention", str(run_of("gpt2")), *arguments]) == 2
    assert message in capsys.readouterr().err
