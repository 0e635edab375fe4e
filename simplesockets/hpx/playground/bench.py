"""What the page works with: a connection to a server, what passed over it, and what is known of the server."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from ...errors import SimpleSocketsError
from ..codec import Unreadable, pack
from ..exceptions import ClientError, HPXError
from ..protocol import AUTHENTICATED, Handshake, Json, parse_command, parse_handshake, to_json
from .forms import DESCRIBING, Function, functions_in, read_functions
from .history import Exchange, History, Reading, readable
from .line import Line

MOST_SESSION = 1000
"""Characters of a session's id at most."""
MOST_VERSION = 200
"""Characters of what the server says of its version."""

Place = Callable[[], tuple[str, int]]
"""Gives the server's address; asked before each attempt to connect."""


@dataclass
class State:
    """How things stand.

    Attributes:
        server: what the server is called: its address.
        connection: ``"open"``, ``"opening"`` or ``"none"``.
        problem: why there is no connection, in a sentence; empty if nothing went wrong.
        session: the id of the session that messages name; empty if there is none.
        user: whose session it is; empty for a guest's, None if that is not known.
        version: what the server said of its version, as JSON; empty before it did.
        guest_allowed: whether the server said that it takes guests.
        cleared: the number of the newest exchange that was cleared away.
    """

    server: str
    connection: str = "none"
    problem: str = ""
    session: str = ""
    user: str | None = None
    version: str = ""
    guest_allowed: bool = False
    cleared: int = 0

    def shown(self) -> dict[str, Json]:
        """What JSON says of it."""
        return asdict(self)


@dataclass(frozen=True)
class News:
    """What changed since somebody looked.

    Attributes:
        revision: names the state.
        state: how things stand; None if that is the same.
        functions: those of the server; None if they are the same.
        exchanges: those that came since.
    """

    revision: tuple[int, int]
    state: dict[str, Json] | None
    functions: tuple[Function, ...] | None
    exchanges: list[Exchange]


