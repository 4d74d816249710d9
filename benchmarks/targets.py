"""What the project asks of itself, worked out from the lines of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.timing import Line

__all__ = ["Lines", "Target", "targets"]

_BOOK = 1_000_000
_SINGLE_PEERS = ("numpy loop", "sdm", "KanervaSDM", "torch-hd")


@dataclass(frozen=True)
class Target:
    """One wish.

    Attributes:
        what: In words.
        wanted: In words.
        measured: In words.
        is_met: None where something it needs was not measured.
    """

    what: str
    wanted: str
    measured: str = "not measured"
    is_met: bool | None = None


class Lines:
    """The lines of a run, to be asked for."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.all = lines

    def find(self, **facts: object) -> Line | None:
        """The first line with figures that says all this; `beside` names one of its peers."""
        beside = facts.pop("beside", None)
        for line in self.all:
            if not line.keys() & {"median_s", "peak_bytes"}:
                continue
            if beside is not None and beside not in line["beside"]:
                continue
            if all(line.get(name) == value for name, value in facts.items()):
                return line
        return None


def targets(lines: Lines) -> list[Target]:
    """All targets, met or not.

    Args:
        lines: Of a run.
    """
    return [*_scan(lines), *_one_cue(lines), *_batches(lines), *_build(lines), _small(lines)]


def _scan(lines: Lines) -> Iterator[Target]:
    what, wanted = "scan, 1 cue, over the stream of the addresses", "≤ 1.4 ×"
    one = lines.find(case="scan", n_locations=_BOOK, batch=1, entry="pentti", beside="faiss")
    if one is None:
        yield Target(what, wanted)
    else:
        yield _at_most(what, wanted, one["median_s"] / one["stream_s"], 1.4)
    for peer, least in (("faiss", 6.0), ("numkong", 1.0)):
        what, wanted = f"scan, 256 cues, speed over {peer}", f"≥ {least:.0f} ×"
        line = lines.find(case="scan", n_locations=_BOOK, batch=256, entry=peer)
        yield _at_least(what, wanted, None if line is None else line.get("ratio"), least)


def _one_cue(lines: Lines) -> Iterator[Target]:
    for operation, part in (("read", "gather"), ("write", "scatter")):
        what = f"{operation}, 1 cue, int8"
        facts = {"operation": operation, "n_locations": _BOOK, "batch": 1, "beside": "sdm"}
        whole, alone = (lines.find(entry=f"{n} int8", **facts) for n in ("pentti", part))
        if whole is None or alone is None:
            yield Target(what, f"≤ 1.6 × stream + {part}")
            continue
        limit = 1.6 * whole["stream_s"] + alone["median_s"]
        wanted = f"≤ 1.6 × stream + {part} = {1e3 * limit:.2f} ms"
        measured = f"{1e3 * whole['median_s']:.2f} ms"
        yield Target(what, wanted, measured, whole["median_s"] <= limit)


def _batches(lines: Lines) -> Iterator[Target]:
    for operation in ("read", "write"):
        facts = {"operation": operation, "n_locations": _BOOK}
        speeds = {}
        for peer in _SINGLE_PEERS:
            ours = lines.find(entry="pentti int8", batch=256, beside=peer, **facts)
            theirs = lines.find(entry=peer, batch=1, **facts)
            if ours is not None and theirs is not None:
                speeds[peer] = ours["per_second"] / theirs["per_second"]
        best = min(speeds, key=lambda peer: speeds[peer], default=None)
        what = f"{operation}, 256 cues, rate over the best peer's with one cue"
        what += f" ({best})" if best else ""
        yield _at_least(what, "≥ 10 ×", speeds.get(best or ""), 10)
        line = lines.find(entry="torch-hd", batch=256, **facts)
        what = f"{operation}, 256 cues, rate over torch-hd's with 256"
        yield _at_least(what, "≥ 40 ×", None if line is None else line.get("ratio"), 40)


def _build(lines: Lines) -> Iterator[Target]:
    line = lines.find(case="build", n_locations=_BOOK)
    if line is None:
        yield Target("build, int8", "< 10 s")
        yield Target("memory, int8", "< 1.3 GB")
        return
    yield Target("build, int8", "< 10 s", f"{line['median_s']:.2f} s", line["median_s"] < 10)
    for what, key in (
        ("memory that the tensors hold", "tensor_bytes"),
        (f"growth of the process, after {line['n_writes']:,} writes", "filled_bytes"),
        ("growth of the process, at its peak", "peak_bytes"),
    ):
        yield Target(f"{what}, int8", "< 1.3 GB", f"{line[key] / 1e9:.3f} GB", line[key] < 1.3e9)


def _small(lines: Lines) -> Target:
    what, wanted = "small memory, 1,000 cues, int8", "≥ 100,000 reads/s"
    line = lines.find(case="small", entry="pentti int8")
    if line is None:
        return Target(what, wanted)
    rate = line["per_second"]
    return Target(what, wanted, f"{rate:,.0f} reads/s", rate >= 100_000)


def _at_most(what: str, wanted: str, value: float, limit: float) -> Target:
    return Target(what, wanted, f"{value:.2f} ×", value <= limit)


def _at_least(what: str, wanted: str, value: float | None, limit: float) -> Target:
    if value is None:
        return Target(what, wanted)
    return Target(what, wanted, f"{value:.1f} ×", value >= limit)
