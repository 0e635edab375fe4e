"""Certificates that cannot be trusted, and TLS at one end only, in HiSock and HPX, and where messages are framed.

What a stream over TCPServer does then is in tests/test_tls.py.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import socket
import ssl
from collections.abc import Iterator

import pytest

from simplesockets.hpx import HPXError
from simplesockets.hpx.exceptions import ServerDisconnectError

from ..support.certificates import CA, ELSEWHERE, EXPIRED, OTHER_CA, SERVER, client_side, server_side
from ..support.running import open_descriptors
from ..support.waiting import PATIENCE, wait_until
from .layers import LAYERS, TLS, Flow, HPXFlow, Service
from .records import record

WRONG: dict[str, tuple[pathlib.Path, pathlib.Path, str]] = {
    "authority": (SERVER, OTHER_CA, "unable to get local issuer"),
    "name": (ELSEWHERE, CA, "not valid for"),
    "expired": (EXPIRED, CA, "expired"),
}
"""The server's certificate, whom the client trusts, and what the error says."""


def careless() -> ssl.SSLContext:
    """A context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def served(name: str, tls: TLS) -> Iterator[Service]:
    service = LAYERS[name].serve(tls)
    try:
        yield service
    finally:
        service.close()


@contextlib.contextmanager
def client(name: str, service: Service, tls: TLS, patience: float = PATIENCE) -> Iterator[Flow]:
    """A client that is not connected yet."""
    flow = LAYERS[name].flow(service.address, tls, patience=patience)
    try:
        yield flow
    finally:
        flow.close()
        if isinstance(flow, HPXFlow):
            flow.quit()


@contextlib.contextmanager
def nobody_else_suffers(name: str, service: Service, tls: TLS) -> Iterator[None]:
    """One who is there is served before, during and after it, and is the only one who is left in the end."""
    with client(name, service, tls) as bystander:
        bystander.open()

        def exchange(first: int) -> None:
            for number in range(first, first + 5):
                bystander.send(record(0, number, 100))
                assert bystander.wait(number + 1)
            assert not bystander.over

        exchange(0)
        before = open_descriptors() + 2  # once there are two clients, a selector watches them
        yield
        exchange(5)
        wait_until(lambda: service.present() == 1, "the other one to be forgotten")
        wait_until(lambda: open_descriptors() <= before, "its sockets to be closed")
        assert not bystander.echoes.faults()
        assert service.ledger.sessions() == [0]


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize(("name", "kind"), [("hisock", ssl.SSLCertVerificationError), ("hpx", ServerDisconnectError)])
def test_a_certificate_that_is_not_trusted_is_an_error_that_says_why(
    name: str, kind: type[Exception], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, trusted, text = WRONG[what]
    with served(name, server_side(certificate)) as service, nobody_else_suffers(name, service, careless()):
        with client(name, service, client_side(trusted)) as flow:
            with pytest.raises(kind, match=text):
                flow.open()
        wait_until(lambda: "the TLS handshake with 127.0.0.1" in caplog.text, "the server's log")


@pytest.mark.parametrize("name", ["hisock", "hpx"])
def test_plain_bytes_at_a_tls_port_are_refused_with_a_logged_reason(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with served(name, True) as service, nobody_else_suffers(name, service, True):
        with socket.create_connection(service.address, PATIENCE) as sock:
            sock.sendall(b"39              $CLTHELLO$" if name == "hisock" else b"\x1f\x8b\x08\x00<EOF>")
            with contextlib.suppress(ConnectionError):
                while sock.recv(1000):  # the alert
                    pass
        wait_until(lambda: "the TLS handshake with 127.0.0.1" in caplog.text, "the server's log")
        assert "SSL" in caplog.text


def test_a_plain_hisock_client_of_a_tls_server_is_told_that_it_ended() -> None:
    with served("hisock", True) as service, nobody_else_suffers("hisock", service, True):
        with client("hisock", service, False) as flow:
            flow.open()
            with contextlib.suppress(OSError):
                flow.send(record(1, 0, 10))
            assert flow.wait(1)
            assert flow.over


def test_a_plain_hpx_client_of_a_tls_server_is_told_that_nothing_came_and_asked_for_tls() -> None:
    # Both ends wait for the other one's first words.
    with served("hpx", True) as service, nobody_else_suffers("hpx", service, True):
        with client("hpx", service, False, patience=0.3) as flow:
            with pytest.raises(ServerDisconnectError, match=r"no answer within.*does the server want TLS"):
                flow.open()


@pytest.mark.parametrize(
    ("name", "kind", "logged"),
    [
        ("framed", ssl.SSLError, "was dropped"),
        ("hisock", ssl.SSLError, "was dropped"),
        ("hpx", HPXError, "left: the stream ended inside a frame"),
    ],
)
def test_tls_at_a_plain_port_is_an_error_with_a_logged_reason(
    name: str, kind: type[Exception], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served(name, False) as service, nobody_else_suffers(name, service, False):
        with client(name, service, True) as flow, pytest.raises(kind) as raised:
            flow.open()
        assert "SSL" in str(raised.value) or "TLS" in str(raised.value)
        wait_until(lambda: logged in caplog.text, f"the server's log, not {caplog.text}")
