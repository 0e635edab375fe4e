"""The server, as the contract has it, row by row."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import queue
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from simplesockets import hisock
from simplesockets.hisock import ClientInfo, HiSockClient, HiSockServer, ThreadedHiSockServer
from simplesockets.hisock.utils import ClientNotFound, GroupNotFound, InvalidTypeCast

from ..support.programs import running_program
from ..support.running import HOST
from ..support.waiting import PATIENCE, Gate, wait_until
from .running import Notes, RawClient, client, framed, looping, names, pass_until, server, wait_in_recv, wait_names

pytestmark = pytest.mark.usefixtures("either_engine")

ANYWHERE = (HOST, 0)


def answers(serving: HiSockServer, raw: RawClient) -> None:
    """The loop serves this client: what it sent before was handled."""
    serving.on("are you there")(lambda info: serving.send_client(info, "yes"))
    raw.send_command("are you there")
    raw.read_command("yes")


# ---------------------------------------------------------------------------------------------------- constructors


@pytest.mark.parametrize(
    ("arguments", "header_len", "blocking"),
    [
        ((), 16, True),
        ((False,), 16, False),
        ((True, 0, 8), 8, True),
        ((False, 5, 8, None), 8, False),
        ((0,), 16, True),
        ((5, 8), 8, True),
        ((0, 8, 4, False), 8, True),
    ],
    ids=repr,
)
def test_arguments_of_both_generations(arguments: tuple[Any, ...], header_len: int, blocking: bool) -> None:
    with server(*arguments, loop=False) as serving:
        assert serving.header_len == header_len
        began = time.monotonic()
        if not blocking:
            serving.run()
            assert time.monotonic() - began < PATIENCE / 2
        with looping(serving), RawClient(serving.get_addr(), "ann", header_len=header_len):
            wait_names(serving, "ann")


@pytest.mark.parametrize("arguments", [(1,), (True, 1)], ids=["2.x", "0.x"])
def test_the_third_and_the_second_argument_limit_connections(arguments: tuple[Any, ...]) -> None:
    with server(*arguments) as serving, RawClient(serving.get_addr(), "first") as first:
        wait_names(serving, "first")
        with RawClient(serving.get_addr(), "second") as second:
            assert second.read_body() == b"$DISCONN$"
            assert second.at_end()
        first.socket.close()
        wait_names(serving)
        with RawClient(serving.get_addr(), "third"):
            wait_names(serving, "third")


def test_cache_size_is_the_fourth_of_the_second_generation() -> None:
    with server(0, 16, 2, False) as serving:
        assert serving.cache_size == 2


OLD_ORDER: Any = (3, 8)
"""Numbers in this place are understood, which type checkers cannot know."""


def test_start_server_takes_the_same() -> None:
    for made in (
        hisock.start_server(ANYWHERE, *OLD_ORDER),
        hisock.start_server(ANYWHERE, max_connections=3, header_len=8),
        hisock.start_server(ANYWHERE, True, 3, 8),
        hisock.start_server(ANYWHERE, blocking=True, max_connections=3, header_len=8),
    ):
        try:
            assert type(made) is HiSockServer
            assert made.header_len == 8
        finally:
            made.close()


@pytest.mark.parametrize("tls", [{"certfile": "missing.pem"}, "missing.pem"])
def test_tls_that_cannot_be_had_is_an_error_not_plain_text(tls: Any) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is not settled yet
        HiSockServer(ANYWHERE, tls=tls)
    assert not isinstance(raised.value, (AttributeError, TypeError)), raised.value


def test_an_address_of_another_shape_is_refused() -> None:
    nonsense: list[Any] = ["127.0.0.1:0", ("127.0.0.1",), (1, 2), None, ("127.0.0.1", "port"), ("127.0.0.1", 70000)]
    for address in nonsense:
        with pytest.raises((TypeError, ValueError)):
            HiSockServer(address)


def test_a_port_in_use_is_named() -> None:
    with server(loop=False) as serving:
        with pytest.raises(OSError, match=str(serving.get_addr()[1])):
            HiSockServer(serving.get_addr())


def test_get_addr_is_the_real_one() -> None:
    with server(loop=False) as serving:
        host, port = serving.get_addr()
        assert host == HOST
        assert port > 0
        assert serving.addr == serving.get_addr()
        assert f"{host}:{port}" in repr(serving)


# --------------------------------------------------------------------------------------------------- run() and start()


def test_run_blocks_until_something_happens() -> None:
    with server(loop=False) as serving:
        passed = threading.Event()

        def one_pass() -> None:
            serving.run()
            passed.set()

        thread = threading.Thread(target=one_pass)
        thread.start()
        assert not passed.wait(0.2)
        with RawClient(serving.get_addr(), "ann"):
            assert passed.wait(PATIENCE)
        thread.join(PATIENCE)


def test_run_that_does_not_block_does_everything_in_the_callers_thread() -> None:
    seen: list[tuple[Any, threading.Thread]] = []
    with server(False, loop=False) as serving:

        @serving.on("join")
        def on_join(info: ClientInfo) -> None:
            seen.append((info.name, threading.current_thread()))

        @serving.on("text")
        def on_text(info: ClientInfo, message: str) -> None:
            seen.append((message, threading.current_thread()))

        with RawClient(serving.get_addr(), "ann") as raw:
            raw.send_command("text", b"hello")
            pass_until(serving.run, lambda: len(seen) == 2)
        assert seen == [("ann", threading.current_thread()), ("hello", threading.current_thread())]


def test_one_pass_per_frame_is_never_delayed() -> None:
    with server(False, loop=False) as serving:
        pause = threading.Event()
        took = []
        for _ in range(30):
            pause.wait(0.016)
            began = time.perf_counter()
            serving.run()
            took.append(time.perf_counter() - began)
        assert sorted(took)[15] < 0.01


def test_a_tight_loop_of_passes_costs_little_and_misses_nothing() -> None:
    with server(False, loop=False) as serving, RawClient(serving.get_addr(), "ann") as raw:
        got: list[float] = []

        @serving.on("now")
        def on_now() -> None:
            got.append(time.perf_counter())

        pass_until(serving.run, lambda: names(serving))
        busy, end = time.process_time(), time.monotonic() + 0.6
        while time.monotonic() < end:
            serving.run()
        assert time.process_time() - busy < 0.15
        delays = []
        for _ in range(10):
            sent: list[float] = []

            def send(sent: list[float] = sent) -> None:
                sent.append(time.perf_counter())
                raw.send_command("now")

            timer = threading.Timer(0.03, send)
            timer.start()
            count = len(got)
            while len(got) == count:
                serving.run()
            timer.join()
            delays.append(got[-1] - sent[0])
        assert sorted(delays)[5] < 0.02


def test_run_after_close_does_nothing() -> None:
    with server(loop=False) as serving:
        serving.close()
        serving.run()
        serving.start()
        assert serving.closed


def test_start_runs_until_closed_from_another_thread() -> None:
    with server(loop=False) as serving, looping(serving) as thread:
        with RawClient(serving.get_addr(), "ann"):
            wait_names(serving, "ann")
        serving.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_close_in_a_handler_ends_the_loop() -> None:
    with server(loop=False) as serving:

        @serving.on("stop")
        def on_stop() -> None:
            serving.close()

        with RawClient(serving.get_addr()) as raw:
            raw.send_command("stop")
            serving.start()
            assert raw.at_end()


def test_what_recv_left_is_handled_by_the_next_pass() -> None:
    handled: list[str] = []
    with server(False, loop=False) as serving, RawClient(serving.get_addr()) as raw:
        serving.on("known")(lambda: handled.append("known"))
        pass_until(serving.run, lambda: names(serving))
        raw.socket.sendall(framed(b"$CMD$wanted$MSG$x") + framed(b"$CMD$known"))
        assert serving.recv("wanted", timeout=PATIENCE) == b"x"
        pass_until(serving.run, lambda: handled)


def test_what_a_handler_registers_counts_for_the_next_message() -> None:
    handled: list[str] = []
    with server(False, loop=False) as serving, RawClient(serving.get_addr()) as raw:
        serving.on("first")(lambda: None)
        serving.on("message")(lambda info, body: serving.on("second")(lambda: handled.append("second")))
        raw.socket.sendall(framed(b"$CMD$first") + framed(b"$CMD$second"))
        pass_until(serving.run, lambda: handled)


def test_close_tells_everybody() -> None:
    with (
        server() as serving,
        RawClient(serving.get_addr(), "ann") as raw,
        RawClient(serving.get_addr(), "bob", dialect="0.x") as old,
    ):
        wait_names(serving, "ann", "bob")
        serving.close()
        for each in (raw, old):
            each.read_until(lambda body: body == b"$DISCONN$")
            assert each.at_end()


def test_close_tells_everybody_although_the_loop_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    # start() closes, too, when it sees that another thread began to; it must not be faster than the goodbyes.
    busy, forgotten = Gate(), Gate()
    with server(loop=False) as serving, looping(serving) as loop, RawClient(serving.get_addr(), "ann") as raw:
        serving.on("busy")(lambda: busy.arrive())
        raw.send_command("busy")
        busy.wait_arrived()
        post_word = serving._post_word

        def late(*arguments: Any) -> None:
            forgotten.arrive()
            post_word(*arguments)

        monkeypatch.setattr(serving, "_post_word", late)
        closing = threading.Thread(target=serving.close)
        closing.start()
        forgotten.wait_arrived()
        busy.open()
        loop.join(0.3)  # it may end now, or wait for the other
        forgotten.open()
        raw.read_until(lambda body: body == b"$DISCONN$")
        closing.join(PATIENCE)


def test_callback_runs_after_each_pass() -> None:
    order: list[str] = []
    with server(loop=False) as serving:

        @serving.on("text")
        def on_text() -> None:
            order.append("handler")

        with looping(serving, callback=lambda: order.append("callback")), RawClient(serving.get_addr()) as raw:
            raw.send_command("text")
            wait_until(lambda: "handler" in order and order[-1] == "callback")


def test_error_handler_gets_what_handlers_and_casts_raise_and_the_loop_goes_on() -> None:
    errors = Notes()
    with server(loop=False) as serving:

        @serving.on("fail")
        def on_fail() -> None:
            raise KeyError("why")

        @serving.on("number")
        def on_number(info: ClientInfo, message: int) -> None:
            errors(message)

        with looping(serving, error_handler=errors), RawClient(serving.get_addr()) as raw:
            raw.send_command("fail")
            raw.send_command("number", b"none")
            raw.send_command("number", b"7")
            first, second, third = errors.wait(3)
            assert isinstance(first, KeyError)
            assert isinstance(second, InvalidTypeCast)
            assert third == 7


def test_without_error_handler_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with server() as serving, RawClient(serving.get_addr()) as raw:

        @serving.on("fail")
        def on_fail() -> None:
            raise KeyError("why it failed")

        raw.send_command("fail")
        answers(serving, raw)
    assert any("why it failed" in (record.exc_text or "") + record.getMessage() for record in caplog.records)
    assert all(record.name.startswith("simplesockets") for record in caplog.records)


def test_what_the_error_handler_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def worse(error: Exception) -> None:
        raise ValueError("even worse")

    with server(loop=False) as serving, looping(serving, error_handler=worse), RawClient(serving.get_addr()) as raw:

        @serving.on("fail")
        def on_fail() -> None:
            raise KeyError("why it failed")

        raw.send_command("fail")
        answers(serving, raw)
    assert "even worse" in caplog.text


CTRL_C = """
import simplesockets.hisock as hisock
server = hisock.start_server(("127.0.0.1", 0))

