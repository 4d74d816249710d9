"""``python -m benchmarks.table results.jsonl … > docs/benchmarks.md``: a page from some runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.layer_table import layer_sections
from benchmarks.markdown import beside, own, ratio, section, time
from benchmarks.sequence_table import sequence_sections
from benchmarks.targets import Lines, targets
from benchmarks.timing import Line

__all__ = ["page", "read_lines"]

_PARTS = {"write": "scatter", "read": "gather"}
_PEERS = {
    "scan": ("faiss", "numkong", "dense product", "numpy loop"),
    "write": ("sdm", "torch-hd", "KanervaSDM", "numpy loop"),
    "read": ("sdm", "torch-hd", "KanervaSDM", "numpy loop"),
    "recall": ("sdm", "torch-hd", "KanervaSDM", "numpy loop"),
}
_INTRODUCTION = """\
# Benchmarks

Every time below belongs to a result that was first found equal to a reference: plain NumPy for the
binary memories (a library whose hard addresses cannot be set must give back what was stored), the
plain formula in float64, gradients included, for layers and attention. Contender and peers run in
turns in one process, with the same number of threads, on inputs that change from one repetition to
the next. Times are medians, with the first and third quartile in brackets. A ratio says how many
times as long a peer takes for one cue or token, in the same process. *Stream* is the time to read
the packed addresses and do nothing else, the floor under every scan of all locations.

