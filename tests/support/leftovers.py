"""What a test left behind: threads of ours that go on, sockets and pollers that are still open.

Looking at every object of the process takes tens of milliseconds, a third of the time of all the tests together. The
system's list of descriptors takes a few microseconds and sees more: a descriptor that no Python socket owns, too. So
objects are looked at only where there is no such list, or to say what was found.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
import time
from pathlib import Path

from simplesockets.timing import Deadline

OURS = "simplesockets-"
"""How the names of our threads begin."""
_DESCRIPTORS = Path("/proc/self/fd")
_WATCHED = ("socket:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")


def left_threads(patience: float) -> list[threading.Thread]:
    """Our threads that go on after they had so many seconds to end."""
    deadline = Deadline(patience, time.monotonic())
    while left := _our_threads():  # one that ends may start another: for what is due later, say
        seconds = deadline.left(time.monotonic())
        if not seconds:
            return left
        left[0].join(seconds)
    return []


def _our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(OURS)]


class OpenSockets:
    """The sockets, epoll objects and eventfds that are open now; :meth:`new` compares.

    Args:
        descriptors: the directory in which the system lists this process's descriptors.
    """

    def __init__(self, descriptors: Path = _DESCRIPTORS) -> None:
        self._descriptors = descriptors
        self._listed = descriptors.is_dir()
        self._before = self._open()

    def new(self) -> list[str]:
        """What was opened since and is open still, as a person reads it."""
        if not self._open() - self._before:
            return []
        gc.collect()  # what only a cycle holds is as good as closed
        return [self._described(*each) for each in sorted(self._open() - self._before)]

    def _open(self) -> set[tuple[int, str]]:
        # Numbers of descriptors are used again, and so are those of objects: each with what it stands for.
        if self._listed:
            return set(self._in_list())
        return {(id(each), f"{type(each).__name__}, descriptor {each.fileno()}") for each in _objects()}

    def _in_list(self) -> list[tuple[int, str]]:
        found = []
        for number in os.listdir(self._descriptors):
            try:
                target = os.readlink(self._descriptors / number)
            except OSError:  # the descriptor of this very list
                continue
            if target.startswith(_WATCHED):
                found.append((int(number), target))
        return found

    def _described(self, number: int, target: str) -> str:
        owners = [repr(each) for each in _objects() if each.fileno() == number] if self._listed else []
        return f"{target}, descriptor {number}: {owners[0]}" if owners else target


def _objects() -> list[socket.socket | select.epoll]:
    kinds = (socket.socket, getattr(select, "epoll", socket.socket))
    return [thing for thing in gc.get_objects() if isinstance(thing, kinds) and thing.fileno() >= 0]
