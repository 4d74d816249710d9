"""The sections of the page about layers and attention."""

from __future__ import annotations

import itertools
import math

from benchmarks.layer_targets import growths, layer_targets
from benchmarks.markdown import beside, digits, ratio, section, time
from benchmarks.targets import Lines
from benchmarks.timing import Line

__all__ = ["layer_sections"]

_PEERS = (
    "product-key-memory", "product-key-memory, 64 wide", "GEMM + top-k", "GEMM + threshold",
    "naive cosine", "attention",
)  # fmt: skip
_FORWARD = ("pentti CosineCap", *_PEERS)
_TRAINING = ("pentti", "pentti CosineCap", "product-key-memory, sparse", *_PEERS)
_ATTENTIONS = ("SDPA", "dense", "window", "Longformer", "BigBird", "strided", "fixed")


def layer_sections(lines: Lines) -> list[str]:
    """The sections that there are lines for, in Markdown.

    Args:
        lines: Of a run.
    """
    return [
        _targets(lines),
        _layer(lines, "forward", "pentti", _FORWARD),
        _layer(lines, "forward + backward", "pentti, sparse gradients", _TRAINING),
        _optimiser(lines),
        _peaks(lines),
        _sizes(lines),
        _crossing(lines),
        _attention(lines, "forward"),
        _attention(lines, "forward + backward"),
        _attention_peaks(lines),
    ]


def _targets(lines: Lines) -> str:
    if not any(line["case"].startswith("layer") for line in lines.all):
        return ""
    said = {True: "yes", False: "**no**", None: "–"}
    rows = [(one.what, one.wanted, one.measured, said[one.is_met]) for one in layer_targets(lines)]
    note = (
        "At the size of the next section. Speeds are judged at 1,024 tokens; the other numbers of\n"
        "tokens stand in brackets.\n"
    )
    header = ("target of the layers", "wanted", "measured", "met")
    return section("Targets of the layers", header, rows, note)


def _layer(lines: Lines, operation: str, contender: str, others: tuple[str, ...]) -> str:
    rows = []
    for n_tokens in _batches(lines, "layer", operation):
        facts = {"case": "layer", "operation": operation, "batch": n_tokens}
        ours = lines.find(entry=contender, **facts)
        theirs = (lines.find(entry=name, **facts) for name in others)
        rows.append((f"{n_tokens:,}", time(ours), _per_token(ours), *map(beside, theirs)))
    header = ("tokens", f"{contender}, ms", "µs a token", *others)
    return section(f"Layer: {operation}", header, rows, _layer_note(lines, operation))


def _layer_note(lines: Lines, operation: str) -> str:
    line = next((line for line in lines.all if line["case"] == "layer"), None)
    if line is None:
        return ""
    size = (
        f"dim {line['dim']}, {line['n_locations']:,} locations, top-{line['top_k']}; "
        f"{line['n_heads']} heads in pentti and in product-key-memory, one in the others.\n"
        "A threshold activates 1 %.\n"
    )
    if operation == "forward":
        return size + (
            "product-key-memory asks for half keys of 128 components, twice as wide as pentti's;\n"
            "*64 wide* has pentti's width. *attention* is dense and causal over as many tokens,\n"
            "with its projections.\n"
        )
    return size + (
        "Setting all gradients to None, forward, and backward of a random gradient, which the\n"
        "tokens get as well. *product-key-memory, sparse* has an attribute of its table set from\n"
        "outside.\n"
    )


def _optimiser(lines: Lines) -> str:
    names = ("RowwiseAdagrad", "SparseAdam", "AdamW, fused", "AdamW")
    rows = []
    for n_tokens in _batches(lines, "optimiser", "optimiser step"):
        facts = {"case": "optimiser", "batch": n_tokens}
        found = [lines.find(entry=name, **facts) for name in names]
        rows.append((f"{n_tokens:,}", time(found[0]), *map(beside, found[1:])))
    note = (
        "One step for the contents alone, with the gradient of so many tokens: sparse for the\n"
        "first two, dense for the others.\n"
    )
    return section("Layer: optimiser", ("tokens", f"{names[0]}, ms", *names[1:]), rows, note)


