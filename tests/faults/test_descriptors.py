"""A server that runs out of descriptors serves who is there, and those who come as soon as it can again."""

from __future__ import annotations

import contextlib
import socket

import pytest

from ..support.waiting import PATIENCE
from .alone import alone
from .layers import LAYERS, Flow, HPXFlow
from .records import record

SPARE = 30
CROWD = 2 * SPARE


def exchange(flow: Flow, session: int, first: int, count: int) -> None:
    for number in range(first, first + count):
        flow.send(record(session, number, 500))
        assert flow.wait(number + 1)
        assert not flow.over
    assert not flow.echoes.faults()


def end(flow: Flow) -> None:
    flow.close()
    if isinstance(flow, HPXFlow):
        flow.quit()


CASES = [("polled", False), ("raw", True), ("hisock", False), ("hisock", True), ("hpx", False), ("hpx", True)]


@pytest.mark.parametrize(("name", "tls"), CASES)
def test_without_descriptors_service_goes_on_and_resumes(name: str, tls: bool) -> None:
    layer = LAYERS[name]
    with alone(name, tls, SPARE) as service, contextlib.ExitStack() as stack:
        early = layer.flow(service.address, tls)
        stack.callback(end, early)
        early.open()
        exchange(early, 1, 0, 5)
        crowd = [socket.create_connection(service.address, PATIENCE) for _ in range(CROWD)]
        for sock in crowd:
            stack.callback(sock.close)
        service.wait_for("logged: accepting pauses")
        exchange(early, 1, 5, 20)
        for sock in crowd:
            sock.close()
        late = [layer.flow(service.address, tls) for _ in range(3)]
        for flow in late:
            stack.callback(end, flow)
            flow.open()
        for session, flow in enumerate(late, 2):
            exchange(flow, session, 0, 20)
        exchange(early, 1, 25, 5)
        stack.close()
        told = service.end()
    assert told[-1] == "left: [] damaged: []\n"
