"""What a program gets to see: received data, event names, exception records, why a connection ended.

The two generations of programs expect different types in the same places (a tuple or an object, a list or a dict, a
string or an ``Event``). Each type here is one of them and answers like the other, so that the engine need not know.

Nothing here touches a socket or a thread. Times come in as arguments; the clock is read only where a program makes
an object itself and gives no time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, ItemsView, Iterator, KeysView, ValuesView
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, SupportsIndex, TypeVar, cast, overload

from typing_extensions import Buffer, Self

from .errors import UnknownClient
from .hints import text_is_no_bytes

if TYPE_CHECKING:
    from .server import Server_Client

Address = tuple[str, int]
"""An ``(ip, port)`` pair."""


# ---------------------------------------------------------------------------------------------- received data


class Socket_Response:
    """Something that was received, with the time and the sender (0.3/0.4).

    What servers and clients hand out is a :class:`ReceivedItem` or a :class:`ReceivedBytes`; both are instances of
    this class. Made by hand it holds what it is given.

    Args:
        response: what was received (programs of 0.4 also put a tuple of bytes or a text here).
        time_: when.
        from_: the client that sent it; None on the client's side.
    """

    def __init__(
        self, response: bytes | str | tuple[bytes, ...], time_: datetime, from_: Server_Client | None = None
    ) -> None:
        self._response = response
        self._time = time_
        self._from = from_

    @property
    def response(self) -> bytes | str | tuple[bytes, ...]:
        """What was received."""
        return self._response

    @property
    def time_(self) -> datetime:
        """When it was received, in local time."""
        return self._time

    @property
    def from_(self) -> Server_Client | None:
        """The client that sent it; None on the client's side."""
        return self._from

    def equals(self, information: object) -> bool:
        """Whether this and ``information`` hold the same content.

        Args:
            information: bytes, a tuple of bytes, or something received.

        Raises:
            TypeError: it is none of these.
        """
        if isinstance(information, Socket_Response):
            return bool(self.response == information.response)
        if isinstance(information, (bytes, tuple)):
            return bool(self.response == information)
        raise TypeError(
            f"equals() compares with bytes, a tuple of bytes or something received, not {type(information).__name__}"
        )

    def __len__(self) -> int:
        return len(self.response)

    def __getitem__(self, index: SupportsIndex | slice) -> object:
        return self.response[index]

    def __str__(self) -> str:
        return f"Socket_Response(response={self.response!r}, time={self.time_})"


Data = Buffer | str | Socket_Response
"""What can be sent: bytes-like, text (as UTF-8), or something received."""


def to_bytes(data: Data) -> bytes:
    """The bytes to send for what a program gives.

    Raises:
        TypeError: naming the type and what to give instead.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, Socket_Response):
        content = data.response
        return b"".join(content) if isinstance(content, tuple) else to_bytes(content)
    with contextlib.suppress(TypeError):
        return bytes(memoryview(data))
    if isinstance(data, tuple) or hasattr(data, "sendall"):
        raise TypeError(
            f"the data comes first, then the client: send_data(data, client). {type(data).__name__} is no data, which "
            "is bytes, text (sent as UTF-8) or something received"
        )
    raise TypeError(
        f"data must be bytes, text (sent as UTF-8) or something received, not {type(data).__name__}; "
        f"convert it first, for example with str(data).encode() or json.dumps(data)"
    )


class _Unchanging:
    """Its own copy, as bytes and tuples are; only pickles lose the socket."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self


class ReceivedBytes(_Unchanging, bytes, Socket_Response):
    """Received bytes that know when they came and from whom.

    Compares, hashes, prints and pickles as the plain bytes. It never equals text; the log says so when a program
    compares it with some.
    """

    source: Hashable  # the mailbox notes here on whose account the item is
    _stamp: float
    _sender: Server_Client | None

    def __new__(cls, data: bytes, stamp: float, sender: Server_Client | None = None) -> ReceivedBytes:
        self = bytes.__new__(cls, data)
        self._stamp = stamp
        self._sender = sender
        return self

    def __init__(self, data: bytes, stamp: float, sender: Server_Client | None = None) -> None:
        pass  # all of it is done in __new__, and Socket_Response.__init__ is for other arguments

    @property
    def response(self) -> bytes:
        """The bytes."""
        return self

    @property
    def time_(self) -> datetime:
        """When they were received, in local time."""
        return datetime.fromtimestamp(self._stamp)

    @property
    def from_(self) -> Server_Client | None:
        """The client that sent them; None on the client's side."""
        return self._sender

    def without(self, size: int) -> ReceivedBytes:
        """What is left of it after so many bytes."""
        return ReceivedBytes(self[size:], self._stamp, self._sender)

    __len__ = bytes.__len__
    __getitem__ = bytes.__getitem__
    __str__ = bytes.__str__
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            text_is_no_bytes(other)
        return bytes.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        if isinstance(other, str):
            text_is_no_bytes(other)
        return bytes.__ne__(self, other)

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(self),)  # a socket cannot travel in a pickle; the content can