@server.on("join")
def on_join(client):
    print("joined", flush=True)

print("listening", server.get_addr()[1], flush=True)
try:
    server.start()
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert server.closed
print("end", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent another way there")
def test_ctrl_c_ends_start() -> None:
    with running_program(CTRL_C) as program:
        port = int(program.wait_for_line("listening").split()[1])
        with RawClient((HOST, port)):
            program.wait_for_line("joined")
            program._process.send_signal(signal.SIGINT)
            program.wait_for_line("end")
            assert program.wait_end() == 0, program


# ------------------------------------------------------------------------------------------------- the Threaded class


def test_threaded_server_with_the_names_of_the_second_generation() -> None:
    got = Notes()
    serving = hisock.start_threaded_server(ANYWHERE)
    assert type(serving) is ThreadedHiSockServer

    @serving.on("text")
    def on_text(info: ClientInfo, message: str) -> None:
        got(message, threading.current_thread())

    serving.start()
    try:
        with RawClient(serving.get_addr(), "ann") as raw:
            raw.send_command("text", b"hi")
            ((message, thread),) = got.wait(1)
            assert message == "hi"
            assert thread not in (threading.current_thread(), threading.main_thread())
    finally:
        serving.close()
    assert not thread.is_alive(), "close() waits for the loop's thread"


def test_threaded_server_with_the_names_of_the_first_generation() -> None:
    serving = ThreadedHiSockServer(ANYWHERE)
    serving.start_server()
    with RawClient(serving.get_addr(), "ann"):
        wait_names(serving, "ann")
        serving.stop_server()
        serving.join()
    assert serving.closed


def test_threaded_server_join_waits_for_the_end() -> None:
    serving = ThreadedHiSockServer(ANYWHERE)
    serving.start()
    timer = threading.Timer(0.2, serving.close)
    began = time.monotonic()
    timer.start()
    serving.join()
    assert time.monotonic() - began > 0.15
    timer.join()


def test_threaded_server_passes_callback_and_error_handler() -> None:
    errors, calls = Notes(), Notes()
    serving = ThreadedHiSockServer(ANYWHERE)

    @serving.on("fail")
    def on_fail() -> None:
        raise KeyError("why")

    serving.start(callback=lambda: calls("pass"), error_handler=errors)
    try:
        with RawClient(serving.get_addr()) as raw:
            raw.send_command("fail")
            assert isinstance(errors.wait(1)[0], KeyError)
            calls.wait(1)
    finally:
        serving.close()


def test_threaded_server_closes_from_its_own_handler() -> None:
    serving = ThreadedHiSockServer(ANYWHERE)

    @serving.on("stop")
    def on_stop() -> None:
        serving.close()

    serving.start()
    with RawClient(serving.get_addr()) as raw:
        raw.send_command("stop")
        assert raw.at_end()
    serving.join()


def test_a_threaded_server_that_was_never_started_closes() -> None:
    serving = ThreadedHiSockServer(ANYWHERE)
    serving.close()
    serving.close()
    gc.collect()


# -------------------------------------------------------------------------------------------------------- on()


def test_on_returns_the_function() -> None:
    with server(loop=False) as serving:

        def handler() -> None: ...

        assert serving.on("text")(handler) is handler


WRONG_COUNTS: dict[str, list[Any]] = {
    "join": [lambda: None, lambda a, b: None],
    "leave": [lambda: None, lambda a, b: None],
    "name_change": [lambda a, b: None, lambda a, b, c, d: None],
    "group_change": [lambda a: None],
    "message": [lambda: None, lambda a: None, lambda a, b, c, d: None],
    "*": [lambda a, b: None, lambda: None],
    "anything else": [lambda a, b, c: None],
}


def test_a_wrong_count_of_arguments_is_an_error_at_decoration() -> None:
    with server(loop=False) as serving:
        for command, handlers in WRONG_COUNTS.items():
            for handler in handlers:
                with pytest.raises(TypeError, match="argument") as raised:
                    serving.on(command)(handler)
                assert isinstance(raised.value, ValueError)
                assert command in str(raised.value)


def test_commands_of_reserved_shape_are_refused() -> None:
    with server(loop=False) as serving:
        for command in ("$CMD$", "$CLTHELLO$", "$anything$", "$DH_NUMS$"):
            with pytest.raises(ValueError, match=r"\$"):
                serving.on(command)(lambda: None)


def test_handlers_may_have_defaults_and_be_methods_and_objects() -> None:
    got = Notes()

    class Handlers:
        def method(self, info: ClientInfo, message: int) -> None:
            got("method", message)

        def __call__(self, info: ClientInfo, message: int) -> None:
            got("object", message)

    with server() as serving, RawClient(serving.get_addr()) as raw:
        handlers = Handlers()
        serving.on("method")(handlers.method)
        serving.on("object")(handlers)
        serving.on("lambda")(lambda info, message: got("lambda", message))
        for command in ("method", "object", "lambda"):
            raw.send_command(command, b"5")
        assert got.wait(3) == [("method", 5), ("object", 5), ("lambda", b"5")]


def test_the_last_handler_of_a_command_counts() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr()) as raw:
        serving.on("text")(lambda: got("first"))
        serving.on("text")(lambda: got("second"))
        raw.send_command("text")
        answers(serving, raw)
        assert got.all == ["second"]


