"""What Prometheus scrapes."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed

from simplesockets import BindError, hisock
from simplesockets.prometheus import StatsCollector, export
from simplesockets.stats import Stats

from .support.running import HOST, raw_client, raw_listener, running_client, running_server
from .support.waiting import wait_until
from .test_ledger import sample


class Fixed:
    def __init__(self, **numbers: Any) -> None:
        self._stats = sample(**numbers).stats

    def stats(self) -> Stats:
        return self._stats


def scraped(address: tuple[str, int]) -> str:
    with urllib.request.urlopen("http://{}:{}/metrics".format(*address), timeout=20) as answer:
        return str(answer.read(), "utf-8")


def test_the_counts_come_through_http() -> None:
    with running_server() as server, raw_client(server) as sock, export(server) as exporter:
        sock.sendall(b"12345")
        wait_until(lambda: server.stats().queued == 1)
        text = scraped(exporter.address)
        for name, value in {
            "open_connections": 1,
            "connections_total": 1,
            "received_bytes_total": 5,
            "received_messages_total": 1,
            "sent_bytes_total": 0,
            "queued_messages": 1,
            "queued_bytes": 5,
        }.items():
            assert f'\nsimplesockets_{name}{{server="main"}} {value}.0\n' in text
    with pytest.raises(urllib.error.URLError):
        scraped(exporter.address)
    exporter.close()


def test_each_number_has_its_name() -> None:
    numbers = {
        "connections": 2,
        "connections_total": 3,
        "refused": 4,
        "bytes_in": 5,
        "bytes_out": 6,
        "messages_in": 7,
        "messages_out": 8,
        "errors": 9,
        "queued": 10,
        "queued_bytes": 11,
        "pending_out": 12,
        "since": 13,
        "commands": {"greet": 14, "*": 15},
    }
    registry = CollectorRegistry()
    registry.register(StatsCollector({"a": Fixed(**numbers)}))
    text = openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    found = {  # the parser is strict with names
        (each.name.removeprefix("simplesockets_"), each.labels.get("command")): each.value
        for family in parsed(text)  # type: ignore[no-untyped-call]
        for each in family.samples
    }
    assert found == {
        ("open_connections", None): 2,
        ("connections_total", None): 3,
        ("refused_connections_total", None): 4,
        ("received_bytes_total", None): 5,
        ("sent_bytes_total", None): 6,
        ("received_messages_total", None): 7,
        ("sent_messages_total", None): 8,
        ("errors_total", None): 9,
        ("queued_messages", None): 10,
        ("queued_bytes", None): 11,
        ("pending_bytes", None): 12,
        ("start_time_seconds", None): 13,
        ("received_commands_total", "greet"): 14,
        ("received_commands_total", "*"): 15,
    }


def test_several_servers_differ_by_their_label() -> None:
    registry = CollectorRegistry()
    registry.register(StatsCollector({"one": Fixed(errors=1), 'two "2"\n': Fixed(errors=2)}))
    text = generate_latest(registry).decode()
    assert 'simplesockets_errors_total{server="one"} 1.0' in text
    assert 'simplesockets_errors_total{server="two \\"2\\"\\n"} 2.0' in text
    assert len(re.findall("# TYPE simplesockets_errors_total", text)) == 1


def test_a_second_collector_is_refused() -> None:
    registry = CollectorRegistry()
    registry.register(StatsCollector(Fixed()))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(StatsCollector(Fixed()))


def test_labels_are_none_that_clients_could_multiply() -> None:
    with hisock.HiSockServer((HOST, 0), blocking=False, keepalive=False) as server:
        with hisock.connect(server.get_addr()) as client:
            for number in range(50):
                client.send(f"command{number}")

            def counted() -> bool:
                server.run()
                return server.stats().commands == {"*": 50}

            wait_until(counted)
            registry = CollectorRegistry()
            registry.register(StatsCollector(server))
            text = generate_latest(registry).decode()
    assert 'simplesockets_received_commands_total{command="*",server="main"} 50.0' in text
    assert "command1" not in text
    assert HOST not in text


def test_clients_of_a_server_can_be_scraped_too() -> None:
    with running_server() as server, running_client(server) as client, export({"client": client}) as exporter:
        client.send_data(b"123")
        assert 'simplesockets_sent_bytes_total{server="client"} 3.0' in scraped(exporter.address)


@pytest.mark.parametrize("servers", [None, {"a": 1}, {1: Fixed()}, "server"])
def test_what_is_no_server_is_named(servers: Any) -> None:
    with pytest.raises(TypeError, match="StatsCollector takes a server"):
        StatsCollector(servers)


def test_a_port_in_use_is_told() -> None:
    with raw_listener() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BindError, match=f"cannot serve Prometheus at {HOST}:{port}"):
            export(Fixed(), port)
    for port, error in ((-1, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="port"):
            export(Fixed(), port)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the host is an IP address"):
        export(Fixed(), 0, None)  # type: ignore[arg-type]


def test_without_the_client_library_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; import simplesockets.prometheus"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "SetupError: simplesockets.prometheus needs the package prometheus-client" in done.stderr
    assert 'pip install "simplesockets[prometheus]"' in done.stderr


def test_closing_may_be_repeated() -> None:
    with contextlib.closing(export(Fixed())) as exporter:
        exporter.close()
