"""The report on a small made-up experiment, and the coding of the digits."""

import csv
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pentti import experiments, report
from pentti.errors import ArgumentError, StoreError
from pentti.experiments import digits, drawing
from pentti.experiments.finding import Claim, Experiment, Finding, Step, Table
from pentti.report import run as run_module
from pentti.report import sections


def made_up(name, runs):
    def run(size):
        runs.append((name, size))
        yield Step(0.5)
        canvas, (axis,) = drawing.plot()
        axis.plot([1, 2], label="<line>")
        axis.legend()
        return Finding(
            claims=[Claim("yes & no", "1", "1", True), Claim("never", "1", "2", False)],
            figures=[drawing.draw(canvas, "a line")],
            tables=[Table("numbers", ("a", "b"), [(1, np.float64(2.5)), (None, math.nan)])],
            conclusion="It is <b>so</b>.",
            settings={"seed": np.int64(3)},
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
    assert "Of 4 predictions" in text
    assert "2 held and 2 did not" in text
    assert text.count("<svg") == 2
    assert "currentColor" in text
    assert "#010203" not in text
    assert [(e.name, e.share) for e in events if e.section] == [("one", 1.0), ("two", 1.0)]


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
    assert {"one.quick.json", "one-1.csv", "one-1.svg"} < names
    record = json.loads((tmp_path / "results" / "one.quick.json").read_text())
    assert record["claims"][1]["holds"] is False
    assert record["tables"][0]["rows"] == [[1, 2.5], [None, None]]
    assert record["settings"] == {"seed": 3}
    with (tmp_path / "results" / "one-1.csv").open(newline="") as file:
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


def test_every_experiment_says_beforehand_what_it_expects():
    for name, experiment in experiments.EXPERIMENTS.items():
        assert experiment.name == name
        assert experiment.question.endswith("?")
        assert len(experiment.prediction) > 80
        assert "Kanerva" in experiment.source
