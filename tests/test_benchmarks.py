"""The benchmarks give a time to right results only, keep what they wrote, and judge themselves."""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import __main__ as command
from benchmarks import (
    cases,
    layer_costs,
    layer_peers,
    layer_targets,
    layers,
    machine,
    processes,
    table,
    targets,
    timing,
)
from benchmarks.attentions import AttentionSize
from benchmarks.cases import CASES
from benchmarks.jobs import Job, Settings
from benchmarks.layer_peers import PEER_LAYERS, LayerSize
from benchmarks.layer_pentti import LAYERS
from benchmarks.peers import PEERS
from benchmarks.problems import Problem, Size, packed, within
from benchmarks.scanners import SCANNERS
from benchmarks.sequence_table import sequence_targets
from benchmarks.sequences import SequenceSize
from benchmarks.timing import Comparison, Entry, Patience
from pentti import peaks
from pentti.kernels import cpu, reference
from pentti.nn import SequenceMemory

TINY = Size(address_bits=129, n_locations=2003, radius=52, noise=3, n_words=11)
TINY_LAYER = LayerSize(dim=48, n_locations=49, top_k=3, n_heads=2)
TINY_ATTENTION = AttentionSize(
    65, n_heads=2, head_width=8, window=16, n_global=3, block=5, n_random=2, stride=7
)
BRIEF = Settings(
    2,
    n_locations=(2003,),
    batches=(1, 5),
    patience=Patience(2, 0.0, 1.0),
    n_tokens=(1, 5),
    sides=(5, 10),
    lengths=(65,),
    crossing=(7, 65),
    positions=(0, 7, 65),
)
SIZES = {
    "layer": TINY_LAYER,
    "layer-size": TINY_LAYER,
    "crossing": TINY_LAYER,
    "optimiser": TINY_LAYER,
    "attention": TINY_ATTENTION,
    "sequence": SequenceSize(65, n_heads=2, head_width=8, operation="forward + backward"),
    "token": TINY_ATTENTION,
}


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def run(case, *peers):
    return list(cases.lines(Job(case, SIZES.get(case, TINY), BRIEF, peers)))


def of(lines, entry):
    return [line for line in lines if line["entry"] == entry]


@pytest.mark.parametrize("case", [case for case in CASES if case != "layer-memory"])
def test_each_case_times_a_right_result(case):
    lines = run(case)
    assert not [line["error"] for line in lines if "error" in line]
    assert lines
    for line in lines:
        assert 0 < line["min_s"] <= line["q1_s"] <= line["median_s"] <= line["q3_s"]
        assert line["per_second"] == pytest.approx(line["n_cues"] / line["median_s"])
        assert line["repetitions"] >= 2


def test_memory_covers_each_operation_batch_and_dtype():
    lines = run("memory")
    found = {(line["operation"], line["batch"], line["entry"]) for line in lines}
    wanted = {
        (operation, batch, f"{who} {dtype}")
        for operation, part in (("write", "scatter"), ("read", "gather"), ("recall", None))
        for who in ("pentti", part)
        for dtype in ("int8", "int16")
        for batch in (1, 5)
        if who
    }
    assert found == wanted
    assert {line["ratio"] for line in of(lines, "pentti int8")} == {1.0}


def test_the_reference_is_the_definition():
    problem = Problem(TINY)
    cues = torch.from_numpy(packed(problem.cues).view(np.int64))
    locations, offsets = within(problem.hard, packed(problem.cues), TINY.radius)
    right = reference.hamming_scan(problem.decoder.address_tiles, 2003, cues, TINY.radius, 0.0)
    assert locations.tolist() == right[0].tolist()
    assert offsets.tolist() == right[1].tolist()
    assert len(locations) > 11


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in SCANNERS if name != "pentti"])
def test_each_scanner_at_hand_finds_what_the_reference_finds(name):
    if importlib.util.find_spec(SCANNERS[name].module) is None:
        pytest.skip("not installed")
    lines = of(run("scan", name), name)
    assert len(lines) == 2
    assert all(line["ratio"] > 0 for line in lines)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_each_memory_at_hand_reads_what_the_reference_reads(name):
    if importlib.util.find_spec(PEERS[name].module) is None:
        pytest.skip("not installed")
    lines = of(run("memory", name), name)
    assert len(lines) == 6
    assert all(line["ratio"] > 0 for line in lines)


