"""Thousands of connections that say nothing, or half of what they should, and how quickly others are served."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from dataclasses import dataclass, field

from ..support.waiting import PATIENCE
from .alone import Alone, alone
from .cuts import LONGEST, Bystander, describe
from .layers import LAYERS, Flow, HPXFlow, Layer
from .records import record

HALVES: dict[str, tuple[bytes, ...]] = {
    "raw": (b"",),
    "polled": (b"",),
    "framed": (b"", b"500  "),
    "hisock": (b"", b"37     ", b'39              $CLTHELLO${"name": "ha'),
    "hpx": (b"", gzip.compress(b'{"session": "", "name": "half", "data": {}}')[:20]),
}
"""What such a connection says, by layer; each in turn."""
TLS_HALVES = (b"", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03")
NEWCOMERS = 20
SAMPLES = 300


@dataclass
class CrowdAccount:
    """How a crowd was borne."""

    title: str
    count: int
    before: list[float] = field(default_factory=list)
    coming: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)
    new_before: list[float] = field(default_factory=list)
    new_there: list[float] = field(default_factory=list)
    arrival: float = 0.0
    behind: float = 0.0
    memory: int = 0
    told: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.title}: {self.count} half-open connections, there within {self.arrival:.2f} s, "
            f"{self.memory / self.count / 1024:.0f} KiB each",
            f"  round trips without them: {describe(self.before)}",
            f"  while they come:          {describe(self.coming)}",
            f"  with them:                {describe(self.there)}",
            f"  the first who connects after they did waits for {self.behind:.2f} s, until they are accepted",
            f"  others connect and get a record back: without them {describe(self.new_before)};",
            f"                                        with them    {describe(self.new_there)}",
            *(f"  VIOLATION: {each}" for each in self.violations),
        ]
        return "\n".join(lines)


def bear(name: str, tls: bool, count: int, samples: int = SAMPLES) -> CrowdAccount:
    """Have a service of this layer, in a process of its own, bear so many half-open connections."""
    account = CrowdAccount(f"{name}{' over TLS' if tls else ''}", count)
    layer = LAYERS[name]
    with alone(name, tls) as service, contextlib.ExitStack() as stack:
        flow = layer.flow(service.address, tls)
        stack.callback(end_flow, flow)
        flow.open()
        bystander = Bystander(flow, session=0)
        try:
            account.before = bystander.times(samples)
            account.new_before = newcomers(layer, service, tls, first=1)
            bystander.times()
            memory, began = service.resident, time.monotonic()
            come(stack, service, TLS_HALVES if tls else HALVES[name], count)
            account.arrival = time.monotonic() - began
            (account.behind,) = newcomers(layer, service, tls, first=NEWCOMERS + 1, count=1)
            account.coming = bystander.times()
            account.new_there = newcomers(layer, service, tls, first=NEWCOMERS + 2)
            bystander.times()
            account.there = bystander.times(samples)
            account.memory = service.resident - memory
        finally:
            bystander.stop()
        stack.close()
        account.told = service.end()
    account.violations += bystander.violations
    if account.told[-1] != "left: [] damaged: []\n":
        account.violations.append(account.told[-1].strip())
    slowest = max([*account.coming, *account.there, *account.new_there])
    if slowest > LONGEST / 5:
        account.violations.append(f"somebody waited for {slowest:.2f} s")
    return account


def come(stack: contextlib.ExitStack, service: Alone, halves: tuple[bytes, ...], count: int) -> None:
    """So many connections come; returns when the last of them was accepted, or could have been."""
    for number in range(count):
        sock = stack.enter_context(socket.create_connection(service.address, PATIENCE))
        sock.sendall(halves[number % len(halves)])


def newcomers(layer: Layer, service: Alone, tls: bool, first: int, count: int = NEWCOMERS) -> list[float]:
    """Seconds that it takes one who comes now to connect and to get a record back."""
    times = []
    for session in range(first, first + count):
        began = time.perf_counter()
        flow = layer.flow(service.address, tls)
        try:
            flow.open()
            flow.send(record(session, 0, 50))
            assert flow.wait(1), "no answer"
            assert not flow.over
            times.append(time.perf_counter() - began)
        finally:
            end_flow(flow)
    return times


def end_flow(flow: Flow) -> None:
    """End a flow for good."""
    flow.close()
    if isinstance(flow, HPXFlow):
        flow.quit()
