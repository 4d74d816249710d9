"""The sections of the page about the sequence memory, and what the project asks of it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.markdown import beside, digits, section, time
from benchmarks.targets import Lines, Target
from benchmarks.timing import Line

__all__ = ["sequence_sections", "sequence_targets"]

_PEERS = ("SDPA", "linear", "window", "BigBird")
_SPEEDS = (
    ("forward", 4_096, 1.0),
    ("forward", 32_768, 8.0),
    ("forward", 131_072, 30.0),
    ("forward + backward", 16_384, 4.0),
)
_GROWTH = 1.2  # of memory a token, where the length grows eightfold
_STEADY = 1.25  # of the time of one token, from the first position to the last


def sequence_sections(lines: Lines) -> list[str]:
    """The sections that there are lines for, in Markdown.

    Args:
        lines: Of a run.
    """
    parts = [_targets(lines)]
    for operation in ("forward", "forward + backward"):
        parts += [_times(lines, operation), _peaks(lines, operation)]
    return [*parts, _stream(lines)]


def sequence_targets(lines: Lines) -> list[Target]:
    """All targets of the sequence memory, met or not.

    Args:
        lines: Of a run.
    """
    return [*_speeds(lines), *_linear(lines), _steady(lines)]


def _speeds(lines: Lines) -> Iterator[Target]:
    for operation, length, least in _SPEEDS:
        what = f"{operation}, {length:,} tokens, speed over SDPA"
        line = lines.find(case="sequence", operation=operation, batch=length, entry="SDPA")
        wanted = f"≥ {least:g} ×"
        if line is None or "ratio" not in line:
            yield Target(what, wanted)
        else:
            yield Target(what, wanted, f"{line['ratio']:.1f} ×", line["ratio"] >= least)


def _linear(lines: Lines) -> Iterator[Target]:
    for operation in ("forward", "forward + backward"):
        peaks = {line["batch"]: line["peak_bytes"] for line in _ours(lines, operation)}
        what = f"{operation}, peak memory a token, longest over an eighth of it"
        wanted = f"≤ {_GROWTH} ×"
        longest = max(peaks, default=0)
        if longest // 8 not in peaks:
            yield Target(what, wanted)
            continue
        growth = peaks[longest] / peaks[longest // 8] / 8
        measured = f"{growth:.2f} × at {longest:,} tokens"
        yield Target(what, wanted, measured, growth <= _GROWTH)


def _steady(lines: Lines) -> Target:
    what, wanted = "one token, slowest position over fastest", f"≤ {_STEADY} ×"
    times = [line["median_s"] for line in lines.all if line["case"] == "token"]
    if len(times) < 2:
        return Target(what, wanted)
    growth = max(times) / min(times)
    return Target(what, wanted, f"{growth:.2f} ×", growth <= _STEADY)


def _ours(lines: Lines, operation: str) -> list[Line]:
    facts = {"case": "sequence", "operation": operation, "entry": "pentti"}
    found = [line for line in lines.all if facts.items() <= line.items() and "peak_bytes" in line]
    return sorted(found, key=lambda line: int(line["batch"]))


def _targets(lines: Lines) -> str:
    if not any(line["case"] == "sequence" for line in lines.all):
        return ""
    said = {True: "yes", False: "**no**", None: "–"}
    rows = [
        (one.what, one.wanted, one.measured, said[one.is_met]) for one in sequence_targets(lines)
    ]
    return section("Targets of the sequence memory", ("target", "wanted", "measured", "met"), rows)


def _times(lines: Lines, operation: str) -> str:
    rows = []
    for line in _ours(lines, operation):
        facts = {"case": "sequence", "operation": operation, "batch": line["batch"]}
        peers = (lines.find(entry=name, **facts) for name in _PEERS)
        per_token = digits(1e6 * line["median_s"] / line["batch"])
        rows.append((f"{line['batch']:,}", time(line), per_token, *map(beside, peers)))
    note = (
        "Batch 1, causal, float32, 8 heads of 64. pentti is the whole layer: projections,\n"
        "addressing (65,536 locations a head in four codebooks, top-8), writing, reading. SDPA is\n"
        "torch's kernel on queries, keys and values that are at hand; *linear* is\n"
        "`nn.LinearAttention` in chunks of 128, *window* sees 512 tokens; these and BigBird have\n"
        "their projections too. A ratio above 1 is slower than pentti.\n"
    )
    header = ("length", "pentti, ms", "µs a token", *_PEERS)
    return section(f"Sequence memory: {operation}", header, rows, note)


def _peaks(lines: Lines, operation: str) -> str:
    rows = []
    for line in _ours(lines, operation):
        facts = {"case": "sequence", "operation": operation, "batch": line["batch"]}
        found = (lines.find(entry=name, **facts) for name in ("pentti", *_PEERS))
        cells = (digits(one["peak_bytes"] / 1e6) if one else "–" for one in found)
        rows.append((f"{line['batch']:,}", *cells))
    note = "Peak extra memory, MB, outputs and gradients included.\n"
    header = ("length", "pentti", *_PEERS)
    return section(f"Sequence memory: {operation}, memory", header, rows, note)


def _stream(lines: Lines) -> str:
    rows = [
        (f"{line['batch']:,}", time(line), digits(line["state_bytes"] / 1e6))
        for line in lines.all
        if line["case"] == "token" and "median_s" in line
    ]
    note = "One more token after so many, with the state that they left.\n"
    return section("Sequence memory: one token", ("tokens before", "ms", "state, MB"), rows, note)
