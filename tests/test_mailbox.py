"""What polling reads: flags that cost nothing, items whose accounts are right, events that do not get lost."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import math
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplesockets import mailbox as mailbox_module
from simplesockets.events import CONNECTED, DISCONNECT, EXCEPTION, RECEIVED, Event, ReceivedBytes
from simplesockets.hotpath import Stepper
from simplesockets.mailbox import (
    BUSY,
    BUSY_COST,
    EVENTS_KEPT,
    ITEM_COST,
    LONGEST_WAIT,
    QUICK,
    SPIN_READS,
    Bell,
    EventQueue,
    Flag,
    Item,
    Mailbox,
    Sleeping,
    is_own_thread,
    mark_own_thread,
)

from .support.waiting import PATIENCE, wait_until

LONG = 120.0
"""Seconds that a False read takes in tests in which something has to end it before: none of them waits that long."""
SOON = 5.0
"""Seconds within which a thread that nothing holds up has certainly ended."""
Work = Callable[[], object]


class Clock:
    """Stands in for ``time`` in the mailbox: its perf_counter stands still unless it is moved."""

    now = 100.0

    def perf_counter(self) -> float:
        """The time that the test set."""
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still: any number of reads is a spin. What this thread polled before is forgotten."""
    vars(mailbox_module._threads).clear()
    standing = Clock()
    monkeypatch.setattr(mailbox_module, "time", standing)
    monkeypatch.setattr(mailbox_module, "_now", standing.perf_counter)
    return standing


@pytest.fixture
def _long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits in a flag and is not woken stays there."""
    monkeypatch.setattr(mailbox_module, "LONGEST_WAIT", LONG)


@pytest.fixture
def _no_spinning_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each False read waits, from the first on."""
    monkeypatch.setattr(mailbox_module, "SPIN_READS", 0)