def test_a_scan_that_loses_a_location_gets_no_time(monkeypatch):
    def lose_one(*arguments):
        locations, offsets = scan(*arguments)
        return locations[:-1], offsets.clamp(max=len(locations) - 1)

    scan = cpu.hamming_scan
    monkeypatch.setattr(cpu, "hamming_scan", lose_one)
    lines = run("scan", "numpy loop")
    assert {line["error"] for line in of(lines, "pentti")} == {
        "wrong result: another number of active locations"
    }
    assert all("median_s" not in line for line in of(lines, "pentti"))
    assert all(line["median_s"] > 0 for line in of(lines, "numpy loop"))
    assert all("ratio" not in line for line in lines)


def test_a_scan_that_mistakes_a_location_gets_no_time(monkeypatch):
    scan = cpu.hamming_scan
    monkeypatch.setattr(cpu, "hamming_scan", lambda *a: ((found := scan(*a))[0] ^ 1, found[1]))
    assert of(run("scan"), "pentti")[0]["error"] == "wrong result: other active locations"


def test_a_gather_that_adds_up_wrongly_gets_no_time(monkeypatch):
    monkeypatch.setattr(cpu, "sum_rows", lambda *a: -reference.sum_rows(*a))
    monkeypatch.setattr(cpu, "majority_rows", lambda *a: ~reference.majority_rows(*a))
    lines = run("memory")
    assert of(lines, "gather int8")[0]["error"] == "wrong result: other sums"
    (read, *_) = [line for line in of(lines, "pentti int8") if line["operation"] == "read"]
    assert "bits differ" in read["error"]
    assert "median_s" not in read


def test_a_scatter_that_forgets_gets_no_time(monkeypatch):
    monkeypatch.setattr(cpu, "add_rows", lambda *_: None)
    lines = run("memory")
    error = "wrong result: the counters do not add up to what was written"
    assert of(lines, "pentti int16")[0]["error"] == error
    assert of(lines, "scatter int8")[0]["error"] == error


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(SCANNERS["faiss"], "module", "no_such_module")
    (line,) = of(run("scan", "faiss"), "faiss")
    assert line["skipped"] == "not installed"


def test_a_peer_too_large_for_the_machine_is_named(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda *_: 100_000)
    (line,) = of(run("memory", "numpy loop"), "numpy loop")
    assert line["skipped"] == "needs 0.0 GB of memory, 0.0 GB are free"


def test_an_entry_that_raises_is_an_error_and_the_others_go_on():
    def fail(repetition):
        raise MemoryError("too much")

    fine = Entry("fine", lambda repetition: repetition, 1, lambda _: None)
    broken = Entry("broken", fail, 1, lambda _: None)
    lines = list(timing.measure(Comparison({}, [broken, fine]), BRIEF.patience))
    assert lines[0]["error"] == "MemoryError: too much"
    assert lines[1]["median_s"] > 0


def test_entries_take_turns_and_are_reset():
    calls = []
    entries = [
        Entry(
            name,
            lambda repetition, name=name: calls.append((name, repetition)),
            1,
            lambda _: None,
            lambda name=name: calls.append((name, "reset")),
        )
        for name in "ab"
    ]
    list(timing.measure(Comparison({}, entries), Patience(2, 0.0, 1.0)))
    check, times = calls[:4], calls[4:]
    assert check == [("a", 0), ("a", "reset"), ("b", 0), ("b", "reset")]
    assert times == [
        *[(name, repetition) for repetition in (0, 1, 2) for name in "ab"],
        ("a", "reset"),
        ("b", "reset"),
    ]
    calls.clear()
    list(timing.measure(Comparison({}, entries[:1]), Patience(1, 0.0, 1.0, warms=False)))
    assert calls == [("a", 0), ("a", "reset"), ("a", 1), ("a", "reset")]


