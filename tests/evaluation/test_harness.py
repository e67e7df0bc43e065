"""lm-evaluation-harness on a run gives what the harness's own Hugging Face model gives on the exported folder."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from minillm import RunConfig, SampleConfig, load_run, override, preset, sample, train
from minillm.cli import main
from minillm.models.build import build_model
from minillm.run import LoadedRun, export_model, import_model, score_harness

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")  # the harness's Hugging Face model wants it

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from minillm.evaluation import harness
from minillm.evaluation.harness import HarnessLM

CONTEXT = 64
SHAPES: dict[str, dict[str, object]] = {
    "gpt2": {},
    "llama-small": {"model.num_kv_heads": 1, "model.d_ff": 48, "tokenizer.kind": "bpe", "tokenizer.vocab_size": 400},
}
SETTINGS: dict[str, object] = {
    "model.max_seq_len": CONTEXT,
    "model.d_model": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "optim.lr": 1e-2,
    "train.steps": 300,
    "train.global_batch": 8,
    "train.micro_batch": 8,
    "eval.every": 300,
    "save.every": 300,
    "sample.max_new_tokens": 3,  # fewer than the tasks ask for
}
RATE = {"aggregation": "mean", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "training_split": "train",
        "num_fewshot": 2,
        "doc_to_text": "{{question}} ",  # the blank belongs to the answer
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        # the last of these asks for each answer without a context too
        "metric_list": [{"metric": metric, **RATE} for metric in ("acc", "acc_norm", "acc_mutual_info")],
    },
    "finish": {"output_type": "loglikelihood", "doc_to_text": "text", "metric_list": [{"metric": "acc", **RATE}]},
    "read": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"},
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "text",
        "generation_kwargs": {"until": ["\n", "99"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", **RATE}],
    },
}


class Both(NamedTuple):
    """A run, as our model of the harness and as the harness's own."""

    loaded: LoadedRun
    ours: HarnessLM
    theirs: Any


def compared(loaded: LoadedRun, folder: Path) -> Both:
    # with its cache it misplaces a continuation where another request cuts the same text elsewhere
    library: Any = HFLM
    theirs = library(str(folder), device="cpu", dtype="float32", batch_size=1, logits_cache=False)
    return Both(loaded, HarnessLM(loaded.model, loaded.tokenizer), theirs)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four tasks, whose questions and texts are mostly longer than the context."""
    folder, docs = tmp_path_factory.mktemp("tasks"), []
    for n in range(20, 32):
        sums = "".join(f"{k} and {k} make {2 * k}; so it is.\n" for k in range(n - n % 7, n + 1))
        cut = sums.rindex(" it is." if n % 2 else " make")
        choices = [str(2 * n), "; so it is", "99"] if n % 2 else ["ünlikely", str(2 * n), str(n)]
        question = {"question": f"{n} and {n} make", "choices": choices, "right": n % 3}
        ending = sums[cut:].rstrip() if n < 31 else " nobody knows"  # one that no model gets right
        docs.append({**question, "text": sums[:cut], "ending": ending})
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    for file, part in zip(files.values(), (docs[:4], docs[4:]), strict=True):
        Path(file).write_text("".join(json.dumps(doc) + "\n" for doc in part), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")}}
    for name, task in TASKS.items():
        content = {
            "task": name,
            **data,
            "test_split": "test",
            "doc_to_target": "ending",
            "target_delimiter": "",
            **task,
        }
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in content.items()]
        (folder / f"{name}.yaml").write_text("".join(lines), encoding="utf-8")
    (folder / "shared_settings.yaml").write_text("output_type: multiple_choice\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A run that has learned a little, trained, exported, and loaded by both: of bytes, or of merges."""
    folder, small = tmp_path_factory.mktemp("harness"), replace(config, model=preset(request.param))
    loaded = load_run(train(override(small, SETTINGS | SHAPES[request.param]), folder / "run"))
    return compared(loaded, export_model(loaded, folder / "exported", say=lambda _: None))


