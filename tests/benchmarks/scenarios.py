"""What is measured, on whom, and the rounds in which they take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from ..support.redis import running_redis
from . import calls, load
from .connections import Sleepers, idle_connections, served_of
from .load import Failed, Unavailable

MIB = 1 << 20
KIB = 1 << 10
BULK_BLOCK = 64 * KIB
BULK_LIMIT = 60.0  # seconds for all of a bulk transfer
SMALL = 64
MANY = 1000  # clients from which on threads are no measure
CROWD = 5000  # and from which on only some take part


@dataclasses.dataclass(frozen=True)
class Settings:
    seconds: float
    rounds: int
    bulk_bytes: int
    awake: bool = False  # whether the cores are kept from sleeping


@dataclasses.dataclass(frozen=True)
class Column:
    """One figure of the table."""

    key: str
    heading: str
    digits: int = 0


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One table: `measure` makes one contestant's figures, the first column is the one that is compared."""

    name: str
    title: str
    contestants: Sequence[str]
    columns: Sequence[Column]
    measure: Callable[[str, Settings], dict[str, float]]
    baseline: str | None = None
    higher_is_better: bool = True


@dataclasses.dataclass
class Outcome:
    """All rounds of one contestant; a round that could not be measured is None."""

    contestant: str
    rounds: list[dict[str, float] | None] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    hopeless: bool = False

    def _figures(self, key: str) -> list[float]:
        return [figures[key] for figures in self.rounds if figures and key in figures]

    def median(self, key: str) -> float | None:
        figures = self._figures(key)
        return statistics.median(figures) if figures else None

    def spread(self, key: str) -> float | None:
        """How far the rounds are apart, as a part of the median: what is to be believed of the digits."""
        figures = self._figures(key)
        median = self.median(key)
        return (max(figures) - min(figures)) / median if median and len(figures) > 1 else None

    def ratio(self, key: str, baseline: Outcome) -> float | None:
        """The median of the rounds' ratios: what slows a whole round down, slows both."""
        pairs = zip(self.rounds, baseline.rounds, strict=True)
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs if ours and theirs and theirs.get(key)]
        return statistics.median(ratios) if ratios else None

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def run(scenario: Scenario, contestants: Sequence[str], settings: Settings) -> list[Outcome]:
    """Every round measures every contestant once, each round in another order."""
    outcomes = {name: Outcome(name) for name in contestants}
    for number in range(settings.rounds):
        for name in _rotated(contestants, number, settings.rounds):
            progress = f"{scenario.name}, round {number + 1} of {settings.rounds}: {name}"
            print(progress, file=sys.stderr, flush=True)
            _measure_once(scenario, outcomes[name], settings)
    return list(outcomes.values())


