"""Limits of no use: errors that name the value, and what to give instead, before anything is bound or connected."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from simplesockets import DelimiterFramer, LengthPrefixFramer, SecureClient, SecureServer, TCPClient, TCPServer, hpx
from simplesockets.hisock import HiSockClient, HiSockServer

from .support.certificates import CA, SERVER
from .support.running import HOST

BAD_SECONDS = [0, -1, 0.0, float("nan"), float("inf"), "60", True, 1e12]
BAD_COUNTS = [0, -1, 1.5, "2", True]
NOBODY = (HOST, 9)
"""Where nobody listens."""


def set_up(made: TCPServer | TCPClient, *where: Any, **limits: Any) -> None:
    with contextlib.closing(made):
        made.setup(*where, **limits)


MAKERS: dict[str, Callable[..., object]] = {
    "TCPServer": lambda **limits: set_up(TCPServer(), HOST, 0, **limits),
    "SecureServer": lambda **limits: set_up(SecureServer(), HOST, 0, certfile=SERVER, **limits),
    "TCPClient": lambda **limits: set_up(TCPClient(), *NOBODY, **limits),
    "SecureClient": lambda **limits: set_up(SecureClient(), *NOBODY, cafile=CA, **limits),
    "HiSockServer": lambda **limits: HiSockServer((HOST, 0), **limits),
    "HiSockClient": lambda **limits: HiSockClient(NOBODY, **limits),
    "hpx.Server": lambda **limits: hpx.Server(port=0, **limits),
    "LengthPrefixFramer": LengthPrefixFramer,
}
SECONDS = {
    "TCPServer": "send_timeout idle_timeout handshake_timeout",
    "SecureServer": "send_timeout idle_timeout handshake_timeout",
    "TCPClient": "send_timeout idle_timeout connect_timeout",
    "SecureClient": "send_timeout idle_timeout connect_timeout",
    "HiSockServer": "send_timeout idle_timeout hello_timeout keepalive_interval keepalive_timeout",
    "HiSockClient": "send_timeout connect_timeout",
    "hpx.Server": "send_timeout idle_timeout handshake_timeout",
}
COUNTS = {
    "TCPServer": "max_per_address",
    "SecureServer": "max_per_address",
    "HiSockServer": "max_per_address max_message",
    "HiSockClient": "max_message",
    "hpx.Server": "max_per_address max_connections max_packed max_unpacked max_sessions",
    "LengthPrefixFramer": "header_size",
}


@pytest.mark.parametrize(
    ("maker", "name", "value"),
    [
        pytest.param(maker, name, value, id=f"{maker}-{name}={value!r}")
        for table, values in ((SECONDS, BAD_SECONDS), (COUNTS, BAD_COUNTS))
        for maker, names in table.items()
        for name in names.split()
        for value in values
    ],
)
def test_limits_that_are_of_no_use_are_named(maker: str, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"{name} must be .*not {re.escape(repr(value))}"):
        MAKERS[maker](**{name: value})


@pytest.mark.parametrize("framer", [LengthPrefixFramer, DelimiterFramer])
@pytest.mark.parametrize("value", [-1, 1.5, "2", True])
def test_limits_of_frames_that_are_of_no_use_are_named(framer: Callable[..., object], value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"limit must be .*not {re.escape(repr(value))}"):
        framer(limit=value)


@pytest.mark.parametrize(
    "name", ["hello_timeout", "keepalive_interval", "keepalive_timeout", "max_pending", "max_message"]
)
def test_limits_that_there_have_to_be_cannot_be_none(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be .*not None"):
        HiSockServer((HOST, 0), **{name: None})  # type: ignore[arg-type]
