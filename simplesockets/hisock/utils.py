"""Helpers, types and exceptions, under their names of HiSock."""

from __future__ import annotations

import ipaddress
import pathlib
import socket
from collections.abc import Callable

from . import casting
from .casting import ClientInfo
from .errors import (
    ClientDisconnected,
    ClientException,
    ClientNotFound,
    FunctionNotFoundException,
    FunctionNotFoundWarning,
    GroupNotFound,
    InvalidHandler,
    InvalidTypeCast,
    NoHeaderWarning,
    NoMessageException,
    ServerException,
    ServerNotRunning,
)
from .loop import MessageCacheMember
from .protocol import check_command

__all__ = [
    "Client",
    "ClientDisconnected",
    "ClientException",
    "ClientInfo",
    "ClientNotFound",
    "File",
    "FunctionNotFoundException",
    "FunctionNotFoundWarning",
    "GroupNotFound",
    "InvalidHandler",
    "InvalidTypeCast",
    "JSONSerializableValue",
    "MessageCacheMember",
    "NoHeaderWarning",
    "NoMessageException",
    "Sendable",
    "SendableTypes",
    "ServerException",
    "ServerNotRunning",
    "get_local_ip",
    "input_client_config",
    "input_server_config",
    "ipstr_to_tup",
    "iptup_to_str",
    "make_header",
    "receive_message",
    "validate_command_not_reserved",
    "validate_ipv4",
]

JSONSerializableValue = str | int | float | bool | None | dict[str, object] | list[object]
Sendable = (
    bytes
    | str
    | int
    | float
    | bool
    | None
    | ClientInfo
    | list[JSONSerializableValue]
    | dict[str, JSONSerializableValue]
)
"""What can be sent as content."""
SendableTypes = type[Sendable]
Client = str | tuple[str, int] | ClientInfo
"""How a client is named: its name or ``"ip:port"``, ``(ip, port)``, or its ClientInfo."""


class File:
    """A path; kept for programs that name it. Files are not sent by this.

    Args:
        file_path: the path.
    """

    def __init__(self, file_path: str | pathlib.Path) -> None:
        self.file_path = file_path


# --------------------------------------------------------------------------------------------------- addresses


def ipstr_to_tup(formatted_ip: str) -> tuple[str, int]:
    """The pair ``(ip, port)`` of a text ``ip:port``.

    Raises:
        ValueError: it has not that form. Source: 0.x.
    """
    address = casting.read_address(formatted_ip) if isinstance(formatted_ip, str) else None
    if address is None or not address[1]:
        raise ValueError(f"{formatted_ip!r} is no address of the form ip:port, such as '127.0.0.1:5000'")
    return address


def iptup_to_str(formatted_tuple: tuple[str, int]) -> str:
    """The text ``ip:port`` of a pair.

    Raises:
        ValueError: it is no pair. Source: 0.x.
    """
    if not isinstance(formatted_tuple, (tuple, list)) or len(formatted_tuple) != 2:
        raise ValueError(f"{formatted_tuple!r} is no address of the form (ip, port), such as ('127.0.0.1', 5000)")
    return f"{formatted_tuple[0]}:{formatted_tuple[1]}"


def validate_ipv4(ip: str | tuple[str, int], require_ip: bool = True, require_port: bool = True) -> bool:
    """Check an IPv4 address and a port.

    Args:
        ip: ``"ip:port"`` or ``(ip, port)``; with only one of the two required, it may be that one alone.
        require_ip: whether to check the address.
        require_port: whether to check the port.

    Returns:
        True.

    Raises:
        ValueError: one of them is not valid. Source: 2.x.
    """
    parts = tuple(ip) if isinstance(ip, (tuple, list)) else tuple(str(ip).rsplit(":", 1)) if ip != "" else ()
    if (require_ip or require_port) and (not parts or (require_ip and require_port and len(parts) != 2)):
        raise ValueError(f"{ip!r} is no address of the form ip:port, such as '127.0.0.1:5000'")
    if require_port:
        port = str(parts[-1])
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{port!r} is no port; ports are numbers from 0 to 65535")
    if require_ip:
        try:
            ipaddress.IPv4Address(parts[0])
        except ValueError:
            raise ValueError(f"{parts[0]!r} is no IPv4 address, such as '127.0.0.1'") from None
    return True


