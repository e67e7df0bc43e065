"""Each command: arguments in, one call into the package, result out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minillm.config import load_config, save_config


def test_train_without_arguments_is_the_default_config(command, fake_run):
    assert command("train").code == 0
    assert fake_run.asked == {"config": load_config("gpt-nano"), "out": None, "resume": False}


def test_train_reads_config_data_out_and_keys(command, fake_run):
    outcome = command(
        "train", "gpt-nano", "--data", "my.txt", "--out", "here", "--train.steps", 5, "--train.global-batch", 4
    )
    assert outcome.code == 0
    wanted = {"data.source": "my.txt", "train.steps": 5, "train.global_batch": 4}
    assert fake_run.asked == {"config": load_config("gpt-nano", wanted), "out": Path("here"), "resume": False}


def test_resuming_without_a_config_takes_the_runs_own_with_the_flags_over_it(command, fake_run):
    fake_run.folder.mkdir(parents=True)
    save_config(load_config(overrides={"train.steps": 77, "train.seed": 3}), fake_run.folder / "config.toml")
    assert command("train", "--resume", "--train.steps", 99).code == 0
    assert fake_run.asked["resume"] and fake_run.asked["out"] == fake_run.folder
    assert (fake_run.asked["config"].train.steps, fake_run.asked["config"].train.seed) == (99, 3)


def test_a_single_sample_streams_after_its_prompt(command, fake_run):
    outcome = command("sample")
    assert (outcome.code, outcome.out) == (0, "Once upon a time\n")
    assert outcome.err.startswith("runs/fake: step 7\ndecoding: fp32 weights\n3 tokens in ")
    assert fake_run.asked["sample"] == fake_run.config.sample


def test_a_chat_model_continues_a_text_and_the_command_for_answers_is_named(command, fake_run):
    fake_run.tokenizer.chat_template = "{{ messages }}"
    outcome = command("sample")
    assert (outcome.code, outcome.out) == (0, "Once upon a time\n")
    assert "the prompt is continued as plain text; for an answer: minillm chat runs/fake\n" in outcome.err


def test_sampling_flags_refine_the_runs_own_section(command, fake_run):
    flags = ["--prompt", "-x", "--max-new-tokens", 3, "--temperature", 0, "--top-p", 0.9, "--stop", "a", "--stop", "b"]
    assert command("sample", "some/run", *flags).code == 0
    asked = fake_run.asked["sample"]
    assert (asked.prompt, asked.max_new_tokens, asked.temperature, asked.top_p) == ("-x", 3, 0.0, 0.9)
    assert (asked.stop, asked.top_k) == (("a", "b"), 5)
    assert fake_run.asked["folder"] == Path("some/run")


def test_a_prompt_that_cannot_be_encoded_is_refused_before_it_is_printed(command, fake_run):
    outcome = command("sample", "--prompt", "天")
    assert (outcome.code, outcome.out) == (2, "") and outcome.err.startswith("minillm: error: character '天'")


def test_several_samples_are_told_apart(command, fake_run):
    out = command("sample", "--num-samples", 2).out
    assert out == "--- 1 of 2\nOnce upon a time\n--- 2 of 2\nOnce upon a time\n"


def test_samples_as_json_are_one_object(command, fake_run):
    found = json.loads(command("sample", "--num-samples", 2, "--json").out)
    assert found["prompt"] == "Once"
    assert found["completions"] == [{"text": " upon a time", "finish_reason": "length"}] * 2


def test_beams_are_searched_with_the_flags_given(command, fake_run):
    out = command("sample", "--num-beams", 5, "--num-best", 2, "--length-penalty", 0, "--max-new-tokens", 9).out
    assert out == "--- 1 of 2\nOnce text 0\n--- 2 of 2\nOnce text 1\n"
    prompt, beams = fake_run.asked["search"]
    assert (prompt, beams.num_beams, beams.num_best, beams.length_penalty) == ("Once", 5, 2, 0.0)
    assert beams.max_new_tokens == 9
    found = json.loads(command("sample", "--num-beams", 1, "--json").out)
    assert found["completions"] == [{"text": " text 0", "finish_reason": "eos", "score": 0.0}]


def test_flags_that_beam_search_or_sampling_would_ignore_are_refused(command, fake_run):
    refused = command("sample", "--num-beams", 2, "--temperature", 1)
    assert refused.code == 2 and "--temperature has no effect" in refused.err
    alone = command("sample", "--num-best", 2)
    assert alone.code == 2 and "give --num-beams too" in alone.err
    assert command("sample", "--num-beams", 2, "--num-best", 3).code == 2


def test_control_characters_are_escaped_on_the_terminal_and_raw_in_json(command, fake_run):
    fake_run.config = replace(fake_run.config, sample=replace(fake_run.config.sample, prompt="a\x1bb"))
    assert command("sample").out == "a\\x1bb upon a time\n"
    assert command("sample", "--num-samples", 2).out.splitlines()[1] == "a\\x1bb upon a time"
    assert json.loads(command("sample", "--json").out)["prompt"] == "a\x1bb"


def test_a_streamed_control_character_is_escaped(command, fake_run):
    fake_run.text = ("a\x1b", "[31m")
    assert command("sample").out == "Oncea\\x1b[31m\n"


@pytest.mark.parametrize("flags", [[], ["--num-samples", 2], ["--num-beams", 2]])
def test_what_is_cut_from_a_long_prompt_is_said(command, fake_run, flags):
    fake_run.cut = 704
    context = fake_run.config.model.max_seq_len
    said = f"the prompt has 900 tokens and the model reads {context}: its first 704 are ignored\n"
    assert command("sample", *flags).err.endswith(said)
    found = command("sample", *flags, "--json")
    assert json.loads(found.out)["prompt_tokens_cut"] == 704 and found.err.endswith(said)


def test_an_answer_does_not_repeat_the_question(command, fake_run):
    fake_run.model.writes = "answer"
    assert command("sample").out == " upon a time\n"


def test_eval_prints_its_four_figures(command, fake_run):
    found = json.loads(command("eval", "--data", "my.txt", "--json").out)
    assert found == {"loss": 1.5, "perplexity": 4.48, "bits_per_byte": 2.0, "targets": 1000}
    assert fake_run.asked == {
        "folder": None,
        "source": "my.txt",
        "objective": None,
        "fields": {},
        "thorough": True,
        "options": {"quantize": None},
    }
    printed = command("eval")
    lines = printed.out.splitlines()
    assert printed.err.splitlines() == ["runs/fake: step 7", "note: a row was left out"]
    assert lines[0].split() == ["loss", "1.5000"] and lines[3].split() == ["targets", "1,000"]


def test_eval_and_predict_round_the_weights_as_sample_does(command, fake_run, monkeypatch):
    from minillm import run

    monkeypatch.setattr(run, "predict", lambda *_, **__: [])
    for arguments in (["eval"], ["predict", "runs/x", "a text"]):
        assert command(*arguments, "--quantize", 8).code == 0
        assert fake_run.asked.pop("options") == {"quantize": 8}
        assert command(*arguments, "--quantize", 5).code == 2


def test_eval_names_the_fields_of_preferences_too(command, fake_run):
    assert command("eval", "--data", "my.jsonl", "--chosen-field", "better", "--data.rejected_field", "worse").code == 0
    assert fake_run.asked["fields"] == {"chosen_field": "better", "rejected_field": "worse"}


def test_predict_has_no_flags_for_labels_which_it_does_not_read(command):
    assert command("predict", "runs/x", "--data", "my.csv", "--label-field", "y").code == 2


def test_an_infinite_perplexity_is_null_in_json(capsys):
    from minillm.cli.output import show

    show({"perplexity": float("inf")}, json=True)
    assert json.loads(capsys.readouterr().out) == {"perplexity": None}


def test_info_of_a_preset_counts_its_parts(command):
    outcome = command("info", "gpt2", "--json")
    found = json.loads(outcome.out)
    assert found["parameters"]["total"] == 124_439_808
    assert set(found) == {"parameters", "flops_per_token", "kv_bytes_per_token", "training_bytes"}
    assert "124,439,808" in command("info", "gpt2").out


def test_info_of_a_preset_without_a_vocabulary_says_which_it_assumes(command):
    outcome = command("info", "gpt-nano", "--json")
    assert "4096" in outcome.err and json.loads(outcome.out)["parameters"]["total"] > 0


def test_info_of_a_run_counts_that_runs_model(command, fake_run):
    fake_run.folder.mkdir(parents=True)
    save_config(load_config(overrides={"model.vocab_size": 100}), fake_run.folder / "config.toml")
    explicit, latest = command("info", fake_run.folder, "--json"), command("info", "--json")
    assert explicit.out == latest.out and str(fake_run.folder) in latest.err
    counted = json.loads(latest.out)["parameters"]
    assert counted["embeddings"] == 100 * load_config().model.d_model


def test_data_describes_a_text(command, tmp_path: Path):
    (tmp_path / "my.txt").write_text("Grüße an alle.\n" * 40, encoding="utf-8")
    outcome = command("data", "my.txt", "--tokenizer.kind", "byte", "--json")
    found = json.loads(outcome.out)
    assert (found["documents"], found["bytes"], found["tokens"]) == (1, 17 * 40, 17 * 40)
    assert found["bytes_per_token"] == 1 and found["sample"].startswith("Grüße")


def test_data_shows_control_characters_as_escapes(command, tmp_path: Path):
    (tmp_path / "my.txt").write_bytes(b"a\x1b[2Jb\n" * 40)
    outcome = command("data", "my.txt", "--tokenizer.kind", "byte")
    assert "\x1b" not in outcome.out and "a\\x1b[2Jb" in outcome.out


@pytest.mark.parametrize("flag", ["--field", "--data.field"])  # the second is what messages call it
def test_data_reads_the_named_field(command, tmp_path: Path, flag: str):
    (tmp_path / "my.jsonl").write_text('{"body": "abc"}\n{"body": "de"}\n', encoding="utf-8")
    found = json.loads(command("data", "my.jsonl", flag, "body", "--tokenizer.kind", "char", "--json").out)
    assert (found["documents"], found["bytes"]) == (2, 5)


def test_data_refuses_flags_that_its_objective_does_not_read(command, tmp_path: Path):
    (tmp_path / "my.jsonl").write_text('{"text": "abc", "label": "x"}\n', encoding="utf-8")
    for objective, flag in ((None, "label_field"), ("classify", "words_field"), ("chat", "field")):
        chosen = [] if objective is None else ["--objective", objective]
        done = command("data", "my.jsonl", *chosen, f"--{flag}", "other")
        assert done.code == 2 and f"data.{flag} has no effect with objective.name {objective or 'clm'}" in done.err


def test_data_shows_text_to_text_examples_and_what_is_left_out(command, tmp_path: Path):
    (tmp_path / "my.tsv").write_text("question\ttarget\nadd: 1\t2\nadd: 2\t\n", encoding="utf-8")
    outcome = command("data", "my.tsv", "--input-field", "question", "--tokenizer.kind", "byte")
    assert outcome.out.splitlines()[1].split() == ["examples", "1"]
    assert "add: 1 -> 2" in outcome.out and "1 of 2 examples passed over: empty target" in outcome.out
    found = json.loads(command("data", "builtin:python-tasks", "--tokenizer.kind", "byte", "--json").out)
    assert {"summarize python", "tag python", "words python", "reverse", "add"} == found["tasks"].keys()
    both = command("data", "my.tsv", "--field", "question", "--input-field", "question")
    assert both.code == 2 and "--field is for plain text" in both.err
    missing = command("data", "my.tsv")
    assert missing.code == 2 and "Choose the field (data.field)" in missing.err


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_dtype_of_decoding_reaches_the_run(command, fake_run):
    command("sample", "--dtype", "bf16")
    assert fake_run.asked["options"]["dtype"] == "bf16"


def test_a_draft_model_is_named_by_its_run(command, fake_run):
    assert command("sample", "--draft", "runs/small", "--quantize", 8).code == 0
    assert fake_run.asked["draft"] == Path("runs/small")
    assert fake_run.asked["options"]["quantize"] == 8
    assert fake_run.asked["sample"].num_draft_tokens == 4
    command("sample", "--draft", "runs/small", "--num-draft-tokens", 2)
    assert fake_run.asked["sample"].num_draft_tokens == 2
    assert "--draft has no effect: beam search" in command("sample", "--draft", "runs/small", "--num-beams", 2).err


def test_a_file_of_prompts_gives_a_json_line_for_each_completion(command, fake_run, tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n", encoding="utf-8")
    outcome = command("sample", "--prompts", file, "--num-samples", 2)
    assert [json.loads(line)["prompt"] for line in outcome.out.splitlines()] == ["one", "one", "two", "two"]
    assert "12 tokens in" in outcome.err and "decoding: fp32 weights, many prompts" in outcome.err
    for flags in (["--prompt", "x"], ["--num-beams", 2], ["--draft", "runs/small"]):
        assert f"{flags[0]} has no effect with --prompts" in command("sample", "--prompts", file, *flags).err


def test_quantize_prints_what_it_cost(command, monkeypatch, tmp_path: Path):
    from minillm import run
    from minillm.run.quantization import Quantized

    asked = {}

    def quantize_run(source: Path, out: Path, **options: object) -> Quantized:
        asked.update(options, source=source, out=out)
        return Quantized(out, "gptq", ("a", "b"), {"megabytes": 4.0, "bits_per_byte": 1.0}, {"megabytes": 1.0})

    monkeypatch.setattr(run, "quantize_run", quantize_run)
    outcome = command("quantize", "big", "small", "--bits", 4, "--group", 64, "--data", "my.txt", "--json")
    assert asked == {"source": Path("big"), "out": Path("small")} | {
        "bits": 4,
        "group": 64,
        "method": None,
        "data": "my.txt",
    }
    assert json.loads(outcome.out)["before"] == {"megabytes": 4.0, "bits_per_byte": 1.0}
    assert json.loads(outcome.out)["left_alone"] == "a, b"
