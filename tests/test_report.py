"""The report on a small made-up experiment, and the coding of the digits."""

import csv
import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pentti import experiments, report
from pentti.decoders import HammingBall
from pentti.errors import ArgumentError, StoreError
from pentti.experiments import capacity, degradation, digits, drawing, judging
from pentti.experiments.finding import Claim, Experiment, Finding, Order, Step, Table
from pentti.report import run as run_module
from pentti.report import sections


def made_up(name, runs):
    def run(order):
        runs.append((name, order.size))
        yield Step(0.5)
        canvas, (axis,) = drawing.plot()
        axis.plot([1, 2], label="<line>")
        axis.legend()
        return Finding(
            claims=[Claim("yes & no", "1", "1", True), Claim("never", "1", "2", False)],
            figures=[drawing.draw(canvas, "a line")],
            tables=[Table("numbers", ("a", "b"), [(1, np.float64(2.5)), (None, math.nan)])],
            conclusion="It is <b>so</b>.",
            settings={"n_locations": 100_000, "seed": np.int64(3), "loads": (1000, 2)},
        )

    return Experiment(name, f"What of {name}?", "how", "prediction", "source", run)


@pytest.fixture
def runs(monkeypatch):
    runs = []
    pair = {name: made_up(name, runs) for name in ("one", "two")}
    monkeypatch.setattr(run_module, "EXPERIMENTS", pair)
    return runs


def finish(*arguments, **settings):
    events = list(run_module.build(*arguments, **settings))
    return arguments[0] / "index.html", events


def test_the_page_holds_everything_and_needs_nothing(runs, tmp_path):
    page, events = finish(tmp_path)
    text = page.read_text()
    Tidy().feed(text)
    assert "What of one?" in text
    assert "It is &lt;b&gt;so&lt;/b&gt;." in text
    assert "yes &amp; no" in text
    assert "Of 4 claims checked below,\n2 hold and 2 do not" in text
    assert "Settings: n_locations: 100\u202f000, seed: 3, loads: 1\u202f000 2." in text
    assert text.count("<svg") == 2
    assert "currentColor" in text
    assert "#010203" not in text
    assert [(e.name, e.share) for e in events if e.section] == [("one", 1.0), ("two", 1.0)]


def test_figures_in_one_page_leave_each_other_and_the_page_alone(runs, tmp_path):
    text = finish(tmp_path)[0].read_text()
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 20
    targets = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)
    assert len(targets) > 20
    assert {a or b for a, b in targets} <= set(ids)
    drawn = text[text.index("<svg") :]
    assert "<style" not in drawn
    assert 'stroke-linejoin="round"' in drawn