def _rotated(names: Sequence[str], number: int, rounds: int) -> list[str]:
    shift = number * max(1, len(names) // rounds) % max(1, len(names))
    return [*names[shift:], *names[:shift]]


def _measure_once(scenario: Scenario, outcome: Outcome, settings: Settings) -> None:
    figures = None
    if not outcome.hopeless:
        try:
            figures = scenario.measure(outcome.contestant, settings)
        except Unavailable as reason:
            outcome.hopeless = True
            outcome.note(str(reason))
        except Failed as reason:
            outcome.note(str(reason))
    outcome.rounds.append(figures)
    if figures:
        _note_oddities(outcome, figures)


def _note_oddities(outcome: Outcome, figures: dict[str, float]) -> None:
    unserved = int(figures.get("clients", 0) - figures.get("served", 0))
    if unserved:
        outcome.note(f"{unserved} of {figures['clients']:.0f} clients got no answer")
    if figures.get("unanswered"):
        outcome.note(f"{figures['unanswered']:.0f} messages had no answer in the end, and count as if they had then")
    if figures.get("errors"):
        outcome.note(f"{figures['errors']:.0f} connections failed")


# Which contestants can run here.


REQUIRED_MODULES = {"uvloop": ("uvloop",), "python-socketio": ("socketio", "simple_websocket", "werkzeug")}


def require_possible(name: str) -> None:
    for module in REQUIRED_MODULES.get(name, ()):
        if importlib.util.find_spec(module) is None:
            raise Unavailable(f"{module} is not installed: the extra [benchmark] brings it")


def files_for(connections: int) -> int:
    """How many files a process has open that has so many connections, generously."""
    return connections + connections // 8 + 256


def require_proc() -> None:
    if not pathlib.Path("/proc/self/stat").exists():
        raise Unavailable("read from /proc, which only Linux has")


# Round trips.

WARM_UP = 0.5
"""Of the time that is measured: before it, and not counted. New connections are slow, and so is a program at first."""


def measure_echo(clients: int, size: int, name: str, settings: Settings) -> dict[str, float]:
    require_possible(name)
    if name == "simplesockets-0.4.0-callback" and size > SMALL:
        raise Unavailable("keeps a copy of all it receives for ever: gigabytes within seconds")
    load.open_files(files_for(clients))
    warmup = settings.seconds * WARM_UP
    with load.server(name) as server:
        arguments = (server.port, clients, size, settings.seconds, warmup)
        figures = load.generate("echo", *arguments, seconds=settings.seconds)
    if not figures["count"]:
        raise Failed("no round trip was completed")
    return figures


ROUND_TRIPS = (Column("per_second", "round trips/s"), Column("p50_us", "p50 µs"), Column("p99_us", "p99 µs"))
ECHO_SERVERS = (
    "ours-callback",
    "ours-pool",
    "ours-pool-python",
    "ours-polled",
    "ours-pool-polled",
    "ours-2-pollers",
    "bare-thread",
    "bare-polled",
    "socketserver",
    "asyncio",
    "uvloop",
    "simplesockets-0.4.0-callback",
    "simplesockets-0.4.0-polled",
)


# With thousands of threads everything takes long: of those that have one per client for whatever reason, the baseline
# is enough.
CROWD_SERVERS = (
    "ours-callback",
    "ours-pool",
    "ours-pool-python",
    "ours-polled",
    "ours-pool-polled",
    "bare-thread",
    "asyncio",
    "uvloop",
    "ours-workers",
)


def echo_scenario(clients: int, size: int) -> Scenario:
    shown = f"{size} B" if size < KIB else f"{size // KIB} KiB"
    plural = "client" if clients == 1 else "clients"
    workers = ("ours-workers",) if clients > 1 else ()  # a single client is served by one process in any case
    return Scenario(
        name=f"echo-{clients}x{shown.replace(' ', '')}",
        title=f"Round trips: {clients:,} {plural}, {shown}",
        contestants=CROWD_SERVERS if clients >= CROWD else (*ECHO_SERVERS, *workers),
        columns=ROUND_TRIPS,
        measure=functools.partial(measure_echo, clients, size),
        # A thousand threads that all want to run collapse every now and then: a ratio to that says nothing.
        baseline="asyncio" if clients >= MANY else "bare-thread",
    )


def measure_client(name: str, settings: Settings) -> dict[str, float]:
    with load.echo_server() as server:
        arguments = ("--port", server.port, "--bytes", SMALL)
        return load.run_client(name, *arguments, seconds=settings.seconds)


# Connections.


def measure_rate(name: str, settings: Settings) -> dict[str, float]:
    require_possible(name)
    with load.server(name) as server:
        figures = load.generate("rate", server.port, SMALL, settings.seconds, seconds=settings.seconds)
    if not figures["count"]:
        raise Failed("no connection was answered")
    return figures


def measure_memory(connections: int, name: str, settings: Settings) -> dict[str, float]:
    require_proc()
    require_possible(name)
    load.open_files(files_for(connections))
    # One connection first: what is made once, for the first, is not the price of each.
    with load.server(name) as server, idle_connections(server.port, 1):
        before = settled_memory(server.pid)
        with idle_connections(server.port, connections) as idle:
            after = settled_memory(server.pid)
            served = served_of(idle)  # nobody may have been lost in the silence
    return {"kib_each": (after - before) / connections, "clients": connections, "served": served}


def memory_scenario(name: str, connections: int, *contestants: str) -> Scenario:
    return Scenario(
        name=name,
        title=f"Resident memory of each of {connections:,} silent connections",
        contestants=contestants,
        columns=(Column("kib_each", "KiB each", 1), Column("served", "served afterwards")),
        measure=functools.partial(measure_memory, connections),
        baseline="bare-thread",
        higher_is_better=False,
    )


def settled_memory(pid: int) -> int:
    """The resident KiB of a process, once they no longer change."""
    known = resident_memory(pid)
    for _ in range(20):
        time.sleep(0.1)
        current = resident_memory(pid)
        if abs(current - known) <= known // 200:
            return current
        known = current
    return known


def resident_memory(pid: int) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise Failed(f"process {pid} says nothing of its memory")


# Idle.


def measure_idle(name: str, settings: Settings) -> dict[str, float]:
    require_proc()
    with load.server(name) as server, idle_connections(server.port, 1):
        time.sleep(0.2)  # the round trip before the silence is over
        used, start = processor_time(server.pid), time.perf_counter()
        time.sleep(settings.seconds)
        elapsed = time.perf_counter() - start
        return {"percent": 100 * (processor_time(server.pid) - used) / elapsed}


def processor_time(pid: int) -> float:
    """Seconds of processor time a process has used, its system calls included."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the name before it may contain blanks
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Many clients beside some whose callbacks sleep.

NEIGHBOURS, SLEEPERS = 100, 10
PACE = 5000  # messages a second of all the neighbours together
SETTLING = 1.0  # seconds that are not counted: who is slow has to be found out
NEIGHBOURLY = ("ours-callback", "ours-pool", "bare-thread")


def measure_paced_neighbours(name: str, settings: Settings) -> dict[str, float]:
    with load.server(name, "--sleepy") as server, Sleepers(server.port, SLEEPERS) as sleepers:
        arguments = (server.port, NEIGHBOURS, SMALL, PACE, settings.seconds, SETTLING)
        figures = load.generate("paced", *arguments, seconds=settings.seconds)
        return figures | {"slept": sleepers.rate()}


def measure_saturated_neighbours(name: str, settings: Settings) -> dict[str, float]:
    def saturate(sleepers: int) -> dict[str, float]:
        with load.server(name, "--sleepy") as server, Sleepers(server.port, sleepers):
            arguments = (server.port, NEIGHBOURS, SMALL, settings.seconds, SETTLING)
            return load.generate("echo", *arguments, seconds=settings.seconds)

    without = saturate(0)["per_second"]
    figures = saturate(SLEEPERS)
    if not without or not figures["count"]:
        raise Failed("no round trip was completed")
    return figures | {"without": without, "of_without": figures["per_second"] / without}


# Bulk, files and frames.


def measure_bulk(name: str, settings: Settings) -> dict[str, float]:
    require_possible(name)
    total = settings.bulk_bytes
    with load.server(name, "--sink", total) as server:
        return load.generate("bulk", server.port, BULK_BLOCK, total, BULK_LIMIT, seconds=BULK_LIMIT)


def measure_file(name: str, settings: Settings) -> dict[str, float]:
    total = settings.bulk_bytes
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(total)  # a hole, so that no disk is measured
        with load.server(name, "--file", file.name) as server:
            arguments = ("--port", server.port, "--bytes", total)
            return load.run_client("file-sink", *arguments, seconds=BULK_LIMIT)


def measure_frames(name: str, settings: Settings) -> dict[str, float]:
    return load.run_client(name, seconds=settings.seconds)


# Commands of HiSock.


def measure_commands(clients: int, name: str, settings: Settings) -> dict[str, float]:
    load.open_files(files_for(clients))
    warmup = settings.seconds * WARM_UP
    with load.server(name) as server:
        arguments = (server.port, clients, SMALL, settings.seconds, warmup)
        return _complete(load.generate("command", *arguments, seconds=settings.seconds))


def measure_fanout(clients: int, name: str, settings: Settings) -> dict[str, float]:
    require_possible(name)
    load.open_files(files_for(clients))
    mode = "socketio" if name == "python-socketio" else "fanout"
    with load.server(name) as server:
        arguments = (server.port, clients, SMALL, settings.seconds)
        return _complete(load.generate(mode, *arguments, seconds=settings.seconds))


def measure_nodes(clients: int, name: str, settings: Settings) -> dict[str, float]:
    kind, _, count = name.rpartition("-x")
    require_possible(kind)
    if shutil.which("redis-server") is None:
        raise Unavailable("redis-server is not installed")
    load.open_files(files_for(clients))
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        nodes = [stack.enter_context(load.server(kind, "--backplane", redis.tcp_url)) for _ in range(int(count))]
        mode = "socketio" if kind == "python-socketio" else "fanout"
        arguments = (mode, [node.port for node in nodes], clients, SMALL, settings.seconds)
        return _complete(load.generate_over(*arguments, seconds=settings.seconds))


def _complete(figures: dict[str, float]) -> dict[str, float]:
    # Everybody is told of each that leaves, so one failure leaves nothing to be measured.
    if figures["errors"]:
        raise Failed(f"{figures['errors']:.0f} of {figures['clients']:.0f} connections failed")
    if not figures["count"]:
        raise Failed("nothing was completed")
    return figures


HISOCK_SERVERS = ("hisock-ours", "hisock-ours-pool", "hisock-2.0.2")


def command_scenario(clients: int) -> Scenario:
    plural = "client" if clients == 1 else "clients"
    return Scenario(
        name=f"command-{clients}x{SMALL}B",
        title=f"Round trips of a HiSock command: {clients} {plural}, {SMALL} B",
        contestants=HISOCK_SERVERS,
        columns=ROUND_TRIPS,
        measure=functools.partial(measure_commands, clients),
        baseline="hisock-2.0.2",
    )


def fanout_scenario(clients: int) -> Scenario:
    return Scenario(
        name=f"fanout-{clients}x{SMALL}B",
        title=f"A HiSock command, or Socket.IO event, of {SMALL} B to {clients:,} clients, until all have it",
        contestants=(*HISOCK_SERVERS, "python-socketio"),
        columns=(
            Column("deliveries_per_second", "deliveries/s"),
            Column("p50_us", "round p50 µs"),
            Column("p99_us", "p99 µs"),
        ),
        measure=functools.partial(measure_fanout, clients),
        baseline="hisock-2.0.2",
    )


def nodes_scenario(clients: int) -> Scenario:
    return Scenario(
        name=f"nodes-{clients}x{SMALL}B",
        title=f"The same to {clients:,} clients over 1, 2 and 4 nodes that meet in Redis",
        contestants=tuple(f"{kind}-x{count}" for count in (1, 2, 4) for kind in ("hisock-ours", "python-socketio")),
        columns=(
            Column("deliveries_per_second", "deliveries/s"),
            Column("p50_us", "round p50 µs"),
            Column("p99_us", "p99 µs"),
        ),
        measure=functools.partial(measure_nodes, clients),
        baseline="python-socketio-x1",
    )


# Remote calls.


def measure_calls(clients: int, times: int, name: str, settings: Settings) -> dict[str, float]:
    with load.call_server(calls.CLIENTS[name][0]) as server:
        arguments = ("--port", server.port, "--clients", clients, "--times", times)
        return load.run_callers(name, *arguments, seconds=settings.seconds)


def call_scenario(clients: int, times: int) -> Scenario:
    shown = f"{len(calls.TEXT) * times} B" if times < 100 else f"{len(calls.TEXT) * times // KIB} KiB"
    plural = "client" if clients == 1 else "clients"
    return Scenario(
        name=f"calls-{clients}x{shown.replace(' ', '')}",
        title=f"Remote calls: {clients} {plural}, answers of {shown}",
        contestants=tuple(calls.CLIENTS),
        columns=(Column("per_second", "calls/s"), Column("p50_us", "message p50 µs"), Column("p99_us", "p99 µs")),
        measure=functools.partial(measure_calls, clients, times),
        baseline="xmlrpc",
    )


SCENARIOS = (
    echo_scenario(1, SMALL),
    echo_scenario(16, SMALL),
    echo_scenario(200, SMALL),
    echo_scenario(1000, SMALL),
    echo_scenario(5000, SMALL),
    echo_scenario(1, 64 * KIB),
    echo_scenario(16, 64 * KIB),
    Scenario(
        name="client",
        title=f"Round trips of one client, {SMALL} B, against an echo server",
        contestants=("ours-client-polled", "bare-client", "simplesockets-0.4.0-client-polled"),
        columns=ROUND_TRIPS,
        measure=measure_client,
        baseline="bare-client",
    ),
    Scenario(
        name="bulk",
        title=f"Receiving from one client that pushes blocks of {BULK_BLOCK // KIB} KiB",
        contestants=(
            "ours-callback",
            "ours-callback-2048",
            "ours-polled",
            "bare-recv-into",
            "bare-thread",
            "socketserver",
            "asyncio",
        ),
        columns=(Column("mib_per_second", "MiB/s"),),
        measure=measure_bulk,
        baseline="bare-recv-into",
    ),
    Scenario(
        name="file",
        title="Sending a file to one client that only receives",
        contestants=("ours-send_file", "ours-send_file-progress", "bare-sendfile", "bare-read-send"),
        columns=(Column("mib_per_second", "MiB/s"),),
        measure=measure_file,
        baseline="bare-sendfile",
    ),
    Scenario(
        name="rate",
        title="Connect, one round trip, close: one after the other",
        contestants=(
            "ours-callback",
            "ours-pool",
            "bare-thread",
            "socketserver",
            "asyncio",
            "uvloop",
            "simplesockets-0.4.0-callback",
        ),
        columns=(Column("per_second", "cycles/s"), Column("p50_us", "p50 µs"), Column("p99_us", "p99 µs")),
        measure=measure_rate,
        baseline="bare-thread",
    ),
    Scenario(
        name="idle",
        title="Processor time with one silent connection, while the flag is polled",
        contestants=(
            "ours-polled",
            "ours-2-pollers",
            "bare-polled",
            "bare-thread",
            "simplesockets-0.4.0-polled",
            "simplesockets-0.4.0-2-pollers",
        ),
        columns=(Column("percent", "% of a core", 1),),
        measure=measure_idle,
        higher_is_better=False,
    ),
    memory_scenario(
        "memory",
        500,
        "ours-callback",
        "ours-pool",
        "ours-pool-polled",
        "bare-thread",
        "socketserver",
        "asyncio",
    ),
    memory_scenario("memory-5000", 5000, "ours-pool", "bare-thread", "asyncio"),
    Scenario(
        name="neighbours-paced",
        title=f"Latency of {NEIGHBOURS} clients, {PACE:,} messages/s in all, beside {SLEEPERS} whose callbacks sleep",
        contestants=NEIGHBOURLY,
        columns=(
            Column("p99_us", "p99 µs"),
            Column("p50_us", "p50 µs"),
            Column("unanswered", "unanswered"),
            Column("slept", "sleepers' answers/s", 1),
        ),
        measure=measure_paced_neighbours,
        baseline="bare-thread",
        higher_is_better=False,
    ),
    Scenario(
        name="neighbours-saturated",
        title=f"Round trips: {NEIGHBOURS} clients, {SMALL} B, beside {SLEEPERS} whose callbacks sleep",
        contestants=NEIGHBOURLY,
        columns=(
            *ROUND_TRIPS,
            Column("without", "without sleepers"),
            Column("of_without", "of that without", 2),
        ),
        measure=measure_saturated_neighbours,
        baseline="bare-thread",
    ),
    Scenario(
        name="frames",
        title="A loop that sleeps to a pace of 60 frames a second",
        contestants=("sleep-only", "ours-flags-unread", "ours-flags-read"),
        columns=(
            Column("p99_ms", "frame p99 ms", 2),
            Column("p50_ms", "p50 ms", 2),
            Column("max_ms", "max ms", 2),
            Column("read_p50_us", "reading p50 µs", 1),
            Column("read_max_us", "max µs", 1),
        ),
        measure=measure_frames,
        higher_is_better=False,
    ),
    call_scenario(1, 1),
    call_scenario(16, 1),
    call_scenario(1, 4000),
    command_scenario(1),
    command_scenario(16),
    command_scenario(200),
    command_scenario(1000),
    fanout_scenario(200),
    fanout_scenario(1000),
    nodes_scenario(200),
)
