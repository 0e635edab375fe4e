"""What several nodes have to show, in any size. Each gives a line for a person, and fails where something is wrong."""

from __future__ import annotations

import contextlib
import time

from ..support.redis import RedisServer
from .service import LEFT, MESSAGE, Client, Crowd, expected, nodes


def everybody_gets_everything_once_and_in_order(
    redis: RedisServer, clients: int, groups: int, messages: int, places: int = 3
) -> str:
    """Group messages of all nodes at once: each member gets each of them once, in order per sender, and nobody else."""
    with nodes(places, redis.url) as running, contextlib.closing(Crowd(running, clients, groups)) as crowd:
        everywhere = list(range(places))
        crowd.until_all_know(everywhere, clients + places)
        began = time.monotonic()
        count = messages // places
        crowd.burst(everywhere, count, groups)
        due = sum(len(expected(client, count, groups)) * places for client in crowd.clients)
        crowd.until(lambda: sum(_messages(client) for client in crowd.clients) >= due, "all messages")
        took = time.monotonic() - began
        crowd.ask(0, "account")  # what comes too often would come before that, mostly
        for client in crowd.clients:
            for sender in everywhere:
                assert client.messages(f"n{sender}") == expected(client, count, groups), (client.group, sender)
        assert not any(_messages(chief) for chief in crowd.chiefs)
    return f"{count * places} messages, {due} deliveries to {clients} clients of {places} nodes in {took:.1f} s"


def _messages(client: Client) -> int:
    return sum(body.startswith(MESSAGE) for body in client.bodies)


def a_killed_node_takes_nothing_of_the_others_along(
    redis: RedisServer, clients: int, groups: int, messages: int, lease: float
) -> str:
    """The others' clients get all that the others sent, and of the dead node the beginning, without a gap; they hear
    once of everybody whom it took along, and lookups know it within the lease."""
    with nodes(3, redis.url, lease) as running, contextlib.closing(Crowd(running, clients, groups)) as crowd:
        crowd.until_all_know([0, 1, 2], clients + 3)
        count = messages // 3
        crowd.burst([0, 1, 2], count, groups)
        alive = [client for client in crowd.clients if client.node != 2]
        crowd.until(lambda: any(client.messages("n2") for client in alive), "the load to begin")
        running[2].kill()
        killed = time.monotonic()
        gone = sum(client.node == 2 for client in crowd.clients) + 1
        crowd.until_all_know([0, 1], clients + 3 - gone)
        took = time.monotonic() - killed
        crowd.until(lambda: all(_complete(each, count, groups) for each in alive), "the messages of those who live")
        for number in (0, 1):  # what is behind all else
            crowd.chiefs[number].order("burst", name="end", first=0, count=groups, groups=groups)
        crowd.until(lambda: all(len(each.messages("end")) == 2 for each in alive), "the last messages")
        for client in alive:
            assert len(client.notices(LEFT)) == len(set(client.notices(LEFT))) == gone
            for sender in ("n0", "n1"):
                assert client.messages(sender) == expected(client, count, groups)
            got = client.messages("n2")
            assert got == expected(client, count, groups)[: len(got)]
        _check_prefixes(alive, count, groups)
    return f"the dead node's {gone} clients were gone after {took:.2f} s of a lease of {lease:g} s; nothing was missed"


def _complete(client: Client, count: int, groups: int) -> bool:
    return all(len(client.messages(sender)) >= len(expected(client, count, groups)) for sender in ("n0", "n1"))


def _check_prefixes(alive: list[Client], count: int, groups: int) -> None:
    # Of the dead node's messages one was the last: everybody got all that are for him up to there, and none beyond.
    last = max((number for client in alive for number in client.messages("n2")), default=-1)
    for client in alive:
        got, due = client.messages("n2"), expected(client, count, groups)
        assert got == [number for number in due if number <= last], (got[-3:], last)


def a_restart_of_redis_is_accounted_for(redis: RedisServer, clients: int, groups: int, messages: int) -> str:
    """Redis loses everything, under load: clients of the sending node get all of it; each node counts exactly what did
    not come from the others; and what comes is in order."""
    with nodes(3, redis.url, 4.0) as running, contextlib.closing(Crowd(running, clients, groups)) as crowd:
        everywhere = [0, 1, 2]
        crowd.until_all_know(everywhere, clients + 3)
        count = messages // 3
        crowd.burst(everywhere, count, groups)
        crowd.until(lambda: any(client.messages("n1") for client in crowd.clients if client.node == 0), "the load")
        redis.restart()
        crowd.until(lambda: all(chief.answers("sent") for chief in crowd.chiefs), "all to be sent")
        accounts = _settled(crowd, 3 * count)
        received = [account["received"] for account in accounts]
        crowd.until(lambda: sum(_came_from_others(crowd)) >= sum(received), "the last of it")
        assert _came_from_others(crowd) == received
        for client in crowd.clients:
            assert client.messages(f"n{client.node}") == expected(client, count, groups)
            for sender in everywhere:
                got = client.messages(f"n{sender}")
                assert got == sorted(set(got))
        missed = [account["missed"] for account in accounts]
    return f"of {2 * count} messages of the others, the three nodes missed {missed}, as each counted"


def _came_from_others(crowd: Crowd) -> list[int]:
    # How many different messages came to the clients of each node from the others.
    came: list[set[tuple[int, int]]] = [set(), set(), set()]
    for client in crowd.clients:
        for sender in {0, 1, 2} - {client.node}:
            came[client.node] |= {(sender, number) for number in client.messages(f"n{sender}")}
    return list(map(len, came))


def _settled(crowd: Crowd, total: int) -> list[dict[str, int]]:
    # Until everything that the others sent came or is known not to come; fails if it never adds up.
    accounts: list[dict[str, int]] = []

    def adds_up() -> bool:
        accounts[:] = [crowd.ask(node, "account") for node in range(3)]
        sent = [account["published"] + account["dropped"] for account in accounts]
        due = [sum(sent) - own for own in sent]
        return sum(sent) == total and due == [account["received"] + account["missed"] for account in accounts]

    crowd.until(adds_up, "the accounts to be settled")
    return accounts