def _peaks(lines: Lines) -> str:
    rows = [
        (
            line["operation"],
            line["entry"],
            f"{line['batch']:,}",
            digits(line["peak_bytes"] / 1e6),
            digits(line["gradient_bytes"] / 1e6),
            digits(line["kept_bytes"] / 1e6),
        )
        for line in lines.all
        if line["case"] == "layer-memory" and "peak_bytes" in line
    ]
    note = (
        "Peak of the process's resident memory in the first call, above what it was before it,\n"
        "output and gradients included; each in a process of its own. Rows of a dense gradient\n"
        "that no token touched may not be resident. *Kept* is what the process still holds for\n"
        "later calls once output and gradients are gone.\n"
    )
    header = ("operation", "who", "tokens", "peak, MB", "gradients as tensors", "kept afterwards")
    return section("Layer: memory", header, sorted(rows), note)


def _sizes(lines: Lines) -> str:
    times = {
        line["n_locations"]: line
        for line in lines.all
        if line["case"] == "layer-size" and "median_s" in line
    }
    grown = {4 * n: growth for n, growth in growths(lines)}
    rows = [
        (
            f"{n:,}",
            time(line),
            _per_token(line),
            f"{digits(grown[n])} ×" if n in grown else "–",
        )
        for n, line in sorted(times.items())
    ]
    header = ("locations", "ms", "µs a token", "over a quarter of the locations")
    note = "Forward, 1,024 tokens, all sizes in turns in one process.\n"
    return section("Layer: by its number of locations", header, rows, note)


def _crossing(lines: Lines) -> str:
    rows, ratios = [], {}
    for length in _batches(lines, "crossing", "forward"):
        facts = {"case": "crossing", "batch": length}
        layer, dense = (lines.find(entry=name, **facts) for name in ("pentti", "attention"))
        if layer is not None and dense is not None:
            ratios[length] = dense["ratio"]
            rows.append((f"{length:,}", _per_token(layer), _per_token(dense), ratio(dense)))
    header = ("length", "layer, µs a token", "attention, µs a token", "ratio")
    return section("Layer beside dense attention", header, rows, _crossing_note(ratios))


def _crossing_note(ratios: dict[int, float]) -> str:
    note = "Forward over the same sequences, attention dense and causal with its projections. "
    lengths = sorted(ratios)
    for low, high in itertools.pairwise(lengths):
        if ratios[low] < 1 <= ratios[high]:
            share = math.log(1 / ratios[low]) / math.log(ratios[high] / ratios[low])
            at = math.exp(math.log(low) + share * math.log(high / low))
            return note + f"They cross at about {round(at, 2 - len(str(int(at)))):,.0f} tokens.\n"
    return note + "They do not cross here.\n"


def _attention(lines: Lines, operation: str) -> str:
    rows = []
    for length in _batches(lines, "attention", operation):
        facts = {"case": "attention", "operation": operation, "batch": length}
        first, *others = (lines.find(entry=name, **facts) for name in _ATTENTIONS)
        rows.append((f"{length:,}", time(first), *map(beside, others)))
    note = (
        "Batch 1, causal, float32. SDPA is `scaled_dot_product_attention` on queries, keys and\n"
        "values that are at hand; the modules of `pentti.nn.local` have projections and rotary\n"
        "positions as well. Ratios are to SDPA: below 1, faster.\n"
    )
    header = ("length", "SDPA, ms", *_ATTENTIONS[1:])
    return section(f"Attention: {operation}", header, rows, note)


def _attention_peaks(lines: Lines) -> str:
    rows = []
    for operation in ("forward", "forward + backward"):
        for length in _batches(lines, "attention", operation):
            facts = {"case": "attention", "operation": operation, "batch": length}
            found = (lines.find(entry=name, **facts) for name in _ATTENTIONS)
            cells = (digits(line["peak_bytes"] / 1e6) if line else "–" for line in found)
            rows.append((operation, f"{length:,}", *cells))
    note = "Peak extra memory, MB, outputs and gradients included.\n"
    return section("Attention: memory", ("operation", "length", *_ATTENTIONS), rows, note)


def _batches(lines: Lines, case: str, operation: str) -> list[int]:
    facts = {"case": case, "operation": operation}
    return sorted({line["batch"] for line in lines.all if facts.items() <= line.items()})


def _per_token(line: Line | None) -> str:
    return "–" if line is None else digits(1e6 * line["median_s"] / line["n_cues"])