def test_handlers_of_zero_one_and_two_arguments() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        serving.on("none")(lambda: got("none"))
        serving.on("one")(lambda info: got(info.name))
        serving.on("two")(lambda info, message: got(info.name, message))
        raw.send_body(*(raw.command(each, b"content") for each in ("none", "one", "two")), raw.command("two", None))
        assert got.wait(4) == ["none", "ann", ("ann", b"content"), ("ann", None)]


def test_threaded_handlers_do_not_hold_the_loop() -> None:
    gate = Gate()
    got = Notes()
    with server() as serving, RawClient(serving.get_addr()) as raw:

        @serving.on("slow", threaded=True)
        def on_slow(info: ClientInfo, message: str) -> None:
            gate.arrive()
            got(message)

        serving.on("quick")(lambda: got("quick"))
        raw.send_command("slow", b"slow")
        gate.wait_arrived()
        raw.send_command("quick")
        assert got.wait(1) == ["quick"]
        gate.open()
        assert got.wait(2) == ["quick", "slow"]


def test_errors_of_threaded_handlers_go_to_the_error_handler() -> None:
    errors = Notes()
    with server(loop=False) as serving, looping(serving, error_handler=errors), RawClient(serving.get_addr()) as raw:

        @serving.on("fail", threaded=True)
        def on_fail() -> None:
            raise KeyError("why")

        raw.send_command("fail")
        assert isinstance(errors.wait(1)[0], KeyError)


def test_join_counts_and_reaches_the_joining_client() -> None:
    with server() as serving:
        seen = Notes()

        @serving.on("join")
        def on_join(info: ClientInfo) -> None:
            seen(info.name, info.group, names(serving), len(serving), serving.get_client("ann") == info)
            serving.send_client(info, "welcome", "by info")
            serving.send_client("ann", "welcome", "by name")
            serving.send_group("red", "welcome", "by group")

        with RawClient(serving.get_addr(), "ann", "red") as raw:
            assert [raw.read_command("welcome") for _ in range(3)] == [b"by info", b"by name", b"by group"]
            assert seen.all == [("ann", "red", ["ann"], 1, True)]


def test_who_joins_gets_its_own_notice_first_or_not_at_all() -> None:
    with server() as serving:
        serving.on("join")(lambda info: serving.send_client(info, "welcome"))
        with RawClient(serving.get_addr(), "new", "red") as new:
            notice = new.read_notice(b"$CLTCONN$")
            assert notice == {"ip": [HOST, new.address[1]], "name": "new", "group": "red"}
            assert new.read_body().startswith(b"$CMD$welcome")
            with RawClient(serving.get_addr(), "old", dialect="0.x") as old:
                assert old.read_body().split() == [b"welcome"]
                expected = {"ip": [HOST, old.address[1]], "name": "old", "group": None}
                assert new.read_notice(b"$CLTCONN$") == expected
                with RawClient(serving.get_addr(), "third") as third:
                    assert old.read_notice(b"$CLTCONN$")["name"] == "third"
                    third.read_notice(b"$CLTCONN$")
                assert old.read_notice(b"$CLTDISCONN$")["name"] == "third"
            assert [new.read_notice(word)["name"] for word in (b"$CLTCONN$", b"$CLTDISCONN$", b"$CLTDISCONN$")] == [
                "third",
                "third",
                "old",
            ]