class Tidy(HTMLParser):
    """Every tag is closed, and nothing is fetched from elsewhere."""

    empty = frozenset({"meta", "path", "use", "rect", "image", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:")), (tag, value)
        if tag not in self.empty and tag != "!doctype":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.empty:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.empty:
            self.open.pop()


def test_results_are_json_csv_and_svg(runs, tmp_path):
    finish(tmp_path)
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"one.quick.json", "one.quick-1.csv", "one.quick-1.svg"} < names
    record = json.loads((tmp_path / "results" / "one.quick.json").read_text())
    assert record["claims"][1]["holds"] is False
    assert record["tables"][0]["rows"] == [[1, 2.5], [None, None]]
    assert record["settings"] == {"n_locations": 100_000, "seed": 3, "loads": [1000, 2]}
    with (tmp_path / "results" / "one.quick-1.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["a", "b"]


def test_what_is_done_is_not_done_again(runs, tmp_path):
    finish(tmp_path)
    page, events = finish(tmp_path)
    assert runs == [("one", "quick"), ("two", "quick")]
    assert all(event.reused for event in events)
    assert page.read_text().count("What of") == 4  # the list of sections, and the sections
    finish(tmp_path, fresh=True, only=["two"])
    finish(tmp_path, size="full", only=["two"])
    assert runs[2:] == [("two", "quick"), ("two", "full")]


def test_sizes_are_kept_apart(runs, tmp_path):
    finish(tmp_path, only=["one"])
    before = (tmp_path / "results" / "one.quick-1.csv").read_bytes()
    (tmp_path / "results" / "one.quick-1.csv").write_bytes(before + b"7,7\n")
    finish(tmp_path, size="full", only=["one"])
    assert (tmp_path / "results" / "one.quick-1.csv").read_bytes() == before + b"7,7\n"
    assert (tmp_path / "results" / "one.full-1.csv").read_bytes() == before


def test_the_page_keeps_sections_that_are_yet_to_run_again(runs, tmp_path):
    finish(tmp_path)
    steps = run_module.build(tmp_path, fresh=True)
    pages = [(tmp_path / "index.html").read_text() for _ in steps]
    assert runs[2:] == [("one", "quick"), ("two", "quick")]
    assert all("What of one?" in page and "What of two?" in page for page in pages)
    text = finish(tmp_path, only=["two"])[0].read_text()
    assert "What of one?" not in text


def test_the_page_has_no_section_of_other_code(runs, tmp_path, monkeypatch):
    finish(tmp_path)
    monkeypatch.setattr(sections, "fingerprint", lambda: "another")
    for event in run_module.build(tmp_path):
        if event.name == "one" and event.section:
            break
    text = (tmp_path / "index.html").read_text()
    assert "What of one?" in text
    assert "What of two?" not in text


def test_other_code_makes_other_results(runs, tmp_path, monkeypatch):
    finish(tmp_path)
    monkeypatch.setattr(sections, "fingerprint", lambda: "another")
    finish(tmp_path)
    assert len(runs) == 4


def test_a_damaged_result_is_made_again(runs, tmp_path):
    finish(tmp_path)
    (tmp_path / "results" / "one.quick.json").write_text('{"half')
    finish(tmp_path)
    assert runs == [("one", "quick"), ("two", "quick"), ("one", "quick")]


def test_an_error_in_one_section_keeps_those_before(runs, tmp_path, monkeypatch):
    def fail(_):
        yield Step(0.1)
        raise KeyboardInterrupt

    broken = Experiment("two", "?", "", "", "", fail)
    monkeypatch.setitem(run_module.EXPERIMENTS, "two", broken)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path)
    assert "What of one?" in (tmp_path / "index.html").read_text()
    assert runs == [("one", "quick")]


def test_an_unknown_section_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"report: `only` must be one of 'digits', .* got 'x'"):
        report.chosen(["x"])
    assert [e.name for e in report.chosen(["circle", "digits"])] == ["digits", "circle"]