def test_patience_ends_for_slow_entries():
    patience = Patience(5, 1.0, 20.0)
    assert not patience.is_enough([0.1] * 5)
    assert patience.is_enough([0.2] * 5)
    assert patience.is_enough([10.0] * 3)
    assert not patience.is_enough([30.0])


def test_a_process_sends_its_lines_and_its_errors():
    (line,) = processes.in_process(Job("stream", TINY, BRIEF))
    assert line["entry"] == "stream"
    assert line["size_bytes"] == 251 * 3 * 8 * 8
    (line,) = processes.in_process(Job("nonsense", TINY, BRIEF))
    assert (line["entry"], line["error"]) == ("all", "KeyError: 'nonsense'")


def test_quick_leaves_the_large_size_out():
    settings = Settings(**command.QUICK)
    assert [job.size.n_locations for job in cases.jobs("scan", settings)] == [100_000, 100_000]
    assert [job.size.n_locations for job in cases.jobs("small", settings)] == [20_000]
    assert {job.size.n_locations for job in cases.jobs("build", Settings())} == {10**5, 10**6}


def test_list_names_each_case():
    result = CliRunner().invoke(command.app, ["--list"])
    assert result.exit_code == 0
    assert [row.split()[0] for row in result.stdout.splitlines()] == list(CASES)