def get_local_ip(all_ips: bool = False) -> str | list[str]:
    """An address of this machine, as its host name resolves.

    Args:
        all_ips: whether to get all of them, in a list. Source: 0.x; the argument is of 2.x.
    """
    name = socket.gethostname()
    try:
        return socket.gethostbyname_ex(name)[-1] if all_ips else socket.gethostbyname(name)
    except socket.gaierror:  # a machine that does not know its own name
        return ["127.0.0.1"] if all_ips else "127.0.0.1"


# ------------------------------------------------------------------------------------------------------- input


def _ask(question: str, check: Callable[[str], object]) -> str:
    while True:
        answer = input(question).strip()
        try:
            check(answer)
        except ValueError as failure:
            print(failure)
        else:
            return answer


def input_server_config(
    ip_prompt: str = "Enter the IP for the server: ", port_prompt: str = "Enter the port for the server: "
) -> tuple[str, int]:
    """Ask for an address to serve at, until it is valid. Returns ``(ip, port)``. Source: 0.x."""
    ip = _ask(ip_prompt, lambda answer: validate_ipv4(answer, require_port=False))
    port = _ask(port_prompt, lambda answer: validate_ipv4(answer, require_ip=False))
    return ip, int(port)


def input_client_config(
    ip_prompt: str = "Enter the IP of the server: ",
    port_prompt: str = "Enter the port of the server: ",
    name_prompt: str | None = "Enter name: ",
    group_prompt: str | None = "Enter group to connect to: ",
) -> tuple[object, ...]:
    """Ask for a server's address, and for a name and a group, unless their prompt is None.

    Returns:
        ``((ip, port), name, group)``, without what was not answered: what ``connect(*…)`` takes. Source: 0.x.
    """
    address = input_server_config(ip_prompt, port_prompt)
    name = input(name_prompt) if name_prompt else None
    group = input(group_prompt) if group_prompt else None
    return tuple(given for given in (address, name, group) if given)


# -------------------------------------------------------------------------------------------------------- wire


def make_header(header_message: str | bytes, header_len: int, encode: bool = True) -> str | bytes:
    """The header of a message: its length in decimal digits, padded with spaces.

    Args:
        header_message: the message.
        header_len: bytes of the header.
        encode: whether to get bytes, not text.

    Raises:
        ValueError: the length has more digits than the header has room for. Source: 2.x.
    """
    header = str(len(header_message)).ljust(header_len)
    if len(header) > header_len:
        raise ValueError(f"a length of {len(header_message)} does not fit a header of {header_len} characters")
    return header.encode() if encode else header


def receive_message(connection: socket.socket, header_len: int) -> dict[str, bytes] | bool:
    """Read one whole message from a socket of your own (not from one that a client or server reads).

    Returns:
        ``{"header": …, "data": …}``; False at the end of the stream, and when the connection was reset.

    Raises:
        ValueError: the header is no length. Source: 2.x.
    """
    try:
        header = _read_exactly(connection, header_len)
        if len(header) < header_len:
            return False
        if not header.strip().isdigit():
            raise ValueError(f"{header!r} is no header: it is a length in decimal digits, padded with spaces")
        data = _read_exactly(connection, int(header))
    except ConnectionResetError:
        return False
    return {"header": header, "data": data}


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size > 0 and (part := connection.recv(min(size, 65536))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def validate_command_not_reserved(command: str) -> None:
    """Check the name of a command.

    Raises:
        ValueError: it has the form ``$…$``, which is reserved. Source: 2.x.
    """
    check_command(command)
