"""The client, as the contract has it, row by row; the servers are ours, or plain sockets where the wire matters."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from simplesockets import hisock
from simplesockets.hisock import ClientInfo, HiSockClient, ThreadedHiSockClient
from simplesockets.hisock.utils import ClientNotFound, InvalidTypeCast, ServerNotRunning

from ..support.programs import free_port, running_program
from ..support.running import HOST, raw_listener, read_exactly
from ..support.waiting import PATIENCE, Gate, wait_until
from .running import HEADER, Notes, client, framed, looping, pass_until, server, wait_in_recv, wait_names


class RawServer:
    """One end of a connection whose other end is the client under test: knows nothing but the wire."""

    def __init__(self, sock: socket.socket, header_len: int) -> None:
        self.socket = sock
        self._header_len = header_len

    def send(self, *bodies: bytes) -> None:
        """Send bodies, each with its header, all in one go."""
        self.socket.sendall(b"".join(framed(body, self._header_len) for body in bodies))

    def read(self) -> bytes:
        """The next body; fails at the end of the stream."""
        header = read_exactly(self.socket, self._header_len)
        assert len(header) == self._header_len, f"the stream ended with {header!r}"
        return read_exactly(self.socket, int(header))


@contextlib.contextmanager
def raw_pair(
    *arguments: Any, loop: bool = True, header_len: int = HEADER, **options: Any
) -> Iterator[tuple[HiSockClient, RawServer]]:
    """A client and the plain socket that it is connected to; its hello has been read."""
    with raw_listener() as listener:
        address = listener.getsockname()
        with client(address, *arguments, loop=loop, header_len=header_len, **options) as made:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(PATIENCE)
                other = RawServer(sock, header_len)
                assert other.read().startswith(b"$CLTHELLO$")
                try:
                    yield made, other
                finally:
                    see_off(made, sock)


def see_off(ours: HiSockClient, sock: socket.socket) -> None:
    """Close the client while the other end behaves as servers do: it closes, too, once it sees the end."""
    closer = threading.Thread(target=ours.close)
    closer.start()
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass
    sock.close()
    closer.join(PATIENCE)


def handled(raw: RawServer, ours: HiSockClient) -> None:
    """The client's loop has handled what was sent before."""
    done = threading.Event()
    ours.on("are you done")(done.set)
    raw.send(b"$CMD$are you done")
    assert done.wait(PATIENCE)


# ---------------------------------------------------------------------------------------------------- constructors


@pytest.mark.parametrize(
    ("arguments", "header_len"),
    [
        ((), 16),
        (("ann",), 16),
        (("ann", "red"), 16),
        (("ann", "red", True), 16),
        (("ann", "red", False, 8), 8),
        (("ann", "red", 8), 8),
        (("ann", "red", 8, 5), 8),
        (("ann", None, 16, -1), 16),
    ],
    ids=repr,
)
def test_arguments_of_both_generations(arguments: tuple[Any, ...], header_len: int) -> None:
    name = arguments[0] if arguments else None
    group = arguments[1] if len(arguments) > 1 else None
    with server(header_len=header_len) as serving:
        with client(serving, *arguments) as ours:
            wait_names(serving, name)
            assert serving.get_all_clients("group") == [group]
            assert (ours.name, ours.group, ours.header_len) == (name, group, header_len)
            assert (ours.original_name, ours.original_group) == (name, group)


def test_cache_size_is_the_fifth_of_the_second_generation() -> None:
    with server() as serving, client(serving, "ann", "red", 16, 3, loop=False) as ours:
        assert ours.cache_size == 3


def test_connect_takes_the_same() -> None:
    with server(header_len=8) as serving:
        for arguments, options in CONNECTS:
            with contextlib.closing(hisock.connect(serving.get_addr(), *arguments, **options)) as made:
                assert type(made) is HiSockClient
                wait_names(serving, "ann")
            wait_names(serving)


CONNECTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("ann", "red", 8), {}),
    ((), {"name": "ann", "group": "red", "header_len": 8, "cache_size": 2}),
    (("ann", "red", True, 8), {}),
    ((), {"name": "ann", "group": "red", "blocking": False, "header_len": 8}),
]


