"""Sessions that servers share through Redis: used on each, extended, ended; and what becomes of them without Redis."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

from simplesockets.hpx import Client, Context, Server, ServerError
from simplesockets.hpx.redis_sessions import MAX_KEPT, MAX_KEYS, MAX_NAME

from ..support.certificates import CA, SERVER
from ..support.programs import free_port
from ..support.redis import RedisServer
from ..support.running import HOST
from ..support.waiting import PATIENCE, Gate, wait_until
from .redis_nodes import AWAY, UNKNOWN, error_of, key_of, looking_at, nodes, on_each, wait_found
from .support import USERS, Peer, peer, running

CALL = [{"fname": "add", "a": 1}]
KEPT: dict[str, object] = {"fname": "kept"}


# ------------------------------------------------------------------------------------------------------- sharing


def test_a_session_made_on_one_server_is_the_same_on_each(redis_server: RedisServer) -> None:
    with nodes(3, redis_server.url) as servers, peer(servers[1], "admin") as admin:
        with on_each(servers, admin.session) as peers:
            assert [each.call({"fname": "who"})[0]["data"] for each in peers] == [["admin", "peer"]] * 3
            assert [each.call({"fname": "count"})[0]["data"] for each in peers * 2] == [1, 2, 3, 4, 5, 6]


def test_what_functions_keep_is_seen_everywhere(redis_server: RedisServer) -> None:
    with nodes(2, redis_server.url) as servers, on_each(servers) as (one, other):
        one.call({"fname": "keep", "key": "a", "value": [1]}, {"fname": "keep", "key": "ü\ud800", "value": {"x": None}})
        other.call({"fname": "append", "key": "a", "value": "in place"})
        assert one.call(KEPT)[0]["data"] == {"a": [1, "in place"], "ü\ud800": {"x": None}}
        one.call({"fname": "drop", "key": "a"})
        assert other.call(KEPT)[0]["data"] == {"ü\ud800": {"x": None}}


def test_messages_at_the_same_time_change_only_what_they_change(redis_server: RedisServer) -> None:
    gate = Gate()
    with nodes(2, redis_server.url) as servers, on_each(servers) as (one, other):

        def slow(context: Context) -> None:
            gate.arrive()
            context.data["slow"] = 1

        servers[0].function(slow)
        one.send_json({"session": one.session, "name": "", "data": [{"fname": "slow"}]})
        gate.wait_arrived()
        other.call({"fname": "keep", "key": "quick", "value": 2})
        gate.open()
        one.read()
        assert other.call(KEPT)[0]["data"] == {"slow": 1, "quick": 2}


def test_what_is_kept_survives_a_function_that_crashes(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,):
        calls = [{"fname": "keep", "key": "a", "value": 1}, {"fname": "crash"}]
        assert error_of(one.ask(calls)) == 100
        assert one.call(KEPT)[0]["data"] == {"a": 1}


def test_servers_with_another_prefix_have_sessions_of_their_own(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as one, nodes(1, f"{redis_server.url}?prefix=other:") as other:
        with peer(one[0], "") as each, on_each(other, each.session) as (stranger,):
            assert error_of(stranger.ask(CALL)) == UNKNOWN
            with peer(other[0], ""), looking_at(redis_server) as client:
                assert key_of(client, "other:")
                assert key_of(client, "hpx:")


def test_sessions_outlive_the_server_that_made_them(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as (other,):
        with nodes(1, redis_server.url) as (server,), peer(server, "") as each:
            session = each.session
        with on_each([other], session) as (each,):
            assert each.call(*CALL)[0]["data"] == 3


# ------------------------------------------------------------------------------------------ lifespan, max_sessions


def test_each_message_extends_a_session_for_all(redis_server: RedisServer) -> None:
    with nodes(2, redis_server.url, session_lifespan=100) as servers, on_each(servers) as (_, other):
        with looking_at(redis_server) as client:
            key = key_of(client)
            assert 90_000 < client.pttl(key) <= 100_000
            client.pexpire(key, 50_000)
            other.call(*CALL)
            assert 90_000 < client.pttl(key) <= 100_000
            client.pexpire(key, 50_000)
            other.ask("requestauth")
            assert 90_000 < client.pttl(key) <= 100_000


def test_an_expired_session_is_over_for_all(redis_server: RedisServer) -> None:
    with nodes(2, redis_server.url, session_lifespan=0.05) as servers, on_each(servers) as peers:
        with looking_at(redis_server) as client:
            wait_until(lambda: not client.keys("*"), "everything to expire")
            assert [error_of(each.ask(CALL)) for each in peers] == [UNKNOWN] * 2
            assert client.zcard("hpx:idle") == 0


@pytest.mark.parametrize("lifespan", [0, float("inf")])
def test_without_a_lifespan_sessions_stay(redis_server: RedisServer, lifespan: float) -> None:
    with nodes(1, redis_server.url, session_lifespan=lifespan) as servers, on_each(servers) as (one,):
        with looking_at(redis_server) as client:
            one.call(*CALL)
            for key in (key_of(client), "hpx:idle"):
                left = client.pttl(key)
                assert left == -1 if lifespan == 0 else left > 1e12


def test_over_the_limit_the_session_goes_that_was_idle_longest_whichever_server_has_it(
    redis_server: RedisServer,
) -> None:
    with nodes(2, redis_server.url, max_sessions=2) as servers, on_each(servers) as (one, other):
        first = one.session
        other.shake_hands()
        second = other.session
        assert error_of(other.ask(CALL, session=first)) == 0
        one.shake_hands()
        assert error_of(one.ask(CALL, session=second)) == UNKNOWN
        assert [error_of(other.ask(CALL, session=each)) for each in (first, one.session)] == [0, 0]


def test_expired_sessions_do_not_count(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url, session_lifespan=3600, max_sessions=2) as servers, on_each(servers) as (one,):
        first = one.session
        with looking_at(redis_server) as client:
            client.zadd("hpx:idle", {"long ago": 1, "too": 2})
            one.shake_hands()
            assert client.zcard("hpx:idle") == 2
        assert error_of(one.ask(CALL, session=first)) == 0


def test_a_session_that_ended_while_a_function_ran_stays_ended(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,), looking_at(redis_server) as client:

        def end(context: Context) -> None:
            context.data["late"] = 1
            client.delete(key_of(client))

        servers[0].function(end)
        assert one.call({"fname": "end"}) == [{"fname": "end", "data": None}]
        assert client.keys("hpx:session:*") == []
        assert error_of(one.ask(CALL)) == UNKNOWN


# ------------------------------------------------------------------------------------------------- what is there


def test_neither_sessions_nor_passwords_are_in_redis_and_all_of_it_expires(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url, guest_allowed=False) as (server,), peer(server, "admin") as admin:
        admin.call({"fname": "keep", "key": "a", "value": 1})
        with looking_at(redis_server) as client:
            keys: list[Any] = sorted(client.keys("*"))
            assert [key.split(b":")[:2] for key in keys] == [[b"hpx", b"idle"], [b"hpx", b"session"]]
            assert client.hgetall(keys[1]) == {b"name": b'"peer"', b"user": b'"admin"', b"data:a": b"1"}
            everything = repr((keys, client.hgetall(keys[1]), client.zrange(keys[0], 0, -1)))
            assert admin.session not in everything
            assert USERS["admin"] not in everything
            assert all(client.pttl(key) > 0 for key in keys)


DEEP = b"[" * 100_000
HOSTILE: dict[str, list[tuple[Any, ...]]] = {
    "a text": [("DEL", "KEY"), ("SET", "KEY", "boo")],
    "a list": [("DEL", "KEY"), ("RPUSH", "KEY", "boo")],
    "no user": [("HDEL", "KEY", "user")],
    "no name": [("HDEL", "KEY", "name")],
    "a user who is no text": [("HSET", "KEY", "user", "[1]")],
    "no JSON": [("HSET", "KEY", "data:a", "{")],
    "NaN": [("HSET", "KEY", "data:a", "NaN")],
    "deep JSON": [("HSET", "KEY", "data:a", DEEP)],
    "no UTF-8": [("HSET", "KEY", "name", b'"\xff"')],
    "a field in no UTF-8": [("HSET", "KEY", b"data:\xff", "1")],
    "a huge value": [("HSET", "KEY", "data:a", b'"%s"' % (b"x" * 2 * MAX_KEPT))],
    "many fields": [("HSET", "KEY", *(each for number in range(MAX_KEYS + 1) for each in (f"data:{number}", "1")))],
}


@pytest.mark.parametrize("commands", HOSTILE.values(), ids=HOSTILE)
def test_whatever_stands_in_redis_ends_at_most_that_session(
    redis_server: RedisServer, commands: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,), looking_at(redis_server) as client:
        key = key_of(client)
        for command in commands:
            client.execute_command(*(key if word == "KEY" else word for word in command))
        assert error_of(one.ask(CALL)) == UNKNOWN
        assert "none of ours" in caplog.text
        assert one.session not in caplog.text
        one.shake_hands()
        assert one.call(*CALL)[0]["data"] == 3


def test_a_key_that_cannot_be_used_is_an_error_and_no_end(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,), looking_at(redis_server) as client:
        client.set("hpx:idle", "boo")
        assert error_of(one.ask(CALL)) == AWAY
        assert error_of(one.ask({}, session="")) == AWAY
        assert "WRONGTYPE" in caplog.text
        client.delete("hpx:idle")
        assert one.call(*CALL)[0]["data"] == 3


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"a": object()}, "'a'"),
        ({"a": float("nan")}, "'a'"),
        ({1: "x"}, "1"),
        ({"a": "x" * MAX_KEPT}, "bytes"),
        ({str(number): 0 for number in range(MAX_KEYS + 1)}, "keys"),
    ],
    ids=["object", "nan", "key", "size", "keys"],
)
def test_what_cannot_be_kept_is_named(redis_server: RedisServer, data: dict[Any, object], named: str) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,):
        servers[0].function("f")(_changer(data))
        answer = one.ask([{"fname": "f"}])
        assert error_of(answer) == 100
        assert named in answer["error"]["msg"]
        assert len(servers[0].exceptions) == 1
        assert one.call(KEPT)[0]["data"] == {}


def _changer(data: dict[Any, object]) -> Any:
    def change(context: Context) -> None:
        context.data.update(data)

    return change


def test_the_most_that_can_be_kept_can_be_read(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, peer(servers[0]) as one:
        answer = one.ask({}, session="", name="n" * (MAX_NAME - 2))
        one.session = answer["session"]
        one.call({"fname": "keep", "key": "a", "value": "x" * (MAX_KEPT - len('data:a""'))})
        assert len(one.call(KEPT)[0]["data"]["a"]) > MAX_KEPT - 20


def test_a_name_that_is_too_long(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, peer(servers[0]) as one:
        assert error_of(one.ask({}, session="", name="n" * MAX_NAME)) == 403


def test_any_session_may_be_asked_for(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,):
        for session in ("no", "\ud800", "x" * 1_000_000, "hpx:idle"):
            assert error_of(one.ask(CALL, session=session)) == UNKNOWN
        assert one.ask("requestauth", session="no")["session"] == ""


# ------------------------------------------------------------------------------------------------ without Redis


def test_while_redis_is_away_messages_get_errors_at_once_and_then_it_goes_on(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with nodes(2, redis_server.url) as servers, on_each(servers) as peers, peer(servers[0]) as newcomer:
        redis_server.stop()
        for each in peers * 2:
            answer = each.ask(CALL)
            assert error_of(answer) == AWAY
            assert answer["session"] == each.session  # nobody has to forget it
        assert error_of(newcomer.ask({}, session="")) == AWAY
        assert error_of(newcomer.ask({"user": "admin", "password": "secret"}, session="")) == AWAY
        assert error_of(newcomer.ask("serverquit", session=peers[0].session)) == AWAY
        assert newcomer.ask("requestauth", session="")["data"]["guest_allowed"]
        assert caplog.text.count("is away") == 2
        redis_server.start()
        for server in servers:
            wait_found(server)
        newcomer.shake_hands("admin", "secret")
        assert newcomer.call({"fname": "who"})[0]["data"] == ["admin", "peer"]
        assert [error_of(each.ask(CALL)) for each in peers] == [UNKNOWN] * 2  # this Redis keeps nothing on disk


def test_a_redis_that_hangs_holds_up_one_message_and_no_other(
    redis_server: RedisServer,
) -> None:
    url = f"{redis_server.url}?socket_timeout=0.3"
    with nodes(1, url) as servers, on_each(servers) as (one,):
        with redis_server.frozen():
            assert error_of(one.ask(CALL)) == AWAY
            began = time.monotonic()
            for _ in range(20):
                assert error_of(one.ask(CALL)) == AWAY
            assert time.monotonic() - began < 0.3 * 20 / 2
        wait_found(servers[0])
        assert one.call(*CALL)[0]["data"] == 3  # the session is still there


def test_a_server_closes_while_redis_hangs(redis_server: RedisServer) -> None:
    with nodes(1, f"{redis_server.url}?socket_timeout=0.3") as servers, on_each(servers) as (one,):
        with redis_server.frozen():
            one.send_json({"session": one.session, "name": "", "data": CALL})
            servers[0].close()
        assert not [each for each in threading.enumerate() if each.name.startswith("simplesockets-hpx-redis")]


def test_the_client_keeps_its_session_while_redis_is_away(redis_server: RedisServer) -> None:
    with nodes(1, f"{redis_server.url}?socket_timeout=0.3") as servers:
        with Client("tester", *servers[0].address) as client:
            client.handshake("admin", "secret")
            session = client.session
            with redis_server.frozen(), pytest.raises(ServerError, match="try again"):
                client.call("add", a=1)
            wait_found(servers[0])
            assert client.call("add", a=1) == 3
            assert client.session == session


def test_functions_that_ran_are_not_hidden_by_what_cannot_be_kept(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,):

        def cut(context: Context) -> None:
            context.data["a"] = 1
            redis_server.stop()

        servers[0].function(cut)
        answer = one.ask([{"fname": "cut"}])
        assert error_of(answer) == AWAY
        assert "ran" in answer["error"]["msg"]
        assert answer["session"] == one.session


def test_redis_is_restarted_under_calls_and_every_message_is_answered(redis_server: RedisServer) -> None:
    answers: list[int] = []
    over = threading.Event()
    begun = threading.Barrier(7, timeout=PATIENCE)
    with nodes(2, redis_server.url) as servers:

        def call(server: Server) -> None:
            with peer(server, "") as each:
                begun.wait()
                while not over.is_set():
                    answer = each.ask([{"fname": "count"}]) if each.session else each.shake_hands()
                    each.session = answer["session"]
                    answers.append(error_of(answer))
                wait_until(lambda: works_again(each), "Redis to be found again")
                answers.append(-1)

        def works_again(each: Peer) -> bool:
            return error_of(each.shake_hands()) == error_of(each.ask([{"fname": "count"}])) == 0

        threads = [threading.Thread(target=call, args=(server,)) for server in servers * 3]
        for thread in threads:
            thread.start()
        begun.wait()
        for _ in range(2):
            redis_server.restart()
            answers.clear()
            wait_until(lambda: 0 in answers)
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert answers.count(-1) == len(threads)
    assert set(answers) <= {0, AWAY, UNKNOWN, -1}
    assert 0 in answers


def test_connections_that_redis_ended_are_made_anew(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,), looking_at(redis_server) as client:
        link = servers[0]._shared._link  # type: ignore[union-attr]
        (spare,) = link._spare
        client.client_kill_filter(_id=_number_of(client, "eval"))
        assert error_of(one.ask(CALL)) == 0
        assert link._spare != [spare]


def _number_of(client: Any, command: str) -> str:
    # EVALSHA, or EVAL where it was Redis' first of that script
    (found,) = [each["id"] for each in client.client_list() if each["cmd"].startswith(command)]
    assert isinstance(found, str)
    return found


def test_scripts_that_redis_forgot_are_given_again(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as servers, on_each(servers) as (one,), looking_at(redis_server) as client:
        client.script_flush()
        assert one.call(*CALL)[0]["data"] == 3


def test_a_server_starts_before_redis(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.stop()
    with nodes(1, f"unix://:pass%20word@{redis_server.path}") as (server,), peer(server) as each:
        assert error_of(each.ask({}, session="")) == AWAY
        assert str(redis_server.path) in caplog.text
        assert "word" not in caplog.text
        redis_server.start()
        with looking_at(redis_server) as client:
            client.config_set("requirepass", "pass word")
        try:
            wait_found(server)
            assert each.shake_hands()["data"] == "Authenticated"
        finally:
            redis_server.stop()  # with its password


def test_a_wrong_password_is_told_and_looked_at_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with looking_at(redis_server) as client:
        client.config_set("requirepass", "right")
        with nodes(1, f"unix://:wrong@{redis_server.path}") as (server,), peer(server) as each:
            assert error_of(each.ask({}, session="")) == AWAY
            assert "WRONGPASS" in caplog.text or "invalid" in caplog.text
            client.config_set("requirepass", "wrong")
            wait_found(server)
            assert each.shake_hands()["data"] == "Authenticated"
            client.config_set("requirepass", "")


@pytest.mark.parametrize("tls", [False, True])
def test_over_tcp_and_tls(redis_server: RedisServer, tls: bool) -> None:
    with contextlib.ExitStack() as stack:
        url = redis_server.tcp_url
        if tls:
            client, port = stack.enter_context(looking_at(redis_server)), free_port()
            client.config_set("tls-cert-file", str(SERVER))
            client.config_set("tls-key-file", str(SERVER))
            client.config_set("tls-ca-cert-file", str(CA))
            client.config_set("tls-auth-clients", "no")
            client.config_set("tls-port", port)
            stack.callback(client.config_set, "tls-port", 0)
            url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={CA}"
        with nodes(2, url) as servers, on_each(servers) as (one, other):
            one.call({"fname": "keep", "key": "a", "value": 1})
            assert other.call(KEPT)[0]["data"] == {"a": 1}
            with peer(servers[0], "admin") as admin:
                assert admin.ask("serverquit")["data"] == "serverquit"
            assert other.read()["data"] == "serverquit"


# ----------------------------------------------------------------------------------------------------- lifecycle


def test_a_server_starts_again_after_close_and_knows_its_sessions(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as (server,):
        with peer(server, "") as each:
            session = each.session
        server.close()
        server.close()
        server.start()
        server.start()
        with on_each([server], session) as (each,):
            assert each.call(*CALL)[0]["data"] == 3


def test_who_is_still_busy_after_close_gets_an_error_and_leaves_nothing_open(redis_server: RedisServer) -> None:
    gate = Gate()
    with nodes(1, redis_server.url) as (server,), on_each([server]) as (one,):

        def stuck(context: Context) -> None:
            context.data["a"] = 1
            gate.arrive()

        server.function(stuck)
        one.send_json({"session": one.session, "name": "", "data": [{"fname": "stuck"}]})
        gate.wait_arrived()
        server.close(timeout=0.1)
        gate.open()


def test_close_in_a_function_with_redis(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as (server,), on_each([server]) as (one,):
        server.function("stop")(lambda: server.close())
        one.send_json({"session": one.session, "name": "", "data": [{"fname": "stop"}]})
        wait_until(lambda: not server.running)


def test_a_start_that_fails_leaves_nothing_behind(redis_server: RedisServer) -> None:
    with running() as taken:
        with pytest.raises(OSError, match="in use"):
            Server(port=taken.address[1], sessions=redis_server.url).start()