class ReceivedItem(_Unchanging, tuple["Server_Client", Address, bytes], Socket_Response):
    """One received item on the server: the tuple ``(client_socket, address, data)``, with 0.4's attributes."""

    source: Hashable  # as in ReceivedBytes
    _stamp: float

    def __new__(cls, client: Server_Client, address: Address, data: bytes, stamp: float) -> ReceivedItem:
        self = tuple.__new__(cls, (client, address, data))
        self._stamp = stamp
        return self

    def __init__(self, client: Server_Client, address: Address, data: bytes, stamp: float) -> None:
        pass  # as in ReceivedBytes

    @property
    def response(self) -> bytes:
        """The bytes."""
        return self[2]

    @property
    def time_(self) -> datetime:
        """When they were received, in local time."""
        return datetime.fromtimestamp(self._stamp)

    @property
    def from_(self) -> Server_Client:
        """The client that sent them."""
        return self[0]

    def without(self, size: int) -> ReceivedItem:
        """What is left of it after so many bytes."""
        return ReceivedItem(self[0], self[1], self[2][size:], self._stamp)

    __len__ = tuple.__len__
    __getitem__ = tuple.__getitem__  # type: ignore[assignment]
    __str__ = tuple.__str__

    def __reduce__(self) -> tuple[type[tuple[object, ...]], tuple[tuple[object, ...]]]:
        return tuple, ((None, *self[1:]),)  # a socket cannot travel in a pickle


class ClientAddress(_Unchanging, tuple[object, ...]):
    """What a server's ``on_connect`` and ``on_disconnect`` get: the ``(ip, port)`` tuple of the manual, which answers
    for the client, too, as 0.4's argument did (``.send()``, ``.address``, ``.socket`` …)."""

    client: Server_Client

    def __new__(cls, address: Address, client: Server_Client) -> ClientAddress:
        self = tuple.__new__(cls, address)
        self.client = client
        return self

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or name == "client":
            raise AttributeError(name)
        return getattr(self.client, name)

    def __reduce__(self) -> tuple[type[tuple[object, ...]], tuple[tuple[object, ...]]]:
        return tuple, (tuple(self),)


Client = TypeVar("Client")


class ClientTable(dict[Address, Client]):
    """``server.clients``: the connected clients by address.

    Clients come and go while a program looks, so whatever iterates does so over the table of that moment.
    """

    def __missing__(self, address: Address) -> Client:
        raise UnknownClient(address)

    def copy(self) -> dict[Address, Client]:
        """The table of this moment, as a plain dictionary."""
        table = {}
        for address in list(dict.keys(self)):
            with contextlib.suppress(KeyError):  # gone meanwhile
                table[address] = self[address]
        return table

    def __iter__(self) -> Iterator[Address]:
        return iter(list(dict.keys(self)))

    def keys(self) -> KeysView[Address]:  # type: ignore[override]
        """The addresses."""
        return self.copy().keys()

    def values(self) -> ValuesView[Client]:  # type: ignore[override]
        """The clients."""
        return self.copy().values()

    def items(self) -> ItemsView[Address, Client]:  # type: ignore[override]
        """Pairs of address and client."""
        return self.copy().items()


# ------------------------------------------------------------------------------------------------------ events


class Event(str):
    """The name of something that happened, with its time; equal to the plain string and to any event of that name.

    Args:
        name: for example ``"--RECEIVED--"``.
        time_: when it happened; now, if not given.
    """

    time_: datetime

    def __new__(cls, name: str, time_: datetime | None = None) -> Event:
        self = str.__new__(cls, name)
        self.time_ = datetime.now() if time_ is None else time_
        return self

    @property
    def name(self) -> str:
        """The name as a plain string."""
        return str.__str__(self)

    def copy(self, new_time: bool = True) -> Event:
        """The same event, happening now (or, with ``new_time=False``, at the same time)."""
        return Event(self.name, None if new_time else self.time_)

    def __reduce__(self) -> tuple[type[Event], tuple[str, datetime]]:
        return Event, (self.name, self.time_)


EXCEPTION = Event("--EXCEPTION--")
RECEIVED = Event("--RECEIVED--")
TIMEOUT = Event("--TIMEOUT--")
DISCONNECT = Event("--DISCONNECT--")
CONNECTED = Event("--CONNECTED--")