def test_an_unknown_case_is_one_sentence(tmp_path):
    out = tmp_path / "results.jsonl"
    result = CliRunner().invoke(command.app, ["--case", "scam", "--out", str(out)])
    assert result.exit_code == 2
    assert result.stderr == (
        "benchmarks: there is no case 'scam'; the cases are stream, scan, memory, build, small, "
        "layer, layer-memory, layer-size, crossing, optimiser, attention, sequence, token\n"
    )
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    result = CliRunner().invoke(command.app, ["--case", "stream", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == f"benchmarks: cannot write {tmp_path}: Is a directory\n"


def test_ctrl_c_keeps_the_lines_so_far(tmp_path, monkeypatch):
    def one_line_then_stop(job):
        yield {**job.facts("stream"), "entry": "stream", "error": "x"}
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "in_process", one_line_then_stop)
    out = tmp_path / "new" / "results.jsonl"
    result = CliRunner().invoke(command.app, ["--out", str(out)])
    assert result.exit_code == 130
    assert f"stopped; the lines so far are in {out}" in result.stderr
    assert [line["case"] for line in table.read_lines(out)] == ["machine", "stream"]


def line(entry, median_s, **facts):
    return {
        "case": "memory", "beside": [entry], "batch": 1, "n_cues": facts.get("batch", 1),
        "n_locations": 10**6, "entry": entry, "repetitions": 5, "stream_s": 1.0, "threads": 2,
        "median_s": median_s, "min_s": median_s, "q1_s": median_s, "q3_s": median_s,
        "per_second": facts.get("batch", 1) / median_s, **facts,
    }  # fmt: skip


def scans(one_cue_s, faiss_ratio):
    facts = {"case": "scan", "operation": "scan", "beside": ["faiss"]}
    return [
        line("pentti", one_cue_s, **facts, ratio=1.0),
        line("faiss", 9.0, **facts, batch=256, ratio=faiss_ratio),
    ]


def judged(lines):
    return {one.what: one for one in targets.targets(targets.Lines(lines))}


def test_targets_are_worked_out_from_the_lines():
    met = judged(scans(1.3, 6.5))
    one = met["scan, 1 cue, over the stream of the addresses"]
    assert (one.measured, one.is_met) == ("1.30 ×", True)
    assert met["scan, 256 cues, speed over faiss"].is_met is True
    assert met["scan, 256 cues, speed over numkong"].is_met is None
    missed = judged(scans(1.5, 5.9))
    assert missed["scan, 1 cue, over the stream of the addresses"].is_met is False
    assert missed["scan, 256 cues, speed over faiss"].is_met is False


@pytest.mark.parametrize(("read_s", "is_met"), [(1.9, True), (2.2, False)])
def test_a_read_may_take_the_stream_and_the_gather(read_s, is_met):
    facts = {"operation": "read", "beside": ["sdm"]}
    lines = [line("pentti int8", read_s, **facts), line("gather int8", 0.4, **facts)]
    one = judged(lines)["read, 1 cue, int8"]
    assert (one.wanted, one.is_met) == ("≤ 1.6 × stream + gather = 2000.00 ms", is_met)


def test_a_batch_is_judged_by_the_best_single_peer():
    lines = [
        line("pentti int8", 1.0, operation="read", batch=256, beside=["sdm", "numpy loop"]),
        line("sdm", 0.1, operation="read"),
        line("numpy loop", 0.01, operation="read"),
    ]
    one = judged(lines)["read, 256 cues, rate over the best peer's with one cue (numpy loop)"]
    assert (one.measured, one.is_met) == ("2.6 ×", False)


def test_the_page_shows_figures_targets_and_what_was_left_out():
    excuse = {"case": "scan", "operation": "scan", "batch": 1, "n_locations": 10**6}
    lines = [
        json.loads(json.dumps(machine.describe())),
        *scans(1.5, 6.5),
        {**excuse, "entry": "numkong", "skipped": "not installed"},
    ]
    text = table.page(lines)
    assert "| scan, 1 cue, over the stream of the addresses | ≤ 1.4 × | 1.50 × | **no** |" in text
    assert "| 1,000,000 | 1 | 1,500 (1,500–1,500) | 1.5 | – | – | – | – |" in text
    assert "| 1,000,000 | 256 | – | – | 9,000 (6.5 ×) | – | – | – |" in text
    assert "| scan | scan | 1,000,000 | 1 | numkong | not installed |" in text
    assert f"torch {metadata.version('torch')}" in text


def test_table_without_a_file_is_one_sentence(tmp_path, capsys):
    assert table._main([str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.table: cannot read ")
    assert table._main([]) == 2
    assert capsys.readouterr().err == "benchmarks.table: give a results file\n"


def peer_lines(name):
    return [line for line in run("layer", name) if line["entry"] == name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEER_LAYERS)
def test_each_layer_at_hand_gives_what_its_formula_gives(name):
    if importlib.util.find_spec(PEER_LAYERS[name].module) is None:
        pytest.skip("not installed")
    lines = peer_lines(name)
    operations = ["forward", "forward + backward"][PEER_LAYERS[name].only_trains :]
    assert [(line["operation"], line["batch"]) for line in lines] == [
        (operation, n_tokens) for operation in operations for n_tokens in (1, 5)
    ]
    assert all(line["ratio"] > 0 for line in lines)


def test_a_layer_that_gives_other_outputs_gets_no_time(monkeypatch):
    call = PEER_LAYERS["attention"].__call__
    monkeypatch.setattr(PEER_LAYERS["attention"], "__call__", lambda *a: 1.01 * call(*a))
    for line in peer_lines("attention"):
        assert line["error"].startswith("wrong result: output: off by ")
        assert "median_s" not in line


def test_a_layer_whose_contents_get_another_gradient_gets_no_time(monkeypatch):
    def half(layer, x):
        output = layer.network(x)
        silent = output.detach()
        return silent + (output - silent) / 2 + (x - x.detach()).sum() * 0

    monkeypatch.setattr(PEER_LAYERS["GEMM + top-k"], "__call__", half)
    forward, *_, training = peer_lines("GEMM + top-k")
    assert forward["median_s"] > 0
    assert training["error"].startswith("wrong result: gradient of the tokens: off by ")


def test_a_gradient_where_nothing_was_read_is_a_fault():
    x = torch.tensor([[2.0]], dtype=torch.float64)
    right = layer_peers.read(torch.ones(5, 3), torch.tensor([[3]]), x)
    right.output.sum().backward()
    gradient = torch.zeros(5, 3)
    gradient[3] = 2.0
    assert layers.contents_fault(gradient, right) is None
    assert layers.contents_fault(gradient.to_sparse(1), right) is None
    gradient[1] = 1.0
    wanted = "gradient of the contents, in all: off by 5.0e-01 of the largest value"
    assert layers.contents_fault(gradient, right) == wanted
    assert layers.contents_fault(gradient.to_sparse(1), right) == wanted
    assert layers.contents_fault(None, right) == "the contents have no gradient"


def test_a_layer_too_large_or_too_slow_says_so(monkeypatch):
    layer = PEER_LAYERS["GEMM + threshold"](TINY_LAYER, "cpu")
    assert layers.excuse(layer, TINY_LAYER, 1024, True) is None
    slow = "takes too long with more than 1,024 tokens"
    assert layers.excuse(layer, TINY_LAYER, 1025, True) == slow
    monkeypatch.setattr(machine, "free_bytes", lambda *_: 100_000)
    large = "needs 0.0 GB of memory, 0.0 GB are free"
    assert layers.excuse(layer, TINY_LAYER, 1024, True) == large


def test_peak_memory_counts_what_is_freed_again():
    def run():
        torch.ones(3_000_000)

    # The heap keeps a little of what was freed before, and the system counts pages in batches.
    assert 11e6 < peaks.extra_bytes(run, "cpu") < 14e6
    assert peaks.extra_bytes(lambda: None, "cpu") < 2e6


def test_a_layer_that_does_not_fit_is_left_out_of_the_sizes(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda *_: 15_000)
    lines = run("layer-size")
    assert [line["n_locations"] for line in lines if "skipped" in line] == [100]
    assert [line["n_locations"] for line in lines if "median_s" in line] == [25]


@pytest.mark.parametrize("name", layer_costs.WEIGHED)
@pytest.mark.parametrize("size", layer_costs.weighings(TINY_LAYER), ids=lambda one: one.operation)
def test_memory_of_each_layer(name, size):
    if importlib.util.find_spec(LAYERS[name].module) is None:
        pytest.skip("not installed")
    (line,) = cases.lines(Job("layer-memory", size, BRIEF, (name,)))
    assert (line["operation"], line["batch"]) == (size.operation, 5)
    assert (line["gradient_bytes"] > 0) == (size.operation != "forward")
    assert line["peak_bytes"] >= 0
    assert "kept_bytes" in line


def layer_line(entry, n_tokens, ratio, operation="forward", **facts):
    return line(
        entry, 1.0, case="layer", operation=operation, batch=n_tokens, ratio=ratio,
        dim=512, top_k=32, n_heads=4, **facts,
    )  # fmt: skip


def size_line(n_locations, median_s):
    facts = {"case": "layer-size", "operation": "forward", "n_locations": n_locations}
    return {**line("pentti", median_s, batch=1024), **facts}


def judged_layers(lines):
    return {one.what: one for one in layer_targets.layer_targets(targets.Lines(lines))}


def test_layers_are_judged_at_1024_tokens_and_all_are_told():
    name = "product-key-memory"
    lines = [layer_line(name, 1024, 1.62), layer_line(name, 16, 1.1), layer_line(name, 4096, 2.0)]
    one = judged_layers(lines)["forward, 1,024 tokens, speed over product-key-memory"]
    assert (one.measured, one.is_met) == ("1.6 × (16: 1.1 ×, 4,096: 2 ×)", True)
    assert judged_layers(lines[1:])[one.what].is_met is None
    slow = [layer_line(name, 1024, 4.9, "forward + backward")]
    what = (
        "forward + backward, 1,024 tokens, speed over product-key-memory, "
        "sparse gradients over its dense ones"
    )
    assert judged_layers(slow)[what].is_met is False


def test_a_peak_is_judged_without_the_gradients_that_are_handed_over():
    peak = {
        "case": "layer-memory", "operation": "forward + backward", "batch": 4096,
        "entry": "pentti, sparse gradients", "peak_bytes": 310e6, "gradient_bytes": 205e6,
    }  # fmt: skip
    what = (
        "forward + backward, peak extra memory, pentti, sparse gradients, 4,096 tokens, "
        "beyond the gradients that it hands over"
    )
    one = judged_layers([peak])[what]
    assert (one.measured, one.is_met) == ("105 MB (with them 310 MB)", True)
    assert judged_layers([{**peak, "peak_bytes": 406e6}])[what].is_met is False


def test_growth_is_judged_where_locations_quadruple():
    lines = [size_line(10**4, 1.0), size_line(4 * 10**4, 2.1), size_line(99_856, 9.0)]
    one = judged_layers(lines)["forward, time where the locations quadruple"]
    assert (one.measured, one.is_met) == ("2.10 × from 10,000", True)
    lines.append(size_line(4 * 99_856, 20.7))
    assert judged_layers(lines)[one.what].is_met is False


def test_the_page_shows_layers_and_where_they_cross():
    crossing = {"case": "crossing", "operation": "forward"}
    lines = [
        json.loads(json.dumps(machine.describe())),
        layer_line("pentti", 1024, 1.0),
        layer_line("product-key-memory", 1024, 2.5),
        size_line(10**4, 1.024),
        size_line(4 * 10**4, 2.048),
        *(line("pentti", 1.0, **crossing, batch=n) for n in (256, 1024)),
        *(line("attention", n / 512, **crossing, batch=n, ratio=n / 512) for n in (256, 1024)),
    ]
    text = table.page(lines)
    assert (
        "| forward, 1,024 tokens, speed over product-key-memory | ≥ 1.5 × | 2.5 × | yes |" in text
    )
    assert "| 1,024 | 1,000 (1,000–1,000) | 977 | – | 1,000 (2.5 ×) |" in text
    assert "| 40,000 | 2,048 (2,048–2,048) | 2,000 | 2 × |" in text
    assert "They cross at about 510 tokens." in text


def test_a_page_from_two_runs_names_both_machines(tmp_path, capsys):
    for name, chip in (("a", "first"), ("b", "second"), ("c", "second")):
        facts = {**machine.describe(), "cpu": chip}
        (tmp_path / name).write_text(json.dumps(facts) + "\n")
    assert table._main([str(tmp_path / name) for name in "abc"]) == 0
    text = capsys.readouterr().out
    assert text.count("Machine: first") == 1
    assert text.count("Machine: second") == 1


def test_a_sequence_memory_that_gives_another_output_gets_no_time(monkeypatch):
    forward = SequenceMemory.forward

    def off(layer, *given, **named):
        output = forward(layer, *given, **named)
        return output._replace(output=output.output * 1.01)

    monkeypatch.setattr(SequenceMemory, "forward", off)
    (line,) = of(run("sequence"), "pentti")
    assert line["error"].startswith("wrong result: output")
    assert "median_s" not in line


def sequence_line(entry, length, peak=1.0, operation="forward", **facts):
    return line(
        entry, 1.0, case="sequence", operation=operation, batch=length, peak_bytes=peak, **facts
    )  # fmt: skip


def judged_sequences(lines):
    return {one.what: one for one in sequence_targets(targets.Lines(lines))}


def test_the_sequence_memory_is_judged_by_length():
    name = "forward, 32,768 tokens, speed over SDPA"
    assert judged_sequences([])[name].is_met is None
    assert judged_sequences([sequence_line("SDPA", 32768, ratio=8.1)])[name].is_met
    assert judged_sequences([sequence_line("SDPA", 32768, ratio=7.9)])[name].is_met is False
    peaks = [sequence_line("pentti", 1024, 3.0), sequence_line("pentti", 8192, 27.0)]
    grown = judged_sequences(peaks)["forward, peak memory a token, longest over an eighth of it"]
    assert (grown.measured, grown.is_met) == ("1.12 × at 8,192 tokens", True)
    tokens = [line("pentti", s, case="token", batch=n) for n, s in ((100, 1.0), (10**6, 1.3))]
    assert judged_sequences(tokens)["one token, slowest position over fastest"].is_met is False


def test_the_page_shows_the_sequence_memory():
    lines = [sequence_line("pentti", 1024, 3e6, ratio=1.0), sequence_line("SDPA", 1024, ratio=0.5)]
    lines.append(
        line("pentti", 0.001, case="token", operation="one token", batch=100, state_bytes=2e6)
    )
    text = table.page(lines)
    assert "## Sequence memory: forward\n" in text
    assert "| 1,024 | 1,000 (1,000–1,000) | 977 | 1,000 (0.5 ×) | – | – | – |" in text
    assert "| 100 | 1 (1–1) | 2 |" in text