@pytest.fixture
def without_builtin_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tasks that come with the harness, which take seconds to read."""
    alone = lambda include_path, include_defaults: TaskManager(include_path=include_path, include_defaults=False)  # noqa: E731
    monkeypatch.setattr(harness, "TaskManager", alone)


def asked(*arguments: tuple[Any, ...]) -> list[Any]:
    """Requests as the harness makes them."""
    return [Instance("generate_until", {}, one, 0, ("mine", 0, 1)) for one in arguments]


def require_equal(scores: list[tuple[float, bool]], wanted: list[tuple[float, bool]]) -> None:
    assert [score for score, _ in scores] == pytest.approx([score for score, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in wanted]


def test_every_task_gets_the_score_of_the_exported_folder(both: Both, tasks: Path):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found: Any = simple_evaluate(model=both.theirs, tasks=[*TASKS], task_manager=manager, bootstrap_iters=1000)
    ours = score_harness(both.loaded, [str(tasks)])
    assert ours.keys() == TASKS.keys()
    for name, figures in ours.items():
        wanted: Any = found["results"][name]
        wanted = {key.removesuffix(",none"): one for key, one in wanted.items() if "," in key and one != "N/A"}
        assert figures == pytest.approx({"examples": 8, **wanted}, rel=1e-5)
    assert 0 < ours["choose"]["acc"] < 1 and 0 < ours["write"]["exact_match"] < 1 < ours["read"]["word_perplexity"]


TEXT = "".join(f"{n} and {n} make {2 * n}; so it is.\n" for n in range(24, 44))


def test_every_request_gets_the_log_probability_of_the_exported_folder(both: Both):
    most = CONTEXT if both.loaded.tokenizer.kind == "byte" else 3 * CONTEXT // 2  # characters that surely fit
    cuts = [(0, 6), (2, 14), (9, 14), (14, 43), (9, 17), (299, 304), (0, most), (2, 2 + most), (292, 292 + most)]
    pairs = [(TEXT[:start], TEXT[start:end]) for start, end in cuts]
    pairs += [(TEXT[:72], one) for one in (" make", " and", " 52; so it is.", " is", " make 52")]
    pairs += [("ü \n ", "naïve\n\n "), ("3 and 4  ", "  make"), (TEXT[:28], "\n ")]
    found = both.ours.loglikelihood(asked(*pairs))
    require_equal(found, both.theirs.loglikelihood(asked(*pairs), disable_tqdm=True))
    assert {greedy for _, greedy in found} == {True, False}


def test_whole_texts_get_the_log_probability_of_the_exported_folder(both: Both):
    texts = asked(*[(TEXT[:n],) for n in (1, 5, CONTEXT - 1, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 150, 600)], ("",))
    found, wanted = both.ours.loglikelihood_rolling(texts), both.theirs.loglikelihood_rolling(texts)
    assert found == pytest.approx(wanted, rel=1e-5) and found[-1] == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"until": ["\n"], "max_gen_toks": 30},
        {"until": "so", "max_gen_toks": 20, "temperature": 0.0, "top_p": 1.0},
        {"until": ["it is", " is", "s.", "9"], "max_new_tokens": 25, "do_sample": False, "temperature": None},
        {"until": ["t is", "it is."], "max_gen_toks": 40},
        {"until": [], "max_gen_toks": CONTEXT - 1, "repetition_penalty": 1.2},
    ],
)
def test_the_same_text_is_written_as_with_the_exported_folder(both: Both, options: dict[str, Any]):
    contexts = [TEXT[:n] for n in (1, 7, 21, 33, 60, 61, 62, 300)] + ["ü", " \n"]
    requests = asked(*[(context, options) for context in contexts])
    said = {key: one for key, one in options.items() if one is not None}
    wanted = both.theirs.generate_until(asked(*[(context, said) for context in contexts]), disable_tqdm=True)
    assert both.ours.generate_until(requests) == wanted and any(wanted)
    assert max(len(both.ours.tok_encode(text)) for text in wanted) > 3, "the limit of the request, not of the run"


def test_a_tokenizer_that_begins_every_text_with_a_token_does_so_here(both: Both, tmp_path: Path):
    folder = export_model(both.loaded, tmp_path / "exported", say=lambda _: None)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    bos = {"id": "<|bos|>", "ids": [both.loaded.tokenizer.bos_id], "tokens": ["<|bos|>"]}
    layout: list[Any] = [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": layout,
        "pair": [*layout, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|bos|>": bos},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    _, ours, theirs = compared(load_run(import_model(str(folder), tmp_path / "run")), folder)
    pairs, texts = asked(("", TEXT[:20]), (TEXT[:43], " make"), (TEXT[:120], " 24")), asked((TEXT[:9],), (TEXT,))
    require_equal(ours.loglikelihood(pairs), theirs.loglikelihood(pairs, disable_tqdm=True))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), rel=1e-5)
    requests = asked((TEXT[:9], {"max_gen_toks": 9}), (TEXT, {"max_gen_toks": 9}))
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_a_text_ends_at_each_id_that_ends_texts(both: Both):
    requests = asked(*[(TEXT[:n], {"max_gen_toks": 40}) for n in (7, 21, 33)])
    tokenizer = copy.copy(both.loaded.tokenizer)
    tokenizer.more_eos_ids = tuple(tokenizer.encode(";").tolist())
    found = HarnessLM(both.loaded.model, tokenizer).generate_until(requests)
    whole = both.ours.generate_until(requests)
    assert found == [text.split(";")[0] for text in whole] != whole


def test_a_context_of_whitespace_counts_as_empty(both: Both):
    blank, none = both.ours.loglikelihood(asked((" \n", "24 and"), ("", " \n24 and")))
    assert blank == none


def test_a_prefix_model_reads_a_context_in_both_directions(config: RunConfig, tmp_path: Path):
    loaded = load_run(
        train(
            override(config, {"objective.name": "prefix_lm", "model.max_seq_len": 32, "model.num_layers": 2}),
            tmp_path / "run",
        )
    )
    generator = torch.Generator().manual_seed(0)
    for weight in loaded.model.requires_grad_(False).parameters():
        weight.normal_(generator=generator)  # six steps teach too little to tell the directions apart
    ours = HarnessLM(loaded.model, loaded.tokenizer, prefix=True)
    pairs = [("3 and 4", " make"), ("so", " it is."), ("3 and 4 make 7; so", " it")]
    for (context, continuation), (score, _) in zip(pairs, ours.loglikelihood(asked(*pairs)), strict=True):
        ids, prefix = list((context + continuation).encode()), len(context)
        logits = (
            loaded.model(torch.tensor([ids[:-1]]), prefix_length=torch.tensor([prefix])).logits["lm"][0].log_softmax(-1)
        )
        assert score == pytest.approx(sum(logits[i - 1, ids[i]].item() for i in range(prefix, len(ids))), rel=1e-5)
    (written,) = ours.generate_until(asked(("3 and 4", {"max_gen_toks": 8})))
    (drawn,) = sample(loaded, SampleConfig(prompt="3 and 4", temperature=0, max_new_tokens=8))
    assert written == loaded.tokenizer.decode(drawn.ids)


def test_repeated_requests_get_different_samples_and_the_same_ones_every_time(both: Both):
    drawn = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 20}
    requests = asked(*[(TEXT[:9], drawn)] * 3, (TEXT[:14], drawn), (TEXT[:9], {**drawn, "top_k": 1}))
    texts = both.ours.generate_until(requests)
    assert len(set(texts)) == 5 and texts == both.ours.generate_until(requests)
    assert texts[4] == both.ours.generate_until(asked((TEXT[:9], {"max_gen_toks": 20})))[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": True, "max_gen_toks": 5}, "mine: generation_kwargs.early_stopping is not supported"),
        ({"num_beams": 4, "max_gen_toks": 5}, "generation_kwargs.num_beams is not"),
        ({"do_sample": True, "max_gen_toks": 5}, "do_sample needs a temperature above 0"),
        ({}, "max_gen_toks is 256; the model reads 64, context included"),
        ({"max_gen_toks": 5, "until": [""]}, "a list of strings, none of them empty"),
    ],
)
def test_an_unsupported_option_is_named(both: Both, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        both.ours.generate_until(asked(("3 and", options)))


def test_a_continuation_that_cannot_be_scored_is_named(both: Both):
    with pytest.raises(ValueError, match=r"'x+' after '3 and ' is 65 tokens, and the model scores 1 to 64"):
        both.ours.loglikelihood(asked(("3 and ", "x" * 64)))
    with pytest.raises(ValueError, match="'' after '3 and' is 0 tokens"):
        both.ours.loglikelihood(asked(("3 and", "")))


@pytest.mark.parametrize("family", ["bert-tiny", "t5-mini"])
def test_only_a_decoder_can_be_scored(both: Both, family: str):
    shape = preset(family, vocab_size=both.loaded.tokenizer.vocab_size)
    other = replace(both.loaded, config=replace(both.loaded.config, model=shape), model=build_model(shape))
    with pytest.raises(ValueError, match=rf"run is a {family.partition('-')[0]} model; .* need a gpt"):
        score_harness(other, ["anything"])


def test_the_command_line_prints_the_figures_and_nothing_else(
    both: Both, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    scored, run = harness.evaluate, str(both.loaded.folder)
    monkeypatch.setattr(harness, "evaluate", lambda **given: (print("resampling"), scored(**given))[1])
    assert main(["eval", run, "--harness", f"{tasks / 'read.yaml'}, {tasks / 'finish.yaml'}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["read", "finish"] and found["read"]["examples"] == 8
    assert main(["eval", run, "--harness", str(tasks / "finish.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["finish", f"  {'examples':<24} 8"]


def test_a_group_is_scored_with_its_tasks(both: Both, tasks: Path, without_builtin_tasks: None):
    group = {"group": "all", "task": ["choose", "finish"], "aggregate_metric_list": [{"metric": "acc"}]}
    (tasks / "all.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in group.items()), encoding="utf-8")
    found = score_harness(both.loaded, [str(tasks / "all.yaml")])
    assert found["all"]["acc"] == pytest.approx((found["choose"]["acc"] + found["finish"]["acc"]) / 2)
    assert found["all"]["examples"] == 16 and found.keys() == {"all", "choose", "finish"}


def test_a_mistake_in_the_tasks_is_one_line(
    both: Both, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_builtin_tasks: None
):
    text = (tasks / "choose.yaml").read_text(encoding="utf-8")
    (tmp_path / "damaged.yaml").write_text(text + "wrong: [\n", encoding="utf-8")
    (tmp_path / "strange.yaml").write_text(text + "no_such_setting: 1\n", encoding="utf-8")
    (tmp_path / "lost.yaml").write_text(text.replace("test.jsonl", "gone.jsonl"), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for mistake, message in {
        "no_such_task": "no_such_task is neither a task of lm-evaluation-harness",
        "gone.yaml": "gone.yaml does not exist",
        str(tmp_path / "empty"): "has no task",
        str(tmp_path / "damaged.yaml"): "damaged.yaml cannot be loaded: ParserError",
        str(tmp_path / "strange.yaml"): "no_such_setting",
        str(tmp_path / "lost.yaml"): "gone.jsonl",
        " , ": "names no task",
    }.items():
        assert main(["eval", str(both.loaded.folder), "--harness", mistake]) == 2
        outcome = capsys.readouterr()
        assert outcome.out == "" and message in outcome.err.splitlines()[-1]


def test_a_data_source_next_to_the_tasks_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["eval", "no/run", "--harness", "arc_easy", "--data", "my.txt"]) == 2
    assert "--data and its fields have no effect" in capsys.readouterr().err


def test_without_the_harness_it_says_how_to_get_it(
    both: Both, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delitem(sys.modules, "minillm.evaluation.harness")
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert main(["eval", str(both.loaded.folder), "--harness", "arc_easy"]) == 2
    assert 'pip install "minillm[harness]"' in capsys.readouterr().err
