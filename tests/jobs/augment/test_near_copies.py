"""Near-copies that are looked up are those that a comparison with all pictures finds."""

from __future__ import annotations

import numpy as np
import pytest

from wanbatch.jobs.augment import near_copies
from wanbatch.jobs.augment.near_copies import (
    LARGEST_NEAR,
    NEAR_BITS,
    NEAR_COLOURS,
    SAME_COLOURS,
    Fingerprint,
    NearCopies,
)
from wanbatch.jobs.augment.near_index import HashBands


def compared_with_all(pictures: list[Fingerprint], picture: Fingerprint) -> list[int]:
    """As the rule is written, for every picture."""
    own = np.frombuffer(picture.colours, np.uint8).astype(int)
    colours = np.frombuffer(b"".join(other.colours for other in pictures), np.uint8).reshape(len(pictures), -1)
    apart = np.abs(colours.astype(int) - own)
    alike = np.array([(picture.hash ^ other.hash).bit_count() <= NEAR_BITS for other in pictures])
    alike &= (apart.mean(axis=1) <= NEAR_COLOURS) & (apart.max(axis=1) <= LARGEST_NEAR)
    return np.flatnonzero(alike | (apart.max(axis=1) <= SAME_COLOURS)).tolist()


def like(draws: np.random.Generator, one: Fingerprint) -> Fingerprint:
    """A picture at the edge of what is a near-copy of another one, on this side of it or on that."""
    bits = draws.choice(64, int(draws.integers(6, 15)), replace=False)
    hashed = one.hash ^ sum(1 << int(bit) for bit in bits)
    if draws.random() < 0.5:
        apart = draws.integers(-SAME_COLOURS, SAME_COLOURS + 1, 192)
        apart[0] = draws.choice([SAME_COLOURS, SAME_COLOURS + 1])
    else:
        apart = draws.choice([-6, 6], 192)
        apart[:2] = LARGEST_NEAR, -int(draws.choice([0, 12, 24]))
    colours = np.clip(np.frombuffer(one.colours, np.uint8).astype(int) + apart, 0, 255)
    return Fingerprint(hashed, colours.astype(np.uint8).tobytes())


def drawn(draws: np.random.Generator, count: int) -> list[Fingerprint]:
    """Pictures of smooth colours, some of them dark, and of each eighth one that is nearly like it."""
    pictures: list[Fingerprint] = []
    while len(pictures) < count:
        corners = draws.integers(0, draws.choice([60, 256]), (2, 2, 3))
        colours = np.kron(corners, np.ones((4, 4, 1))) + draws.integers(0, 12, (8, 8, 3))
        values = np.clip(colours, 0, 255).astype(np.uint8).tobytes()
        one = Fingerprint(int(draws.integers(0, 1 << 63)) * 2, values)
        pictures.append(one)
        if len(pictures) % 8 == 0:
            pictures.append(like(draws, one))
    return pictures


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("wide", [20, 4096])
def test_what_is_looked_up_is_what_a_comparison_with_all_finds(monkeypatch, seed, wide):
    """Also by colours alone, where hashes are alike."""
    monkeypatch.setattr(near_copies, "WIDE", wide)
    draws = np.random.default_rng(seed)
    pictures = drawn(draws, 1000)
    monkeypatch.setattr(near_copies, "FEW", 100)
    copies = NearCopies(pictures)
    asked = [*pictures[::5], *(like(draws, one) for one in pictures[::7])]
    looked_up = sum(copies._looked_up(one) is not None for one in asked)
    assert looked_up > len(asked) / 2
    found = [list(copies.of(one)) for one in asked]
    assert found == [compared_with_all(pictures, one) for one in asked]
    assert sum(len(one) > 1 for one in found) > 10


def test_a_hash_that_differs_in_ten_bits_is_looked_up_wherever_they_are():
    draws = np.random.default_rng(0)
    hashes = draws.integers(0, 1 << 63, 500).astype(np.uint64)
    bands = HashBands(hashes, NEAR_BITS)
    for place in range(500):
        bits = draws.choice(64, NEAR_BITS, replace=False)
        wanted = int(hashes[place]) ^ sum(1 << int(bit) for bit in bits)
        assert place in np.concatenate([run.places() for run in bands.runs(wanted)])


def test_few_of_a_hundred_thousand_are_compared(monkeypatch):
    draws = np.random.default_rng(1)
    colours = draws.integers(0, 256, (100_000, 192)).astype(np.uint8)
    hashes = draws.integers(0, 1 << 63, 100_000)
    pictures = [Fingerprint(int(number), row.tobytes()) for number, row in zip(hashes, colours, strict=True)]
    copies = NearCopies([*pictures, pictures[500]])
    compared: list[int] = []
    alike = NearCopies._alike

    def counted(self, places, picture):
        compared.append(len(places))
        return alike(self, places, picture)

    monkeypatch.setattr(NearCopies, "_alike", counted)
    assert [list(copies.of(pictures[place])) for place in (7, 500)] == [[7], [500, 100_000]]
    assert max(compared) < 5000


def test_pictures_that_are_all_alike_are_compared_in_blocks_and_the_first_is_found_in_the_first(monkeypatch):
    monkeypatch.setattr(near_copies, "FEW", 100)
    same = [Fingerprint(5, bytes([40]) * 192)] * 5000
    copies = NearCopies(same)
    blocks: list[int] = []
    alike = NearCopies._alike

    def counted(self, places, picture):
        blocks.append(len(places))
        return alike(self, places, picture)

    monkeypatch.setattr(NearCopies, "_alike", counted)
    assert next(copies.of(same[0])) == 0
    assert blocks == [100]
    assert list(copies.of(same[0])) == list(range(5000))
