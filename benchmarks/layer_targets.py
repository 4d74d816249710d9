"""What the project asks of its layers, worked out from the lines of a run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.targets import Lines, Target

__all__ = ["growths", "layer_targets"]

_N_TOKENS = 1024
_SPEEDS = (
    ("forward", "product-key-memory", 1.5),
    ("forward", "product-key-memory, 64 wide", 1.5),
    ("forward", "GEMM + top-k", 20.0),
    ("forward + backward", "product-key-memory", 5.0),
    ("forward + backward", "product-key-memory, 64 wide", 5.0),
)
_PEAK_BYTES = 200e6
_GROWTH = 2.2


def layer_targets(lines: Lines) -> list[Target]:
    """All targets of the layers, met or not.

    Args:
        lines: Of a run.
    """
    return [*_speeds(lines), *_peaks(lines), _growth(lines)]


def growths(lines: Lines) -> list[tuple[int, float]]:
    """By how much the time of a layer grows where its locations quadruple, and from how many.

    Args:
        lines: Of a run.
    """
    times = {
        line["n_locations"]: line["median_s"]
        for line in lines.all
        if line["case"] == "layer-size" and "median_s" in line
    }
    return [(n, times[4 * n] / times[n]) for n in sorted(times) if 4 * n in times]


def _speeds(lines: Lines) -> Iterator[Target]:
    for operation, peer, least in _SPEEDS:
        sparse = ", sparse gradients over its dense ones" if operation != "forward" else ""
        what = f"{operation}, {_N_TOKENS:,} tokens, speed over {peer}{sparse}"
        wanted = f"≥ {least:g} ×"
        facts = {"case": "layer", "operation": operation, "entry": peer}
        speeds = {
            line["batch"]: line["ratio"]
            for line in lines.all
            if "ratio" in line and facts.items() <= line.items()
        }
        judged = speeds.pop(_N_TOKENS, None)
        if judged is None:
            yield Target(what, wanted)
            continue
        others = ", ".join(f"{n:,}: {speed:.2g} ×" for n, speed in sorted(speeds.items()))
        measured = f"{judged:.1f} ×" + (f" ({others})" if others else "")
        yield Target(what, wanted, measured, judged >= least)


def _peaks(lines: Lines) -> Iterator[Target]:
    wanted = f"< {_PEAK_BYTES / 1e6:.0f} MB"
    for operation, entry in (
        ("forward", "pentti"),
        ("forward + backward", "pentti, sparse gradients"),
    ):
        what = f"{operation}, peak extra memory, {entry}"
        line = lines.find(case="layer-memory", operation=operation, entry=entry)
        beyond = ", beyond the gradients that it hands over" if operation != "forward" else ""
        if line is None:
            yield Target(what + beyond, wanted)
            continue
        peak = line["peak_bytes"] - line["gradient_bytes"]
        measured = f"{peak / 1e6:,.0f} MB"
        if beyond:
            measured += f" (with them {line['peak_bytes'] / 1e6:,.0f} MB)"
        what += f", {line['batch']:,} tokens{beyond}"
        yield Target(what, wanted, measured, peak < _PEAK_BYTES)


def _growth(lines: Lines) -> Target:
    what, wanted = "forward, time where the locations quadruple", f"≤ {_GROWTH} ×"
    found = growths(lines)
    if not found:
        return Target(what, wanted)
    measured = ", ".join(f"{growth:.2f} × from {n:,}" for n, growth in found)
    return Target(what, wanted, measured, max(growth for _, growth in found) <= _GROWTH)