@pytest.mark.parametrize("how", ["says so", "closes", "resets"])
@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_leave_runs_once_however_a_client_leaves(how: str, dialect: str) -> None:
    left = Notes()
    with server() as serving, RawClient(serving.get_addr(), "witness") as witness:
        serving.on("leave")(lambda info: left(info.name, len(serving)))
        raw = RawClient(serving.get_addr(), "ann", dialect=dialect)
        with raw:
            wait_names(serving, "ann", "witness")
            if how == "says so":
                raw.send_body(b"$USRCLOSE$")
            elif how == "resets":
                raw.reset()
        witness.read_until(lambda body: body.startswith(b"$CLTDISCONN$"))
        answers(serving, witness)
        assert left.wait(1) == [("ann", 1)]


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_name_change_and_group_change(dialect: str) -> None:
    changed = Notes()
    space = b" " if dialect == "0.x" else b""
    with server() as serving:
        serving.on("name_change")(lambda info, old, new: changed("name", info.name, old, new))
        serving.on("group_change")(lambda info, old, new: changed("group", info.group, old, new))
        with RawClient(serving.get_addr(), "ann", "red", dialect=dialect) as raw:
            wait_names(serving, "ann")
            raw.send_reserved(b"$CHNAME$", "Änne".encode())
            raw.send_reserved(b"$CHGROUP$", b"blue")
            assert changed.wait(2) == [("name", "Änne", "ann", "Änne"), ("group", "blue", "red", "blue")]
            assert serving.get_client("Änne").group == "blue"
            with pytest.raises(ClientNotFound):
                serving.get_client("ann")
            serving.send_group("blue", "to the blues")
            raw.read_command("to the blues")
            raw.send_body(b"$CHNAME$" + space)
            raw.send_body(b"$CHGROUP$")
            assert changed.wait(4)[2:] == [("name", "ann", "Änne", "ann"), ("group", "red", "blue", "red")]
            assert [each.name for each in serving.get_group("red")] == ["ann"]


def test_a_bare_change_without_a_header_means_none() -> None:
    changed = Notes()
    with server() as serving:
        serving.on("name_change")(lambda info, old, new: changed("name", old, new))
        serving.on("group_change")(lambda info, old, new: changed("group", old, new))
        serving.on("text")(lambda info, message: changed("text", message))
        with RawClient(serving.get_addr(), "ann", "red", dialect="0.x") as raw:
            wait_names(serving, "ann")
            raw.socket.sendall(b"$CHNAME$")
            raw.socket.sendall(b"$CHGROUP$")
            raw.send_command("text", b"goes on")
            assert changed.wait(3) == [("name", "ann", None), ("group", "red", None), ("text", b"goes on")]
            assert serving.get_all_clients("name") == [None]


def test_message_takes_three_arguments_or_two_and_fires_for_every_message() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        serving.on("text")(lambda info, message: None)

        @serving.on("message")
        def three(info: ClientInfo, command: str, message: str) -> None:
            got(info.name, command, message)

        raw.send_command("text", "hé".encode())
        raw.send_command("unhandled", b"x")
        raw.send_command("nothing", None)
        assert got.wait(3) == [("ann", "text", "hé"), ("ann", "unhandled", "x"), ("ann", "nothing", "")]

        @serving.on("message")
        def two(info: ClientInfo, body: bytes) -> None:
            got(info.name, body)

        raw.send_command("text", b"y")
        raw.send_body(b"raw data")
        assert got.wait(5)[3:] == [("ann", b"$CMD$text$MSG$y"), ("ann", b"raw data")]


def test_override_makes_a_reserved_name_ordinary() -> None:
    got = Notes()
    with server() as serving:

        @serving.on("leave", override=True)
        def on_leave(info: ClientInfo, reason: str) -> None:
            got(info.name, reason)
            serving.disconnect_client(info, force=True)

        with RawClient(serving.get_addr(), "ann") as raw:
            raw.send_command("leave", b"bored")
            assert raw.at_end()
            assert got.all == [("ann", "bored")]
        with RawClient(serving.get_addr(), "bob") as raw:
            wait_names(serving, "bob")
        wait_names(serving)
        assert got.all == [("ann", "bored")], "leaving calls it no more"


def test_an_overridden_event_happens_no_more() -> None:
    got = Notes()
    with server() as serving:
        serving.on("join")(lambda info: got("the event"))

        @serving.on("join", override=True)
        def on_join(info: ClientInfo, message: str) -> None:
            got(message)

        with RawClient(serving.get_addr(), "ann") as raw:
            raw.send_command("join", b"the command")
            assert got.wait(1) == ["the command"]


@pytest.mark.parametrize("command", ["join", "leave", "name_change", "group_change", "message", "*"])
def test_a_command_under_a_reserved_name_runs_the_wildcard_only(command: str) -> None:
    got = Notes()
    with server() as serving:
        serving.on("leave")(lambda info: got("wrong"))
        serving.on("name_change")(lambda info, old, new: got("wrong"))
        serving.on("group_change")(lambda info, old, new: got("wrong"))
        serving.on("*")(lambda info, command, data: got(command, data))
        with RawClient(serving.get_addr(), "ann") as raw:
            answers(serving, raw)  # so its own join is over
            serving.on("join")(lambda info: got("wrong"))
            raw.send_command(command, b"content")
            assert got.wait(1)[0][1] == b"content"
            assert got.all[0][0] in (command, command.encode())
            answers(serving, raw)
            assert len(got.all) == 1


# ----------------------------------------------------------------------------------------------- who gets a message


def test_the_wildcard_gets_what_nobody_handles_raw_data_too() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        serving.on("known")(lambda: None)

        @serving.on("*")
        def on_anything(info: ClientInfo, command: str, data: str) -> None:
            got(info.name, command, data)

        raw.send_command("known", b"x")
        raw.send_command("unknown", b"y")
        raw.send_command("no content", None)
        raw.send_body("raw, ß".encode())
        found = got.wait(3)
        assert found[:2] == [("ann", "unknown", "y"), ("ann", "no content", "")]
        assert found[2][1] in ("", None)
        assert found[2][2] == "raw, ß"


def test_first_generation_bodies_are_matched_by_the_longest_command() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr(), dialect="0.x") as raw:
        for command in ("set", "set name", "set name of"):
            register(serving, command, got)
        serving.on("*")(lambda info, command, data: got("*", command, data))
        for body in (
            b"set x",
            b"set name x y",
            b"set name",
            b"set nameless",
            b"settle",
            b"other words here",
            b"alone",
            b"set name of x",
        ):
            raw.send_body(body)
        found = [tuple(each.decode() if isinstance(each, bytes) else each for each in note) for note in got.wait(8)]
        assert found == [
            ("set", "x"),
            ("set name", "x y"),
            ("set name", None),
            ("set", "nameless"),
            ("*", "settle", None),
            ("*", "other", "words here"),
            ("*", "alone", None),
            ("set name of", "x"),
        ]


def register(serving: HiSockServer, command: str, got: Notes) -> None:
    @serving.on(command)
    def handler(info, message):  # type: ignore[no-untyped-def]
        got(command, message)


def test_recv_in_a_threaded_handler_takes_the_answer() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:

        @serving.on("start", threaded=True)
        def on_start(info: ClientInfo) -> None:
            serving.send_client(info, "question", "how many?")
            got(serving.recv("answer", int, timeout=PATIENCE))

        raw.send_command("start")
        assert raw.read_command("question") == b"how many?"
        raw.send_command("answer", b"42")
        assert got.wait(1) == [42]


