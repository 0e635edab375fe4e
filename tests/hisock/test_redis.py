"""Several servers as one service, over a real Redis; and over processes, which are killed."""

from __future__ import annotations

import builtins
import contextlib
import time
from collections.abc import Iterator

import pytest

from simplesockets import SetupError
from simplesockets.hisock import BackplaneError, HiSockServer, RedisBackplane

from ..scale import scenarios
from ..support.backplane import cluster_of, wait_met
from ..support.redis import RedisServer
from ..support.running import HOST
from ..support.waiting import wait_until
from .running import RawClient, names, server, wait_names


@contextlib.contextmanager
def two_nodes(here: str | RedisBackplane, there: str | RedisBackplane) -> Iterator[tuple[HiSockServer, HiSockServer]]:
    with server(backplane=here) as one, server(backplane=there) as another:
        yield one, another


@pytest.mark.parametrize("how", ["unix", "tcp", "database", "user"])
def test_nodes_meet_at_a_url(redis_server: RedisServer, how: str) -> None:
    redis_server.command("ACL SETUSER ann on >secret ~* &* +@all")
    url = {
        "unix": redis_server.url,
        "tcp": redis_server.tcp_url,
        "database": redis_server.tcp_url.removesuffix("0") + "7",
        "user": redis_server.tcp_url.replace("://", "://ann:secret@"),
    }[how]
    with two_nodes(url, url) as (here, there), RawClient(there.get_addr(), "bob", "red") as bob:
        wait_names(here, "bob")
        here.send_group("red", "m", b"\n\x00\xff")
        assert bob.read_command("m") == b"\n\x00\xff"


@pytest.mark.parametrize("how", ["argument", "url"])
def test_nodes_of_other_prefixes_do_not_meet(redis_server: RedisServer, how: str) -> None:
    url = redis_server.tcp_url
    other = RedisBackplane(url, prefix="other:") if how == "argument" else f"{url}?prefix=other:"
    with two_nodes(url, other) as (here, there), server(backplane=url) as third:
        wait_met(here, third)
        assert cluster_of(there).nodes == []
    assert redis_server.command("EXISTS other:log simplesockets:hisock:log") == b":2"


def test_the_log_is_bounded(redis_server: RedisServer) -> None:
    way = RedisBackplane(redis_server.url, history=100)
    with two_nodes(way, way) as (here, there), RawClient(there.get_addr(), "bob") as bob:
        wait_names(here, "bob")
        for wave in range(50):  # none is so large that the other node could fall behind
            for number in range(20):
                here.send_client("bob", "m", 20 * wave + number)
            assert [bob.read_command("m") for _ in range(20)][-1] == b"%d" % (20 * wave + 19)
        assert int(redis_server.command("XLEN simplesockets:hisock:log")[1:]) < 400


def test_a_server_serves_before_redis_is_there(redis_server: RedisServer) -> None:
    redis_server.stop()
    with two_nodes(redis_server.url, redis_server.url) as (here, there), RawClient(here.get_addr(), "ann") as ann:
        wait_names(here, "ann")
        here.send_client("ann", "m", "1")
        assert ann.read_command("m") == b"1"
        redis_server.start()
        wait_names(there, "ann")
        there.send_client("ann", "m", "2")
        assert ann.read_command("m") == b"2"