Made by `make bench` and `python -m benchmarks.table`. Peers: the libraries of the extra `bench`, as
they install; `sdm` compiles C and needs Debian's `opencl-headers`, `ocl-icd-opencl-dev` and
`libbsd-dev`.
"""


def read_lines(path: Path) -> list[Line]:
    """The lines of a results file.

    Args:
        path: JSON lines, as `python -m benchmarks` writes them.
    """
    return [json.loads(text) for text in path.read_text("utf-8").splitlines() if text.strip()]


def page(lines: Sequence[Line]) -> str:
    """The whole page, in Markdown.

    Args:
        lines: Of a run.
    """
    asked = Lines(lines)
    parts = [_INTRODUCTION, _machine(lines), _targets(asked), _scan(asked)]
    parts += [_operation(asked, name) for name in ("write", "read", "recall")]
    parts += [_small(asked), _build(asked), *layer_sections(asked)]
    parts += sequence_sections(asked)
    parts += [_left_out(lines), _figures(lines)]
    return "\n".join(part for part in parts if part)


def _machine(lines: Sequence[Line]) -> str:
    machines = [line for line in lines if line["case"] == "machine"]
    told = [_machine_of(line, lines) for line in machines]
    return "\n".join(dict.fromkeys(told))


def _machine_of(line: Line, lines: Sequence[Line]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    threads = sorted({other["threads"] for other in lines if "threads" in other})
    memory = f"{line['memory_bytes'] / 1e9:.0f} GB" if line["memory_bytes"] else "unknown"
    return (
        f"Machine: {line['cpu']}, {line['cores']} cores, {memory} of memory, {line['system']}; "
        f"{', '.join(map(str, threads))} threads. Python {line['python']}, {versions}.\n"
    )


def _targets(lines: Lines) -> str:
    said = {True: "yes", False: "**no**", None: "–"}
    rows = [(one.what, one.wanted, one.measured, said[one.is_met]) for one in targets(lines)]
    return section("Targets", ("target, at 10⁶ × 1,000 bits", "wanted", "measured", "met"), rows)


def _scan(lines: Lines) -> str:
    peers = _PEERS["scan"]
    rows = []
    for n_locations, batch in _sizes(lines, "scan"):
        facts = {"operation": "scan", "n_locations": n_locations, "batch": batch}
        ours = lines.find(entry="pentti", **facts)
        theirs = [lines.find(entry=peer, **facts) for peer in peers]
        rows.append((f"{n_locations:,}", f"{batch}", *own(ours), *map(beside, theirs)))
    note = "1,000 bits, radius 451. numkong gives distances only; a loop takes one cue at a time.\n"
    header = ("locations", "cues", "pentti, ms", "× stream", *peers)
    return section("Scan: which locations are within the radius", header, rows, note)


def _operation(lines: Lines, operation: str) -> str:
    peers, part = _PEERS[operation], _PARTS.get(operation)
    rows = []
    for n_locations, batch in _sizes(lines, operation):
        facts = {"operation": operation, "n_locations": n_locations, "batch": batch}
        ours = [lines.find(entry=f"pentti {name}", **facts) for name in ("int8", "int16")]
        row = [f"{n_locations:,}", f"{batch}", *own(ours[0]), time(ours[1])]
        row += [time(lines.find(entry=f"{part} int8", **facts))] if part else []
        row.append(f"{ours[0]['per_second']:,.0f}" if ours[0] else "–")
        rows.append((*row, *(beside(lines.find(entry=peer, **facts)) for peer in peers)))
    header = ["locations", "cues", "int8, ms", "× stream", "int16, ms"]
    header += [f"{part} alone, ms"] if part else []
    header += ["int8, per second", *peers]
    return section(operation.capitalize(), header, rows)


def _small(lines: Lines) -> str:
    rows = []
    for name in ("pentti int8", "pentti int16", "gather int8", "torch-hd", "sdm"):
        line = lines.find(case="small", entry=name)
        if line is not None:
            rate = f"{line['per_second']:,.0f}"
            rows.append((name, f"{line['n_cues']}", time(line), rate, ratio(line)))
    header = ("", "cues at a time", "ms", "reads per second", "ratio")
    return section("Small: 20,000 locations of 256 bits, radius 105", header, rows)


def _build(lines: Lines) -> str:
    rows = []
    for n_locations, _ in _sizes(lines, "build"):
        line = lines.find(operation="build", n_locations=n_locations)
        if line is not None:
            keys = ("tensor_bytes", "made_bytes", "filled_bytes", "peak_bytes")
            sizes = (f"{line[key] / 1e6:,.0f}" for key in keys)
            rows.append((f"{n_locations:,}", f"{line['median_s']:.3f}", *sizes))
    header = ("locations", "s", "tensors, MB", "process once made", "once filled", "at its peak")
    note = "1,000-bit words, int8 counters; what the process grew by, in MB.\n"
    return section("Build", header, rows, note)


def _left_out(lines: Iterable[Line]) -> str:
    excuses = [
        (line["case"], line["operation"], _size(line), f"{line['batch']}", line["entry"], line[key])
        for line in lines
        for key in ("skipped", "error")
        if key in line
    ]
    header = ("case", "operation", "size", "batch", "who", "why")
    return section("Without a time", header, excuses)


def _figures(lines: Iterable[Line]) -> str:
    keys = ("batch", "entry", "n_cues", "repetitions")
    rows = []
    for line in lines:
        if "median_s" in line:
            what = (line["case"], line["operation"], _size(line), *(f"{line[key]}" for key in keys))
            times = (f"{1e3 * line[f'{key}_s']:.3f}" for key in ("min", "q1", "median", "q3"))
            rows.append((*what, *times, ratio(line)))
    header = ("case", "operation", "size", "batch", "who", "cues", "repetitions")
    return section("All figures", (*header, "min, ms", "q1", "median", "q3", "ratio"), rows)


def _size(line: Line) -> str:
    """Locations, or the length of a sequence."""
    return f"{line.get('n_locations', line.get('length', 0)):,}"


def _sizes(lines: Lines, operation: str) -> list[tuple[int, int]]:
    found = {
        (line["n_locations"], line["batch"])
        for line in lines.all
        if line.get("operation") == operation and line["case"] != "small"
    }
    return sorted(found)


def _main(arguments: Sequence[str]) -> int:
    if not arguments:
        print("benchmarks.table: give a results file", file=sys.stderr)
        return 2
    try:
        lines = [line for name in arguments for line in read_lines(Path(name))]
    except (OSError, ValueError) as error:
        print(f"benchmarks.table: cannot read {', '.join(arguments)}: {error}", file=sys.stderr)
        return 2
    print(page(lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