def test_recv_in_a_plain_handler_takes_the_answer_and_no_handler_runs_inside_it() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:

        @serving.on("start")
        def on_start(info: ClientInfo) -> None:
            serving.send_client(info, "question")
            got(serving.recv("answer", int, timeout=PATIENCE))
            got("end of the first")

        serving.on("other")(lambda info, message: got(message))
        raw.send_command("start")
        raw.read_command("question")
        raw.send_command("other", b"meanwhile")
        raw.send_command("answer", b"42")
        assert got.wait(3) == [42, "end of the first", b"meanwhile"]


def test_a_message_goes_to_its_handler_rather_than_to_recv() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr()) as raw:
        serving.on("text")(lambda info, message: got("handler", message))
        waiting = threading.Thread(target=lambda: got("recv", serving.recv(timeout=PATIENCE)))
        waiting.start()
        raw.send_command("text", b"x")
        got.wait(1)
        raw.send_command("unhandled", b"y")
        waiting.join(PATIENCE)
        assert got.all == [("handler", b"x"), ("recv", b"y")]


def test_the_oldest_recv_gets_the_message() -> None:
    got: queue.Queue[Any] = queue.Queue()
    with server() as serving, RawClient(serving.get_addr()) as raw:
        threads = []
        for number, wanted in enumerate(["b", None, "a"]):

            def wait(number: int = number, wanted: str | None = wanted) -> None:
                got.put((number, serving.recv(wanted, str, timeout=PATIENCE)))

            threads.append(threading.Thread(target=wait))
            threads[-1].start()
            wait_in_recv(threads[-1])
        raw.send_command("a", b"1")
        assert got.get(timeout=PATIENCE) == (1, "1")
        raw.send_command("a", b"2")
        assert got.get(timeout=PATIENCE) == (2, "2")
        raw.send_command("b", b"3")
        assert got.get(timeout=PATIENCE) == (0, "3")
        for thread in threads:
            thread.join(PATIENCE)


def test_recv_of_anything_takes_raw_data_too() -> None:
    with server() as serving, RawClient(serving.get_addr()) as raw:
        raw.send_body(b"raw data")
        assert serving.recv(timeout=PATIENCE) == b"raw data"


def test_what_nobody_took_is_kept_for_a_later_recv() -> None:
    with server() as serving, RawClient(serving.get_addr()) as raw:
        raw.send_command("first", b"1")
        raw.send_command("second", b"2")
        answers(serving, raw)
        assert serving.recv("second", int, timeout=PATIENCE) == 2
        assert serving.recv("first", str, timeout=PATIENCE) == "1"
        with pytest.raises(TimeoutError):
            serving.recv("first", timeout=0.05)


def test_the_newest_hundred_are_kept() -> None:
    with server() as serving, RawClient(serving.get_addr()) as raw:
        raw.send_body(*(raw.command("number", str(number).encode()) for number in range(150)))
        answers(serving, raw)
        assert [serving.recv("number", int, timeout=1) for _ in range(100)] == list(range(50, 150))
        with pytest.raises(TimeoutError):
            serving.recv(timeout=0.05)


def test_a_mebibyte_is_kept_for_each_client() -> None:
    with server() as serving, RawClient(serving.get_addr()) as raw, RawClient(serving.get_addr()) as other:
        other.send_command("other", b"0")
        answers(serving, other)
        for number in range(5):
            raw.send_command(f"big {number}", bytes([number]) * 300_000)
        answers(serving, raw)
        kept = [serving.recv(timeout=1) for _ in range(4)]
        assert kept[0] == b"0", "another client's is not crowded out"
        assert [each[0] for each in kept[1:]] == [2, 3, 4]
        with pytest.raises(TimeoutError):
            serving.recv(timeout=0.05)


def test_recv_raw_blocks_even_where_passes_do_not() -> None:
    with server(False, loop=False) as serving, RawClient(serving.get_addr()) as raw:
        timer = threading.Timer(0.2, raw.send_body, [b"raw data"])
        timer.start()
        assert serving.recv_raw() == b"raw data"
        timer.join()


def test_recv_pumps_messages_where_no_loop_runs() -> None:
    got = Notes()
    with server(loop=False) as serving, RawClient(serving.get_addr(), "ann") as raw:
        serving.on("join")(lambda info: got(info.name))
        serving.on("known")(lambda info, message: got(message))
        raw.send_command("known", b"x")
        raw.send_command("answer", b"42")
        assert serving.recv("answer", int, timeout=PATIENCE) == 42
        assert not got.all, "handlers run in passes of the loop"
        serving.run()
        assert got.all == ["ann", b"x"]


def test_handlers_that_wait_for_a_pass_are_bounded() -> None:
    part = framed(b"$CMD$known$MSG$" + b"x" * (1 << 20))
    with server(loop=False) as serving, RawClient(serving.get_addr()) as raw:
        serving.on("known")(lambda info, message: None)
        receiving = threading.Thread(target=suppressing, args=(ConnectionError, serving.recv, "never"))
        receiving.start()
        raw.socket.settimeout(0.5)
        flood = memoryview(part * 64)
        with contextlib.suppress(TimeoutError):
            while flood:
                flood = flood[raw.socket.send(flood) :]
        assert flood, "all of it was taken in"
        serving.close()
        receiving.join(PATIENCE)


def suppressing(error: type[BaseException], function: Callable[[str], object], argument: str) -> None:
    with contextlib.suppress(error):
        function(argument)


