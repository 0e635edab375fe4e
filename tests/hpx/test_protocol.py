"""What messages say: envelopes, handshakes, server commands, calls."""

from __future__ import annotations

import json

import pytest

from simplesockets.hpx.exceptions import HPXError, InvalidMessage
from simplesockets.hpx.protocol import (
    MAX_VALUES,
    Handshake,
    Json,
    Message,
    ServerCommand,
    identity,
    make_message,
    make_result,
    parse_calls,
    parse_command,
    parse_handshake,
    parse_json,
    parse_message,
    to_json,
)

ENVELOPE: dict[str, Json] = {"session": "s", "name": "n", "data": [1]}


# --------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"\xff\xfe",
        b'"\xc3"',
        b'"' + "ä".encode("latin-1") + b'"',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b"1" * 10_000,
        b"{} {}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_json_is_error_900(text: bytes) -> None:
    with pytest.raises(HPXError) as caught:
        parse_json(text)
    assert caught.value.code == 900


def test_json_is_written_compactly_and_says_what_was_said() -> None:
    content = {"ä": ["<EOF>", 1.5, None, True, "\ud800"]}
    assert parse_json(to_json(content)) == content
    assert b" " not in to_json(content)


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "content", [float("nan"), {1, 2}, object(), b"bytes", LOOP], ids=lambda content: type(content).__name__
)
def test_what_json_cannot_say(content: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        to_json({"data": content})


# ---------------------------------------------------------------------------------------------------- envelopes


def test_an_envelope() -> None:
    assert parse_message(ENVELOPE) == Message("s", "n", [1])
    assert parse_message({**ENVELOPE, "__id__": 5, "error": None}) == Message("s", "n", [1])


@pytest.mark.parametrize("key", ["session", "name", "data"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InvalidMessage, match=f"'{key}' is missing"):
        parse_message({each: value for each, value in ENVELOPE.items() if each != key})


@pytest.mark.parametrize("key", ["Session", "extra", "_id_", ""])
def test_an_unknown_key_is_named(key: str) -> None:
    with pytest.raises(InvalidMessage, match=f"'{key}'"):
        parse_message({**ENVELOPE, key: 1})


@pytest.mark.parametrize("key", ["session", "name"])
@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_a_key_of_the_wrong_type_is_named(key: str, value: Json) -> None:
    with pytest.raises(InvalidMessage, match=f"'{key}' must be a string"):
        parse_message({**ENVELOPE, key: value})


@pytest.mark.parametrize("content", [[], [ENVELOPE], "text", 1, None, True])
def test_an_envelope_is_an_object(content: Json) -> None:
    with pytest.raises(InvalidMessage, match="must be an object"):
        parse_message(content)
    assert identity(content) == {}


@pytest.mark.parametrize("value", [0, None, "x", [1], {"a": False}])
def test_the_identity_is_repeated_whatever_it_is(value: Json) -> None:
    assert identity({"__id__": value}) == {"__id__": value}


def test_a_long_unknown_key_is_shortened() -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_message({**ENVELOPE, "k" * 10_000: 1})
    assert len(caught.value.msg) < 300


def test_errors_stand_at_the_root_or_in_the_entry() -> None:
    error = HPXError("why", 404)
    shown = {"code": 404, "msg": "why"}
    assert make_message("s", "n", [1]) == {"session": "s", "name": "n", "data": [1]}
    assert make_message("s", "n", [1], error) == {"session": "s", "name": "n", "data": None, "error": shown}
    assert make_result("f", 1) == {"fname": "f", "data": 1}
    assert make_result("f", 1, error) == {"fname": "f", "data": None, "error": shown}


# --------------------------------------------------------------------------------------------------- handshakes


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({}, Handshake.GUEST),
        ({"user": "a", "password": "b"}, Handshake.USER),
        ({"password": None, "user": 1}, Handshake.USER),
        ({"user": "a"}, Handshake.NONE),
        ({"password": "a"}, Handshake.NONE),
        ({"user": "a", "password": "b", "more": 1}, Handshake.NONE),
        ([], Handshake.NONE),
        (None, Handshake.NONE),
        ("", Handshake.NONE),
        (0, Handshake.NONE),
    ],
)
def test_handshakes(data: Json, kind: Handshake) -> None:
    assert parse_handshake(data) is kind


# ---------------------------------------------------------------------------------------------- server commands


@pytest.mark.parametrize(
    ("data", "command"),
    [
        ("serverquit", ServerCommand.ServerQuit),
        ("ServerQuit", ServerCommand.ServerQuit),
        ("SERVERRESTART", ServerCommand.ServerRestart),
        ("requestauth", ServerCommand.RequestAuth),
        (1, ServerCommand.ServerQuit),
        (2, ServerCommand.ServerRestart),
        (3, ServerCommand.RequestAuth),
        (True, None),
        (1.0, None),
        ("1", None),
        (0, None),
        (4, None),
        (-1, None),
        (10**30, None),
        ("quit", None),
        ("", None),
        (None, None),
        (["serverquit"], None),
        ({}, None),
    ],
)
def test_server_commands_go_by_name_or_number(data: Json, command: ServerCommand | None) -> None:
    assert parse_command(data) is command
    assert parse_command(json.loads(json.dumps(data))) is command


def test_server_commands_are_written_in_small_letters() -> None:
    assert [command.word for command in ServerCommand] == ["serverquit", "serverrestart", "requestauth"]


# ----------------------------------------------------------------------------------------------- function calls


def test_calls_keep_their_order_and_arguments() -> None:
    calls = parse_calls([{"fname": "a"}, {"fname": "b", "x": [1], "data": {}}])
    assert [(call.fname, call.arguments) for call in calls] == [("a", {}), ("b", {"x": [1], "data": {}})]


@pytest.mark.parametrize("data", [None, "nonsense", 7, True, 1.5, {}, {"fname": "add"}])
def test_calls_stand_in_a_list(data: Json) -> None:
    with pytest.raises(InvalidMessage, match="list of function calls"):
        parse_calls(data)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "'fname' is missing in function call 1"),
        ({"name": "add"}, "'fname' is missing in function call 1"),
        ({"fname": None}, "'fname' in function call 1 must be a string"),
        ({"fname": 5}, "'fname' in function call 1 must be a string"),
        ("add", "function call 1 must be an object"),
        (None, "function call 1 must be an object"),
        ([], "function call 1 must be an object"),
    ],
)
def test_a_wrong_entry_is_named(entry: Json, said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        parse_calls([{"fname": "add"}, entry])


def test_a_message_of_millions_of_values_is_refused_before_they_take_memory() -> None:
    # An empty list takes 2 bytes of JSON, and 80 of memory.
    with pytest.raises(InvalidMessage, match="values"):
        parse_json(b"[" + b"[]," * MAX_VALUES + b"[]]")
    assert parse_json(b'["' + b"[{," * MAX_VALUES + b'"]') == ["[{," * MAX_VALUES]