# -------------------------------------------------------------------------------------------------- exceptions

EXCEPTIONS_KEPT = 1000
"""How many exception records a server or client keeps; the oldest go first and are counted in ``dropped``."""


class ExceptionRecord(tuple[object, ...]):
    """A caught exception: the tuple ``(traceback_text, exception)``, also ``.traceback``, ``.exception``, ``.time``.

    Args:
        exception: the exception.
        traceback: its traceback as text.
        time: when it was caught; now, if not given.
    """

    time: datetime

    def __new__(
        cls, exception: BaseException, traceback: str | None = None, time: datetime | None = None
    ) -> ExceptionRecord:
        self = tuple.__new__(cls, (traceback, exception))
        self.time = datetime.now() if time is None else time
        return self

    @property
    def exception(self) -> BaseException:
        """The exception itself."""
        return cast(BaseException, self[1])

    @property
    def traceback(self) -> str | None:
        """Its traceback as text, where there is one."""
        return cast("str | None", self[0])

    @property
    def key(self) -> str:
        """The time as 0.4's dictionary of exceptions spells it."""
        return self.time.strftime("%H:%M:%S|%d.%m.%Y")

    def __reduce__(self) -> tuple[type[ExceptionRecord], tuple[BaseException, str | None, datetime]]:
        return ExceptionRecord, (self.exception, self.traceback, self.time)

    def __str__(self) -> str:
        return f"{type(self.exception).__name__}: {self.exception}\nTraceback:\n{self.traceback}"


Default = TypeVar("Default")


class ExceptionList(list[ExceptionRecord]):
    """The newest :data:`EXCEPTIONS_KEPT` caught exceptions: the manual's list, which answers 0.4's dictionary calls.

    ``dropped`` counts the older ones that had to go since the list was cleared.
    """

    dropped: int = 0

    def add(self, exception: BaseException | ExceptionRecord, traceback: str | None = None) -> None:
        """Append an exception, or a record of one."""
        if isinstance(exception, BaseException):
            exception = ExceptionRecord(exception, traceback)
        if not isinstance(exception, ExceptionRecord):
            raise TypeError(f"add() takes an exception or a record of one, not {exception!r}")
        self.append(exception)
        surplus = len(self) - EXCEPTIONS_KEPT
        if surplus > 0:
            del self[:surplus]
            self.dropped += surplus

    def clear(self) -> None:
        """Forget all records, and how many were dropped."""
        super().clear()
        self.dropped = 0

    def copy(self) -> ExceptionList:
        """A list with the same records."""
        twin = ExceptionList(self)
        twin.dropped = self.dropped
        return twin

    @property
    def exceptions(self) -> ExceptionList:
        """A copy (0.4)."""
        return self.copy()

    def keys(self) -> list[str]:
        """The times, as text (0.4)."""
        return [record.key for record in self]

    def values(self) -> list[ExceptionRecord]:
        """The records (0.4)."""
        return list(self)

    def items(self) -> Iterator[tuple[str, ExceptionRecord]]:
        """Pairs of time, as text, and record (0.4)."""
        return iter([(record.key, record) for record in self])

    def get(self, time: str | datetime, default: Default | None = None) -> ExceptionRecord | Default | None:
        """The newest record of that time (text as in :meth:`keys`, or a datetime); ``default`` if there is none."""
        return next((record for record in reversed(self) if time in (record.key, record.time)), default)

    @overload
    def __getitem__(self, index: SupportsIndex | str | datetime, /) -> ExceptionRecord: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[ExceptionRecord]: ...
    def __getitem__(self, index: SupportsIndex | slice | str | datetime, /) -> ExceptionRecord | list[ExceptionRecord]:
        if not isinstance(index, (str, datetime)):
            return super().__getitem__(index)
        record: ExceptionRecord | None = self.get(index)
        if record is None:
            raise KeyError(index)
        return record


# -------------------------------------------------------------------------------------------- why it closed


@dataclass(frozen=True)
class Ending:
    """Why a connection ended.

    ``kind`` is one of ``"peer closed"``, ``"reset"``, ``"closed here"``, ``"handler returned"``,
    ``"protocol error"``, ``"tls"`` (the handshake failed, or what came cannot be decrypted), ``"send timeout"`` (the
    other end took nothing for too long), ``"idle"`` (it sent nothing for too long) and ``"failed"``; ``exception`` is
    the error behind it, where there is one.
    """

    kind: str
    exception: BaseException | None = None

    def __str__(self) -> str:
        return self.kind if self.exception is None else f"{self.kind}: {self.exception}"
