import json
from pathlib import Path

import pytest

from minillm.benchmark import works
from minillm.benchmark.machine import Machine, better, measure_machine
from minillm.benchmark.result_table import BenchmarkRow, chart, rows, table
from minillm.benchmark.turns import Measured, Side
from minillm.benchmark.works import Comparison, run_benchmark
from minillm.cli import main


def test_ratios_compare_with_our_first_side_and_shares_with_the_limit():
    sides = [Measured(Side(name, "fp32", ""), speeds=list(speeds)) for name, speeds in
             (("minillm", (90.0, 100.0, 130.0)), ("peer", (40.0, 50.0, 60.0)))]  # fmt: skip
    sides.append(Measured(Side("lost", "fp32", ""), failure="no such library"))
    ours, peer, lost = rows("decode", sides, [200.0, 200.0, None])
    assert (ours.value, ours.ratio, ours.limit_share, ours.spread) == (100.0, None, 0.5, (90.0, 130.0))
    assert (peer.value, peer.ratio, peer.limit_share) == (50.0, 2.0, 0.25)
    assert lost.value is None and lost.note == "not measured: no such library"


def test_a_table_and_a_chart_hold_every_row(tmp_path: Path):
    found = [BenchmarkRow("decode", side, "fp32", value, "tokens/s", None, None, None, 0, "") for side, value in
             (("minillm", 3.0), ("peer", 2.0), ("lost", None))]  # fmt: skip
    assert all(row.side in table(found) for row in found)
    chart(found, tmp_path / "chart.png", "a machine")
    assert (tmp_path / "chart.png").stat().st_size > 5000


def test_the_machine_has_limits():
    machine = measure_machine()
    assert machine.flops["fp32"] > 1e8 and machine.read > 1e8 and machine.fast[0] == "fp32"


@pytest.mark.slow
def test_reading_is_measured_beside_the_tokenizers_library(tmp_path: Path, capsys: pytest.CaptureFixture[str], run_of):
    chart_file = tmp_path / "bench.png"
    command = ["bench", "data", "--run", str(run_of("gpt2")), "--peers", "none", "--minutes", "1", "--json"]
    assert main([*command, "--chart", str(chart_file)]) == 0
    (ours, theirs, batches) = json.loads(capsys.readouterr().out)
    assert (ours["side"], theirs["side"], batches["side"]) == ("minillm", "tokenizers", "minillm")
    assert {"work", "side", "dtype", "value", "unit", "ratio", "limit_share"} <= ours.keys()
    assert all(row["value"] > 0 for row in (ours, theirs, batches)) and chart_file.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"works": ["sleep"]}, "'sleep' cannot be measured; choose from: train, decode"),
        ({"peers": ["torch"]}, "'torch' is not a peer; choose from: transformers"),
    ],
)
def test_unknown_works_and_peers_are_refused(arguments, message: str):
    with pytest.raises(ValueError, match=message):
        run_benchmark(**{"works": ["train"], **arguments})


def test_limits_are_the_better_of_two_measurements():
    slow, fast = (Machine("a processor", {"fp32": 10.0 * n, "bf16": 90.0 / n}, 5.0 * n, ("fp32",)) for n in (1, 3))
    assert better(slow, fast) == Machine("a processor", {"fp32": 30.0, "bf16": 90.0}, 15.0, ("fp32",))
    side = Side("minillm", "fp32", "")
    plan = Comparison("decode", [side], lambda machine, of: machine.read * 2)
    (row,) = plan.rows(better(slow, fast), [Measured(side, speeds=[15.0])])
    assert row.limit_share == 0.5


def test_when_the_time_is_up_the_remaining_rows_say_so(run_of, monkeypatch: pytest.MonkeyPatch):
    machine = Machine("a processor", {"fp32": 1e9}, 1e9, ("fp32",))
    monkeypatch.setattr(works, "measure_machine", lambda: machine)
    result = run_benchmark(["prefill"], run=run_of("llama"), peers=[], minutes=1e-9, say=lambda line: None)
    assert len(result.rows) > 1
    assert {(row.value, row.note) for row in result.rows} == {(None, "not measured: no time was left")}