def test_recv_times_out_and_is_ended_by_close() -> None:
    with server() as serving:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            serving.recv("never", timeout=0.1)
        assert 0.09 < time.monotonic() - began < PATIENCE / 2
        ended: queue.Queue[BaseException] = queue.Queue()

        def wait() -> None:
            try:
                serving.recv("never")
            except BaseException as error:
                ended.put(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_in_recv(thread)
        serving.close()
        assert not isinstance(ended.get(timeout=PATIENCE), TimeoutError)
        thread.join(PATIENCE)


# ----------------------------------------------------------------------------------------------------------- casting

CASTS: list[tuple[Any, bytes | None, object]] = [
    (bytes, b"\x00\xff", b"\x00\xff"),
    (bytes, None, b""),
    (str, "Grüße".encode(), "Grüße"),
    (str, None, ""),
    (int, b"-7", -7),
    (int, b"0x10", 16),
    (int, None, 0),
    (float, b"2.5", 2.5),
    (float, b"3", 3.0),
    (float, None, 0.0),
    (bool, b"\x00", True),
    (bool, b"", False),
    (bool, b"1", True),
    (bool, b"0", False),
    (bool, b"true", True),
    (bool, b"false", False),
    (bool, None, False),
    (list, b'[1, "zwei", null]', [1, "zwei", None]),
    (list, b"(1, 'zwei')", InvalidTypeCast),
    (list, b"['python', None]", ["python", None]),
    (list, None, []),
    (dict, b'{"a": {"b": [1.5, true]}}', {"a": {"b": [1.5, True]}}),
    (dict, b"{'python': True}", {"python": True}),
    (dict, None, {}),
    (dict, b"[]", InvalidTypeCast),
    (list, b"{}", InvalidTypeCast),
    (int, b"seven", InvalidTypeCast),
    (float, b"", 0.0),
    (str, b"\xff", InvalidTypeCast),
    (bool, b"perhaps", InvalidTypeCast),
    (ClientInfo, b'{"ip": ["127.0.0.1", 5], "name": "ann", "group": null}', ClientInfo(("127.0.0.1", 5), "ann", None)),
    (ClientInfo, b"{}", InvalidTypeCast),
]


@pytest.mark.parametrize("kind", [bytes, str, int, float, bool, list, dict, ClientInfo], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("spelled", [True, False], ids=["text", "type"])
def test_casts(kind: Any, spelled: bool) -> None:
    results = Notes()
    cases = [(content, expected) for each, content, expected in CASTS if each is kind]
    with server(loop=False) as serving, looping(serving, error_handler=results), RawClient(serving.get_addr()) as raw:

        def handler(info, message):  # type: ignore[no-untyped-def]
            results(message)

        handler.__annotations__ = {"info": ClientInfo, "message": kind.__name__ if spelled else kind, "return": None}
        serving.on("cast")(handler)
        for number, (content, expected) in enumerate(cases, 1):
            raw.send_command("cast", content)
            result = results.wait(number)[-1]
            if expected is InvalidTypeCast:
                assert isinstance(result, InvalidTypeCast), content
                assert isinstance(result, TypeError)
            else:
                assert result == expected, content
                assert type(result) is type(expected), content


def test_no_annotation_gives_bytes_or_none() -> None:
    got = Notes()
    with server() as serving, RawClient(serving.get_addr()) as raw:
        serving.on("text")(lambda info, message: got(message))
        for content in (b"x", b"", None):
            raw.send_command("text", content)
        assert got.wait(3) == [b"x", None, None]


CONTENTS: list[tuple[Any, bytes]] = [
    (b"\x00\xff", b"\x00\xff"),
    (bytearray(b"ab"), b"ab"),
    ("Grüße", "Grüße".encode()),
    (7, b"7"),
    (-2.5, b"-2.5"),
    (True, b"\x00"),
    (False, b""),
    (None, b""),
    ("", b""),
]


def test_content_to_send() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        wait_names(serving, "ann")
        for content, expected in CONTENTS:
            serving.send_client("ann", "text", content)
            assert raw.read_command("text") == expected, content


def test_lists_dicts_and_infos_are_sent_as_json() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann", "red") as raw:
        wait_names(serving, "ann")
        info = serving.get_client("ann")
        for content in ([1, "ü", None], {"ü": [True, {"b": 1.5}]}, info, serving.get_all_clients()):
            serving.send_client("ann", "json", content)
            assert json.loads(raw.read_command("json")) == json.loads(json.dumps(content))


def test_content_that_cannot_be_sent_is_refused_where_it_is_sent() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann"):
        wait_names(serving, "ann")
        for content in (object(), {"x": object()}, {1, 2}):
            with pytest.raises((TypeError, ValueError)):
                serving.send_client("ann", "text", content)


def test_content_too_long_for_the_header_is_refused() -> None:
    with server(header_len=2) as serving, RawClient(serving.get_addr(), header_len=2):
        wait_names(serving, None)
        with pytest.raises(ValueError, match=r"header|long|large"):
            serving.send_all_clients("text", b"x" * 100)


# --------------------------------------------------------------------------------------------------------- clients


def test_client_info_is_a_dict_with_attributes() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann", "red") as raw:
        wait_names(serving, "ann")
        info = serving.get_client("ann")
        port = raw.address[1]
        assert isinstance(info, ClientInfo)
        assert isinstance(info, dict)
        assert set(info) == {"ip", "name", "group"}
        assert info["ip"] == (HOST, port)
        assert (info["name"], info["group"]) == ("ann", "red")
        assert (info.name, info.group) == ("ann", "red")
        assert info.ip == (HOST, port)
        assert isinstance(info.ip, tuple)
        assert str(info.ip) == f"{info.ip}" == f"{HOST}:{port}" == info.ipstr == info.ip_as_str
        host, second = info.ip
        assert (host, second) == (HOST, port)
        assert info.as_dict() == {"ip": (HOST, port), "name": "ann", "group": "red"}
        assert json.loads(json.dumps(info.client_dict)) == json.loads(json.dumps(info))
        assert json.loads(json.dumps(info)) == {"ip": [HOST, port], "name": "ann", "group": "red"}
        assert "ann" in str(info)
        sock = info["socket"]
        assert isinstance(sock, socket.socket)
        assert sock.getpeername() == info.ip
        assert info == serving.get_all_clients()[0] == serving.get_group("red")[0]
        with pytest.raises(KeyError):
            info["nothing of this name"]


def test_two_infos_of_one_client_are_equal() -> None:
    assert ClientInfo((HOST, 1), "a", None) == ClientInfo([HOST, 1], "a", None)
    assert ClientInfo((HOST, 1), "a", None) != ClientInfo((HOST, 2), "a", None)
    assert ClientInfo(ip=(HOST, 1), name="a", group="b").ip == (HOST, 1)


def test_every_way_to_name_a_client() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann", "red") as raw:
        wait_names(serving, "ann")
        info = serving.get_client("ann")
        port = raw.address[1]
        ways: list[Any] = ["ann", f"{HOST}:{port}", (HOST, port), info, info.ip, str(info.ip)]
        for number, name in enumerate(ways):
            assert serving.get_client(name) == info
            serving.send_client(name, "number", number)
            assert raw.read_command("number") == str(number).encode()


def test_text_shaped_like_an_address_is_always_one() -> None:
    with server() as serving, RawClient(serving.get_addr(), "127.0.0.1:9"):
        wait_names(serving, "127.0.0.1:9")
        with pytest.raises(ClientNotFound):
            serving.get_client("127.0.0.1:9")


def test_a_client_named_in_no_format_is_a_value_error() -> None:
    nonsense: list[Any] = [5, None, (HOST,), (HOST, 70000), (HOST, -1), (1, 2), 1.5, (HOST, "port"), f"{HOST}:70000"]
    with server(loop=False) as serving:
        for name in nonsense:
            for call in (
                lambda name=name: serving.get_client(name),
                lambda name=name: serving.disconnect_client(name),
                lambda name=name: serving.send_client(name, "text"),
            ):
                with pytest.raises(ValueError):  # noqa: PT011
                    call()


def test_an_unknown_client_or_group_is_an_error_of_its_own() -> None:
    with server() as serving:
        for name in ("nobody", (HOST, 9), f"{HOST}:9"):
            for error in (ClientNotFound, TypeError):
                with pytest.raises(error):
                    serving.get_client(name)
                with pytest.raises(error):
                    serving.send_client(name, "text", "x")
                with pytest.raises(error):
                    serving.send_client_raw(name, b"x")
                with pytest.raises(error):
                    serving.disconnect_client(name)
        for error in (GroupNotFound, TypeError):
            with pytest.raises(error):
                serving.get_group("nobody's")
            with pytest.raises(error):
                serving.send_group("nobody's", "text")
            with pytest.raises(error):
                serving.send_group_raw("nobody's", b"x")


def test_several_of_one_name_are_warned_of_and_the_first_is_meant() -> None:
    with server() as serving, RawClient(serving.get_addr(), "twin") as first:
        wait_names(serving, "twin")
        with RawClient(serving.get_addr(), "twin") as second:
            wait_names(serving, "twin", "twin")
            with pytest.warns(UserWarning, match="twin"):
                serving.send_client("twin", "text", "to the first")
            assert first.read_command("text") == b"to the first"
            with pytest.warns(UserWarning, match="twin"):
                assert serving.get_client("twin").ip == first.address
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                serving.send_client(second.address, "text", "to the second")
            assert second.read_command("text") == b"to the second"


def test_get_all_clients_with_keys() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann", "red") as ann, RawClient(serving.get_addr()) as nemo:
        wait_names(serving, "ann", None)
        assert sorted(serving.get_all_clients("name"), key=str) == [None, "ann"]
        assert sorted(serving.get_all_clients("group"), key=str) == [None, "red"]
        assert sorted(serving.get_all_clients("ip")) == sorted([ann.address, nemo.address])
        assert [each.name for each in serving.get_all_clients(lambda each: each["group"] == "red")] == ["ann"]
        assert sorted(str(each["name"]) for each in serving.get_all_clients()) == ["None", "ann"]
        assert all(isinstance(each, ClientInfo) for each in serving.get_all_clients())
        with pytest.raises((KeyError, ValueError, TypeError)):
            serving.get_all_clients("colour")  # type: ignore[call-overload]


def test_clients_and_clients_rev_of_the_second_generation() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann", "red"):
        wait_names(serving, "ann")
        assert len(serving) == len(serving.clients) == len(serving.clients_rev) == 1
        ((key, sock),) = serving.clients_rev.items()
        assert key == (serving.get_client("ann").ip, "ann", "red")
        assert serving.clients[sock]["name"] == "ann"


# -------------------------------------------------------------------------------------------------------- sending


def test_sending_to_groups_and_to_all() -> None:
    with (
        server() as serving,
        RawClient(serving.get_addr(), "ann", "red") as ann,
        RawClient(serving.get_addr(), "bob", "red", dialect="0.x") as bob,
        RawClient(serving.get_addr(), "cyd", "blue") as cyd,
    ):
        wait_names(serving, "ann", "bob", "cyd")
        serving.send_group("red", "text", "to the reds")
        serving.send_group(serving.get_client("ann"), "text", "to ann's")
        serving.send_group_raw("red", b"raw reds")
        serving.send_all_clients("text", "to all")
        serving.send_all_clients_raw(b"raw all")
        serving.send_client_raw("cyd", b"raw cyd")
        for each in (ann, bob):
            assert each.read_command("text") == b"to the reds"
            assert each.read_command("text") == b"to ann's"
            assert each.read_body() == b"raw reds"
        for each in (ann, bob, cyd):
            assert each.read_command("text") == b"to all"
            assert each.read_body() == b"raw all"
        assert cyd.read_body() == b"raw cyd"


def test_the_group_of_a_client_that_is_in_none_is_a_type_error() -> None:
    with server() as serving, RawClient(serving.get_addr(), "nemo"):
        wait_names(serving, "nemo")
        with pytest.raises(TypeError):
            serving.send_group(serving.get_client("nemo"), "text")


def test_sending_to_all_when_nobody_is_there_is_fine() -> None:
    with server() as serving:
        serving.send_all_clients("text", "x")
        serving.send_all_clients_raw(b"x")
        serving.disconnect_all_clients()
        serving.disconnect_all_clients(force=True)
        assert serving.get_all_clients() == []


def test_raw_content_that_starts_with_a_reserved_word_is_refused() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann", "red") as raw:
        wait_names(serving, "ann")
        for word in (b"$DISCONN$", b"$CLTCONN$ x", b"$CLTDISCONN$", b"$KEEPALIVE$", b"$CMD$text"):
            with pytest.raises(ValueError, match=r"\$"):
                serving.send_client_raw("ann", word)
            with pytest.raises(ValueError, match=r"\$"):
                serving.send_group_raw("red", word)
            with pytest.raises(ValueError, match=r"\$"):
                serving.send_all_clients_raw(word)
        serving.send_client_raw("ann", b"$ is fine")
        assert raw.read_until(lambda body: not body.startswith(b"$CLT")) == b"$ is fine"


def test_sending_from_many_threads_keeps_messages_whole() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        wait_names(serving, "ann")

        def send(letter: str) -> None:
            for _ in range(50):
                serving.send_client("ann", "text", letter * 2000)

        threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        found = [raw.read_command("text") for _ in range(200)]
        for thread in threads:
            thread.join(PATIENCE)
        assert all(len(each) == 2000 and len(set(each)) == 1 for each in found)


# ---------------------------------------------------------------------------------------------------- disconnecting


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("call_func", [False, True])
def test_disconnect_client(force: bool, call_func: bool) -> None:
    left = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw, RawClient(serving.get_addr(), "bob") as bob:
        wait_names(serving, "ann", "bob")
        serving.on("leave")(lambda info: left(info.name))
        answers(serving, raw)
        serving.disconnect_client("ann", force, call_func)
        assert names(serving) == ["bob"]
        received = b""
        while part := raw.socket.recv(1000):
            received += part
        assert (b"$DISCONN$" in received) != force
        bob.read_until(lambda body: body.startswith(b"$CLTDISCONN$"))
        answers(serving, bob)
        assert left.all == (["ann"] if call_func else [])


def test_disconnect_client_within_a_handler() -> None:
    left = Notes()
    with server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        serving.on("leave")(lambda info: left(info.name))

        @serving.on("bye")
        def on_bye(info: ClientInfo) -> None:
            serving.disconnect_client(info, call_func=True)

        raw.send_command("bye")
        raw.read_until(lambda body: body == b"$DISCONN$")
        assert raw.at_end()
        assert left.wait(1) == ["ann"]


@pytest.mark.parametrize("force", [False, True])
def test_disconnect_all_clients(force: bool) -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann") as ann, RawClient(serving.get_addr(), "bob") as bob:
        wait_names(serving, "ann", "bob")
        serving.disconnect_all_clients(force)
        for raw in (ann, bob):
            received = b""
            while part := raw.socket.recv(1000):
                received += part
            assert (b"$DISCONN$" in received) != force
        wait_names(serving)
        with RawClient(serving.get_addr(), "cyd"):
            wait_names(serving, "cyd")


# --------------------------------------------------------------------------------------- the wire's reserved words


def test_lookup_in_each_dialect() -> None:
    with (
        server() as serving,
        RawClient(serving.get_addr(), "ann", "red") as ann,
        RawClient(serving.get_addr(), "bob", dialect="0.x") as bob,
    ):
        wait_names(serving, "ann", "bob")
        expected = {"ip": [HOST, ann.address[1]], "name": "ann", "group": "red"}
        who = ["ann", f"{HOST}:{ann.address[1]}", repr((HOST, ann.address[1]))]
        for name in who:
            ann.send_reserved(b"$GETCLT$", name.encode())
            body = ann.read_until(lambda body: body.startswith(b"$CMD$"))
            assert body.startswith(b"$CMD$$MSG$")
            assert json.loads(body[len(b"$CMD$$MSG$") :]) == expected
            bob.send_reserved(b"$GETCLT$", name.encode())
            assert json.loads(bob.read_until(lambda body: body.startswith(b"{"))) == expected
        ann.send_reserved(b"$GETCLT$", b"nobody")
        assert ann.read_command("") == b'{"traceback": "$NOEXIST$"}'
        bob.send_reserved(b"$GETCLT$", b"nobody")
        assert bob.read_body() == b'{"traceback": "$NOEXIST$"}'


def test_the_tls_probe_is_answered() -> None:
    with server() as serving, RawClient(serving.get_addr(), "old", dialect="0.x") as raw:
        raw.send_body(b"$DH_NUMS$")
        assert raw.read_until(lambda body: body.startswith(b"$NOTLS")) == b"$NOTLS$"


def test_the_tls_probe_may_precede_the_hello() -> None:
    with server() as serving, RawClient(serving.get_addr(), hello=False, dialect="0.x") as raw:
        raw.send_body(b"$DH_NUMS$")
        assert raw.read_body() == b"$NOTLS$"
        raw.send_reserved(b"$CLTHELLO$", b'{"name": "old", "group": null}')
        wait_names(serving, "old")


def test_keepalive_drops_who_does_not_answer() -> None:
    left = Notes()
    with server(keepalive=True, keepalive_interval=0.15, keepalive_timeout=0.3) as serving:
        serving.on("leave")(lambda info: left(info.name))
        with (
            RawClient(serving.get_addr(), "silent") as silent,
            RawClient(serving.get_addr(), "polite") as polite,
            RawClient(serving.get_addr(), "old", dialect="0.x") as old,
        ):
            wait_names(serving, "silent", "polite", "old")
            for _ in range(5):
                polite.read_until(lambda body: body == b"$KEEPALIVE$")
                polite.send_body(b"$KEEPACK$")
            assert silent.read_until(lambda body: body == b"$KEEPALIVE$")
            assert silent.at_end()
            assert names(serving) == ["old", "polite"]
            assert left.wait(1) == ["silent"]
            serving.send_client("old", "last")
            bodies = [old.read_body()]
            while not bodies[-1].startswith(b"last"):
                bodies.append(old.read_body())
            assert b"$KEEPALIVE$" not in bodies, "never sent to these"


def test_no_keepalive_without_it() -> None:
    with server(keepalive=False, keepalive_interval=0.05, keepalive_timeout=0.05) as serving:
        with RawClient(serving.get_addr(), "ann") as raw:
            wait_names(serving, "ann")
            raw.read_body()
            raw.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                raw.socket.recv(1)


# ----------------------------------------------------------------------------------------------------------- the cache


def test_the_cache_keeps_the_newest() -> None:
    with server(cache_size=2) as serving, RawClient(serving.get_addr()) as raw:
        serving.on("known")(lambda info, message: None)
        raw.send_command("old", b"0")
        raw.send_command("known", b"1")
        raw.send_command("unknown", b"2")
        wait_until(lambda: [each.command for each in serving.get_cache()] == ["known", "unknown"])
        first, second = serving.get_cache()
        assert (first.command, first.content, first.called) == ("known", b"1", True)
        assert (second.command, second.called) == ("unknown", False)
        assert first.header.strip() == str(len(b"$CMD$known$MSG$1")).encode()
        assert serving.get_cache(0) is first
        assert serving.get_cache(slice(1, 2)) == [second]


def test_the_cache_tells_what_recv_took() -> None:
    with server(cache_size=3) as serving, RawClient(serving.get_addr()) as raw:
        receiving = threading.Thread(target=serving.recv, args=("wanted",))
        receiving.start()
        wait_in_recv(receiving)
        raw.send_command("wanted", b"1")
        receiving.join(PATIENCE)
        (entry,) = wait_until(serving.get_cache)
        assert (entry.command, entry.content, entry.called) == ("wanted", b"1", True)


@pytest.mark.parametrize("size", [-1, 0, -5])
def test_a_cache_of_no_size(size: int) -> None:
    with server(cache_size=size) as serving, RawClient(serving.get_addr()) as raw:
        raw.send_command("text", b"x")
        answers(serving, raw)
        assert len(serving.get_cache()) == (2 if size == 0 else 0), "0 is no limit, less is no cache"


# -------------------------------------------------------------------------------------------------------------- limits


def test_a_message_up_to_the_limit_and_one_past_it(caplog: pytest.LogCaptureFixture) -> None:
    with server(max_message=1000) as serving:
        with RawClient(serving.get_addr(), "fits") as raw:
            raw.send_command("x", b"y" * (1000 - len(b"$CMD$x$MSG$")))
            assert len(serving.recv("x", timeout=PATIENCE)) == 989
            raw.send_command("x", b"y" * (1001 - len(b"$CMD$x$MSG$")))
            assert raw.at_end()
    assert any("1001 bytes" in record.getMessage() for record in caplog.records)


def test_logging_goes_to_the_packages_loggers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), server() as serving, RawClient(serving.get_addr(), "ann") as raw:
        raw.socket.sendall(b"no header at all")
        assert raw.at_end()
        wait_names(serving)
    assert any(str(raw.address[1]) in record.getMessage() for record in caplog.records)


def test_close_is_idempotent_and_leaves_nothing() -> None:
    with server() as serving, RawClient(serving.get_addr(), "ann"):
        wait_names(serving, "ann")
        serving.close()
        serving.close()
        assert serving.closed
        with pytest.raises(OSError):  # noqa: PT011
            socket.create_connection(serving.get_addr(), 1).close()


def test_our_client_and_the_loop_in_one_thread() -> None:
    """Both ends without blocking, as a game with a host does."""
    with server(False, loop=False) as serving:
        got = Notes()
        serving.on("text")(lambda info, message: serving.send_client(info, "answer", message))
        with client(serving, "ann", None, False, loop=False) as playing:
            assert isinstance(playing, HiSockClient)
            playing.on("answer")(lambda message: got(message))
            playing.send("text", "x")

            def frame() -> list[Any]:
                serving.run()
                playing.update()
                return got.all

            assert wait_until(frame) == [b"x"]