def test_a_place_that_cannot_be_written_is_named(runs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*file/results: Not a directory"):
        finish(tmp_path / "file")
    assert runs == []


def test_thermometer_code_keeps_distances_and_comes_back():
    pictures = load_digits().data[:50]
    words = digits.as_words(pictures)
    assert words.shape == (50, 1024)
    assert words.dtype == torch.bool
    distance = np.abs(pictures[0] - pictures[1]).sum()
    assert int((words[0] ^ words[1]).sum()) == distance
    assert np.array_equal(digits.as_pictures(words).reshape(50, 64) * 16, pictures)


@pytest.mark.parametrize(("share_of_ten", "last_good"), [(0.5, 5), (0.6, 10)])
def test_half_of_the_digits_is_not_more_than_half(share_of_ten, last_good):
    names = (digits._RANDOM, digits._CHOSEN, digits._AT_DATA, "random words")
    by_stored = {name: [(0.0, 1.0)] * len(digits._STORED) for name in names}
    shares = [1.0, share_of_ten] + [0.0] * (len(digits._STORED) - 2)
    by_stored[digits._RANDOM] = [(0.0, share) for share in shares]
    by_noise = {name: [(0.0, 1.0)] * (len(digits._NOISES) + 1) for name in names}
    decoder = HammingBall(64, 1000, radius=20, seed=1)
    claim = digits._claims(16.0, by_stored, by_noise, decoder)[0]
    assert claim.measured.startswith(f"up to {last_good} ")
    assert claim.holds is (last_good == 10)


def test_every_experiment_says_beforehand_what_it_expects():
    for name, experiment in experiments.EXPERIMENTS.items():
        assert experiment.name == name
        assert experiment.question.endswith("?")
        assert len(experiment.prediction) > 80
        assert "Kanerva" in experiment.source


def test_an_error_bar_is_never_zero():
    none = torch.zeros(1000)
    assert judging.standard_error(none, 1000, 0.0) == pytest.approx(1e-6)
    assert judging.standard_error(none, 1000, 1e-4) == pytest.approx(1e-5)
    spread = torch.tensor([0.1, 0.3])
    assert judging.standard_error(spread, 1000, 0.2) == pytest.approx(0.1)
    assert judging.deviation(0.0, 3e-6, judging.standard_error(none, 1000, 3e-6)) < 2
    assert judging.deviation(0.0, 1e-4, judging.standard_error(none, 1000, 1e-4)) > 4


def reach(**changes):
    known = {"n_words": 10_000, "exact": 152, "simplified": 209}
    return capacity._Reach(
        **{**known, "hetero": 150.0, "auto": 170.0, "iterated": 205.0, **changes}
    )


def test_a_missing_crossing_fails_its_claims():
    whole = [reach(n_words=1000), reach()]
    assert capacity._meets_theory(whole).holds
    assert capacity._auto_further(whole).holds
    assert capacity._below_popular(reach()).holds
    lacking = [reach(n_words=1000, hetero=None), reach()]
    for claim in (capacity._meets_theory(lacking), capacity._auto_further(lacking)):
        assert not claim.holds
        assert claim.measured == "no crossing at 1 of 2 loads"
    assert not capacity._auto_further([reach(auto=None)]).holds
    assert not capacity._below_popular(reach(hetero=None)).holds
    assert not capacity._below_popular(reach(n_words=5000)).holds
    assert not capacity._meets_theory([reach(hetero=130.0)]).holds
    assert not capacity._auto_further([reach(auto=140.0)]).holds


def test_fidelity_is_judged_in_standard_errors():
    right = {"closed": 0.95, "averaged": 0.99, "measured": 0.9903, "error": 1e-4}
    fidelity = [capacity._Fidelity(n_words=10_000, radius=451, load=0.1, **right)]
    averaged = capacity._within_errors("a", fidelity, [0.99])
    assert averaged.holds
    assert averaged.measured.startswith("largest deviation 3.0 standard errors")
    assert not capacity._within_errors("a", fidelity, [0.9908]).holds
    plan = capacity._PLANS["quick"]
    conclusion = capacity._conclusion([reach(hetero=None)], fidelity, plan)
    assert "one heteroassociative read no crossing" in conclusion
    assert "99.000 % (3.0)" in conclusion


def test_damage_is_judged_by_the_theory():
    row = degradation._Row("locations destroyed", 0.5, 0.10, 0.12, 0.105, 1e-3, 1.0)
    assert degradation._claim("a", [row]).holds
    far = degradation._Row("locations destroyed", 0.5, 0.10, 0.12, 0.115, 1e-3, 1.0)
    assert not degradation._claim("a", [far]).holds


def test_equal_pictures_have_no_equal_ids():
    rows = [(label, np.ones((2, 3, 3))) for label in "ab"]
    ids = re.findall(r'\sid="([^"]*)"', drawing.images(rows, "twice the same").svg)
    assert len(ids) == len(set(ids))


def test_an_experiment_is_told_where_to_work_and_what_is_kept_there(runs, tmp_path, monkeypatch):
    orders = []

    def run(order):
        orders.append(order)
        order.folder.mkdir(parents=True, exist_ok=True)
        (order.folder / "kept").touch()
        yield Step(0.5)
        return Finding([], [], [], "done")

    one = Experiment("one", "?", "how", "prediction", "source", run)
    monkeypatch.setattr(run_module, "EXPERIMENTS", {"one": one})
    finish(tmp_path, "full", device="cpu")
    kept = tmp_path / "work" / "one.full.cpu" / "kept"
    assert kept.exists()
    assert orders[-1] == Order("full", "cpu", kept.parent)
    finish(tmp_path, "full", device="meta")  # what another device found is no answer
    assert orders[-1] == Order("full", "meta", tmp_path / "work" / "one.full.meta")
    kept.write_text("old")
    finish(tmp_path, "full", device="cpu", fresh=True)
    assert not kept.read_text()


# These take minutes; their own tests run them whole, at tiny sizes.
LONG = {"language", "ablation", "beta"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in experiments.EXPERIMENTS if name not in LONG])
def test_the_quick_page_of_a_section_is_whole(name, tmp_path):
    events = list(report.build(tmp_path, only=[name]))
    (section,) = [event.section for event in events if event.section]
    assert section.experiment.name == name
    text = (tmp_path / "index.html").read_text()
    Tidy().feed(text)
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert all(one == name or one.startswith(f"{name}-") for one in ids)  # no two sections share
    assert section.experiment.question in html.unescape(text)
    assert section.finding.conclusion
    assert section.finding.figures
    for claim in section.finding.claims:
        assert claim.text
        assert claim.predicted
        assert claim.measured
        assert type(claim.holds) is bool
    for table in section.finding.tables:
        for row in table.rows:
            assert len(row) == len(table.columns)
            assert all(whole(cell) for cell in row), (table.title, row)


def whole(cell):
    return cell is None or (bool(cell) if isinstance(cell, str) else math.isfinite(cell))