def test_nobody_listening_is_server_not_running() -> None:
    with pytest.raises(ServerNotRunning):
        HiSockClient((HOST, free_port()))


def test_an_unknown_host_is_gaierror() -> None:
    with pytest.raises(socket.gaierror):
        HiSockClient(("no.such.host.invalid", 5000))


def test_a_server_that_does_not_answer_times_out() -> None:
    with raw_listener(backlog=0) as listener, contextlib.ExitStack() as fillers:
        # What waits to be accepted fills the queue, so that the next connection is not even answered.
        full = False
        while not full:
            filler = fillers.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                full = True
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            HiSockClient(listener.getsockname(), connect_timeout=0.3)
        assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.parametrize("address", ["127.0.0.1:5000", (HOST,), None, (5, 5), (HOST, "port")])
def test_an_address_of_another_shape_is_refused(address: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        HiSockClient(address)


@pytest.mark.parametrize("dialect", ["3.x", "", None])
def test_an_unknown_dialect_is_refused(dialect: Any) -> None:
    with server() as serving, pytest.raises(ValueError, match="dialect"):
        HiSockClient(serving.get_addr(), dialect=dialect)


@pytest.mark.parametrize("name", [5, b"ann", ["ann"]])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with server() as serving, pytest.raises((TypeError, ValueError)):
        HiSockClient(serving.get_addr(), name)


def test_addresses_of_both_ends() -> None:
    with server() as serving, client(serving, "ann") as ours:
        wait_names(serving, "ann")
        assert ours.get_server_addr() == serving.get_addr() == ours.addr
        assert ours.get_client_addr() == serving.get_client("ann").ip
        assert f"{HOST}:{serving.get_addr()[1]}" in repr(ours)
        assert ours.connected
        assert 0 <= time.time() - ours.connect_time < PATIENCE
        assert not ours.closed


# ------------------------------------------------------------------------------------------------------- the wire


@pytest.mark.parametrize(("dialect", "space"), [("2.x", b""), ("0.x", b" ")])
def test_what_is_sent_in_each_dialect(dialect: str, space: bytes) -> None:
    with raw_listener() as listener, client(listener.getsockname(), "Änne", "red", dialect=dialect) as ours:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            raw = RawServer(sock, HEADER)
            hello = raw.read()
            start = b"$CLTHELLO$" + space
            assert hello.startswith(start + b"{")
            assert json.loads(hello[len(start) :]) == {"name": "Änne", "group": "red"}
            ours.send("text", "content, ß")
            expected = "text content, ß" if space else "$CMD$text$MSG$content, ß"
            assert raw.read() == expected.encode()
            ours.send("text")
            assert raw.read() in ([b"text", b"text "] if space else [b"$CMD$text", b"$CMD$text$MSG$"])
            ours.raw_send(b"\x00raw")
            assert raw.read() == b"\x00raw"
            ours.change_name("bob")
            assert raw.read() == b"$CHNAME$" + space + b"bob"
            ours.change_group("blue")
            assert raw.read() == b"$CHGROUP$" + space + b"blue"
            ours.close()
            assert raw.read() == b"$USRCLOSE$"
            assert sock.recv(1) == b""


def test_close_without_saying_so() -> None:
    with raw_pair() as (ours, raw):
        ours.close(emit_leave=False)
        assert raw.socket.recv(1) == b""
        assert ours.closed


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_keepalive_is_answered_loop_or_no_loop(dialect: str) -> None:
    with raw_pair(loop=False, dialect=dialect) as (_, raw):
        raw.send(b"$KEEPALIVE$")
        assert raw.read() == b"$KEEPACK$"


def test_the_clients_own_loop_keeps_it_alive() -> None:
    with server(keepalive_interval=0.1, keepalive_timeout=0.2) as serving, client(serving, "ann", loop=False) as ours:
        wait_names(serving, "ann")
        threading.Event().wait(0.7)
        assert serving.get_all_clients("name") == ["ann"], "its reader answers, though nobody runs its loop"
        assert not ours.closed


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_lookups_in_both_forms_of_the_answer(dialect: str) -> None:
    space = b" " if dialect == "0.x" else b""
    info = b'{"ip": ["10.0.0.1", 5], "name": "bob", "group": null}'
    with raw_pair(dialect=dialect) as (ours, raw):
        for form in (b"", b"$CMD$$MSG$"):
            found: queue.Queue[Any] = queue.Queue()
            asking = threading.Thread(target=lambda found=found: found.put(ours.get_client("bob")))
            asking.start()
            assert raw.read() == b"$GETCLT$" + space + b"bob"
            raw.send(b"$CMD$something else$MSG$in between", form + info)
            assert found.get(timeout=PATIENCE) == ClientInfo(("10.0.0.1", 5), "bob", None)
            asking.join(PATIENCE)


def test_lookups_of_every_kind() -> None:
    with server() as serving, client(serving, "ann", "red") as ours, client(serving, "bob", dialect="0.x") as old:
        wait_names(serving, "ann", "bob")
        for asking in (ours, old):
            for name in ("ann", ours.get_client_addr(), hisock.iptup_to_str(ours.get_client_addr())):
                info = asking.get_client(name)
                assert isinstance(info, ClientInfo)
                assert (info.name, info.group, info.ip) == ("ann", "red", ours.get_client_addr())
            found = asking.get_client("bob", get_as_dict=True)
            assert (found["name"], found["group"]) == ("bob", None)
            for error in (ClientNotFound, TypeError):
                with pytest.raises(error):
                    asking.get_client("nobody")
                with pytest.raises(error):
                    asking.get_client((HOST, 9))
            with pytest.raises(ValueError):  # noqa: PT011
                asking.get_client((HOST, 99999))


def test_lookups_where_no_loop_runs_and_inside_handlers() -> None:
    got = Notes()
    with server() as serving, client(serving, "ann", loop=False) as ours:
        wait_names(serving, "ann")
        assert ours.get_client("ann").name == "ann"
        with looping(ours):

            @ours.on("look up", threaded=True)
            def on_look_up(message: str) -> None:
                got(ours.get_client(message).ip)

            serving.send_client("ann", "look up", "ann")
            assert got.wait(1) == [ours.get_client_addr()]


# ------------------------------------------------------------------------------------------------ update() and start()


def test_update_blocks_until_something_happens() -> None:
    with raw_pair(loop=False) as (ours, raw):
        passed = threading.Event()

        def one_pass() -> None:
            ours.update()
            passed.set()

        thread = threading.Thread(target=one_pass)
        thread.start()
        assert not passed.wait(0.2)
        raw.send(b"$CMD$text")
        assert passed.wait(PATIENCE)
        thread.join(PATIENCE)


def test_update_that_does_not_block_runs_handlers_in_the_callers_thread() -> None:
    got = Notes()
    with raw_pair("ann", None, False, loop=False) as (ours, raw):
        ours.on("text")(lambda message: got(message, threading.current_thread()))
        ours.update()
        assert not got.all
        raw.send(b"$CMD$text$MSG$x")
        pass_until(ours.update, lambda: got.all)
        assert got.all == [(b"x", threading.current_thread())]


def test_one_update_per_frame_is_never_delayed() -> None:
    with raw_pair("ann", None, False, loop=False) as (ours, _):
        pause = threading.Event()
        took = []
        for _ in range(30):
            pause.wait(0.016)
            began = time.perf_counter()
            ours.update()
            took.append(time.perf_counter() - began)
        assert sorted(took)[15] < 0.01


def test_a_tight_loop_of_updates_costs_little() -> None:
    with raw_pair("ann", None, False, loop=False) as (ours, raw):
        busy, end = time.process_time(), time.monotonic() + 0.6
        while time.monotonic() < end:
            ours.update()
        assert time.process_time() - busy < 0.15
        got = Notes()
        ours.on("text")(lambda: got("text"))
        raw.send(b"$CMD$text")
        pass_until(ours.update, lambda: got.all)


def test_update_after_close_does_nothing() -> None:
    with raw_pair(loop=False) as (ours, _):
        ours.close()
        ours.update()
        ours.start()
        assert ours.closed


def test_start_ends_when_another_thread_closes() -> None:
    with raw_pair(loop=False) as (ours, _), looping(ours) as thread:
        ours.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("last", [b"$DISCONN$", b""])
def test_the_loop_ends_when_the_server_does(last: bytes) -> None:
    got = Notes()
    ends = () if last else ServerNotRunning  # start() says so, unless the server did
    with raw_pair(loop=False) as (ours, raw), looping(ours, ends_with=ends) as thread:
        ours.on("force_disconnect")(lambda: got("force_disconnect"))
        if last:
            raw.send(last)
        raw.socket.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert ours.closed
        assert not last or got.all == ["force_disconnect"]


def test_what_came_before_the_end_is_handled() -> None:
    got = Notes()
    with raw_pair(loop=False) as (ours, raw):
        ours.on("text")(lambda message: got(message))
        ours.on("force_disconnect")(lambda: got("out"))
        raw.send(*(b"$CMD$text$MSG$%d" % number for number in range(50)), b"$DISCONN$")
        raw.socket.close()
        ours.start()
        assert got.all == [*(b"%d" % number for number in range(50)), "out"]


def test_callback_and_error_handler() -> None:
    calls, errors = Notes(), Notes()
    with raw_pair(loop=False) as (ours, raw):

        @ours.on("fail")
        def on_fail() -> None:
            raise KeyError("why")

        @ours.on("number")
        def on_number(message: int) -> None:
            errors(message)

        with looping(ours, callback=lambda: calls("pass"), error_handler=errors):
            raw.send(b"$CMD$fail", b"$CMD$number$MSG$none", b"$CMD$number$MSG$7")
            first, second, third = errors.wait(3)
            assert isinstance(first, KeyError)
            assert isinstance(second, InvalidTypeCast)
            assert third == 7
            calls.wait(1)


def test_without_error_handler_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with raw_pair() as (ours, raw):

        @ours.on("fail")
        def on_fail() -> None:
            raise KeyError("why it failed")

        raw.send(b"$CMD$fail")
        handled(raw, ours)
    assert any("why it failed" in (record.exc_text or "") + record.getMessage() for record in caplog.records)


CTRL_C = """
import simplesockets.hisock as hisock
client = hisock.connect(("127.0.0.1", {port}), "ann")

@client.on("hello")
def on_hello():
    print("hello", flush=True)

try:
    client.start()
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert client.closed
print("end", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent another way there")
def test_ctrl_c_ends_start() -> None:
    with server() as serving, running_program(CTRL_C.format(port=serving.get_addr()[1])) as program:
        wait_names(serving, "ann")
        serving.send_client("ann", "hello")
        program.wait_for_line("hello")
        program._process.send_signal(signal.SIGINT)
        program.wait_for_line("end")
        assert program.wait_end() == 0, program


# ------------------------------------------------------------------------------------------------- the Threaded class


def test_threaded_client_with_the_names_of_the_second_generation() -> None:
    got = Notes()
    with server() as serving:
        ours = hisock.threaded_connect(serving.get_addr(), name="ann", group="red")
        assert type(ours) is ThreadedHiSockClient
        ours.on("text")(lambda message: got(message, threading.current_thread()))
        ours.start()
        try:
            wait_names(serving, "ann")
            serving.send_group("red", "text", "hi")
            ((message, thread),) = got.wait(1)
            assert message == b"hi"
            assert thread not in (threading.current_thread(), threading.main_thread())
        finally:
            ours.close()
        assert not thread.is_alive(), "close() waits for the loop's thread"
        wait_names(serving)


def test_threaded_client_with_the_names_of_the_first_generation() -> None:
    with server() as serving:
        ours = ThreadedHiSockClient(serving.get_addr(), "ann", None)
        ours.start_client()
        wait_names(serving, "ann")
        ours.stop_client()
        ours.join()
        assert ours.closed
        wait_names(serving)


def test_threaded_client_closes_from_its_own_handler() -> None:
    with server() as serving:
        ours = ThreadedHiSockClient(serving.get_addr(), "ann")
        ours.on("stop")(lambda: ours.close())
        ours.start()
        wait_names(serving, "ann")
        serving.send_client("ann", "stop")
        ours.join()
        wait_names(serving)


def test_a_threaded_client_that_was_never_started_closes() -> None:
    with server() as serving:
        ours = ThreadedHiSockClient(serving.get_addr(), "ann")
        ours.close(emit_leave=False)
        ours.close()


# -------------------------------------------------------------------------------------------------------------- on()

WRONG_COUNTS: dict[str, list[Any]] = {
    "client_connect": [lambda: None, lambda a, b: None],
    "client_disconnect": [lambda: None, lambda a, b: None],
    "force_disconnect": [lambda a: None],
    "*": [lambda: None, lambda a: None, lambda a, b, c: None],
    "anything else": [lambda a, b: None],
}


def test_a_wrong_count_of_arguments_is_an_error_at_decoration() -> None:
    with server() as serving, client(serving, loop=False) as ours:
        for command, handlers in WRONG_COUNTS.items():
            for handler in handlers:
                with pytest.raises(TypeError, match="argument") as raised:
                    ours.on(command)(handler)
                assert isinstance(raised.value, ValueError)
                assert command in str(raised.value)


def test_on_returns_the_function_and_refuses_reserved_shapes() -> None:
    with server() as serving, client(serving, loop=False) as ours:

        def handler() -> None: ...

        assert ours.on("text")(handler) is handler
        with pytest.raises(ValueError, match=r"\$"):
            ours.on("$CMD$")(handler)
        with pytest.raises(ValueError, match=r"\$"):
            ours.send("$CMD$", "x")


def test_commands_named_as_the_servers_events_are_ordinary_here() -> None:
    got = Notes()
    with raw_pair() as (ours, raw):
        for command in ("join", "leave", "message", "name_change"):
            ours.on(command)(lambda message: got(message))
            raw.send(b"$CMD$" + command.encode() + b"$MSG$" + command.encode())
        assert got.wait(4) == [b"join", b"leave", b"message", b"name_change"]


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_notices_in_each_dialect(dialect: str) -> None:
    got = Notes()
    space = b" " if dialect == "0.x" else b""
    info = b'{"ip": ["10.0.0.1", 5], "name": "b\\u00f6b", "group": null}'
    with raw_pair(dialect=dialect) as (ours, raw):
        ours.on("client_connect")(lambda who: got("came", who.name, who.ip, type(who)))
        ours.on("client_disconnect")(lambda who: got("went", who["name"], who["group"], type(who)))
        raw.send(b"$CLTCONN$" + space + info, b"$CLTDISCONN$" + space + info)
        assert got.wait(2) == [
            ("came", "böb", ("10.0.0.1", 5), ClientInfo),
            ("went", "böb", None, ClientInfo),
        ]


def test_notices_need_no_handlers() -> None:
    got = Notes()
    with raw_pair() as (ours, raw):
        ours.on("*")(lambda command, data: got(command, data))
        raw.send(b'$CLTCONN${"ip": ["10.0.0.1", 5], "name": null, "group": null}')
        handled(raw, ours)
        assert not got.all, "they are no commands"


def test_override_makes_a_reserved_name_ordinary() -> None:
    got = Notes()
    with raw_pair() as (ours, raw):

        @ours.on("client_disconnect", override=True)
        def on_disconnect(message: dict[str, object]) -> None:
            got(message)

        raw.send(b'$CMD$client_disconnect$MSG${"reason": "bored"}')
        raw.send(b'$CLTDISCONN${"ip": ["10.0.0.1", 5], "name": null, "group": null}')
        handled(raw, ours)
        assert got.all == [{"reason": "bored"}]


@pytest.mark.parametrize("command", ["client_connect", "client_disconnect", "force_disconnect", "*"])
def test_a_command_under_a_reserved_name_runs_the_wildcard_only(command: str) -> None:
    got = Notes()
    with raw_pair() as (ours, raw):
        ours.on("client_connect")(lambda who: got("wrong"))
        ours.on("client_disconnect")(lambda who: got("wrong"))
        ours.on("force_disconnect")(lambda: got("wrong"))

        @ours.on("*")
        def on_anything(command: str, data: str) -> None:
            got(command, data)

        raw.send(b"$CMD$" + command.encode() + b"$MSG$content")
        handled(raw, ours)
        assert got.all == [(command, "content")]
        assert not ours.closed


def test_the_wildcard_gets_raw_data_too() -> None:
    got = Notes()
    with raw_pair() as (ours, raw):

        @ours.on("*")
        def on_anything(command: str, data: str) -> None:
            got(command, data)

        raw.send(b"$CMD$unknown$MSG$x", b"$CMD$bare", "raw, ß".encode())
        found = got.wait(3)
        assert found[:2] == [("unknown", "x"), ("bare", "")]
        assert found[2][0] in ("", None)
        assert found[2][1] == "raw, ß"


def test_first_generation_bodies_are_matched_by_the_longest_command() -> None:
    got = Notes()
    with raw_pair(dialect="0.x") as (ours, raw):
        ours.on("set")(lambda message: got("set", message))
        ours.on("set name")(lambda message: got("set name", message))

        @ours.on("*")
        def on_anything(command: str, data: str) -> None:
            got("*", command, data)

        raw.send(b"set x", b"set name x y", b"set name", b"settle down", b"set")
        assert got.wait(5) == [
            ("set", b"x"),
            ("set name", b"x y"),
            ("set name", None),
            ("*", "settle", "down"),
            ("set", None),
        ]


def test_annotations_cast_what_comes() -> None:
    got = Notes()
    with raw_pair() as (ours, raw):

        @ours.on("dict")
        def on_dict(message: dict[str, object]) -> None:
            got(message)

        @ours.on("info")
        def on_info(message: ClientInfo) -> None:
            got(message)

        @ours.on("flag")
        def on_flag(message: bool) -> None:
            got(message)

        @ours.on("float")
        def on_float(message: float) -> None:
            got(message)

        raw.send(
            b'$CMD$dict$MSG${"a": 1}',
            b'$CMD$info$MSG${"ip": ["1.2.3.4", 5], "name": "x", "group": "y"}',
            b"$CMD$flag$MSG$\x00",
            b"$CMD$flag",
            b"$CMD$float$MSG$1e3",
        )
        assert got.wait(5) == [{"a": 1}, ClientInfo(("1.2.3.4", 5), "x", "y"), True, False, 1000.0]


def test_threaded_handlers_do_not_hold_the_loop() -> None:
    gate, got = Gate(), Notes()
    with raw_pair() as (ours, raw):

        @ours.on("slow", threaded=True)
        def on_slow() -> None:
            gate.arrive()
            got("slow")

        ours.on("quick")(lambda: got("quick"))
        raw.send(b"$CMD$slow")
        gate.wait_arrived()
        raw.send(b"$CMD$quick")
        assert got.wait(1) == ["quick"]
        gate.open()
        assert got.wait(2) == ["quick", "slow"]


# ------------------------------------------------------------------------------------------------------------ recv()


def test_recv_in_a_threaded_handler_as_in_the_tutorial() -> None:
    got = Notes()
    with raw_pair() as (ours, raw):

        @ours.on("start", threaded=True)
        def on_start() -> None:
            ours.send("what would you like to say")
            got(ours.recv("response", str))

        raw.send(b"$CMD$start")
        raw.read()
        raw.send(b"$CMD$other$MSG$x", "$CMD$response$MSG$höre".encode())
        assert got.wait(1) == ["höre"]


def test_recv_and_lookups_in_plain_handlers() -> None:
    got = Notes()
    with server() as serving, client(serving, "ann") as ours:
        serving.on("echo")(lambda info, message: serving.send_client(info, "echoed", message))

        @ours.on("start")
        def on_start() -> None:
            ours.send("echo", "x")
            got(ours.recv("echoed", str))
            got(ours.get_client("ann").name)

        wait_names(serving, "ann")
        serving.send_client("ann", "start")
        assert got.wait(2) == ["x", "ann"]


def test_recv_misses_no_answer_that_came_before() -> None:
    with raw_pair() as (ours, raw):
        raw.send(b"$CMD$early$MSG$1", b"$CMD$earlier$MSG$2")
        handled(raw, ours)
        assert ours.recv("earlier", int, timeout=PATIENCE) == 2
        assert ours.recv("early", int, timeout=PATIENCE) == 1


def test_recv_where_no_loop_runs() -> None:
    got = Notes()
    with raw_pair(loop=False) as (ours, raw):
        ours.on("known")(lambda message: got(message))
        raw.send(b"$CMD$known$MSG$k", b"$CMD$one$MSG$1", b"raw", b"$CMD$two$MSG$2")
        assert ours.recv("two", int) == 2
        assert not got.all, "handlers run in passes of the loop"
        ours.update()
        assert got.all == [b"k"]
        assert ours.recv() == b"1"
        assert ours.recv() == b"raw"
        with pytest.raises(TimeoutError):
            ours.recv(timeout=0.05)


def test_recv_raw_blocks_even_where_passes_do_not() -> None:
    with raw_pair("ann", None, False, loop=False) as (ours, raw):
        timer = threading.Timer(0.2, raw.send, [b"$CMD$text$MSG$any body", b"raw data"])
        timer.start()
        assert ours.recv_raw() == b"$CMD$text$MSG$any body"
        assert ours.recv_raw() == b"raw data"
        timer.join()


def test_recv_casts_and_a_failed_cast_is_the_callers_error() -> None:
    with raw_pair() as (ours, raw):
        raw.send(b"$CMD$n$MSG$[1]", b"$CMD$n$MSG$none", b"$CMD$n", b"$CMD$n", b"$CMD$n$MSG$x")
        assert ours.recv("n", list, timeout=PATIENCE) == [1]
        with pytest.raises(InvalidTypeCast):
            ours.recv("n", int, timeout=PATIENCE)
        assert ours.recv("n", int, timeout=PATIENCE) == 0
        assert ours.recv("n", timeout=PATIENCE) == b""
        assert ours.recv("n", timeout=PATIENCE) == b"x"


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("loop", [True, False])
def test_recv_ends_with_the_connection(who: str, loop: bool) -> None:
    ended: queue.Queue[BaseException] = queue.Queue()
    with raw_pair(loop=False) as (ours, raw), contextlib.ExitStack() as stack:
        if loop:
            stack.enter_context(looping(ours, ends_with=ServerNotRunning))

        def wait() -> None:
            try:
                ours.recv("never")
            except BaseException as error:
                ended.put(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_in_recv(thread)
        if who == "client":
            ours.close()
        else:
            raw.socket.close()
        assert not isinstance(ended.get(timeout=PATIENCE), TimeoutError)
        thread.join(PATIENCE)


# ----------------------------------------------------------------------------------------------------- the rest of it


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_change_name_and_group_and_back(dialect: str) -> None:
    changed = Notes()
    with server() as serving:
        serving.on("name_change")(lambda info, old, new: changed(old, new))
        serving.on("group_change")(lambda info, old, new: changed(old, new))
        with client(serving, "ann", "red", dialect=dialect) as ours:
            ours.change_name("bob")
            ours.change_group("blue")
            assert changed.wait(2) == [("ann", "bob"), ("red", "blue")]
            assert (ours.name, ours.group) == ("bob", "blue")
            ours.change_name(None)
            ours.change_group(None)
            assert changed.wait(4)[2:] == [("bob", "ann"), ("blue", "red")]
            assert (ours.name, ours.group) == ("ann", "red")
            assert (ours.original_name, ours.original_group) == ("ann", "red")


def test_back_to_no_name() -> None:
    changed = Notes()
    with server() as serving:
        serving.on("name_change")(lambda info, old, new: changed(old, new))
        with client(serving) as ours:
            ours.change_name("bob")
            ours.change_name(None)
            assert changed.wait(2) == [(None, "bob"), ("bob", None)]
            assert ours.name is None


def test_raw_content_that_starts_with_a_reserved_word_is_refused() -> None:
    with raw_pair() as (ours, raw):
        for word in (b"$USRCLOSE$", b"$CLTHELLO$", b"$KEEPACK$", b"$GETCLT$ann", b"$CHNAME$x", b"$CMD$x"):
            with pytest.raises(ValueError, match=r"\$"):
                ours.raw_send(word)
        ours.raw_send(b"$ is fine")
        assert raw.read() == b"$ is fine"


def test_content_too_long_for_the_header_is_refused() -> None:
    with raw_pair(header_len=2) as (ours, raw):
        with pytest.raises(ValueError, match=r"header|long|large"):
            ours.send("text", "x" * 100)
        ours.send("text", "x")
        assert raw.read() == b"$CMD$text$MSG$x"


def test_sending_after_close_is_an_error_that_says_so() -> None:
    with raw_pair() as (ours, _):
        ours.close()
        ours.close()
        with pytest.raises((OSError, RuntimeError, hisock.utils.ClientDisconnected), match=r"clos"):
            ours.send("text", "x")


def test_a_client_that_is_thrown_out_knows() -> None:
    got = Notes()
    with server() as serving, client(serving, "ann") as ours:
        ours.on("force_disconnect")(lambda: got("out"))
        wait_names(serving, "ann")
        serving.disconnect_client("ann")
        assert got.wait(1) == ["out"]
        wait_until(lambda: ours.closed)


def test_force_disconnect_needs_no_handler() -> None:
    with raw_pair(loop=False) as (ours, raw):
        raw.send(b"$DISCONN$")
        ours.start()
        assert ours.closed


def test_leave_is_told_to_the_others() -> None:
    got = Notes()
    with server() as serving, client(serving, "ann") as ann:
        ann.on("client_connect")(lambda who: got("came", who.name))
        ann.on("client_disconnect")(lambda who: got("went", who.name))
        wait_names(serving, "ann")
        with client(serving, "bob"):
            wait_until(lambda: ("came", "bob") in got.all)
        wait_until(lambda: ("went", "bob") in got.all)


def test_the_cache_keeps_the_newest() -> None:
    with raw_pair(cache_size=2) as (ours, raw):
        ours.on("known")(lambda message: None)
        raw.send(b"$CMD$old$MSG$0", b"$CMD$known$MSG$1", b"$CMD$unknown$MSG$2")
        wait_until(lambda: [each.command for each in ours.get_cache()] == ["known", "unknown"])
        first, second = ours.get_cache()
        assert (first.content, first.called, second.called) == (b"1", True, False)
        assert ours.get_cache(-1) is second
        assert ours.get_cache(slice(0, 1)) == [first]


def test_no_cache_unless_asked_for() -> None:
    with raw_pair() as (ours, raw):
        raw.send(b"$CMD$text$MSG$x")
        handled(raw, ours)
        assert list(ours.get_cache()) == []


@pytest.mark.parametrize("garbage", [b"no header at all", b"-5".ljust(HEADER), b"9" * HEADER, b"\x00" * 64])
def test_garbage_from_the_server_ends_the_client_with_a_logged_reason(
    garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_pair(loop=False) as (ours, raw), looping(ours, ends_with=ServerNotRunning) as thread:
        raw.socket.sendall(garbage)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert ours.closed
    assert any(record.name.startswith("simplesockets") for record in caplog.records)


@pytest.mark.parametrize("body", [b"$CLTCONN${", b"$CLTCONN$[]", b"$CLTDISCONN$\xff"])
def test_a_bad_notice_is_the_error_of_that_message_alone(body: bytes) -> None:
    got = Notes()
    with raw_pair() as (ours, raw):
        ours.on("client_connect")(lambda who: got("wrong"))
        ours.on("client_disconnect")(lambda who: got("wrong"))
        raw.send(body)
        handled(raw, ours)
        assert not got.all


def test_a_message_over_the_limit_ends_the_client() -> None:
    with raw_pair(loop=False, max_message=100) as (ours, raw):
        raw.send(b"$CMD$fits$MSG$" + b"x" * 86)
        assert ours.recv("fits", timeout=PATIENCE) == b"x" * 86
        raw.send(b"$CMD$long$MSG$" + b"x" * 87)
        with pytest.raises(ServerNotRunning, match="101"):
            ours.start()
        assert ours.closed


def test_large_messages_both_ways() -> None:
    with server() as serving, client(serving, "ann") as ours:
        serving.on("echo")(lambda info, message: serving.send_client(info, "echoed", message))
        content = os.urandom(3 << 20)
        ours.send("echo", content)
        assert ours.recv("echoed", timeout=PATIENCE) == content


def test_sending_from_many_threads_keeps_messages_whole() -> None:
    with raw_pair() as (ours, raw):

        def send(letter: str) -> None:
            for _ in range(50):
                ours.send("text", letter * 2000)

        threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        found = [raw.read().removeprefix(b"$CMD$text$MSG$") for _ in range(200)]
        for thread in threads:
            thread.join(PATIENCE)
        assert all(len(each) == 2000 and len(set(each)) == 1 for each in found)
