"""The playground without a browser: what it serves and refuses, what it shows, how it ends."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import pathlib
import random
import signal
import socket
import string
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from simplesockets import BindError, SetupError
from simplesockets.__main__ import main
from simplesockets.hpx import Server
from simplesockets.hpx.codec import pack
from simplesockets.hpx.playground import Playground
from simplesockets.hpx.playground.bench import Bench
from simplesockets.hpx.playground.feed import MOST_PAGES
from simplesockets.hpx.playground.history import HIDDEN, SHOWN_TEXT, readable
from simplesockets.hpx.playground.web import MOST_BODY
from simplesockets.hpx.playground.worker import MOST_TASKS, Worker
from simplesockets.hpx.playing import demo_server

from ..support.certificates import client_side, server_side
from ..support.running import raw_listener
from ..support.waiting import PATIENCE, Gate, wait_until
from .pages import Page, connected_page, page_of
from .support import GREETING, frame, read_frame, scripted_server

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def page() -> Iterator[Page]:
    with connected_page() as (page, _):
        yield page


@pytest.fixture
def alone() -> Iterator[Page]:
    """A page of a playground that has no server."""
    with Playground(("127.0.0.1", 1), 0) as playground, contextlib.closing(Page(playground)) as page:
        yield page


@pytest.fixture
def guest(page: Page) -> Page:
    assert page.do("handshake") == (200, {})
    page.received(2)
    return page


def free_port() -> int:
    with raw_listener() as listener:
        port: int = listener.getsockname()[1]
        return port


# -------------------------------------------------------------------------------------------------- who may ask

FILES = {
    "/": "text/html",
    "/page/playground.css": "text/css",
    "/page/playground.js": "text/javascript",
    "/page/icon.svg": "image/svg+xml",
}
ACTIONS = ["connect", "disconnect", "clear", "functions", "handshake", "session", "command", "call", "send"]
ASKED = [("GET", path) for path in [*FILES, "/events", "/exchanges/1"]] + [("POST", f"/do/{each}") for each in ACTIONS]


@pytest.mark.parametrize(("path", "kind"), FILES.items())
def test_the_page_and_its_files_come_with_headers_that_let_nothing_foreign_in(page: Page, path: str, kind: str) -> None:
    status, headers, content = page.get(path)
    assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"https://" not in content
    assert b"innerHTML" not in content


@pytest.mark.parametrize(
    "foreign",
    [
        {"host": "evil.example:{port}"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1.evil.example:{port}"},
        {"origin": "http://evil.example"},
        {"origin": "http://evil.example:{port}"},
        {"origin": "https://127.0.0.1:{port}"},
        {"origin": "null"},
    ],
    ids=str,
)
def test_strangers_are_refused_whatever_they_ask_for(alone: Page, foreign: dict[str, str]) -> None:
    headers = {name: value.format(port=alone.port) for name, value in foreign.items()}
    for method, path in ASKED:
        status, told, content = alone.request(
            method, path, b"{}", content_type="application/json", x_playground_token=alone.token, **headers
        )
        assert (path, status) == (path, 403)
        assert alone.token.encode() not in content
        assert "default-src 'none'" in told["content-security-policy"]


@pytest.mark.parametrize("token", ["", "x", "ü", "{token}x"])
def test_without_the_token_nothing_but_the_page_is_given(alone: Page, token: str) -> None:
    given = token.format(token=alone.token).encode().decode("latin-1")
    for method, path in ASKED[len(FILES) :]:
        status, _, content = alone.request(
            method, path, b"{}", content_type="application/json", x_playground_token=given
        )
        assert (path, status) == (path, 403)
        assert b"reload the page" in content


def test_by_the_name_localhost_it_is_there_too(alone: Page) -> None:
    own = f"localhost:{alone.port}"
    assert alone.get("/", host=own, origin=f"http://{own}")[0] == 200


def test_each_start_has_a_token_of_its_own(alone: Page) -> None:
    with Playground(("127.0.0.1", 1), 0) as another, contextlib.closing(Page(another)) as page:
        assert page.token != alone.token
        assert len(page.token) >= 43  # 256 bits


@pytest.mark.parametrize(
    ("what", "body", "status", "said"),
    [
        ("call", b"{", 400, "no JSON"),
        ("call", b"[" * 100_000, 400, "no JSON"),
        ("call", b"\xff", 400, "no JSON"),
        ("call", b"[]", 400, "no JSON object"),
        ("call", b'{"fname": 5}', 400, "'fname' has to be text"),
        ("call", b'{"arguments": []}', 400, "an object of texts"),
        ("handshake", b'{"user": null}', 400, "'user' has to be text"),
        ("command", b'{"command": "reboot"}', 400, "no server command"),
        ("send", b"x" * (MOST_BODY + 1), 413, "too long"),
        ("send", b'{"text": "1e999"}', 502, "cannot be said in JSON"),
        ("call", b'{"fname": "add", "free": true, "more": "{\\"a\\": 1e999}"}', 502, "cannot be said in JSON"),
        ("nonsense", b"{}", 404, "Not Found"),
    ],
)
def test_requests_of_no_use_get_a_sentence(alone: Page, what: str, body: bytes, status: int, said: str) -> None:
    found, headers, content = alone.request(
        "POST", f"/do/{what}", body, content_type="application/json", x_playground_token=alone.token
    )
    assert found == status
    assert said in content.decode()
    assert "content-security-policy" in headers


def test_a_request_has_to_say_that_it_is_json(alone: Page) -> None:
    # What a form of another page can send says something else.
    status, _, content = alone.request("POST", "/do/connect", b"{}", x_playground_token=alone.token)
    assert (status, b"has to be JSON" in content) == (415, True)


# ------------------------------------------------------------------------------------------------ what is shown


def test_an_exchange_is_shown_with_direction_time_sizes_and_indented(guest: Page) -> None:
    assert guest.do("call", fname="add", arguments={"a": "40", "b": ""}) == (200, {})
    answer = guest.received(3)[-1]
    asked = guest.of("sent")[-1]
    message = {"session": guest.state["session"], "name": "playground", "data": [{"fname": "add", "a": 40}]}
    text = json.dumps(message, separators=(",", ":")).encode()
    assert json.loads(asked["text"]) == message
    assert asked["text"] == json.dumps(message, indent=2)
    assert (asked["packed"], asked["unpacked"], asked["after"]) == (len(pack(text)), len(text), None)
    result = {**message, "name": "server", "data": [{"fname": "add", "data": 42}]}
    text = json.dumps(result, separators=(",", ":")).encode()
    assert json.loads(answer["text"]) == result
    assert (answer["packed"], answer["unpacked"], answer["error"]) == (len(pack(text)), len(text), "")
    assert answer["after"] == pytest.approx(answer["time"] - asked["time"])
    assert asked["number"] < answer["number"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"fname": "fail", "arguments": {"code": "404"}}, "404: as you wish"),
        ({"fname": "crash"}, "100: Unhandled exception in function 'crash': ZeroDivisionError: on purpose"),
        ({"fname": "nobody", "free": True}, "403: There is no function 'nobody' here; check its spelling"),
    ],
)
def test_errors_are_told_of(guest: Page, call: dict[str, Any], said: str) -> None:
    assert guest.do("call", **call)[0] == 200
    assert guest.received(3)[-1]["error"] == said


@pytest.mark.parametrize(
    ("typed", "fields"),
    [
        ({"fname": "add"}, {"a": "This argument is needed"}),
        ({"fname": "add", "arguments": {"a": "x"}}, {"a": "This is no JSON"}),
        ({"fname": "add", "arguments": {"a": "1", "b": "1.5"}}, {"b": "a whole number"}),
        ({"fname": "add", "arguments": {"a": "1", "c": "1"}}, {"c": "takes no argument 'c'"}),
        ({"fname": "add", "arguments": {"a": "1"}, "more": "[]"}, {"more": "a JSON object"}),
        ({"fname": "", "free": True}, {"fname": "is missing"}),
        ({"fname": "x", "free": True, "more": "{"}, {"more": "This is no JSON"}),
    ],
)
def test_what_was_typed_wrong_is_said_by_field_and_nothing_is_sent(
    guest: Page, typed: dict[str, Any], fields: dict[str, str]
) -> None:
    status, told = guest.do("call", **typed)
    assert status == 400
    assert told["fields"].keys() == fields.keys()
    for name, said in fields.items():
        assert said in told["fields"][name]
    guest.do("call", fname="echo", arguments={"value": "1"})
    guest.received(3)
    assert len(guest.of("sent")) == 2  # the handshake, and this


def test_an_earlier_message_can_be_changed_and_sent_again(guest: Page) -> None:
    guest.do("call", fname="echo", arguments={"value": "12345678901234567890"})
    guest.received(3)
    text = guest.of("sent")[-1]["text"].replace("12345678901234567890", '"ü\\ud800 <EOF>"')
    assert guest.do("send", text=text) == (200, {})
    assert json.loads(guest.received(4)[-1]["text"])["data"][0]["data"] == "ü\ud800 <EOF>"
    status, told = guest.do("send", text=text + "}")
    assert (status, "This is no JSON: Extra data" in told["fields"]["text"]) == (400, True)


def test_a_message_need_not_have_the_form_that_servers_want(page: Page) -> None:
    assert page.do("send", text="[1]") == (200, {})
    assert page.received(2)[-1]["error"].startswith("403: Invalid message")


def test_users_log_in_and_their_passwords_are_not_shown(page: Page) -> None:
    page.do("handshake", user="admin", password="wrong-secret")
    assert page.received(2)[-1]["error"].startswith("411:")
    page.do("handshake", user="admin", password="secret")
    page.wait(lambda: page.state["session"])
    assert page.state["user"] == "admin"
    for sent in page.of("sent"):
        whole = page.get(f"/exchanges/{sent['number']}", x_playground_token=page.token)[2].decode()
        assert "secret" not in sent["text"] + whole
        assert json.loads(sent["text"])["data"] == {"user": "admin", "password": HIDDEN}
    page.do("call", fname="who")
    assert json.loads(page.received(4)[-1]["text"])["data"][0]["data"] == ["admin", "playground"]
    assert page.do("handshake", password="x") == (
        400,
        {"error": "Please look at what was typed", "fields": {"user": "The user's name is missing"}},
    )


def test_a_session_can_be_left_and_used_again(guest: Page) -> None:
    session = guest.wait(lambda: guest.state["session"])
    assert guest.state["user"] == ""
    guest.do("session", session="")
    guest.do("call", fname="count")
    assert guest.received(3)[-1]["error"].startswith("407:")
    guest.do("session", session=session)
    guest.do("call", fname="count")
    assert guest.received(4)[-1]["error"] == ""


def test_the_greeting_can_be_asked_for(page: Page) -> None:
    assert page.wait(lambda: page.state["guest_allowed"]) is True
    assert json.loads(page.state["version"])["core"][0] == 1
    page.do("command", command="requestauth")
    assert "version" in json.loads(page.received(2)[-1]["text"])["data"]


def test_a_server_can_be_asked_for_its_functions() -> None:
    with connected_page() as (page, server):
        assert [each["fname"] for each in page.functions] == server.functions
        server.function(server.describe_functions)
        page.do("handshake")
        page.received(2)
        page.do("functions")
        page.wait(lambda: "describe_functions" in [each["fname"] for each in page.functions])
        add = next(each for each in page.functions if each["fname"] == "add")
        assert add["arguments"] == [
            {"name": "a", "type": "int", "needed": True, "default": None},
            {"name": "b", "type": "int", "needed": False, "default": "2"},
        ]


def test_a_long_text_is_cut_and_can_be_had_as_a_whole(guest: Page) -> None:
    guest.do("call", fname="long", arguments={"size": str(SHOWN_TEXT * 2)})
    answer = guest.received(3)[-1]
    assert len(answer["text"]) == SHOWN_TEXT < answer["length"]
    path = f"/exchanges/{answer['number']}"
    whole = json.loads(guest.get(path, x_playground_token=guest.token)[2])
    assert json.loads(whole["text"])["data"][0]["data"].count("<EOF>") == SHOWN_TEXT * 2 // 5
    guest.do("clear")
    guest.wait(lambda: guest.state["cleared"] == answer["number"])
    status, _, content = guest.get(path, x_playground_token=guest.token)
    assert (status, b"not kept any more" in content) == (404, True)


def test_only_so_many_pages_listen_that_come_at_once(alone: Page) -> None:
    with contextlib.ExitStack() as stack:
        pages = [http.client.HTTPConnection("127.0.0.1", alone.port, PATIENCE) for _ in range(2 * MOST_PAGES)]
        for page in pages:
            page.connect()
            stack.callback(page.close)
        for page in pages:
            page.request("GET", f"/events?token={alone.token}")
        answers = [stack.enter_context(page.getresponse()) for page in pages]
        first = [answer.readline() if answer.status == 200 else b"" for answer in answers]
        assert len(list(filter(None, first))) == MOST_PAGES


@pytest.mark.parametrize("number", ["0", "1" * 5000, "-1", "x", "\u0661"])
def test_an_exchange_that_is_not_there_gets_a_sentence(alone: Page, number: str) -> None:
    status, _, content = alone.get(f"/exchanges/{quote(number)}", x_playground_token=alone.token)
    assert (status, json.loads(content)["error"]) == (404, "This exchange is not kept any more")


def test_what_the_playground_did_not_expect_is_told_of_too(
    alone: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Bench, "clear", lambda bench: 1 / 0)
    status, content = alone.do("clear")
    assert status == 500
    assert "failed: ZeroDivisionError" in content["error"]
    wait_until(lambda: "ZeroDivisionError" in caplog.text)


def test_a_page_that_comes_back_gets_what_it_missed_and_a_new_one_gets_all(guest: Page) -> None:
    known = max(guest.exchanges)
    guest.do("call", fname="count")
    guest.received(3)
    everything = dict(guest.exchanges)
    guest.exchanges.clear()
    guest.listen(after=known)
    guest.received(1)
    assert guest.exchanges == {number: each for number, each in everything.items() if number > known}
    with contextlib.closing(Page(guest.playground)) as another:
        another.listen()
        another.wait(lambda: another.exchanges == everything)


def test_only_so_many_pages_listen(alone: Page) -> None:
    with contextlib.ExitStack() as pages:
        for _ in range(MOST_PAGES):
            pages.enter_context(contextlib.closing(Page(alone.playground))).listen()
        status, _, content = alone.get(f"/events?token={alone.token}")
    assert (status, b"Too many pages" in content) == (503, True)


# ----------------------------------------------------------------------------------------------- hostile servers


def hostile(*frames: bytes) -> Any:
    """A script of a server that says all that, and then waits until it is left."""

    def script(sock: socket.socket) -> None:
        sock.sendall(b"".join(frames))
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""

    return script


DESCRIBED = {"fname": "describe_functions"}
GOOD = {"fname": "good", "doc": "", "arguments": [], "more": False}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"no gzip<EOF>", "not in gzip's format, or damaged"),
        (gzip.compress(b"\xff") + b"<EOF>", "Invalid JSON"),
        (gzip.compress(b"[" * 200_000) + b"<EOF>", "nested too deeply"),
        (frame([1]), "The message is no object"),
        (frame({"error": {"code": "<b>", "msg": ["x"]}}), "<b>: ['x']"),
        (frame({"error": 5}), "5"),
        (frame({"data": [{"error": {}}, 5, {"error": {"code": 1}}]}), "1: "),
    ],
    ids=["no gzip", "no text", "nested", "list", "strange error", "number for an error", "several"],
)
def test_whatever_a_server_says_is_shown_with_what_is_wrong(sent: bytes, error: str) -> None:
    with (
        scripted_server(hostile(sent, frame(GREETING))) as address,
        page_of(Playground(address, 0)) as page,
    ):
        first, second = page.received(2)
        assert error in first["error"]
        assert second["error"] == ""
        page.wait(lambda: page.state["connection"] == "open")


@pytest.mark.parametrize(
    "content",
    [
        {"session": 5, "data": "Authenticated"},
        {"session": "x" * 2000, "data": "Authenticated"},
        {"session": "", "data": "Authenticated"},
        {"data": {"version": "x" * 100_000, "guest_allowed": "yes"}},
        {"data": [{**DESCRIBED, "data": None}]},
    ],
)
def test_what_a_server_says_of_itself_is_not_believed_blindly(content: dict[str, Any]) -> None:
    with scripted_server(hostile(frame(content))) as address, page_of(Playground(address, 0)) as page:
        page.received()
        page.do("clear")  # a change of state that comes after
        page.wait(lambda: page.state["cleared"])
        assert page.state["session"] == ""
        assert page.state["guest_allowed"] is False
        assert len(page.state["version"]) <= 200
        assert page.functions == []


def test_functions_that_a_server_describes_wrongly_are_left_out() -> None:
    argument = {"name": "a", "type": 5, "needed": "yes", "default": [1]}
    wrong: list[object] = [5, {}, {"fname": 5}, {"fname": ""}, {"fname": "x" * 1000}]
    odd = {"fname": "odd", "doc": 5, "arguments": [argument, 5, {"name": 7}], "more": 1}
    many = [{"fname": str(number)} for number in range(2000)]
    content = {"data": [{**DESCRIBED, "data": [*wrong, GOOD, odd, *many]}]}
    with scripted_server(hostile(frame(content))) as address, page_of(Playground(address, 0)) as page:
        page.wait(lambda: page.functions)
        assert page.functions[0] == GOOD
        known = {"name": "a", "type": "", "needed": False, "default": None}
        assert page.functions[1] == {"fname": "odd", "doc": "", "arguments": [known], "more": False}
        assert len(page.functions) == 500 - len(wrong)


def test_a_password_is_hidden_or_nothing_is_shown() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    shown = readable({"data": {"password": "sesame", "more": deep}}, "sesame")
    assert "nested too deeply" in shown
    assert "sesame" not in shown


def test_blanks_for_indenting_do_not_fill_the_memory() -> None:
    deep: object = list(range(100_000))
    for _ in range(400):
        deep = [deep]
    with scripted_server(hostile(frame({"data": deep}))) as address, page_of(Playground(address, 0)) as page:
        assert page.received()[0]["length"] < 2_000_000


def test_a_flood_leaves_the_newest_and_the_page_alive() -> None:
    flood = [frame({"data": number}) for number in range(2000)]
    with scripted_server(hostile(*flood)) as address, page_of(Playground(address, 0)) as page:
        page.wait(lambda: "1999" in page.exchanges.get(2001, {}).get("text", ""))
        with contextlib.closing(Page(page.playground)) as late:
            late.listen()
            late.wait(lambda: 2001 in late.exchanges)
            assert len(late.exchanges) == 500


# ------------------------------------------------------------------------------------------------- connections


def test_a_server_that_is_not_there_is_told_of_and_can_be_tried_again() -> None:
    port = free_port()
    with page_of(Playground(("127.0.0.1", port), 0)) as page:
        page.wait(lambda: page.state["problem"])
        assert f"127.0.0.1:{port} cannot be reached" in page.state["problem"]
        assert "Is the server running" in page.state["problem"]
        status, told = page.do("connect")
        assert (status, told["error"]) == (502, page.state["problem"])
        status, told = page.do("handshake")
        assert (status, told["error"]) == (502, "There is no connection: connect first")
        with Server(port=port):
            assert page.do("connect") == (200, {})
            assert page.do("connect") == (200, {})  # it is there already
            page.wait(lambda: (page.state["connection"], page.state["problem"]) == ("open", ""))


def test_a_lost_connection_is_told_of_and_the_session_lives_on() -> None:
    def greet_and_leave(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        asked = read_frame(sock)
        sock.sendall(frame({**asked, "session": "abc", "data": "Authenticated"}))

    with (
        scripted_server(greet_and_leave, hostile(frame(GREETING))) as address,
        page_of(Playground(address, 0)) as page,
    ):
        page.received()
        page.do("handshake")
        page.wait(lambda: page.state["problem"])
        assert page.state["problem"].startswith("The connection was lost: ")
        page.wait(lambda: page.state["problem"] in page.notes())
        assert page.state["connection"] == "none"
        page.do("connect")
        page.wait(lambda: page.state["connection"] == "open")
        assert (page.state["session"], page.state["problem"]) == ("abc", "")


def test_a_server_that_reads_nothing_can_be_left() -> None:
    # What is sent to it waits, and the next with it; but not what ends the waiting.
    endless = json.dumps("".join(random.Random(1).choices(string.ascii_letters, k=6_000_000)))
    with raw_listener() as listener, page_of(Playground(listener.getsockname(), 0)) as page:
        page.wait(lambda: page.state["connection"] == "open")
        accepted, _ = listener.accept()
        with accepted, ThreadPoolExecutor(2) as senders:
            sends = [senders.submit(page.do, "send", text=endless) for _ in range(2)]
            page.wait(lambda: page.of("sent"))
            assert page.do("session", session="other") == (200, {})
            assert page.do("clear") == (200, {})
            assert page.do("disconnect") == (200, {})
            assert [each.result(PATIENCE)[0] for each in sends] == [502, 502]
        page.wait(lambda: page.state["connection"] == "none")


def test_leaving_by_hand_is_no_problem(guest: Page) -> None:
    guest.do("disconnect")
    guest.do("disconnect")
    guest.wait(lambda: guest.state["connection"] == "none")
    assert (guest.state["problem"], guest.notes()[-1]) == ("", "Disconnected")


def test_quit_and_restart_are_for_users_and_connecting_again_works(tmp_path: pathlib.Path) -> None:
    with demo_server(str(tmp_path)) as server:

        def place() -> tuple[str, int]:
            server.start()
            return server.address

        with page_of(Playground(place, 0)) as page:
            page.received()
            page.do("handshake")
            page.received(2)
            page.do("command", command="serverquit")
            assert page.received(3)[-1]["error"].startswith("407:")
            for command in ("serverrestart", "serverquit"):
                page.do("handshake", user="admin", password="secret")
                page.wait(lambda: page.state["user"] == "admin")
                page.do("command", command=command)
                page.wait(lambda: page.state["connection"] == "none")
                assert json.loads(page.of("received")[-1]["text"])["data"] == command
                page.do("session", session="")
                page.wait(lambda: page.state["user"] is None)
                page.do("connect")
                page.wait(lambda: page.state["connection"] == "open")


def test_by_tls_too() -> None:
    with (
        Server(port=0, ssl_context=server_side()) as server,
        page_of(Playground(server.address, 0, ssl_context=client_side())) as page,
    ):
        page.received()
        page.do("handshake")
        page.wait(lambda: page.state["session"])


# ------------------------------------------------------------------------------------------- beginning and ending


def test_close_tells_the_pages_and_may_be_repeated(page: Page) -> None:
    page.playground.close()
    page.wait(lambda: page.over)
    page.playground.close()
    with pytest.raises(SetupError, match="not running"):
        _ = page.playground.url
    with pytest.raises(SetupError, match="closed already"):
        page.playground.start()


def test_close_ends_an_attempt_to_connect() -> None:
    with raw_listener() as mute:
        playground = Playground(mute.getsockname(), 0, ssl_context=client_side())
        with page_of(playground) as page:
            page.wait(lambda: page.state["connection"] == "opening")
            accepted, _ = mute.accept()  # it says nothing, and TLS waits
            with accepted:
                playground.close()
        assert not [each for each in threading.enumerate() if "playground" in each.name]


def test_who_waits_when_it_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    def place() -> tuple[str, int]:
        gate.arrive()
        return "127.0.0.1", 1

    playground = Playground(place, 0)
    with playground, contextlib.closing(Page(playground)) as page, ThreadPoolExecutor(1) as asking:
        gate.wait_arrived()
        asked = asking.submit(page.do, "functions")
        wait_until(lambda: playground._workers[0]._tasks.qsize())
        closing = threading.Thread(target=playground.close)
        closing.start()
        wait_until(playground._workers[0]._closed.is_set)
        gate.open()
        assert asked.result(PATIENCE) == (503, {"error": "The playground ends", "fields": {}})
        closing.join(PATIENCE)
    assert "Traceback" not in caplog.text


def test_ctrl_c_while_it_begins_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    playground = Playground(("127.0.0.1", 1), 0)
    wait = playground._begun.wait

    def interrupted(timeout: float | None = None) -> bool:
        monkeypatch.undo()
        wait(timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(playground._begun, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt), playground:
        pass
    assert not [each for each in threading.enumerate() if "playground" in each.name]


def test_a_playground_that_was_not_started_has_nothing_to_close() -> None:
    Playground(("127.0.0.1", 1), 0).close()


def test_a_port_that_is_in_use_is_named() -> None:
    with raw_listener() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"{port}.*in use"):
            Playground(("127.0.0.1", 1), port).start()


@pytest.mark.parametrize("port", [-1, 65536, "x", True])
def test_ports_of_no_use_are_refused(port: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="port"):
        Playground(("127.0.0.1", 1), port)
    with pytest.raises((TypeError, ValueError), match="port"):
        Playground(("127.0.0.1", port), 0)


def test_a_worker_takes_so_many_tasks_and_cancels_them_when_it_ends() -> None:
    worker, gate = Worker("simplesockets-test-worker"), Gate()
    first = worker.run(gate.arrive)
    gate.wait_arrived()
    waiting = [worker.run(gate.arrive) for _ in range(MOST_TASKS)]
    with pytest.raises(OverflowError, match="takes nothing"):
        worker.run(gate.arrive)
    worker.close(0)  # the first task goes on
    gate.open()
    assert first.result(PATIENCE) is None
    worker.thread.join(PATIENCE)
    assert all(each.cancelled() for each in waiting)


# ------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("foreign", [False, True])
def test_the_command_line_serves_it_until_ctrl_c(foreign: bool) -> None:
    with Server(port=0) as server:
        options = ["--server", "{}:{}".format(*server.address)] if foreign else []
        program = [sys.executable, "-m", "simplesockets", "playground", "--port", "0", *options]
        with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                _, told = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        assert (process.returncode, told) == (130, "")
        assert "http://127.0.0.1:" in line
        assert (f"talks to {options[1]}" if foreign else "talks to a demo server") in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "localhost"], "--server is HOST:PORT, as in localhost:7007, not 'localhost'"),
        (["--server", ":1"], "--server is HOST:PORT"),
        (["--server", "h:99999"], "--server is HOST:PORT"),
        (["--server", "h:²"], "--server is HOST:PORT"),
        (["--tls"], "--tls and --cafile are for a --server"),
        (["--server", "h:1", "--cafile", "nowhere.pem"], "--cafile nowhere.pem: "),
        (["--port", "99999"], "port"),
    ],
)
def test_arguments_of_no_use_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["playground", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_port_that_is_in_use_is_named_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with raw_listener() as taken:
        assert main(["playground", "--port", str(taken.getsockname()[1])]) == 1
    assert "port is in use" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("simplesockets.hpx.playground")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["playground"]) == 1
    told = capsys.readouterr().err
    assert "needs uvicorn" in told
    assert 'python -m pip install "simplesockets[playground]"' in told
