"""Compiled loops of the sequence memory: a table that a sequence writes and reads as it goes.

A table is (direct, index, keys, used, contents, evidence): how to find the row of a location (see
`hashing`), the location of each row, how many rows there are, and what was added to each. Only
touched locations have one. `tables` holds all but `direct` for each sequence; or, where they are
`fresh`, for a single table that is empty before each sequence and after it.
"""

import numpy as np

from pentti.kernels.compiling import compiled, reassociating
from pentti.kernels.lookups import slot_of

__all__ = ["correct", "correct_backward", "correct_probes", "visit"]


@compiled
def _slot_of(location, table):
    """Where the index has a location's row, or is free for it."""
    direct, index, keys, _, _, _ = table
    return location if direct else slot_of(location, index, keys)


@compiled
def _row_of(location, table):
    """The row of a location; a new one, all zero, if there was none."""
    _, index, keys, used, contents, evidence = table
    at = _slot_of(location, table)
    row = index[at]
    if row < 0:
        row = used[0]
        used[0] += 1
        index[at] = row
        keys[row] = location
        contents[row, :] = 0
        evidence[row] = 0
    return row


@reassociating
def _add(total, weight, step):
    for d in range(len(step)):
        total[d] += weight * step[d]


@reassociating
def _add_four(total, weights, one, two, three, four):
    a, b, c, d = weights
    for i in range(len(total)):
        total[i] += a * one[i] + b * two[i] + c * three[i] + d * four[i]


