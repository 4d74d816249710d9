"""The index of touched locations: a dictionary by another name, in torch and in compiled loops."""

import numpy as np
import pytest
import torch

from pentti.kernels import causal_cpu, hashing, lookups
from pentti.kernels.causal import Visit

MOST = hashing.MOST
EDGES = [0, 1, 2, 2**20 - 1, 2**20, 2**20 + 1, 2**31, 2**32 + 5, 3 * 2**38, MOST - 1]


def colliding(n, n_slots, generator):
    """Locations that all look into the same slot first, which is the last but one."""
    drawn = torch.randint(MOST, (8 * n * n_slots,), generator=generator).unique()
    same = drawn[lookups.slot(drawn, n_slots) == n_slots - 2]
    return same[torch.randperm(len(same), generator=generator)][:n]


@pytest.mark.parametrize("n_slots", [1, 2, 7, 1000, 2**20, 2**31, 2**32 - 2])
def test_a_slot_is_the_same_for_numbers_arrays_tensors_and_loops(n_slots, generator):
    locations = torch.cat([torch.tensor(EDGES), torch.randint(MOST, (90,), generator=generator)])
    exact = [lookups.slot(x, n_slots) for x in locations.tolist()]  # of unbounded integers
    assert 0 <= min(exact) <= max(exact) < n_slots
    assert n_slots < 10**6 or len({*exact}) > 90
    assert lookups.slot(locations, n_slots).tolist() == exact
    assert lookups.slot(locations.numpy(), n_slots).tolist() == exact
    assert [lookups._first(x, n_slots) for x in locations.tolist()] == exact


def test_a_vast_table_has_an_index_of_what_is_touched():
    for n_locations in (1, 25, 65536):
        assert hashing.capacity(n_locations, 0) == n_locations
    assert hashing.capacity(65537, 0) == 1
    assert hashing.capacity(MOST, 10) == 20
    assert hashing.capacity(2**20, 2**17) == 2**20  # so much may be touched that none is saved
    assert hashing.capacity(2**20, 2**17 - 1) == 2**18 - 2


PATTERNS = {
    "random": lambda g: torch.randint(MOST, (14000,), generator=g),
    "in a row": lambda _: torch.arange(14000) + 12345,
    "in steps of 2^20": lambda _: torch.arange(14000) << 20,
    "in steps of 1025": lambda _: torch.arange(14000) * 1025,
    "of four codebooks": lambda g: torch.cartesian_prod(
        *(torch.randperm(1024, generator=g)[:11] << (10 * i) for i in range(4))
    ).sum(1),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_locations_of_any_pattern_are_found_soon(pattern, generator):
    """Half a slot beyond the first on average where half are taken, as by chance.

    **Source:** Knuth, *The Art of Computer Programming* 3 (1973), section 6.4.
    """
    keys = PATTERNS[pattern](generator).unique()[None]
    n = keys.shape[1]
    assert n > 13000
    index = hashing.build(keys, torch.tensor([n]), MOST)
    assert index.shape == (1, 2 * n)
    at = index[0].argsort()[-n:]
    beyond = (at - lookups.slot(keys[0, index[0, at].long()], 2 * n)) % (2 * n)
    # a standard error of 0.01; the longest of n grows with log n
    assert beyond.double().mean() < 0.55
    assert beyond.max() < 40


@pytest.mark.parametrize("n_locations", [31, MOST], ids=["direct", "hashed"])
def test_what_was_inserted_is_found_and_nothing_else(n_locations, generator):
    room, tables = 11, [{}, {}, {}]
    index = torch.full((3, hashing.capacity(n_locations, room)), -1, dtype=torch.int32)
    keys = torch.zeros((3, room), dtype=torch.int64)
    pool = torch.randint(n_locations, (25,), generator=generator).unique()
    if n_locations == MOST:
        pool = torch.cat([pool, colliding(9, 2 * room, generator)]).unique()
    for size in (0, 1, 4, 6):
        owners, new, rows = [], [], []
        for i, table in enumerate(tables[:2]):  # the third stays empty
            for location in pool[torch.randperm(len(pool), generator=generator)].tolist():
                if location not in table and size > owners.count(i) and len(table) < room:
                    rows.append(len(table))
                    table[location] = len(table)
                    owners.append(i)
                    new.append(location)
                if owners.count(i) == size:
                    break
        at = torch.tensor(owners), torch.tensor(new), torch.tensor(rows)
        at = [x.long() for x in at]
        keys[at[0], at[2]] = at[1]
        hashing.insert(index, n_locations, *at)
        again = hashing.build(keys, torch.tensor([len(table) for table in tables]), n_locations)
        for i, table in enumerate(tables):
            expected = [table.get(x, -1) for x in pool.tolist()]
            for one in (index, again):
                owner = torch.full_like(pool, i)
                assert hashing.find(one, keys, n_locations, owner, pool).tolist() == expected
                if n_locations == MOST:  # as on another device
                    assert hashing._probed(one, keys, owner, pool).tolist() == expected
    assert [len(table) for table in tables] == [11, 11, 0]


def test_of_tables_without_room_nothing_is_found():
    index, keys = torch.full((2, 1), -1, dtype=torch.int32), torch.zeros((2, 0), dtype=torch.int64)
    sought = torch.tensor([0, 1, 1]), torch.tensor([0, 5, MOST - 1])
    assert hashing.find(index, keys, MOST, *sought).tolist() == [-1, -1, -1]
    assert hashing._probed(index, keys, *sought).tolist() == [-1, -1, -1]


def test_loops_and_torch_share_one_index(generator):
    """What loops write, torch finds; what torch inserts, loops write on."""
    room, length, k = 40, 9, 3
    at = torch.cat([colliding(10, 2 * room, generator), torch.tensor(EDGES)])
    written = at[torch.randint(len(at), (2, length, k), generator=generator)]
    ones, values = torch.ones(2, length, k), torch.randn(2, length, 5, generator=generator)
    keys, used = torch.zeros((2, room), dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    index = hashing.build(keys, used, MOST)
    contents, evidence = torch.zeros(2, room, 5), torch.zeros(2, room)
    rows = torch.arange(4)
    for i in (0, 1):  # torch gives four locations a row, the loop the others
        keys[i, :4] = at[i * 4 : i * 4 + 4]
        used[i] = 4
        hashing.insert(index, MOST, torch.full_like(rows, i), keys[i, :4], rows)
    tables = tuple(x.numpy() for x in (index, keys, used, contents, evidence))
    visit = Visit(written, ones, values, torch.ones(2, length), written, ones)
    causal_cpu.visit(visit, MOST, tables)
    for i in (0, 1):
        touched = torch.cat([at[i * 4 : i * 4 + 4], written[i].flatten()]).unique()
        assert used[i] == len(touched)
        found = hashing.find(index, keys, MOST, torch.full_like(touched, i), touched)
        assert torch.equal(keys[i, found], touched)
        for row, location in zip(found.tolist(), touched.tolist(), strict=True):
            times = (written[i] == location).sum(-1).float()
            assert evidence[i, row] == times.sum()
            torch.testing.assert_close(contents[i, row], times @ values[i])
        absent = torch.tensor([x for x in at.tolist() if x not in touched])
        owners = torch.full_like(absent, i)
        assert (hashing.find(index, keys, MOST, owners, absent) == -1).all()
    assert np.array_equal(tables[0], index.numpy())
