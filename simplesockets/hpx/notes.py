"""A small real API, so that the author of a frontend has something to talk to: version, echo, clock, and notes that
are kept in an SQLite file."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator

from .exceptions import APIError, InvalidMessage
from .functions import Context
from .protocol import Json
from .server import Server

_BUSY = 5.0  # seconds to wait for another writer


class Notes:
    """Texts by their keys, in an SQLite file. May be used by any number of threads, and of processes.

    Args:
        path: of the file; it is made if there is none.

    Raises:
        OSError: the file cannot be used; the message says why.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            with self._database() as database:
                database.execute("CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
        except sqlite3.Error as failure:
            raise OSError(f"notes cannot be kept in {path!r}: {failure}") from failure

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        # A connection for each use: none is shared by threads, and SQLite opens files quickly.
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY)) as database, database:
            yield database

    def get(self, key: str) -> str | None:
        """The text; None if there is none."""
        with self._database() as database:
            row = database.execute("SELECT text FROM notes WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set(self, key: str, text: str) -> None:
        """Keep a text, in place of an older one."""
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, text))

    def delete(self, key: str) -> bool:
        """Forget a text. Returns whether there was one."""
        with self._database() as database:
            return database.execute("DELETE FROM notes WHERE key = ?", (key,)).rowcount > 0

    def keys(self) -> list[str]:
        """All keys, sorted."""
        with self._database() as database:
            return [str(key) for (key,) in database.execute("SELECT key FROM notes ORDER BY key")]


def offer(server: Server, notes: Notes) -> None:
    """Let clients of a server call all this."""
    _offer_basics(server)

    @server.function
    def get_note(key: str) -> str:
        text = notes.get(_checked("key", key))
        if text is None:
            raise APIError(f"There is no note {key!r}")
        return text

    @server.function
    def set_note(key: str, text: str) -> None:
        notes.set(_checked("key", key), _checked("text", text))

    @server.function
    def delete_note(key: str) -> bool:
        return notes.delete(_checked("key", key))

    @server.function
    def list_notes() -> list[str]:
        return notes.keys()


def _offer_basics(server: Server) -> None:
    @server.function
    def get_version() -> Json:
        return {part: list(numbers) for part, numbers in server.version.items()}

    @server.function
    def echo(value: Json = None) -> Json:
        return value

    @server.function
    def get_time() -> str:
        return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")

    @server.function
    def who_am_i(context: Context) -> dict[str, str | None]:
        return {"user": context.user, "name": context.name}

    @server.function
    def list_functions() -> list[str]:
        return server.functions

    server.function(server.describe_functions)


def _checked(name: str, text: object) -> str:
    try:
        if isinstance(text, str):
            text.encode()  # half a surrogate pair is text to JSON, and not to SQLite
            return text
    except UnicodeEncodeError:
        pass
    raise InvalidMessage(f"The argument '{name}' must be text")