@reassociating
def _dot(one, other):
    total = one.dtype.type(0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total


@compiled
def _table(tables, direct, n, fresh):
    index, keys, used, contents, evidence = tables
    i = 0 if fresh else n
    return direct, index[i], keys[i], used[i : i + 1], contents[i], evidence[i]


@compiled
def _forget(table):
    """Empty a table, at a cost of what a sequence has used."""
    direct, index, keys, used, _, _ = table
    if direct:
        for row in range(used[0]):
            index[keys[row]] = -1
    else:
        index[:] = -1
    used[0] = 0


@compiled
def visit(
    tables, direct, fresh, low, high, written, weights, values, amounts, read, shares, probes,
    probe_amounts, backwards, sums, masses, dots,
):  # fmt: skip
    """Go through a range of sequences, backwards or not: at each token write, then read.

    A write adds its weight times the token's value to the contents of its location, and times the
    token's amount to its evidence. Reads, each times its share, make up `sums` and `masses`;
    `dots` are the products of what each finds with the token's probe. What is empty is left out.
    """
    one = weights.dtype.type(1)
    for n in range(low, high):
        table = _table(tables, direct, n, fresh)
        for step in range(values.shape[1]):
            t = values.shape[1] - 1 - step if backwards else step
            _write(table, written[n, t], weights[n, t], one, values[n, t], amounts[n, t])
            if len(sums):
                masses[n, t] = _read(table, read[n, t], shares[n, t], sums[n, t])
            if len(dots):
                _probe(table, read[n, t], probes[n, t], probe_amounts[n, t], dots[n, t])
        if fresh:
            _forget(table)


@compiled
def _write(table, locations, weights, rate, value, amount):
    _, _, _, _, contents, evidence = table
    for k in range(len(locations)):
        if weights[k] != 0:
            row = _row_of(locations[k], table)
            _add(contents[row], weights[k] * rate, value)
            evidence[row] += weights[k] * amount


@compiled
def _read(table, locations, shares, total):
    """The sum of the contents, and what it gives: that of the evidence."""
    _, index, _, _, contents, evidence = table
    total[:] = 0
    mass = evidence.dtype.type(0)
    a = b = c = np.int64(0)  # rows that wait for a fourth, which come in and go out once for all
    first = second = third = mass
    waiting = 0
    for k in range(len(locations)):
        row = index[_slot_of(locations[k], table)]
        if row >= 0 and shares[k] != 0:
            mass += shares[k] * evidence[row]
            if waiting == 3:
                weights = first, second, third, shares[k]
                _add_four(total, weights, contents[a], contents[b], contents[c], contents[row])
                waiting = 0
            else:
                a, b, c = b, c, np.int64(row)
                first, second, third = second, third, shares[k]
                waiting += 1
    if waiting > 2:
        _add(total, first, contents[a])
    if waiting > 1:
        _add(total, second, contents[b])
    if waiting > 0:
        _add(total, third, contents[c])
    return mass


@compiled
def _probe(table, locations, probe, amount, dots):
    _, index, _, _, contents, evidence = table
    for k in range(len(locations)):
        row = index[_slot_of(locations[k], table)]
        dots[k] = 0
        if row >= 0:
            dots[k] = _dot(contents[row], probe) + evidence[row] * amount


@compiled
def correct(
    tables, direct, fresh, low, high, written, weights, values, rates, amounts, read, shares,
    faults, sums, masses,
):  # fmt: skip
    """The same, but what is written is the value less what its locations give, times a rate.

    `faults` are the values less what was there.
    """
    for n in range(low, high):
        table = _table(tables, direct, n, fresh)
        for t in range(values.shape[1]):
            _read(table, written[n, t], weights[n, t], faults[n, t])
            for d in range(values.shape[2]):
                faults[n, t, d] = values[n, t, d] - faults[n, t, d]
            _write(table, written[n, t], weights[n, t], rates[n, t], faults[n, t], amounts[n, t])
            masses[n, t] = _read(table, read[n, t], shares[n, t], sums[n, t])
        if fresh:
            _forget(table)


@compiled
def correct_backward(
    tables, direct, fresh, low, high, written, weights, rates, amounts, faults, read, shares,
    to_sums, to_masses, to_values, to_rates, to_weights, to_found,
):  # fmt: skip
    """Backwards through `correct`, with a table of the derivatives of the contents.

    `to_found` is the derivative of what a write finds in its locations.
    """
    one, nothing = faults.dtype.type(1), faults.dtype.type(0)
    for n in range(low, high):
        table = _table(tables, direct, n, fresh)
        for step in range(faults.shape[1]):
            t = faults.shape[1] - 1 - step
            _write(table, read[n, t], shares[n, t], one, to_sums[n, t], to_masses[n, t])
            # A write adds rate · fault to the contents, and its amount to the evidence.
            _probe(table, written[n, t], faults[n, t], nothing, to_weights[n, t])
            _read(table, written[n, t], weights[n, t], to_values[n, t])
            to_rates[n, t] = _dot(to_values[n, t], faults[n, t])
            for d in range(faults.shape[2]):
                to_values[n, t, d] *= rates[n, t]
                to_found[n, t, d] = -to_values[n, t, d]
            _, index, _, _, _, evidence = table
            for k in range(written.shape[2]):
                row = index[_slot_of(written[n, t, k], table)]
                to_weights[n, t, k] *= rates[n, t]
                if row >= 0:
                    to_weights[n, t, k] += evidence[row] * amounts[n, t]
            _write(table, written[n, t], weights[n, t], one, to_found[n, t], nothing)
        if fresh:
            _forget(table)


@compiled
def correct_probes(
    tables, direct, fresh, low, high, written, weights, rates, amounts, faults, to_found, read,
    to_sums, to_masses, to_weights, to_shares,
):  # fmt: skip
    """Forwards through `correct` once more, for the derivatives that need the contents.

    Adds to `to_weights` what comes of finding, and sets `to_shares`.
    """
    found, nothing = np.empty(written.shape[2], dtype=faults.dtype), faults.dtype.type(0)
    for n in range(low, high):
        table = _table(tables, direct, n, fresh)
        for t in range(faults.shape[1]):
            _probe(table, written[n, t], to_found[n, t], nothing, found)
            for k in range(len(found)):
                to_weights[n, t, k] += found[k]
            _write(table, written[n, t], weights[n, t], rates[n, t], faults[n, t], amounts[n, t])
            _probe(table, read[n, t], to_sums[n, t], to_masses[n, t], to_shares[n, t])
        if fresh:
            _forget(table)