class Bench:
    """Talks to one server, and remembers what was said.

    Args:
        place: gives the server's address.
        name: what it calls itself in messages.
        server: what the server is called for a person.
        functions: what the server says of them, where that is known already.
        ssl_context: for TLS.
        now: gives seconds since 1970; for tests.

    Everything may be called from any thread. What talks to the server may wait; :meth:`close` ends it.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        server: str,
        *,
        functions: Iterable[dict[str, Json]] = (),
        ssl_context: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.on_change: Callable[[], object] = lambda: None
        """Called after anything changed, in whatever thread; must not wait."""
        self._place = place
        self._ssl_context = ssl_context
        self._now = now
        self._lock = threading.Lock()  # protects what follows; not held while anything is sent, or waited for
        self._history = History()
        self._state = State(server)
        self._functions = read_functions(list(functions))
        self._revision = self._functions_revision = 1
        self._line: Line | None = None
        self._greeted = False  # on this line
        self._asked_user: str | None = None  # of the latest handshake
        self._closed = False

    # --------------------------------------------------------------------------------------------- what there is

    def news(self, revision: tuple[int, int] = (0, 0), after: int = 0) -> News:
        """What changed.

        Args:
            revision: of the latest :class:`News`.
            after: number of the latest exchange that is known.
        """
        with self._lock:
            current = (self._revision, self._functions_revision)
            state = self._state.shown() if revision[0] != current[0] else None
            functions = tuple(self._functions.values()) if revision[1] != current[1] else None
            return News(current, state, functions, self._history.since(after))

    def exchange(self, number: int) -> Exchange | None:
        """The exchange of that number, if it is kept."""
        with self._lock:
            return self._history.find(number)

    def function(self, fname: str) -> Function | None:
        """The function of that name, if it is known."""
        with self._lock:
            return self._functions.get(fname)

    def clear(self) -> None:
        """Forget what was said."""
        with self._lock:
            self._history.clear()
            self._state.cleared = self._history.newest
            self._revision += 1
        self.on_change()

    # ------------------------------------------------------------------------------------------------ connection

    def connect(self) -> None:
        """Connect. Does nothing if there is a connection.

        Raises:
            SimpleSocketsError: there is none to be had; the message says why.
        """
        line = None
        try:
            line = self._new_line()
            if line is not None:
                line.open()
        except SimpleSocketsError as failure:
            self._lose(line, sentence(failure))
            raise
        if line is None:
            return
        if self._opened(line):
            line.read()
        else:
            line.close()

    def _new_line(self) -> Line | None:
        with self._lock:
            if self._closed or self._line is not None:
                return None
        line = Line(self._place(), self._ssl_context, self._take, self._ended)
        with self._lock:
            if self._closed:
                return None
            self._line, self._greeted = line, False
            self._state.server = "{}:{}".format(*line.address)
            self._state.connection, self._state.problem = "opening", ""
            self._revision += 1
        self.on_change()
        return line

    def _opened(self, line: Line) -> bool:
        with self._lock:
            if self._line is not line:  # disconnected in this moment
                return False
            self._state.connection = "open"
            self._note(f"Connected to {self._state.server}")
        self.on_change()
        return True

    def _ended(self, line: Line, why: str) -> None:
        self._lose(line, f"The connection was lost: {why}")

    def _lose(self, line: Line | None, why: str) -> None:
        with self._lock:
            if self._line is not line:  # ended by this end
                return
            self._end(why, error=True)
        if line is not None:
            line.close()
        self.on_change()

    def disconnect(self) -> None:
        """End the connection, or the attempt to make one. The session lives on."""
        with self._lock:
            line = self._line
            if line is None:
                return
            self._end("Disconnected", error=False)
        line.close()
        self.on_change()

    def _end(self, why: str, *, error: bool) -> None:
        # Under the lock.
        self._line = None
        self._state.connection, self._state.problem = "none", why if error else ""
        self._history.forget_questions()
        self._note(why, error=error)

    def close(self) -> None:
        """End everything, and whoever waits; not to be used again."""
        with self._lock:
            self._closed = True
        self.disconnect()

    def _note(self, what: str, *, error: bool = False) -> None:
        # Under the lock.
        self._history.note(what, self._now(), error=error)
        self._revision += 1

    # -------------------------------------------------------------------------------------------------- messages

    def ask(self, data: Json) -> None:
        """Send data, with the session.

        Raises:
            SimpleSocketsError: it could not be sent.
        """
        with self._lock:
            session = self._state.session
        self.send({"session": session, "name": self.name, "data": data})

    def ask_functions(self) -> None:
        """Ask the server which functions it offers. See :meth:`ask`."""
        self.ask([{"fname": DESCRIBING}])

    def shake_hands(self, user: str | None, password: str = "") -> None:
        """Shake hands: as that user, or as a guest. See :meth:`ask`."""
        data: Json = {} if user is None else {"user": user, "password": password}
        self.send({"session": "", "name": self.name, "data": data})

    def use_session(self, session: str) -> None:
        """Name this session in messages from now on; none, if it is empty."""
        with self._lock:
            self._state.session, self._state.user = session[:MOST_SESSION], None
            self._revision += 1
        self.on_change()

    def send(self, message: Json) -> None:
        """Send a whole message, whatever it says.

        Raises:
            SimpleSocketsError: it could not be sent.
        """
        try:
            text = to_json(message)
        except ValueError as failure:  # 1e999 is JSON, and infinite here
            raise ClientError("playground", f"That cannot be said in JSON: {failure}") from failure
        frame = pack(text)
        shown = readable(message, text.decode())
        with self._lock:
            line = self._line if self._state.connection == "open" else None
            if line is None:
                raise ClientError("playground", "There is no connection: connect first")
            # Before it is sent, since the answer may be here before that returns.
            self._history.sent(shown, len(frame), len(text), self._now())
            self._asked_user = _user_in(message, self._asked_user)
        self.on_change()
        line.send(frame)

    def _take(self, message: bytes | Unreadable, packed: int) -> None:
        # In the line's reading thread.
        if isinstance(message, Unreadable):
            reading = Reading(None, f"A frame of {packed} bytes", message.reason, 0)
        else:
            reading = Reading.of(message)
        with self._lock:
            answers = self._greeted and not _is_notice(reading.content)
            self._greeted = True
            self._history.received(reading, packed, self._now(), answers=answers)
            self._learn(reading.content)
        self.on_change()

    def _learn(self, message: Json) -> None:
        # Under the lock. The server may say anything.
        if not isinstance(message, dict):
            return
        data, session = message.get("data"), message.get("session")
        if data == AUTHENTICATED and isinstance(session, str) and 0 < len(session) <= MOST_SESSION:
            self._state.session, self._state.user = session, self._asked_user
            self._revision += 1
        elif isinstance(data, dict) and "version" in data:
            self._state.version = _shortly(data["version"])
            self._state.guest_allowed = data.get("guest_allowed") is True
            self._revision += 1
        elif (functions := functions_in(message)) is not None:
            self._functions = functions
            self._functions_revision += 1


def sentence(failure: SimpleSocketsError) -> str:
    """What went wrong, without the name of who says it."""
    return failure.msg if isinstance(failure, HPXError) else str(failure)


def _user_in(message: Json, otherwise: str | None) -> str | None:
    # Whose session a message asks for.
    data = message.get("data") if isinstance(message, dict) else None
    kind = parse_handshake(data)
    if kind is Handshake.USER and isinstance(data, dict):
        return str(data["user"])
    return "" if kind is Handshake.GUEST else otherwise


def _is_notice(message: Json) -> bool:
    # Whether the server says that of its own accord.
    if not isinstance(message, dict) or message.get("session"):
        return False
    return parse_command(message.get("data")) is not None


def _shortly(version: Json) -> str:
    try:
        return to_json(version).decode()[:MOST_VERSION]
    except ValueError:
        return ""
