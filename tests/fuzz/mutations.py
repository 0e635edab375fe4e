"""Streams that are nearly right: valid frames, of which some were damaged, and cuts at any place."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Spoil = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
"""Damages a frame; it may use words that mean something to the reader."""


def flip(frame: bytes, dice: random.Random, words: Sequence[bytes]) -> bytes:
    """Other bits in one to three bytes."""
    spoilt = bytearray(frame)
    for _ in range(dice.randint(1, 3)):
        if spoilt:
            spoilt[int(dice.random() * len(spoilt))] ^= 1 << int(dice.random() * 8)
    return bytes(spoilt)


def cut_short(frame: bytes, dice: random.Random, _: Sequence[bytes]) -> bytes:
    """The frame ends too early."""
    return frame[: int(dice.random() * len(frame))]


def cut_out(frame: bytes, dice: random.Random, _: Sequence[bytes]) -> bytes:
    """Something in the middle is missing."""
    start = int(dice.random() * len(frame))
    return frame[:start] + frame[start + dice.randint(1, 4) :]


def repeat_part(frame: bytes, dice: random.Random, _: Sequence[bytes]) -> bytes:
    """A part comes twice."""
    start = int(dice.random() * len(frame))
    end = start + int(dice.random() * 40)
    return frame[:end] + frame[start:]


def insert_word(frame: bytes, dice: random.Random, words: Sequence[bytes]) -> bytes:
    """A word where none belongs."""
    place = int(dice.random() * (len(frame) + 1))
    return frame[:place] + dice.choice(words) + frame[place:]


def overwrite(frame: bytes, dice: random.Random, words: Sequence[bytes]) -> bytes:
    """A word over what stood there; at the start more often than elsewhere, where headers are."""
    place = 0 if dice.random() < 0.5 else int(dice.random() * (len(frame) + 1))
    word = dice.choice(words)
    return frame[:place] + word + frame[place + len(word) :]


def noise(frame: bytes, dice: random.Random, words: Sequence[bytes]) -> bytes:
    """Any bytes in its place, or words in any order."""
    if dice.random() < 0.5:
        return dice.randbytes(int(dice.random() * 2 * (len(frame) + 1)))
    return b"".join(dice.choices(words, k=dice.randint(1, 6)))


SPOILERS: tuple[Spoil, ...] = (flip, flip, cut_short, cut_out, repeat_part, insert_word, overwrite, overwrite, noise)


def spoil_some(frames: list[bytes], dice: random.Random, words: Sequence[bytes]) -> None:
    """Damage some of a stream's frames, exchange two of them, or leave them all as they are."""
    for _ in range(dice.choice((0, 1, 1, 1, 2, 5))):
        place = int(dice.random() * len(frames))
        if dice.random() < 0.1:
            other = int(dice.random() * len(frames))
            frames[place], frames[other] = frames[other], frames[place]
        else:
            frames[place] = dice.choice(SPOILERS)(frames[place], dice, words)


def cut_anywhere(stream: bytes, dice: random.Random) -> list[bytes]:
    """The stream in pieces: a few, some, or one for each byte."""
    count = dice.choice((1, 2, 8, 30))
    if count == 30 and len(stream) < 300:
        return [stream[place : place + 1] for place in range(len(stream))]
    size = len(stream)
    cuts = sorted([int(dice.random() * size) for _ in range(count)])
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, size], strict=True) if start < end]