def test_a_wrong_password_is_told_and_not_shown(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.command("ACL SETUSER ann on >secret ~* &* +@all")
    url = redis_server.tcp_url.replace("://", "://ann:5ecret@")
    with server(backplane=url) as serving, RawClient(serving.get_addr(), "ann"):
        wait_names(serving, "ann")
        wait_until(lambda: cluster_of(serving).return_exceptions())
        assert "5ecret" not in caplog.text + str(list(cluster_of(serving).return_exceptions()))
        assert "5ecret" not in repr(RedisBackplane(url))
    assert "the backplane is away" in caplog.text


def test_a_redis_that_hangs_holds_nobody_up(redis_server: RedisServer) -> None:
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(two_nodes(redis_server.url, redis_server.url))
        ann = stack.enter_context(RawClient(here.get_addr(), "ann"))
        stack.enter_context(RawClient(there.get_addr(), "bob"))
        wait_names(here, "ann", "bob")
        wait_names(there, "ann", "bob")
        with redis_server.frozen():
            for number in range(1000):
                here.send_all_clients("m", number)
            assert [ann.read_command("m") for _ in range(1000)][-1] == b"999"
            assert names(here) == ["ann", "bob"]
            began = time.monotonic()
            here.close(timeout=1.0)
            assert time.monotonic() - began < 10
            assert cluster_of(here).dropped == 1000


def test_what_is_lost_with_redis_is_said_by_those_who_miss_it(redis_server: RedisServer) -> None:
    with two_nodes(redis_server.url, redis_server.url) as (here, there), RawClient(there.get_addr(), "bob") as bob:
        wait_names(here, "bob")
        here.send_client("bob", "m", "1")
        assert bob.read_command("m") == b"1"
        redis_server.restart()
        for number in range(2, 100):
            here.send_client("bob", "m", number)
        assert [bob.read_command("m") for _ in range(98)] == [b"%d" % number for number in range(2, 100)]
        assert (cluster_of(there).received, cluster_of(there).missed) == (99, 0)


def test_what_redis_refuses_is_appended_later_once_and_in_order(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with two_nodes(redis_server.url, redis_server.url) as (here, there), RawClient(there.get_addr(), "bob") as bob:
        wait_names(here, "bob")
        redis_server.command("CONFIG SET maxmemory 1")
        for number in range(50):
            here.send_client("bob", "m", number)
        wait_until(lambda: "maxmemory" in caplog.text)
        redis_server.command("CONFIG SET maxmemory 0")
        assert [bob.read_command("m") for _ in range(50)] == [b"%d" % number for number in range(50)]
        assert (cluster_of(there).received, cluster_of(there).missed) == (50, 0)


@pytest.mark.parametrize("refusal", ["full", "foreign"])
def test_a_batch_is_appended_whole_or_not_at_all(redis_server: RedisServer, refusal: str) -> None:
    with contextlib.closing(RedisBackplane(redis_server.url).writer()) as writer:
        if refusal == "full":  # the first would still go in
            used = int(redis_server.line_of("INFO memory", b"used_memory:").partition(b":")[2])
            redis_server.command(f"CONFIG SET maxmemory {used + 200_000}")
        else:
            redis_server.command("SET simplesockets:hisock:log foreign")
        with pytest.raises(BackplaneError, match="maxmemory" if refusal == "full" else "WRONGTYPE"):
            writer.append([bytes(1_000_000), b"second"])
        redis_server.command("CONFIG SET maxmemory 0")
        assert redis_server.command("TYPE simplesockets:hisock:log") == (b"+none" if refusal == "full" else b"+string")


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL simplesockets:hisock:log", "XTRIM simplesockets:hisock:log MAXLEN 0"])
def test_who_keeps_the_connection_and_loses_the_data_goes_on(redis_server: RedisServer, how: str) -> None:
    way = RedisBackplane(redis_server.url, lease=2.0)  # so a loss is noticed soon
    with two_nodes(way, way) as (here, there), RawClient(there.get_addr(), "bob") as bob:
        wait_names(here, "bob")
        for wave in range(3):
            here.send_client("bob", "m", wave)
            wait_until(lambda: cluster_of(here).waiting == 0)
            redis_server.command(how)
        with RawClient(here.get_addr(), "ann"):
            wait_names(there, "ann", "bob")
        redis_server.command("CLIENT KILL TYPE normal")
        here.send_client("bob", "m", "end")
        bob.read_until(lambda body: body.endswith(b"end"))
        wait_until(lambda: cluster_of(here).published == 4)
        wait_until(
            lambda: cluster_of(there).received + cluster_of(there).missed == 4, f"all to count: {cluster_of(there)}"
        )


def test_redis_is_used_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *arguments: object) -> object:
        if name.partition(".")[0] == "redis":
            raise ImportError(name)
        return really(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    HiSockServer((HOST, 0)).close()
    with pytest.raises(SetupError, match=r"pip install .*simplesockets\[redis\]"):
        HiSockServer((HOST, 0), backplane="redis://localhost")


# ------------------------------------------------------------------------------------------------------- processes


def test_processes_deliver_everything_once_and_in_order(redis_server: RedisServer) -> None:
    scenarios.everybody_gets_everything_once_and_in_order(redis_server, clients=18, groups=3, messages=900)


def test_a_killed_process_takes_nothing_along(redis_server: RedisServer) -> None:
    scenarios.a_killed_node_takes_nothing_of_the_others_along(redis_server, 12, 3, 1500, lease=2.0)


def test_a_restart_of_redis_is_accounted_for(redis_server: RedisServer) -> None:
    scenarios.a_restart_of_redis_is_accounted_for(redis_server, 12, 2, 2400)
