"""The pure half of HiSock: dialects, hellos, content. No sockets."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplesockets.errors import FrameTooLarge, ProtocolError
from simplesockets.framing import LengthPrefixFramer
from simplesockets.hisock import protocol
from simplesockets.hisock.casting import ClientInfo, cast_for, read_address, to_content
from simplesockets.hisock.errors import InvalidTypeCast
from simplesockets.hisock.protocol import MODERN, OLD, ClientProtocol, Dialect, InvalidHello, ServerProtocol

from ..support.chunks import byte_by_byte, random_splits, whole

DIALECTS = pytest.mark.parametrize("dialect", [MODERN, OLD], ids=lambda dialect: dialect.version)
modest = settings(max_examples=150, deadline=None, derandomize=True)


def framed(*bodies: bytes) -> bytes:
    framer = LengthPrefixFramer(16, 1 << 30)
    return b"".join(framer.encode(body) for body in bodies)


def heard(pieces: Any, server: ServerProtocol) -> list[bytes]:
    return [body for piece in pieces for body in server.feed(piece)]


# ------------------------------------------------------------------------------------------------------- dialects


def test_the_messages_of_each_generation() -> None:
    info = b'{"a": 1}'
    assert MODERN.hello("Ann", None) == b'$CLTHELLO${"name": "Ann", "group": null}'
    assert OLD.hello("Ann", None) == b'$CLTHELLO$ {"name": "Ann", "group": null}'
    assert (MODERN.word(protocol.JOINED, info), OLD.word(protocol.JOINED, info)) == (
        b'$CLTCONN${"a": 1}',
        b'$CLTCONN$ {"a": 1}',
    )
    assert MODERN.word(protocol.KICKED) == OLD.word(protocol.KICKED) == b"$DISCONN$"
    assert MODERN.command("say", b"hi") == b"$CMD$say$MSG$hi"
    assert OLD.command("say", b"hi") == b"say hi"
    assert MODERN.answer({"a": 1}) == b'$CMD$$MSG${"a": 1}'
    assert OLD.answer({"a": 1}) == b'{"a": 1}'


@pytest.mark.parametrize(
    ("body", "command"),
    [
        (b"$CMD$say$MSG$hi", ("say", b"hi")),
        (b"$CMD$say$MSG$", ("say", None)),
        (b"$CMD$say", ("say", None)),
        (b"$CMD$say$MSG$a$MSG$b", ("say", b"a$MSG$b")),
        (b"$CMD$$MSG$x", ("", b"x")),
        (b"$CMD$CMD$MSG$x", ("CMD", b"x")),
        ("$CMD$grüß$MSG$dich".encode(), ("grüß", b"dich")),
        (b"raw data", None),
        (b"", None),
    ],
)
def test_commands_of_2(body: bytes, command: tuple[str, bytes | None] | None) -> None:
    assert MODERN.read_command(body) == command


@pytest.mark.parametrize(
    ("body", "command"),
    [(b"say hi there", ("say", b"hi there")), (b"say", ("say", None)), (b"say ", ("say", None)), (b"\xff x", None)],
)
def test_commands_of_0(body: bytes, command: tuple[str, bytes | None] | None) -> None:
    assert OLD.read_command(body) == command


def test_a_command_that_is_no_text_is_an_error_of_the_protocol() -> None:
    with pytest.raises(ProtocolError, match="not text"):
        MODERN.read_command(b"$CMD$\xff$MSG$")


@given(name=st.text(min_size=1, max_size=8), content=st.binary(max_size=40))
@modest
def test_any_command_that_is_allowed_arrives_as_it_was_sent(name: str, content: bytes) -> None:
    try:
        protocol.check_command(name)
        body = MODERN.command(name, content)
    except ValueError:
        return
    assert MODERN.read_command(body) == (name, content or None)


@pytest.mark.parametrize("name", ["", "$x$", "a$b$c", "x$MSG"])
def test_commands_that_could_be_taken_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="command"):
        protocol.check_command(name)


@pytest.mark.parametrize("name", ["costs 5 $", "a$M", "$MS", "$", "MSG", "CMD", "*", "two words"])
def test_commands_that_merely_look_like_it_are_allowed(name: str) -> None:
    protocol.check_command(name)


@pytest.mark.parametrize("word", protocol.RESERVED)
def test_raw_content_must_not_begin_with_a_reserved_word(word: bytes) -> None:
    with pytest.raises(ValueError, match=r"reserved"):
        protocol.check_raw(word + b"rest")
    assert protocol.check_raw(b" " + word) == b" " + word


@DIALECTS
def test_both_forms_of_an_answer_are_understood(dialect: Dialect) -> None:
    found = {"ip": ["127.0.0.1", 5], "name": None, "group": "g"}
    for each in (MODERN, OLD):
        assert dialect.look_up_answer(each.answer(found)) == found  # type: ignore[arg-type]
    assert dialect.look_up_answer(b'{"some": "data"}') is None
    assert dialect.look_up_answer(b"$CMD$say$MSG$hi") is None


@pytest.mark.parametrize(("version", "dialect"), [("2.x", MODERN), ("2.0.2", MODERN), ("0.x", OLD), ("1.1", OLD)])
def test_versions(version: str, dialect: Dialect) -> None:
    assert protocol.dialect_of(version) is dialect


@pytest.mark.parametrize("version", ["", "3.x", None, "x"])
def test_unknown_versions(version: object) -> None:
    with pytest.raises(ValueError, match="dialect"):
        protocol.dialect_of(version)


# --------------------------------------------------------------------------------------------------------- hellos


@DIALECTS
@pytest.mark.parametrize("name", [None, "Ann", "", "Grüße ☃", '"$CMD$'])
@pytest.mark.parametrize("group", [None, "red"])
def test_a_hello_makes_the_round_trip(dialect: Dialect, name: str | None, group: str | None) -> None:
    assert protocol.read_hello(dialect.hello(name, group)) == (dialect, name, group)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"$CMD$say$MSG$hi",
        b"$CLTHELLO$",
        b"$CLTHELLO${",
        b"$CLTHELLO$[]",
        b"$CLTHELLO$null",
        b'$CLTHELLO${"name": 5, "group": null}',
        b'$CLTHELLO${"name": null, "group": ["x"]}',
        b"$CLTHELLO$" + b"[" * 60_000,
        b'$CLTHELLO$\xff{"name": null}',
    ],
)
def test_what_is_no_hello_is_an_error_of_the_protocol(body: bytes) -> None:
    with pytest.raises(InvalidHello):
        heard(whole(framed(body)), ServerProtocol())


def test_a_second_try_to_say_hello_does_not_count() -> None:
    server = ServerProtocol()
    with pytest.raises(InvalidHello) as first:
        heard(whole(framed(b"news", MODERN.hello(None, None))), server)
    with pytest.raises(InvalidHello) as second:
        heard(whole(framed(MODERN.hello(None, None))), server)
    assert second.value is first.value
    assert not server.greeted


@given(st.binary(max_size=60))
@modest
def test_any_bytes_end_in_a_hello_or_an_error(data: bytes) -> None:
    server = ServerProtocol()
    try:
        bodies = heard(whole(data), server)
    except ProtocolError:
        return
    assert all(body.startswith((protocol.HELLO, protocol.TLS_PROBE)) for body in bodies[:1])


def test_a_hello_has_a_limit_of_its_own() -> None:
    with pytest.raises(FrameTooLarge):
        heard(whole(framed(b"$CLTHELLO$" + b" " * protocol.HELLO_LIMIT)), ServerProtocol())
    server = ServerProtocol()
    big = b"x" * (protocol.HELLO_LIMIT + 1)
    assert heard(whole(framed(MODERN.hello(None, None), big)), server) == [MODERN.hello(None, None), big]


@pytest.mark.parametrize("split", [whole, byte_by_byte, lambda data: random_splits(data, 3)])
def test_words_without_a_header_are_understood_in_0_and_only_there(split: Any) -> None:
    hello, stream = OLD.hello("Ann", None), b"$CHNAME$$CHGROUP$" + framed(b"say hi") + b"$CHNAME$"
    server = ServerProtocol()
    bodies = heard(split(framed(hello) + stream), server)
    assert bodies == [hello, b"$CHNAME$", b"$CHGROUP$", b"say hi", b"$CHNAME$"]
    assert bodies[1] is protocol.RENAME
    assert bodies[2] is protocol.REGROUP
    with pytest.raises(ProtocolError):
        heard(split(framed(MODERN.hello("Ann", None)) + stream + b" " * 16), ServerProtocol())


def test_words_without_a_header_are_understood_where_a_read_begins_with_them() -> None:
    server = ServerProtocol()
    heard(whole(framed(OLD.hello("Ann", None))), server)
    assert heard(whole(b"$CHNAME$$CHGROUP$"), server) == [protocol.RENAME, protocol.REGROUP]


def test_a_word_with_a_header_can_be_told_from_one_without() -> None:
    bodies = heard(whole(framed(OLD.hello("Ann", None), b"$CHNAME$")), ServerProtocol())
    assert bodies[1] == protocol.RENAME
    assert bodies[1] is not protocol.RENAME


# ------------------------------------------------------------------------------------------------------ keepalive


def test_the_client_answers_keepalives() -> None:
    client, server = ClientProtocol(), ServerProtocol()
    heard(whole(framed(MODERN.hello(None, None))), server)
    assert list(client.feed(framed(protocol.KEEPALIVE, b"news", protocol.KEEPALIVE))) == [b"news"]
    reply = client.data_to_send()
    assert reply == framed(protocol.ALIVE, protocol.ALIVE)
    assert client.data_to_send() == b""
    assert heard(whole(reply), server) == [protocol.ALIVE, protocol.ALIVE]


# -------------------------------------------------------------------------------------------------------- content

numbers = st.floats(allow_nan=False) | st.integers()
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
sendable: st.SearchStrategy[Any] = st.one_of(
    st.binary(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(json_values, max_size=4),
    st.dictionaries(st.text(max_size=5), json_values, max_size=4),
    st.builds(
        ClientInfo,
        st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535)),
        st.none() | st.text(),
        st.none() | st.text(),
    ),
)


@DIALECTS
@given(value=sendable, seed=st.integers(0, 1000))
@modest
def test_any_sendable_value_survives_the_round_trip(dialect: Dialect, value: Any, seed: int) -> None:
    client, server = ClientProtocol(), ServerProtocol()
    stream = client.encode(dialect.hello(None, None)) + client.encode(dialect.command("echo", to_content(value)))
    _, body = heard(random_splits(stream, seed), server)
    back = ClientProtocol()
    (returned,) = back.feed(server.encode(body))
    command = dialect.read_command(returned)
    assert command is not None
    name, content = command
    assert name == "echo"
    assert cast_for(type(value))(content) == value


@pytest.mark.parametrize(
    ("kind", "content", "value"),
    [
        (int, b"5", 5),
        (int, b" -5 ", -5),
        (int, b"0x10", 16),
        (int, b"3.7", 3),
        (int, None, 0),
        (float, b"1e3", 1000.0),
        (float, None, 0.0),
        (float, b"nan", math.nan),
        (bool, b"\x00", True),
        (bool, b"1", True),
        (bool, b"True", True),
        (bool, b"0", False),
        (bool, b"FALSE", False),
        (bool, None, False),
        (str, None, ""),
        (bytes, None, b""),
        (list, None, []),
        (dict, None, {}),
        (list, b"[1, 2]", [1, 2]),
        (list, b"['a', None]", ["a", None]),
        (dict, b"{'a': (1, 2)}", {"a": (1, 2)}),
        (None, None, None),
        (None, b"x", b"x"),
        (list[int], b"[1]", [1]),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (str | None, None, None),
        (str | None, b"x", "x"),
    ],
)
def test_casts(kind: Any, content: bytes | None, value: object) -> None:
    result = cast_for(kind)(content)
    assert type(result) is type(value)
    assert result == value or math.isnan(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (int, b"five"),
        (int, b"inf"),
        (int, b"1" * 10_000),
        (float, b"x"),
        (bool, b"yes"),
        (str, b"\xff"),
        (list, b"{}"),
        (dict, b"[]"),
        (dict, b"{"),
        (dict, b"{1: " * 5000),
        (list, b"[" * 200_000),
        (list, b"[" + b"1," * 50_000 + b"]"),
        (ClientInfo, None),
        (ClientInfo, b"{}"),
        (ClientInfo, b'{"ip": [1, 2], "name": null, "group": null}'),
        (ClientInfo, b'{"ip": ["127.0.0.1", 5], "name": 5, "group": null}'),
    ],
)
def test_casts_that_fail_say_so_shortly(kind: Any, content: bytes | None) -> None:
    with pytest.raises(InvalidTypeCast) as caught:
        cast_for(kind)(content)
    assert isinstance(caught.value, TypeError)
    assert len(str(caught.value)) < 600


def test_a_fresh_empty_list_comes_each_time() -> None:
    cast = cast_for(list)
    assert cast(None) is not cast(None)


@pytest.mark.parametrize("value", [object(), {1, 2}, (1, 2), 1j, [object()], {"a": b"x"}, b"".join])
def test_what_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(InvalidTypeCast, match="cannot be sent"):
        to_content(value)


@pytest.mark.parametrize("kind", [set, tuple, object(), int | str, "int"])
def test_types_that_content_cannot_be_cast_to(kind: object) -> None:
    with pytest.raises(InvalidTypeCast, match="cannot be cast to"):
        cast_for(kind)


# -------------------------------------------------------------------------------------------------------- clients


def test_a_client_info_is_a_dictionary_with_attributes() -> None:
    info = ClientInfo(["127.0.0.1", 5], "Ann", None)
    assert info == {"ip": ("127.0.0.1", 5), "name": "Ann", "group": None}
    assert (info.ip, info.name, info.group) == (("127.0.0.1", 5), "Ann", None)
    assert info.ip_as_str == info.ipstr == str(info.ip) == f"{info.ip}" == "127.0.0.1:5"
    assert info.as_dict() == info.client_dict == dict(info)
    assert str(info) == "<ClientInfo: IP: 127.0.0.1:5, Name: Ann, Group: None>"
    assert json.loads(json.dumps(info)) == {"ip": ["127.0.0.1", 5], "name": "Ann", "group": None}
    with pytest.raises(KeyError):
        info["socket"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5", ("127.0.0.1", 5)),
        ("[::1]:5", ("::1", 5)),
        ("::1:5", ("::1", 5)),
        ("Ann", None),
        ("Ann:5", None),
        ("127.0.0.1", None),
        ("127.0.0.1:x", None),
        ("300.0.0.1:5", None),
        ("", None),
    ],
)
def test_addresses_in_text(text: str, address: tuple[str, int] | None) -> None:
    assert read_address(text) == address


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        read_address("127.0.0.1:65536")


class _Shouted(str):
    """Equal to what it is not."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("chat")


def test_long_names_are_not_kept() -> None:
    before = protocol._check_name.cache_info()
    protocol.check_command("n" * 1000)
    with pytest.raises(ValueError, match="reserved"):
        protocol.check_command("$" + "n" * 1000 + "$")
    assert protocol._check_name.cache_info() == before


def test_names_that_only_seem_equal_are_looked_at() -> None:
    protocol.check_command("chat")
    with pytest.raises(ValueError, match="reserved"):
        protocol.check_command(_Shouted("$chat$"))
