"""Interleavings and hostile input of the HiSock layer, forced."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import queue
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from simplesockets import outbox as outbox_module
from simplesockets.errors import BusyError
from simplesockets.hisock import ClientInfo, HiSockClient, HiSockServer, ThreadedHiSockClient, ThreadedHiSockServer
from simplesockets.hisock import loop as loop_module
from simplesockets.hisock.loop import KEPT_MESSAGES, KeptMessages, Unclaimed
from simplesockets.hisock.server import _identifier
from simplesockets.locking import is_mine
from simplesockets.outbox import Courier, Outbox
from simplesockets.transport import Stream, Waker

from ..support.running import HOST
from ..support.waiting import PATIENCE, Gate, is_held, wait_until
from .running import RawClient, client, framed, looping, pass_until, server, wait_names

pytestmark = pytest.mark.usefixtures("either_engine")


class Interrupted(BaseException):
    """As Ctrl-C is: raised by a signal handler."""


# ---------------------------------------------------------------------------------------- what a client may send


def test_a_lookup_of_hostile_text_is_answered_at_once() -> None:
    # Python 3.10 crashes on long sums in parentheses; later versions take a minute for a long tuple.
    text = "(" + "[1]," * 1000 + ")"
    assert _identifier(text) is text
    assert _identifier("('127.0.0.1', 5000)") == ("127.0.0.1", 5000)


def test_an_answer_that_is_over_the_limit_ends_nobody() -> None:
    with server(max_message=1000) as serving, RawClient(serving.get_addr(), "ann") as raw:
        question = b"$GETCLT$1.2.3.4:"
        raw.send_body(question + b"9" * (1000 - len(question)))
        answer = raw.read_until(lambda body: body.startswith(b"$CMD$$MSG$"))
        assert "traceback" in json.loads(answer[len(b"$CMD$$MSG$") :])
        assert not serving.closed


def test_a_name_too_long_for_a_notice_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with server(header_len=2) as serving:
        hello = b'$CLTHELLO${"name":"%b"}' % (b"n" * 70)
        with RawClient(serving.get_addr(), hello=False, header_len=2) as raw:
            raw.send_body(hello)
            wait_names(serving, "n" * 70)
            wait_until(lambda: "was not sent" in caplog.text)
        wait_names(serving)
        assert not serving.closed


def test_an_answer_of_deep_json_does_not_end_the_client() -> None:
    with server() as serving, HiSockClient(serving.get_addr(), "ann") as ours:
        wait_names(serving, "ann")
        deep = b"[" * 200_000
        serving.send_client_raw("ann", deep)
        assert ours.get_client("ann", timeout=PATIENCE).name == "ann"
        assert ours.recv_raw(timeout=PATIENCE) == deep


def test_commands_of_several_words_carry_any_bytes_in_0() -> None:
    with server() as serving, RawClient(serving.get_addr(), dialect="0.x") as raw:
        got: queue.Queue[object] = queue.Queue()
        serving.on("my command")(lambda info, message: got.put(message))
        raw.send_body(b"my command \xff\xfe")
        assert got.get(timeout=PATIENCE) == b"\xff\xfe"


# ------------------------------------------------------------------------------------------- programs' own changes


def _spoil(info: ClientInfo) -> None:
    info["name"] = "somebody else"


def _remember(info: ClientInfo) -> None:
    info["state"] = object()


@pytest.mark.parametrize("change", [_spoil, _remember])
def test_what_a_program_writes_into_a_client_info_ends_nothing(change: Any) -> None:
    with server() as serving, RawClient(serving.get_addr(), "witness") as witness:
        wait_names(serving, "witness")
        serving.on("join")(change)
        with RawClient(serving.get_addr(), "ann") as raw:
            raw.read_notice(b"$CLTCONN$")
            witness.read_until(lambda body: body.startswith(b"$CLTCONN$") and b'"ann"' in body)
        assert witness.read_notice(b"$CLTDISCONN$")["name"] == "ann"
        assert not serving.closed


# ------------------------------------------------------------------------------------------------- large messages


def test_a_message_larger_than_what_may_wait_reaches_who_reads() -> None:
    content = bytes(8 << 20)
    with server(max_pending=1000) as serving, RawClient(serving.get_addr(), "ann") as raw:
        wait_names(serving, "ann")
        serving.send_client("ann", "big", content)
        serving.send_client("ann", "small", b"x")
        assert raw.read_command("big") == content
        assert raw.read_command("small") == b"x"


# ------------------------------------------------------------------------------------------- joining and leaving


def _notices(raw: RawClient) -> list[tuple[bytes, str]]:
    """The notices up to the command ``end``."""
    found = []
    while not (body := raw.read_body()).startswith((b"$CMD$end", b"end")):
        word, _, rest = body[1:].partition(b"$")
        found.append((word, json.loads(rest)["name"]))
    return found


def test_a_client_disconnected_in_its_join_handler_leaves_nothing_behind_in_0() -> None:
    with server() as serving, RawClient(serving.get_addr(), "old", dialect="0.x") as old:
        wait_names(serving, "old")
        serving.on("join")(lambda info: serving.disconnect_client(info) if info.name == "banned" else None)
        with RawClient(serving.get_addr(), "banned") as banned:
            banned.read_until(lambda body: body == b"$DISCONN$")
            assert banned.at_end()
        serving.send_client("old", "end")
        notices = _notices(old)
        assert notices.count((b"CLTCONN", "banned")) == notices.count((b"CLTDISCONN", "banned"))
        assert notices[-1:] != [(b"CLTCONN", "banned")]


def test_a_client_disconnected_before_it_was_announced_is_not_announced_afterwards() -> None:
    joined: list[str | None] = []
    with server() as serving, RawClient(serving.get_addr(), "new") as new:
        wait_names(serving, "new")
        new.read_notice(b"$CLTCONN$")
        serving.on("join")(lambda info: joined.append(info.name))

        @serving.on("wait")
        def on_wait(info: ClientInfo) -> None:
            serving.send_client(info, "waiting")
            serving.recv("go on", timeout=PATIENCE)  # meanwhile the other one's hello is routed
            serving.disconnect_client("late")

        new.send_command("wait")
        new.read_command("waiting")
        with RawClient(serving.get_addr(), "late"):
            wait_names(serving, "late", "new")
            new.send_command("go on")
            serving.on("finish")(lambda info: serving.send_client(info, "end"))
            new.send_command("finish")
            assert _notices(new) == []
            assert "late" not in joined


# -------------------------------------------------------------------------------------------------- recv, look-ups


def _processor_time_while_two_wait(serving: HiSockServer) -> float:
    def wait() -> None:
        with pytest.raises(TimeoutError):
            serving.recv("never", timeout=0.5)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    began = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return time.process_time() - began


def test_two_who_wait_where_no_loop_runs_cost_nothing() -> None:
    with server(loop=False) as serving:
        assert _processor_time_while_two_wait(serving) < 0.25


def test_a_handler_that_waits_while_calls_are_due_costs_nothing() -> None:
    spent: queue.Queue[float] = queue.Queue()
    with server() as serving, RawClient(serving.get_addr()) as raw:

        @serving.on("wait")
        def on_wait() -> None:
            began = time.process_time()
            with pytest.raises(TimeoutError):
                serving.recv("never", timeout=0.5)
            spent.put(time.process_time() - began)

        serving.on("known")(lambda info, message: None)
        raw.send_command("wait")
        raw.send_command("known")
        assert spent.get(timeout=PATIENCE) < 0.25


def test_handlers_that_are_due_are_bounded() -> None:
    part = framed(b"$CMD$known$MSG$" + bytes(1 << 20))
    with server(loop=False) as serving, RawClient(serving.get_addr()) as raw:
        serving.on("known")(lambda info, message: None)

        def wait() -> None:
            with contextlib.suppress(ConnectionError):
                serving.recv("never")

        receiving = threading.Thread(target=wait)
        receiving.start()
        raw.socket.settimeout(0.5)
        flood = memoryview(part * 100)
        with contextlib.suppress(TimeoutError):  # for half a second nothing is taken in
            while flood:
                flood = flood[raw.socket.send(flood) :]
        assert flood, "all of it was taken in"
        serving.close()
        receiving.join(PATIENCE)


def test_handlers_that_ran_are_not_due_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "TOTAL_MARK", 10_000)
    with server(loop=False) as serving, RawClient(serving.get_addr()) as raw:
        ran: list[bytes] = []
        serving.on("known")(lambda info, message: ran.append(message))
        for _ in range(10):
            raw.send_command("known", bytes(1000))
        pass_until(serving.run, lambda: len(ran) == 10)
        raw.send_command("wanted", b"x")
        assert serving.recv("wanted", timeout=PATIENCE) == b"x"


def test_an_answer_that_came_during_the_last_pass_is_not_slept_through() -> None:
    gate = Gate()
    with server() as serving, client(serving, "ann", loop=False) as ours:
        wait_names(serving, "ann")
        ours.on("go")(lambda: gate.arrive())
        serving.send_client("ann", "go")
        passing = threading.Thread(target=pass_until, args=(ours.update, gate._arrived.is_set))
        passing.start()
        gate.wait_arrived()
        found: queue.Queue[ClientInfo] = queue.Queue()
        asking = threading.Thread(target=lambda: found.put(ours.get_client("ann", timeout=PATIENCE)))
        asking.start()
        wait_until(lambda: ours._mailbox.contents)  # the answer
        pause = threading.Event()
        wait_until(lambda: len(ours._bell.waiting) == 1 or pause.wait(0.2))  # who asked looked, and sleeps again
        pause.wait(0.2)
        gate.open()
        passing.join(PATIENCE)
        assert found.get(timeout=PATIENCE / 4).name == "ann"  # nobody makes another pass
        asking.join(PATIENCE)


class _Interrupting(deque[Any]):
    """A signal handler raises when a message was put here. A message that is fetched from the mailbox does not come by
    ``append``."""

    raised = 0

    def append(self, item: Any) -> None:
        super().append(item)
        if not self.raised and isinstance(item, tuple) and b"$CMD$" in item[2]:
            self.raised += 1
            raise Interrupted


def test_what_an_interrupted_loop_just_read_comes_once() -> None:
    with server(loop=False) as serving, RawClient(serving.get_addr()) as raw:
        came: list[int] = []
        serving.on("number")(lambda info, message: came.append(int(message)))
        inbound = serving._inbound = _Interrupting()
        sent: list[int] = []
        while not inbound.raised and len(sent) < 5000:  # until this thread reads it itself
            _send_next(raw, sent)
            with contextlib.suppress(Interrupted):
                pass_until(serving.run, lambda: len(came) == len(sent))
        assert inbound.raised
        _send_next(raw, sent)
        pass_until(serving.run, lambda: len(came) >= len(sent))
        assert came == sent


def test_who_receives_in_a_signal_handler_that_interrupted_the_loop_holds_back() -> None:
    with server(loop=False) as serving, serving._looping():
        serving._mailbox.straight = serving._straight  # as while a pass waits
        with pytest.raises(TimeoutError):
            serving.recv(timeout=0.01)
        assert serving._mailbox.straight is None  # so what comes counts, and pauses who sends too much


def _send_next(raw: RawClient, sent: list[int]) -> None:
    sent.append(len(sent))
    raw.send_command("number", str(sent[-1]).encode())


def test_a_lookup_that_could_not_be_asked_takes_nobodys_answer() -> None:
    with server() as serving, client(serving, "ann") as ours:
        wait_names(serving, "ann")
        with pytest.raises(UnicodeEncodeError):
            ours.get_client("\ud800")
        assert ours.get_client("ann", timeout=PATIENCE / 4).name == "ann"
    with server(header_len=3) as serving, HiSockClient(serving.get_addr(), "ann", header_len=3) as other:
        with pytest.raises(ValueError, match="does not fit"):
            other.get_client("x" * 1000)
        assert other.get_client("ann", timeout=PATIENCE / 4).name == "ann"


def test_keeping_messages_takes_as_long_whoever_else_has_some() -> None:
    kept = KeptMessages()
    crowd = [object() for _ in range(300)]
    for source in crowd:
        for _ in range(KEPT_MESSAGES):
            kept.add(Unclaimed(source, "x", b"", b"x", False))
    began = time.process_time()
    for _ in range(2000):
        kept.add(Unclaimed("busy", "x", b"", b"x", False))
    for source in crowd:
        kept.forget(source)
    assert time.process_time() - began < 0.5


# ------------------------------------------------------------------------------------------------ starting, closing


def test_a_second_start_ends_nothing() -> None:
    errors: list[Exception] = []
    with (
        server(loop=False) as serving,
        RawClient(serving.get_addr(), "ann") as raw,
        looping(serving, error_handler=errors.append),
    ):
        wait_names(serving, "ann")
        with pytest.raises(BusyError):
            serving.start()
        assert not serving.closed
        serving.on("fail")(lambda: 1 // 0)
        serving.on("ok")(lambda info: serving.send_client(info, "fine"))
        raw.send_command("fail")
        raw.send_command("ok")
        raw.read_command("fine")
        assert [type(each) for each in errors] == [ZeroDivisionError]


def test_a_threaded_handler_closes_a_threaded_server_at_once(caplog: pytest.LogCaptureFixture) -> None:
    took: queue.Queue[float] = queue.Queue()
    serving = ThreadedHiSockServer((HOST, 0))

    @serving.on("end", threaded=True)
    def on_end() -> None:
        began = time.monotonic()
        serving.close()
        took.put(time.monotonic() - began)

    serving.start()
    with RawClient(serving.get_addr()) as raw:
        raw.send_command("end")
        assert took.get(timeout=PATIENCE) < 2.5
    serving.join(PATIENCE)
    assert "left threads behind" not in caplog.text


def test_two_threaded_handlers_close_at_once(caplog: pytest.LogCaptureFixture) -> None:
    took: queue.Queue[float] = queue.Queue()
    both = threading.Barrier(2)
    with server() as serving:

        @serving.on("end", threaded=True)
        def on_end() -> None:
            both.wait(PATIENCE)
            began = time.monotonic()
            serving.close()
            took.put(time.monotonic() - began)

        with RawClient(serving.get_addr()) as raw:
            raw.send_command("end")
            raw.send_command("end")
            assert max(took.get(timeout=PATIENCE), took.get(timeout=PATIENCE)) < 2.5
    assert "left threads behind" not in caplog.text


def test_closing_in_a_handler_leaves_no_timers_behind() -> None:
    serving = HiSockServer((HOST, 0))
    serving.on("end")(lambda: serving.close())
    with RawClient(serving.get_addr()) as raw:
        raw.send_command("end")
        while not serving.closed:
            serving.run()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name.endswith("-timers")], patience=3)


def test_a_keepalive_that_closing_overtakes_leaves_no_timers_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    serving = HiSockServer((HOST, 0), keepalive_interval=0.01, keepalive_timeout=0.01)

    def everybody() -> list[object]:
        gate.arrive()
        return []

    monkeypatch.setattr(serving, "_everybody", everybody)
    gate.wait_arrived()  # in the timers' thread, which looked whether the server was closed
    closing = threading.Thread(target=serving.close)
    closing.start()
    wait_until(lambda: serving._bell.closed)
    gate.open()
    began = time.monotonic()
    closing.join(PATIENCE)
    assert time.monotonic() - began < 2.5
    assert not [each for each in threading.enumerate() if each.name.endswith("-timers")]


def test_who_answered_while_the_mailbox_was_full_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(loop=False, keepalive=False) as serving, RawClient(serving.get_addr(), "ann") as raw:
        pass_until(serving.run, lambda: len(serving))
        (member,) = serving._everybody()
        connection = member.client._connection
        gate = Gate()

        def feed(data: bytes) -> Iterator[bytes]:
            gate.arrive()
            return iter(())

        monkeypatch.setattr(connection.protocol, "feed", feed)
        raw.send_body(b"wakes the reader, which gets no further")
        gate.wait_arrived()
        serving._later = lambda seconds, task: None  # type: ignore[method-assign]
        raw.send_body(b"$KEEPACK$")
        wait_until(lambda: connection.stream.wait_readable(0))
        serving._check_who_answered([(weakref.ref(member.client), connection.bytes_in)])
        assert member.client.ending is None
        gate.open()


# ------------------------------------------------------------------------------------------------- locks and logs


@pytest.mark.parametrize(
    ("body", "limit"), [(b"$CMD$\xff", 0), (b"$CHNAME$\xff", 0), (b"", 1)], ids=["command", "name", "full"]
)
def test_nothing_is_logged_under_the_lock(body: bytes, limit: int) -> None:
    held: queue.Queue[bool] = queue.Queue()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            held.put(is_mine(serving._lock))

    listening = Listening()
    logger = logging.getLogger("simplesockets.hisock")
    level = logger.level
    with server(max_connections=limit) as serving, RawClient(serving.get_addr(), "ann") as raw:
        wait_names(serving, "ann")
        logger.addHandler(listening)
        logger.setLevel(logging.INFO)
        try:
            if limit:
                with RawClient(serving.get_addr(), "refused") as refused:
                    assert refused.at_end()
            else:
                raw.send_body(body)
            assert not held.get(timeout=PATIENCE)
        finally:
            logger.removeHandler(listening)
            logger.setLevel(level)


# -------------------------------------------------------------------------------------------------------- handlers


def test_handlers_may_be_registered_by_two_threads() -> None:
    gate = Gate()

    class Slow(str):
        armed = False

        def __contains__(self, part: str) -> bool:  # type: ignore[override]
            if self.armed:
                gate.arrive()
            return super().__contains__(part)

    with server(loop=False) as serving:
        slow = Slow("a b")
        serving.on(slow)(lambda: None)
        slow.armed = True
        failures: list[Exception] = []

        def register(command: str) -> None:
            try:
                serving.on(command)(lambda: None)
            except Exception as failure:
                failures.append(failure)

        threads = [threading.Thread(target=register, args=(command,)) for command in ("c d", "e f")]
        threads[0].start()
        gate.wait_arrived()
        slow.armed = False
        threads[1].start()
        threads[1].join(0.3)
        gate.open()
        for thread in threads:
            thread.join(PATIENCE)
        assert not failures
        assert [serving._handlers.longest(name) for name in (b"c d x", b"e f x")] == ["c d", "e f"]


def _takes(extra: object, info: object, message: Optional[int]) -> None:  # noqa: UP045  # a name of the module's
    del extra, info, message


class _Callable:
    def __call__(self, info: object, message: Optional[int]) -> None:  # noqa: UP045
        del info, message


@pytest.mark.parametrize("function", [functools.partial(_takes, None), _Callable()], ids=["partial", "object"])
def test_annotations_as_text_are_understood_wherever_they_stand(function: Any) -> None:
    with server(loop=False) as serving:
        serving.on("number")(function)


# --------------------------------------------------------------------------------------------------------- outboxes


def _full_outbox(courier: Courier) -> tuple[Outbox, Stream, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    stream = Stream(ours)
    return Outbox(stream, courier, 64 << 20, lambda: None), stream, theirs


def _read(sock: socket.socket, size: int) -> int:
    found = 0
    while found < size:
        found += len(sock.recv(1 << 20))
    return found


@pytest.mark.parametrize("what", ["waker", "selector"])
def test_a_courier_works_without_descriptors(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def none_left(*_: object) -> object:
        raise OSError(24, "no more descriptors")

    if what == "waker":
        monkeypatch.setattr(outbox_module, "Waker", none_left)
    else:
        monkeypatch.setattr(selectors, "DefaultSelector", none_left)
    courier = Courier("simplesockets-test")
    outbox, stream, theirs = _full_outbox(courier)
    with theirs:
        assert outbox.post(bytes(4 << 20))
        assert _read(theirs, 4 << 20) == 4 << 20
        stream.close()
    courier.join(PATIENCE)


def test_a_courier_without_a_thread_gets_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    courier = Courier("simplesockets-test")
    outbox, stream, theirs = _full_outbox(courier)
    with theirs:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            assert outbox.post(bytes(4 << 20))
        assert outbox.post(b"more")
        assert _read(theirs, (4 << 20) + 4) == (4 << 20) + 4
        stream.close()
    courier.join(PATIENCE)


def test_joining_a_courier_that_ends_in_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    courier = Courier("simplesockets-test")
    outbox, stream, theirs = _full_outbox(courier)
    with theirs:
        outbox.post(bytes(4 << 20))
        thread = courier._thread
        assert thread is not None
        ending: threading.Thread = thread
        read: list[str] = []

        class Watched(Courier):
            @property
            def _waker(self) -> Waker | None:
                found: Waker | None = self.__dict__["_waker"]
                if threading.current_thread() is threading.main_thread():
                    read.append("waker")
                    if len(read) == 1 and not is_mine(self._lock):  # between the look and the use
                        _read(theirs, 4 << 20)
                        ending.join(PATIENCE)
                return found

            @_waker.setter
            def _waker(self, waker: Waker | None) -> None:
                self.__dict__["_waker"] = waker

        monkeypatch.setattr(courier, "__class__", Watched)
        joining = threading.Timer(0.2, lambda: thread.is_alive() and _read(theirs, 4 << 20))
        joining.start()
        courier.join(PATIENCE)
        joining.join()
        stream.close()


def test_closing_ends_a_send_to_a_server_that_never_reads() -> None:
    with socket.create_server((HOST, 0)) as listener:
        ours = HiSockClient(listener.getsockname())
        deaf, _ = listener.accept()
        ended: list[bool] = []

        def send() -> None:
            with pytest.raises(OSError, match=r"."):
                ours.send("much", bytes(32 << 20))
            ended.append(True)

        thread = threading.Thread(target=send)
        with deaf:
            thread.start()
            wait_until(lambda: is_held(ours._link().stream.write_lock), "the send to wait")
            began = time.monotonic()
            ours.close()
            thread.join(PATIENCE)
            assert ended
            assert time.monotonic() - began < PATIENCE / 2


def test_a_loop_is_not_given_a_thread_while_another_one_runs_it() -> None:
    gate = Gate()
    serving = ThreadedHiSockServer((HOST, 0))
    joining = ThreadedHiSockClient(serving.addr)
    try:
        serving.on("join")(lambda client: gate())
        passing = threading.Thread(target=serving.run)
        passing.start()
        gate.wait_arrived()
        with pytest.raises(BusyError, match="when none does"):
            serving.start()
        gate.open()
        passing.join(PATIENCE)
        serving.start()  # now it can
    finally:
        gate.open()
        joining.close()
        serving.close()
