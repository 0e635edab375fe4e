"""Cutting bytes into pieces, as networks do. No piece is ever empty, and joined they are the data again."""

from __future__ import annotations

import random
from collections.abc import Iterator

SEEDS = 50
"""How many random splits :func:`every_way` makes."""


def whole(data: bytes) -> list[bytes]:
    """All in one piece."""
    return [data] if data else []


def byte_by_byte(data: bytes) -> list[bytes]:
    """A piece for each byte."""
    return [data[place : place + 1] for place in range(len(data))]


def random_splits(data: bytes, seed: int) -> list[bytes]:
    """Cut at random places: the same ones for the same seed. Some seeds cut rarely, others nearly everywhere."""
    places = range(1, len(data))
    dice = random.Random(seed)
    cuts = sorted(dice.sample(places, int(len(places) * dice.random() ** 3)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


def every_way(data: bytes, seeds: int = SEEDS) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and ``seeds`` random splits."""
    yield whole(data)
    yield byte_by_byte(data)
    for seed in range(seeds):
        yield random_splits(data, seed)