@pytest.fixture(params=["eagerly", "at every line"])
def effort(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads take turns as often as they can, or offer it to each other at every line of the mailbox's file, which
    is slow. The value says how much work fits in."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != mailbox_module.__file__:
            return None
        time.sleep(0)
        return trace

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    if request.param == "at every line":
        threading.settrace(trace)
    yield 10 if request.param == "eagerly" else 1
    threading.settrace(cast(Any, None))
    sys.setswitchinterval(usual)


def started(*works: Work) -> list[threading.Thread]:
    """A thread for each."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: Iterable[threading.Thread], patience: float = PATIENCE) -> bool:
    """Whether all of them ended."""
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def run_all(*works: Work) -> None:
    """Run them at the same time, to their ends."""
    assert joined(started(*works)), "a thread hangs"


def are_free(*locks: Any) -> bool:
    """Whether another thread can have these locks."""
    got: list[bool] = []

    def try_them() -> None:
        for lock in locks:
            got.append(lock.acquire(blocking=False))
            if got[-1]:
                lock.release()

    run_all(try_them)
    return all(got)


def ends(work: Work) -> bool:
    """Whether it ends without anybody's help."""
    return joined(started(work), SOON)


class Hooked(set[Sleeping]):
    """In the place of a bell's set of waiting threads: does something just before or after a thread hangs itself on."""

    def __init__(self, before: Work = lambda: None, after: Work = lambda: None) -> None:
        self.before, self.after = before, after

    def add(self, gate: Sleeping) -> None:
        """Hang it on."""
        self.before()
        super().add(gate)
        self.after()


@pytest.fixture(autouse=True)
def _sources_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only items count."""
    monkeypatch.setattr(mailbox_module, "SOURCE_COST", 0)  # so that marks are multiples of items


# -------------------------------------------------------------------------------------------- when reads wait


def spin(flag: Flag, times: int = 10 * SPIN_READS) -> None:
    for _ in range(times):
        flag.read()


@pytest.mark.usefixtures("clock", "_long_waits")
def test_a_false_read_waits_after_a_spin_and_not_before() -> None:
    bell = Bell()
    flag = Flag(bell)
    answers: list[bool] = []

    def poll() -> None:
        for _ in range(SPIN_READS + 1):
            answers.append(flag.read())

    threads = started(poll)
    wait_until(lambda: bell.waiting, "the read that waits")
    assert answers == [False] * SPIN_READS
    flag.set()
    assert joined(threads)
    assert answers == [False] * SPIN_READS + [True]


@pytest.mark.usefixtures("clock")
def test_a_false_read_waits_fifty_milliseconds_at_most() -> None:
    assert LONGEST_WAIT == 0.05
    flag = Flag(Bell())
    spin(flag, SPIN_READS)
    took: list[float] = []
    for _ in range(6):
        began = time.monotonic()
        assert flag.read() is False
        took.append(time.monotonic() - began)
    assert 0.03 < min(took) < 0.08  # a busy machine makes some of them longer, but hardly all


@pytest.mark.usefixtures("clock")
def test_a_spin_reads_rarely() -> None:
    assert reads_in_a_while(Flag(Bell()).read) < 1000


def reads_in_a_while(read: Work) -> int:
    """How often a thread that does nothing else reads in 0.3 s; a hundred thousand times if nothing holds it back."""
    count = 0
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        read()
        count += 1
    return count


@pytest.mark.usefixtures("clock")
def test_a_flag_that_stays_true_does_not_keep_a_spin_on_another_awake() -> None:
    # while not client.event.connected: ...        and then
    # while True: if client.event.new_data: ...
    bell = Bell()
    connected, new_data = Flag(bell), Flag(bell)
    spin(connected, 3)
    connected.set()
    assert reads_in_a_while(new_data.read) < 1000


@pytest.mark.usefixtures("clock", "_long_waits")
@pytest.mark.parametrize("others", [0, 1])
def test_a_true_read_never_waits(others: int) -> None:
    flag = Flag(Bell())
    flag.set()

    def poll() -> None:
        for _ in range(others):
            spin(Flag(Bell()), 1)
        spin(flag)

    assert ends(poll)


@pytest.mark.usefixtures("_long_waits")
@pytest.mark.parametrize("pause", [0.001, 0.016, 2 * QUICK])
def test_a_loop_that_looks_now_and_then_never_waits(clock: Clock, pause: float) -> None:
    flags = [Flag(Bell()) for _ in range(5)]

    def frames() -> None:
        for _ in range(20 * SPIN_READS):
            clock.now += pause
            for flag in flags:
                flag.read()

    assert ends(frames)


@pytest.mark.usefixtures("_long_waits")
def test_a_pause_ends_a_spin(clock: Clock) -> None:
    flag = Flag(Bell())

    def spin_and_pause() -> None:
        for _ in range(20):
            spin(flag, SPIN_READS)
            clock.now += 2 * BUSY

    assert ends(spin_and_pause)


@pytest.mark.usefixtures("_long_waits")
def test_who_spins_and_handles_what_came_spins_on(clock: Clock) -> None:
    bell = Bell()
    flag, other = Flag(bell), Flag(bell)
    reads: list[int] = []

    def poll() -> None:
        spin(flag, SPIN_READS)
        other.read()
        for _ in range(5):
            reads.append(0)
            while not flag.read():
                reads[-1] += 1
            flag.clear()
            clock.now += BUSY / 2

    threads = started(poll)
    for number in range(5):
        wait_until(lambda wanted=number + 1: bell.waiting and len(reads) == wanted, "the read that waits")  # type: ignore[misc]
        flag.set()
        wait_until(lambda: not flag._value, "the flag to be handled")
    assert joined(threads)
    assert reads[0] == 0
    assert max(reads) <= 1 + BUSY_COST


@pytest.mark.usefixtures("_long_waits")
@pytest.mark.parametrize("pause", [BUSY / 2, 2 * BUSY])
def test_a_spin_before_the_first_frame_delays_no_loop_for_long(clock: Clock, pause: float) -> None:
    flag = Flag(Bell())
    poller = mailbox_module._Poller()
    for _ in range(SPIN_READS + BUSY_COST):
        poller.reads[flag] = poller.reads.get(flag, 0) + 1
    waits = 0
    for _ in range(20):
        poller.pause(pause)
        poller.reads[flag] = poller.reads.get(flag, 0) + 1
        waits += poller.reads[flag] > SPIN_READS
    assert waits <= 1


@pytest.mark.usefixtures("clock", "_long_waits")
def test_own_threads_never_wait() -> None:
    flag = Flag(Bell())

    def own() -> None:
        mark_own_thread()
        assert is_own_thread()
        spin(flag)

    assert ends(own)
    assert not is_own_thread()


@pytest.mark.usefixtures("clock", "_long_waits")
def test_nobody_waits_once_the_bell_is_closed() -> None:
    bell = Bell()
    flag = Flag(bell)
    bell.close()
    assert ends(lambda: spin(flag))
    assert ends(lambda: bell.wait_for(lambda: None, None))
    assert bell.wait_for(lambda: "found", None) == "found"


@pytest.mark.usefixtures("clock", "_long_waits")
def test_an_opened_bell_lets_threads_wait_again() -> None:
    bell = Bell()
    bell.close()
    bell.open()
    threads = started(lambda: spin(Flag(bell), SPIN_READS + 1))
    wait_until(lambda: bell.waiting)
    bell.ring()
    assert joined(threads)


@pytest.mark.usefixtures("clock", "_long_waits")
def test_a_spin_of_one_thread_does_not_make_another_wait() -> None:
    flag = Flag(Bell())
    for _ in range(4):
        assert ends(lambda: spin(flag, SPIN_READS))


# ---------------------------------------------------------------------------------------------- what ends a wait


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
@pytest.mark.parametrize("end", [Flag.set, lambda flag: flag.assign(1), lambda flag: flag._bell.close()])
def test_what_ends_a_wait(end: Callable[[Flag], object]) -> None:
    bell = Bell()
    flag = Flag(bell)
    threads = started(flag.read)
    wait_until(lambda: bell.waiting)
    end(flag)
    assert joined(threads, SOON)
    assert not bell.waiting


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
def test_an_arrival_wakes_everybody() -> None:
    bell = Bell()
    flag = Flag(bell)
    threads = started(*[flag.read] * 5)
    wait_until(lambda: len(bell.waiting) == 5)
    flag.set()
    assert joined(threads, SOON)


@pytest.mark.usefixtures("clock", "_long_waits")
@pytest.mark.parametrize("arrival", [0, 1, 2])
def test_an_arrival_on_any_object_that_is_polled_ends_the_wait(arrival: int) -> None:
    bells = [Bell(), Bell(), Bell()]
    flags = [Flag(bell) for bell in bells]
    found: list[int] = []

    def poll() -> None:
        for number in itertools.cycle(range(3)):
            if flags[number].read():
                found.append(number)
                return

    threads = started(poll)
    wait_until(lambda: all(bell.waiting for bell in bells))
    flags[arrival].set()
    assert joined(threads, SOON)
    assert found == [arrival]
    assert not any(bell.waiting for bell in bells)


@pytest.mark.usefixtures("clock", "_long_waits")
def test_an_arrival_ends_the_wait_although_another_flag_was_true_before() -> None:
    bells = [Bell(), Bell()]
    first, second = (Flag(bell) for bell in bells)
    seen = 0

    def poll() -> None:
        nonlocal seen
        for flag in itertools.cycle((first, second)):
            if flag.read():
                flag.clear()
                seen += 1
                if seen == 200:
                    return

    threads = started(poll)
    for number in range(200):
        wait_until(lambda number=number: seen == number and (bells[0].waiting or bells[1].waiting))  # type: ignore[misc]
        (first, second)[number % 3 // 2].set()
    assert joined(threads, SOON)


@pytest.mark.usefixtures("clock", "_long_waits")
def test_nobody_waits_while_something_that_is_polled_came_and_was_not_seen() -> None:
    bells = [Bell(), Bell()]
    first, second = (Flag(bell) for bell in bells)

    def poll() -> None:
        for _ in range(SPIN_READS):
            assert not first.read()
            assert not second.read()
        for _ in range(SPIN_READS):
            second.set()
            assert not first.read()  # does not wait: the second was set after this thread last looked at it
            assert second.read()
            second.clear()

    assert ends(poll)


@pytest.mark.usefixtures("clock")
def test_a_flag_that_was_left_up_for_long_is_news_when_it_rises_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Flag(Bell()), Flag(Bell())

    def poll() -> None:
        spin(second, 1)
        second.set()
        monkeypatch.setattr(mailbox_module, "LONGEST_WAIT", 0.001)
        spin(first)  # which learns to leave the second alone
        monkeypatch.setattr(mailbox_module, "LONGEST_WAIT", LONG)
        second.clear()
        second.set()
        first.read()

    assert ends(poll)


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_arrival_in_the_moment_of_hanging_oneself_on_is_not_lost(moment: str) -> None:
    bell = Bell()
    flag = Flag(bell)
    bell.waiting = Hooked(**{moment: flag.set})
    answers: list[bool] = []
    assert ends(lambda: answers.append(flag.read()))
    assert answers == [True]


@pytest.mark.usefixtures("clock", "_long_waits")
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_close_in_the_moment_of_hanging_oneself_on_is_not_lost(moment: str, others: int) -> None:
    bell = Bell()
    flag = Flag(bell)
    bell.waiting = Hooked(**{moment: bell.close})

    def poll() -> None:
        for _ in range(others):
            spin(Flag(bell), 1)
        spin(flag, SPIN_READS + 1)

    assert ends(poll)
    assert bell.closed


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_waited_for_may_come_in_the_moment_of_hanging_oneself_on(moment: str) -> None:
    bell = Bell()
    came: list[str] = []

    def come() -> None:
        if not came:
            came.append("it")
            bell.ring()

    bell.waiting = Hooked(**{moment: come})
    found: list[str | None] = []
    assert ends(lambda: found.append(bell.wait_for(lambda: came[0] if came else None, None)))
    assert found == ["it"]


def test_what_comes_in_the_last_moment_counts() -> None:
    answers = iter([None, None, "it"])  # at first, before sleeping, and when the time is over
    assert Bell().wait_for(lambda: next(answers), 0.01) == "it"


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
@pytest.mark.parametrize("bells", [1, 2])
def test_no_wake_up_is_lost_in_thousands_of_turns(bells: int, effort: int) -> None:
    ping, pong = (Flag(bell) for bell in (Bell(), Bell())) if bells == 2 else map(Flag, [Bell()] * 2)
    turns = 100 * effort**2

    def play(mine: Flag, other: Flag) -> None:
        for _ in range(turns):
            while not mine.read():
                pass
            mine.clear()
            other.set()

    ping.set()
    run_all(lambda: play(ping, pong), lambda: play(pong, ping))
    assert ping.read()


def test_no_event_is_lost_or_taken_twice(effort: int) -> None:
    queue = EventQueue()
    names = [f"event {number}" for number in range(EVENTS_KEPT // 10 * effort)]
    taken: list[str] = []

    def give(part: int) -> None:
        for name in names[part::2]:
            queue.happened(Event(name))

    def take() -> None:
        while (event := queue.take(0)) is not None and event != "no more":
            taken.append(event.name)
        queue.happened(Event("no more"))

    threads = started(take, take, take)
    run_all(lambda: give(0), lambda: give(1))
    queue.happened(Event("no more"))
    assert joined(threads)
    assert sorted(taken) == sorted(names)


def test_one_event_is_taken_by_one_thread(effort: int) -> None:
    queue = EventQueue()
    taken: list[Event | None] = []

    def take(start: threading.Barrier) -> None:
        start.wait(PATIENCE)
        while (event := queue.first_event()) is not None:
            taken.append(event)

    for _ in range(20 * effort):
        taken.clear()
        start = threading.Barrier(4)
        for number in range(20):
            queue.happened(Event(f"{number}"))
        run_all(*[lambda start=start: take(start)] * 4)
        assert sorted(taken, key=str) == sorted(map(str, range(20)))


@contextlib.contextmanager
def eager_collector(call: Callable[[str, dict[str, int]], None]) -> Iterator[None]:
    """The garbage collector runs as often as it can, and calls this."""
    usual = gc.get_threshold()
    gc.callbacks.append(call)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.remove(call)


def test_threads_may_hang_themselves_on_while_the_collector_runs() -> None:
    # A collection can begin at any allocation (up to Python 3.11), and its finalizers let other threads run.
    bell = Bell()
    bell.waiting.update(threading.Lock() for _ in range(10))
    runs: list[str] = []

    def others(phase: str, _: dict[str, int]) -> None:
        if len(runs) < 200:
            runs.append(phase)
            bell.waiting.add(threading.Lock())

    with eager_collector(others):
        for _ in range(20):
            bell.ring()
    assert runs


class FakeLeader:
    """Leads, or does not, and notes what it was asked."""

    def __init__(self, may_lead: bool) -> None:
        self.may_lead = may_lead
        self.timeouts: list[float | None] = []

    def lead(self, timeout: float | None, ready: Callable[[], bool]) -> bool:
        """Say whether it did."""
        assert not ready()
        self.timeouts.append(timeout)
        return self.may_lead

    def step_aside(self) -> None:
        """It never leads."""


class Told:
    """Hangs on a bell. A leader that waits does, too."""

    def __init__(self, woken: Callable[[], object]) -> None:
        self._woken = woken

    def release(self) -> None:
        """Tell."""
        self._woken()


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
def test_who_would_wait_leads_where_there_is_a_lead_to_take() -> None:
    bell = Bell()
    bell.leader = leader = FakeLeader(may_lead=True)
    assert ends(lambda: spin(Flag(bell), 3))
    assert leader.timeouts == [LONG] * 3


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
def test_who_may_not_lead_waits() -> None:
    bell = Bell()
    bell.leader = FakeLeader(may_lead=False)
    flag = Flag(bell)
    threads = started(flag.read)
    wait_until(lambda: bell.waiting)
    flag.set()
    assert joined(threads, SOON)


@pytest.mark.parametrize(
    ("happen", "is_there"),
    [
        (lambda box: box.new_data.set(), lambda box: box.new_data.read()),
        (
            lambda box: put(box, Source()),
            lambda box: box.new_data.read() and is_announced(box) and box.items == [b"data"],
        ),
        (lambda box: box.events.happened(CONNECTED), lambda box: CONNECTED in box.events),
        (lambda box: box.bell.close(), lambda box: box.bell.closed),
    ],
)
def test_the_bell_rings_after_what_it_rings_for(
    happen: Callable[[Mailbox], object], is_there: Callable[[Mailbox], bool]
) -> None:
    box = Mailbox(Bell())
    found: list[bool] = []

    box.bell.waiting.add(Told(lambda: found.append(is_there(box))))
    happen(box)
    assert found == [True]


def test_the_bell_rings_under_no_lock() -> None:
    box = Mailbox(Bell())
    free: list[bool] = []

    box.bell.waiting.add(Told(lambda: free.append(are_free(box._lock, box.events._lock))))
    put(box, Source())
    box.events.happened(CONNECTED)
    box.events.happened_once(EXCEPTION)
    assert free == [True] * 3


# --------------------------------------------------------------------------------------------------- the mailbox


_Stepper: Any = Stepper


class Source(_Stepper):  # type: ignore[misc]
    """Where items come from, as connections."""

    def __init__(self, name: str = "source", served_by: int = 0) -> None:
        self.name = name
        self.served_by = served_by
        self.resumed = 0

    def resume(self) -> None:
        """Count."""
        self.resumed += 1

    def __repr__(self) -> str:
        return self.name


def item(data: bytes = b"data") -> ReceivedBytes:
    return ReceivedBytes(data, 0.0)


def put(box: Mailbox, source: Source, data: bytes = b"data") -> bool:
    return box.put(source, item(data), len(data))


def taken(box: Mailbox) -> list[bytes]:
    """What is fetched, as bytes."""
    return [each.response for each in box.take_all()]


def is_announced(box: Mailbox) -> bool:
    """Whether an event says that there is data."""
    return RECEIVED in box.events


ROOM = 10 * (ITEM_COST + 100)


def small() -> Mailbox:
    """A mailbox for ten items of a hundred bytes from each source, and thirty in all."""
    return Mailbox(Bell(), client_mark=ROOM, total_mark=3 * ROOM)


def fill(box: Mailbox, source: Source, count: int = 10, size: int = 100) -> list[bool]:
    """Put so many items; tells for each whether the source has to pause."""
    return [put(box, source, bytes([number % 256]) * size) for number in range(count)]


def test_items_come_out_oldest_first_and_once() -> None:
    box = Mailbox(Bell())
    for data in (b"a", b"b", b"c"):
        put(box, Source(), data)
    assert taken(box) == [b"a", b"b", b"c"]
    assert taken(box) == []


def test_what_is_fetched_is_a_plain_list_of_its_own() -> None:
    box = Mailbox(Bell())
    put(box, Source())
    fetched = box.take_all()
    put(box, Source())
    assert (type(fetched), len(fetched)) == (list, 1)


def test_the_flag_and_the_event_say_whether_there_is_data() -> None:
    box = Mailbox(Bell())
    assert (box.new_data.read(), is_announced(box)) == (False, False)
    put(box, Source())
    put(box, Source())
    assert (box.new_data.read(), list(box.events)) == (True, [RECEIVED])
    box.take_all()
    assert (box.new_data.read(), is_announced(box)) == (False, False)


def test_garbage_that_is_collected_while_items_are_taken_may_take_some_itself() -> None:
    box, source = Mailbox(Bell()), Source()
    by_garbage: list[Any] = []
    kept: list[Any] = [[None] for _ in range(300)]  # no list is left that was used before
    taken_here = stored = 0

    class Garbage:
        def __del__(self) -> None:
            by_garbage.extend(box.take_present())

    threshold = gc.get_threshold()
    gc.disable()
    try:
        for i in range(300):
            for _ in range(5):
                put(box, source)
                stored += 1
            garbage: Any = Garbage()
            garbage.itself = garbage
            del garbage
            gc.set_threshold(gc.get_count()[0] + i % 4, 1000, 1000)
            gc.enable()
            items = box.take_present()
            gc.disable()
            taken_here += len(items)
            kept.append(items)
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    gc.collect()
    assert taken_here + len(by_garbage) == stored


def test_what_who_waits_reads_itself_goes_straight_to_its_place() -> None:
    box, mine, other = Mailbox(Bell()), Source("mine", served_by=1), Source("other", served_by=2)
    place: deque[Any] = deque()
    box.straight = 1, place
    assert not put(box, mine, b"first")
    assert (box.new_data.read(), is_announced(box), box.depth()) == (False, False, (0, 0))
    put(box, other, b"of another thread")
    put(box, mine, b"after it")
    assert ([each.response for each in place], taken(box)) == ([b"first"], [b"of another thread", b"after it"])
    put(box, mine, b"last")
    assert [each.response for each in place] == [b"first", b"last"]
    box.straight = None
    put(box, mine, b"nobody waits")
    assert (taken(box), len(place)) == ([b"nobody waits"], 2)


def test_what_went_straight_counts_as_stored() -> None:
    box, mine, other = Mailbox(Bell()), Source("mine", served_by=1), Source("other", served_by=2)
    place: deque[object] = deque([object()])
    box.straight = 1, place
    put(box, mine, b"data")
    place.append(object())
    assert box.ends_with(mine, b"data")
    assert not box.ends_with(mine, b"other data")
    assert not box.ends_with(other, b"data")
    put(box, other, b"from another thread")
    assert box.ends_with(mine, b"data")
    put(box, mine, b"later")
    assert not box.ends_with(mine, b"data")


@pytest.mark.parametrize(
    "take",
    [
        lambda box, source: box.take_first(source),
        lambda box, source: box.items.pop(),
        lambda box, source: box.items.remove(box.items[0]),
        lambda box, source: box.items.__delitem__(0),
        lambda box, source: box.items.__delitem__(slice(0, 1)),
        lambda box, source: box.replace(box.items[1:]),
    ],
)
def test_the_flag_and_the_event_go_with_the_last_item(take: Callable[[Mailbox, Source], object]) -> None:
    box, source = Mailbox(Bell()), Source()
    put(box, source)
    put(box, source)
    take(box, source)
    assert (box.new_data.read(), is_announced(box)) == (True, True)
    take(box, source)
    assert (box.new_data.read(), is_announced(box)) == (False, False)


def test_the_event_of_data_bears_the_time_at_which_it_came() -> None:
    box = Mailbox(Bell())
    item = ReceivedBytes(b"data", 1_000_000.5)
    box.put(Source(), item, 4)
    event = box.events.first_event()
    assert event is not None
    assert event.time_ == item.time_


def test_data_that_comes_after_its_event_was_taken_is_fetched_with_the_rest() -> None:
    box = Mailbox(Bell())
    put(box, Source(), b"a")
    assert box.events.take(1) == RECEIVED
    put(box, Source(), b"b")
    assert taken(box) == [b"a", b"b"]
    put(box, Source(), b"c")
    assert box.events.take(1) == RECEIVED


def test_data_is_announced_again_after_a_program_lowered_the_flag_itself() -> None:
    box = Mailbox(Bell())
    put(box, Source())
    box.new_data.assign(False)
    assert not box.new_data.read()
    put(box, Source())
    assert box.new_data.read()
    assert list(box.events) == [RECEIVED]
    assert len(box.take_all()) == 2


@pytest.mark.usefixtures("clock", "_long_waits")
@pytest.mark.parametrize("look", [Mailbox.take_all, lambda box: box.items])
def test_fetching_nothing_in_a_loop_waits_as_the_flag_does_and_ends_when_data_comes(
    look: Callable[[Mailbox], list[Item]],
) -> None:
    box = Mailbox(Bell())
    found: list[Item] = []

    def poll() -> None:
        while not found:
            found.extend(look(box))

    threads = started(poll)
    wait_until(lambda: box.bell.waiting)
    put(box, Source())
    assert joined(threads, SOON)
    assert found == [b"data"]


@pytest.mark.usefixtures("clock", "_long_waits", "_no_spinning_first")
def test_flag_and_event_agree_when_everybody_puts_and_takes_at_once(effort: int) -> None:
    box = Mailbox(Bell())
    count = 150 * effort
    got: list[bytes] = []
    done = threading.Event()

    def give(source: Source) -> None:
        for number in range(count):
            put(box, source, b"%s %d" % (source.name.encode(), number))

    def poll() -> None:
        while len(got) < 2 * count:
            if box.new_data.read():
                got.extend(taken(box))

    def look() -> None:
        while not done.is_set():
            len(box.events)
            box.events.first_event(pop=False)

    poller, looker = started(poll, look)
    run_all(lambda: give(Source("a")), lambda: give(Source("b")))
    assert joined([poller])
    done.set()
    assert joined([looker])
    for name in (b"a", b"b"):
        assert [data for data in got if data.startswith(name)] == [b"%s %d" % (name, n) for n in range(count)]
    assert (box.new_data._value, is_announced(box)) == (False, False)


def test_whoever_awaits_events_gets_all_data(effort: int) -> None:
    box = Mailbox(Bell())
    count = 300 * effort
    got: list[bytes] = []

    def give() -> None:
        for number in range(count):
            put(box, Source(), b"%d" % number)

    def await_events() -> None:
        while len(got) < count:
            if box.events.take(0) == RECEIVED:
                got.extend(taken(box))

    run_all(give, await_events)
    assert got == [b"%d" % number for number in range(count)]


def test_the_event_does_not_outlive_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another thread fetches the data while this one looks at the events and the event is being made.
    box = Mailbox(Bell())
    put(box, Source())
    threads: list[threading.Thread] = []

    class Interrupted(Event):
        def __new__(cls, *args: Any) -> Interrupted:
            if not threads:
                threads.extend(started(box.take_all))
                joined(threads, 0.2)  # it may have to wait for us
            return cast(Interrupted, super().__new__(cls, *args))

    monkeypatch.setattr(mailbox_module, "Event", Interrupted)
    len(box.events)
    assert joined(threads)
    assert (box.new_data._value, is_announced(box)) == (False, False)


# --------------------------------------------------------------------------------------------------------- marks


def test_a_source_counts_in_the_total_as_long_as_items_of_it_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_module, "SOURCE_COST", 5000)
    box, one, other = Mailbox(Bell()), Source(), Source()
    fill(box, one, 2)
    fill(box, other, 1)
    assert box.total == sum(box._held.values()) + 2 * 5000
    box.take_first(one)
    assert box.total == sum(box._held.values()) + 2 * 5000
    box.take_first(one)
    assert box.total == sum(box._held.values()) + 5000
    box.take_all()
    assert box.total == 0


def test_a_source_pauses_at_its_mark_and_others_do_not() -> None:
    box, full, other = small(), Source(), Source()
    assert fill(box, full) == [False] * 9 + [True]
    assert (box.is_paused(full), box.has_room(full)) == (True, False)
    assert put(box, other) is False
    assert (box.is_paused(other), box.has_room(other)) == (False, True)


def test_all_sources_pause_at_the_mark_of_the_total() -> None:
    box = small()
    sources = [Source(f"source {number}") for number in range(4)]
    assert [fill(box, source, count)[-1] for source, count in zip(sources, (9, 9, 9, 2), strict=True)] == [False] * 4
    assert put(box, sources[3], bytes(100)) is True
    assert put(box, sources[0]) is True
    assert [box.is_paused(source) for source in sources] == [True, False, False, True]
    assert not any(box.has_room(source) for source in sources)


def test_many_tiny_items_count_as_what_they_take() -> None:
    box, source = small(), Source()
    until_full = fill(box, source, 1 + ROOM // (1 + ITEM_COST), size=1)
    assert until_full[-1] is True
    assert not any(until_full[:-1])


def test_an_item_that_is_larger_than_the_mark_is_stored_and_then_pauses() -> None:
    box, source = small(), Source()
    assert put(box, source, b"x" * 10 * ROOM) is True
    assert taken(box) == [b"x" * 10 * ROOM]
    assert source.resumed == 1


def test_fetching_all_resumes_everybody_who_paused_and_nobody_else() -> None:
    box, full, other = small(), Source(), Source()
    fill(box, full)
    put(box, other)
    box.take_all()
    assert (full.resumed, other.resumed) == (1, 0)
    assert (box.is_paused(full), box.has_room(full)) == (False, True)
    box.take_all()
    assert full.resumed == 1


def test_a_paused_source_resumes_as_soon_as_it_is_below_its_mark() -> None:
    box, full, other = small(), Source(), Source()
    put(box, other)
    fill(box, full)
    box.take_first(other)
    assert (full.resumed, box.is_paused(full)) == (0, True)
    box.take_first(full)
    assert (full.resumed, box.is_paused(full)) == (1, False)


def test_a_paused_source_resumes_when_a_part_of_its_item_was_enough() -> None:
    box, source = small(), Source()
    assert put(box, source, bytes(2 * ROOM)) is True
    box.take_first(source, ROOM)
    assert (source.resumed, box.is_paused(source)) == (0, True)
    box.take_first(source, ITEM_COST + 1)
    assert (source.resumed, box.is_paused(source)) == (1, False)


def test_a_source_that_the_total_paused_resumes_when_others_are_fetched() -> None:
    box = Mailbox(Bell(), client_mark=ROOM, total_mark=ROOM)
    first, second = Source(), Source()
    fill(box, first, 9)
    assert put(box, second, bytes(100)) is True
    box.take_first(first)
    assert second.resumed == 1


def test_everybody_can_be_resumed_however_much_is_there() -> None:
    box, full, other = small(), Source(), Source()
    fill(box, full)
    put(box, other)
    box.resume_all()
    assert (full.resumed, other.resumed, box.is_paused(full), box.has_room(full)) == (1, 0, False, False)
    assert put(box, full) is True


def test_a_source_that_ended_is_not_resumed_and_its_items_stay() -> None:
    box, source = small(), Source()
    fill(box, source)
    box.forget(source)
    assert not box.is_paused(source)
    assert len(box.take_all()) == 10
    assert source.resumed == 0


@pytest.mark.parametrize(
    "take",
    [
        lambda box, source: box.take_all(),
        lambda box, source: box.take_first(source),
        lambda box, source: box.items.pop(0),
        lambda box, source: box.items.clear(),
        lambda box, source: box.items.remove(box.items[0]),
        lambda box, source: box.items.__delitem__(0),
        lambda box, source: box.items.__delitem__(slice(None)),
        lambda box, source: box.replace([]),
    ],
    ids=["all", "first", "pop", "clear", "remove", "del", "del slice", "assignment"],
)
def test_sources_are_resumed_under_no_lock(take: Callable[[Mailbox, Source], object]) -> None:
    box = small()
    free: list[bool] = []

    class Nosy(Source):
        def resume(self) -> None:
            free.append(are_free(box._lock, box.events._lock))

    source = Nosy()
    fill(box, source)
    take(box, source)
    assert free == [True]


def test_copies_of_what_callbacks_get_have_as_much_room_together_as_one_source() -> None:
    box = small()
    fill(box, Source(), 9)
    assert box.total < box.client_mark
    fill(box, Source(), 1)
    assert box.total >= box.client_mark


# ----------------------------------------------------------------------------------------------------- one by one


def test_the_oldest_item_of_a_source_comes_first() -> None:
    box, first, second = Mailbox(Bell()), Source(), Source()
    for source, data in ((first, b"a"), (second, b"b"), (first, b"c"), (second, b"d")):
        put(box, source, data)
    assert [box.take_first(second), box.take_first(first), box.take_first(second)] == [b"b", b"a", b"d"]
    assert box.take_first(second) is None
    assert taken(box) == [b"c"]
    assert box.take_first(Source()) is None


def test_an_item_can_be_taken_in_parts() -> None:
    box, source = Mailbox(Bell()), Source()
    put(box, source, b"abcde")
    put(box, source, b"f")
    assert [box.take_first(source, 2), box.take_first(source, 0)] == [b"ab", b""]
    assert box.items == [b"cde", b"f"]
    assert [box.take_first(source, 3), box.take_first(source, 3)] == [b"cde", b"f"]
    assert (box.take_first(source, 3), box.new_data._value) == (None, False)


def live(*data: bytes) -> tuple[Mailbox, Any]:
    """A mailbox with these items, and the list that programs see."""
    box = Mailbox(Bell())
    for each in data:
        put(box, Source(), each)
    return box, box.items


def test_the_live_list_reads_as_a_list() -> None:
    box, items = live(b"a", b"b", b"c")
    assert isinstance(items, list)
    assert items == [b"a", b"b", b"c"]
    assert (len(items), items[0], items[-1], items[1:], b"b" in items) == (3, b"a", b"c", [b"b", b"c"], True)
    put(box, Source(), b"d")
    assert list(items) == [b"a", b"b", b"c", b"d"]


def test_items_can_be_taken_out_of_the_live_list() -> None:
    box, items = live(*(b"%d" % number for number in range(9)))
    assert items.pop() == b"8"
    assert items.pop(0) == b"0"
    items.remove(b"4")
    del items[0]
    del items[-1]
    del items[1:3]
    assert taken(box) == [b"2", b"6"]


def test_taking_what_is_not_there_is_the_error_of_a_list() -> None:
    box, items = live(b"a")
    with pytest.raises(ValueError, match="not in list"):
        items.remove(b"b")
    with pytest.raises(IndexError):
        items.pop(1)
    with pytest.raises(IndexError):
        del items[1]
    del items[5:]
    items.clear()
    with pytest.raises(IndexError):
        items.pop()
    assert taken(box) == []


@pytest.mark.parametrize("step", [slice(None), slice(None, None, -1), slice(0, 9, 3), slice(7, 2, -2), slice(-3, None)])
def test_slices_can_be_deleted(step: slice) -> None:
    data = [b"%d" % number for number in range(9)]
    box, items = live(*data)
    del items[step]
    del data[step]
    assert taken(box) == data


def test_an_assignment_keeps_what_is_assigned_and_still_there() -> None:
    box, items = live(b"a", b"b", b"c")
    box.replace(each for each in items if each != b"b")
    assert taken(box) == [b"a", b"c"]
    box.replace([item(b"never came")])
    assert taken(box) == []


def test_a_copy_of_the_live_list_is_a_plain_list() -> None:
    box, items = live(b"a", b"b")
    for twin in (items.copy(), list(items), items[:], copy.copy(items), copy.deepcopy(items)):
        assert twin == [b"a", b"b"]
        assert type(twin) is list
        twin.clear()
    assert taken(box) == [b"a", b"b"]


def test_the_live_list_can_be_pickled() -> None:
    _, items = live(b"a", b"b")
    again = pickle.loads(pickle.dumps(items))
    assert (type(again), again) == (list, [b"a", b"b"])


def test_an_item_that_is_put_back_comes_out_again() -> None:
    box, items = live(b"a", b"b")
    items.insert(0, items.pop(0))
    items.append(items.pop(0))
    assert [items.pop(0), items.pop(0)] == [b"b", b"a"]
    assert taken(box) == []


OPERATIONS = ["put", "pop", "remove", "del", "slice", "clear", "assign", "first", "part", "all", "end"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from([0, 700]),
    st.lists(st.tuples(st.sampled_from([*OPERATIONS, *["put"] * 12]), st.integers(0, 2), st.integers(0, 1500))),
)
def test_the_accounts_are_right_whatever_is_taken_out_and_how(cost: int, steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox_module, "SOURCE_COST", cost)
        check_accounts(cost, steps)


def check_accounts(source_cost: int, steps: list[tuple[str, int, int]]) -> None:
    """Do these steps with a mailbox and with a model of one, and compare them after each."""
    box = Mailbox(Bell(), client_mark=3000, total_mark=6000)
    sources = [Source(f"source {number}") for number in range(3)]
    model: list[tuple[Source, bytes]] = []
    paused: set[Source] = set()

    def room(source: Source) -> bool:
        held = {each: sum(len(data) + ITEM_COST for owner, data in model if owner is each) for each in sources}
        return held[source] < 3000 and sum(size + source_cost for size in held.values() if size) < 6000

    for step, (operation, which, number) in enumerate(steps):
        source, items, at = sources[which], box.items, number % len(model) if model else 0
        before = [each.resumed for each in sources]
        if operation == "put":
            data = b"%d " % step + bytes(number)
            model.append((source, data))
            assert put(box, source, data) is not room(source)
            if not room(source):
                paused.add(source)
        elif operation == "end":
            box.forget(source)
            paused.discard(source)
        elif operation == "first" or operation == "part":
            first = next((place for place, (owner, _) in enumerate(model) if owner is source), None)
            size = number if operation == "part" else None
            data = b"" if first is None else model[first][1]
            assert box.take_first(source, size) == (None if first is None else data[:size])
            if first is not None:
                model[first : first + 1] = [(source, data[size:])] if size is not None and size < len(data) else []
        elif operation == "all" or operation == "clear":
            box.take_all() if operation == "all" else items.clear()
            model.clear()
        elif operation == "slice":
            del items[at : at + which]
            del model[at : at + which]
        elif operation == "assign":
            box.replace(items[at : at + which])
            model[:] = model[at : at + which]
        elif model:
            if operation == "remove":
                items.remove(items[at])
            elif operation == "del":
                del items[at]
            else:
                assert items.pop(at) == model[at][1]
            del model[at]
        resumed = {each for each in paused if operation != "put" and room(each)}
        paused -= resumed
        assert [each.resumed - count for each, count in zip(sources, before, strict=True)] == [
            int(each in resumed) for each in sources
        ]
        assert list(box._items) == [data for _, data in model]
        assert [box.has_room(each) for each in sources] == [room(each) for each in sources]
        assert [box.is_paused(each) for each in sources] == [each in paused for each in sources]
        assert box.new_data._value is is_announced(box) is bool(model)


def test_a_source_that_waits_until_it_is_resumed_gets_everything_across(effort: int) -> None:
    box = Mailbox(Bell(), client_mark=5 * ITEM_COST, total_mark=9 * ITEM_COST)
    count = 60 * effort
    got: list[bytes] = []

    class Reader(Source):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.room = threading.Event()

        def resume(self) -> None:
            self.room.set()

        def read(self) -> None:
            for number in range(count):
                self.room.clear()
                if put(box, self, b"%s %d" % (self.name.encode(), number)):
                    while box.is_paused(self):
                        assert self.room.wait(PATIENCE), "never resumed"
                        self.room.clear()

    def fetch_all() -> None:
        while len(got) < 3 * count:
            got.extend(taken(box))

    def fetch_one() -> None:
        while len(got) < 3 * count:
            try:
                got.append(box.items.pop(0).response)
            except IndexError:
                pass

    run_all(*(Reader(name).read for name in "abc"), fetch_all, fetch_one)
    assert sorted(got) == sorted(b"%s %d" % (name, number) for name in (b"a", b"b", b"c") for number in range(count))
    assert (box.total, box._held) == (0, {})


def test_who_takes_one_source_s_items_gets_no_other_s_whatever_is_taken_meanwhile(effort: int) -> None:
    box = Mailbox(Bell())
    sources = [Source(name) for name in "abc"]
    count = 40 * effort
    for number in range(count):
        for source in sources:
            put(box, source, b"%s %05d" % (source.name.encode(), number))
    got: dict[str, list[bytes]] = {source.name: [] for source in sources}

    def take(source: Source) -> None:
        while (data := box.take_first(source)) is not None:
            got[source.name].append(bytes(data))

    run_all(*(lambda source=source: take(source) for source in sources))
    for name, data in got.items():
        assert data == [b"%s %05d" % (name.encode(), number) for number in range(count)]
    assert (box.total, box._held, box.new_data._value) == (0, {}, False)


@pytest.mark.parametrize(
    "take",
    [
        lambda items: [items.pop()],
        lambda items: [items.pop(0)],
        lambda items: [items.pop(len(items) // 2)],
    ],
    ids=["last", "first", "middle"],
)
def test_several_threads_may_take_from_the_live_list(take: Callable[[Any], list[Item]], effort: int) -> None:
    box = Mailbox(Bell())
    sent = [b"%d" % number for number in range(60 * effort)]
    for data in sent:
        put(box, Source(), data)
    items = box.items
    got: list[Item] = []

    def work() -> None:
        while items:
            try:
                got.extend(take(items))
            except IndexError:  # somebody else was faster
                pass

    run_all(work, work, work)
    assert sorted(each.response for each in got) == sorted(sent)
    assert (box.total, box._held, box.new_data._value) == (0, {}, False)


def test_removing_takes_what_is_named_whatever_others_remove(effort: int) -> None:
    box, items = live(*(b"%d" % number for number in range(40 * effort)))

    def remove(part: int) -> None:
        for number in range(part, 40 * effort, 4):
            items.remove(b"%d" % number)

    run_all(lambda: remove(0), lambda: remove(1), lambda: remove(3))
    assert taken(box) == [b"%d" % number for number in range(2, 40 * effort, 4)]
    assert (box.total, box._held) == (0, {})


def test_an_assignment_keeps_what_is_assigned_whatever_others_take(effort: int) -> None:
    box, first, second = Mailbox(Bell()), Source(), Source()
    kept: list[Item] = []
    for number in range(30 * effort):
        put(box, first, b"first %d" % number)
        if number % 10 == 5:
            kept.append(item(b"kept %d" % number))
            box.put(second, kept[-1], 10)
    done = threading.Event()

    def assign() -> None:
        while not done.is_set():
            box.replace(kept)
            put(box, first, b"more")

    def take() -> None:
        for _ in range(60 * effort):
            box.take_first(first)
        done.set()

    run_all(assign, take)
    assert [each for each in box.items if bytes(each.response).startswith(b"kept")] == kept


def test_deleting_while_others_take_loses_nothing_and_keeps_the_accounts(effort: int) -> None:
    box = Mailbox(Bell())
    source = Source()
    count = 60 * effort
    for number in range(count):
        put(box, source, b"%d" % number)
    items: Any = box.items
    got: list[bytes] = []
    done = threading.Event()

    def delete() -> None:
        while items:
            try:
                del items[-2:]
            except IndexError:
                pass
        done.set()

    def take() -> None:
        while (data := box.take_first(source)) is not None:
            got.append(bytes(data))

    run_all(delete, take)
    assert done.is_set()
    assert got == [b"%d" % number for number in range(len(got))]  # in order, and what was not deleted before
    assert (box.total, box._held, box.new_data._value) == (0, {}, False)


# -------------------------------------------------------------------------------------------------------- events


def test_events_come_out_oldest_first() -> None:
    queue = EventQueue()
    assert (queue.first_event(), len(queue), bool(queue), list(queue)) == (None, 0, False, [])
    queue.happened(CONNECTED)
    queue.happened(DISCONNECT)
    assert (len(queue), bool(queue), list(queue), CONNECTED in queue) == (2, True, [CONNECTED, DISCONNECT], True)
    assert queue.first_event(pop=False) == CONNECTED
    assert [queue.first_event(), queue.first_event(), queue.first_event()] == [CONNECTED, DISCONNECT, None]


def test_events_can_be_forgotten() -> None:
    queue = EventQueue()
    for name in "abcabc":
        queue.happened(Event(name))
    queue.clear_name("b")
    queue.remove(Event("a"))
    assert queue.pop(1) == "a"
    assert queue.events == ["c", "c"]
    queue.clear()
    assert queue.events == []


def test_the_list_of_events_is_a_copy() -> None:
    queue = EventQueue()
    queue.happened(CONNECTED)
    queue.events.clear()
    assert queue.events == [CONNECTED]


def test_only_events_happen() -> None:
    with pytest.raises(TypeError, match="str"):
        EventQueue().happened(cast(Any, "--RECEIVED--"))


def test_pending_events_are_bounded_and_the_newest_stay() -> None:
    queue = EventQueue()
    for number in range(3 * EVENTS_KEPT):
        queue.happened(Event(f"{number}"))
    assert len(queue) == EVENTS_KEPT == 1000
    assert (queue.events[0], queue.events[-1]) == ("2000", "2999")


def test_data_and_exceptions_are_never_dropped() -> None:
    box = Mailbox(Bell())
    put(box, Source())
    box.events.happened(EXCEPTION.copy())
    for _ in range(2 * EVENTS_KEPT):
        box.events.happened(CONNECTED.copy())
    assert box.events.events[:2] == [RECEIVED, EXCEPTION]
    assert len(box.events) <= EVENTS_KEPT + 2


def test_taking_waits_until_something_happens() -> None:
    queue = EventQueue()
    got: list[Event | None] = []
    threads = started(lambda: got.append(queue.take(0)))
    wait_until(lambda: queue._bell.waiting)
    queue.happened(CONNECTED)
    assert joined(threads, SOON)
    assert got == [CONNECTED]


def test_taking_gives_nothing_when_the_time_is_over() -> None:
    began = time.monotonic()
    assert EventQueue().take(30) is None
    assert time.monotonic() - began >= 0.03


def test_taking_gives_what_is_pending_even_without_any_time() -> None:
    queue = EventQueue()
    queue.happened(CONNECTED)
    assert queue.take(1e-9) == CONNECTED


def test_taking_gives_nothing_when_the_bell_is_closed() -> None:
    bell = Bell()
    queue = EventQueue(bell)
    got: list[Event | None] = []
    threads = started(lambda: got.append(queue.take(0)))
    wait_until(lambda: bell.waiting)
    bell.close()
    assert joined(threads, SOON)
    assert got == [None]


def test_a_ring_for_something_else_does_not_end_the_taking() -> None:
    queue = EventQueue()
    got: list[Event | None] = []
    threads = started(lambda: got.append(queue.take(0)))
    for _ in range(100):
        wait_until(lambda: queue._bell.waiting)
        queue._bell.ring()
    assert got == []
    queue.happened(CONNECTED)
    assert joined(threads, SOON)


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (-0.5, ValueError), ("5", TypeError), (None, TypeError)]
)
def test_a_timeout_is_a_number_of_milliseconds_from_zero_on(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(timeout)):
        EventQueue().take(timeout)


@pytest.mark.parametrize("timeout", [math.inf, sys.maxsize])
def test_a_timeout_may_be_as_long_as_one_likes(timeout: float) -> None:
    queue = EventQueue()
    failures: list[BaseException] = []

    def take() -> None:
        try:
            queue.take(timeout)
        except BaseException as failure:
            failures.append(failure)

    threads = started(take)
    wait_until(lambda: queue._bell.waiting or failures)
    queue.happened(CONNECTED)
    assert joined(threads, SOON)
    assert not failures


def test_awaiting_leaves_the_event_there() -> None:
    queue = EventQueue()
    assert queue.await_event(1) is False
    queue.happened(CONNECTED)
    assert queue.await_event(1) is True
    assert queue.await_event() is True
    assert queue.events == [CONNECTED]


@pytest.mark.usefixtures("clock")
def test_a_single_look_after_something_came_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a program that sends, polls for the answer, and looks once more before it sends the next.
    waits = []

    def comes(flag: Flag, thread: object) -> None:
        waits.append(flag)
        flag.set()

    monkeypatch.setattr(Flag, "_wait", comes)
    flag = Flag(Bell())
    for number in range(10):
        while not flag.read():
            pass
        flag.clear()
        assert not flag.read()
        assert len(waits) == number + 1
