"""What passed between the playground and the server: the newest of it, as a person reads it. Pure: times come in."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass

from ..exceptions import HPXError
from ..protocol import Json, parse_json

MOST_EXCHANGES = 500
"""Exchanges that are kept at a time; the oldest goes first."""
MOST_TEXT = 16 * 1024 * 1024
"""Characters that all of them have together; the newest stays, however long it is."""
SHOWN_TEXT = 64 * 1024
"""Characters of an exchange that are shown at first; the rest is fetched when somebody asks for it."""
MOST_INDENTED = 1024 * 1024
"""Characters of a message that is indented; a longer one is shown as it came …"""
INDENTED_TEXT = 4 * 1024 * 1024
"""… and so is one that would have more than so many then."""
HIDDEN = "********"
"""Stands for a password."""

_indenting = json.JSONEncoder(indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Exchange:
    """One message, or something else that happened.

    Attributes:
        number: from 1 on, in the order in which they happened.
        direction: ``"sent"``, ``"received"``, or ``"note"`` for what is no message.
        time: when, in seconds since 1970.
        packed: bytes of the frame, its delimiter included.
        unpacked: bytes of its JSON.
        text: the JSON, indented; or a sentence. Passwords are hidden.
        error: what went wrong, in a sentence; empty if nothing did.
        after: seconds since the message that this is the answer to; None where that is not certain.
    """

    number: int
    direction: str
    time: float
    packed: int
    unpacked: int
    text: str
    error: str
    after: float | None

    def shown(self, most: int | None = SHOWN_TEXT) -> dict[str, Json]:
        """What JSON says of it, with so many characters of its text at most."""
        return {
            "number": self.number,
            "direction": self.direction,
            "time": self.time,
            "packed": self.packed,
            "unpacked": self.unpacked,
            "text": self.text[:most],
            "length": len(self.text),
            "error": self.error,
            "after": self.after,
        }


@dataclass(frozen=True)
class Reading:
    """What a message that came says.

    Attributes:
        content: its JSON; None where it is none.
        text: what is shown of it.
        error: what went wrong, in a sentence; empty if nothing did.
        size: bytes of its JSON.
    """

    content: Json
    text: str
    error: str
    size: int

    @classmethod
    def of(cls, text: bytes) -> Reading:
        """Read a message, whatever it may be."""
        shown = text.decode("utf-8", "replace")
        try:
            content = parse_json(text)
        except HPXError as failure:
            return cls(None, shown, failure.msg, len(text))
        return cls(content, readable(content, shown), _error_in(content), len(text))


class History:
    """The newest exchanges. Not for several threads at a time.

    Args:
        most: exchanges that are kept.
        most_text: characters that they have together.
    """

    def __init__(self, most: int = MOST_EXCHANGES, most_text: int = MOST_TEXT) -> None:
        self._most = most
        self._most_text = most_text
        self._kept: deque[Exchange] = deque()
        self._characters = 0
        self._unanswered = 0
        self._asked = 0.0
        self.newest = 0
        """The number of the newest exchange; 0 before the first."""

    def sent(self, text: str, packed: int, unpacked: int, now: float) -> Exchange:
        """A message was sent.

        Args:
            text: what is shown of it, see :func:`readable`.
            packed, unpacked: bytes of its frame, and of its JSON.
            now: seconds since 1970.
        """
        self._unanswered += 1
        self._asked = now
        return self._add("sent", now, packed, unpacked, text, "", None)

    def received(self, reading: Reading, packed: int, now: float, *, answers: bool) -> Exchange:
        """A message came.

        Args:
            reading: what it says.
            packed: bytes of its frame.
            now: seconds since 1970.
            answers: whether it is the answer to one that was sent.
        """
        after = self._since(now) if answers else None
        return self._add("received", now, packed, reading.size, reading.text, reading.error, after)

    def note(self, what: str, now: float, *, error: bool = False) -> Exchange:
        """Something happened that is no message.

        Args:
            what: a sentence.
            now: seconds since 1970.
            error: whether it went wrong.
        """
        return self._add("note", now, 0, 0, what, what if error else "", None)

    def forget_questions(self) -> None:
        """The connection ended: what has no answer yet will have none."""
        self._unanswered = 0

    def since(self, number: int) -> list[Exchange]:
        """What is kept of those after that number."""
        return [each for each in self._kept if each.number > number]

    def find(self, number: int) -> Exchange | None:
        """The exchange of that number, if it is kept."""
        return next((each for each in self._kept if each.number == number), None)

    def clear(self) -> None:
        """Forget all. Numbers go on."""
        self._kept.clear()
        self._characters = 0

    def _since(self, now: float) -> float | None:
        # Answers come in the order of their questions, but a server may leave one out: certain is only a single one.
        certain = self._unanswered == 1
        self._unanswered = max(0, self._unanswered - 1)
        return max(0.0, now - self._asked) if certain else None

    def _add(
        self, direction: str, now: float, packed: int, unpacked: int, text: str, error: str, after: float | None
    ) -> Exchange:
        self.newest += 1
        exchange = Exchange(self.newest, direction, now, packed, unpacked, text, error, after)
        self._kept.append(exchange)
        self._characters += len(text)
        while len(self._kept) > 1 and (len(self._kept) > self._most or self._characters > self._most_text):
            self._characters -= len(self._kept.popleft().text)
        return exchange


def readable(content: Json, otherwise: str) -> str:
    """The JSON of a message, indented, with passwords hidden.

    Args:
        content: the message.
        otherwise: what is given instead where the other would be too long.
    """
    if (hidden := _without_password(content)) is not content:
        try:
            content, otherwise = hidden, json.dumps(hidden)
        except RecursionError:
            return "It has a password, and is nested too deeply to be shown without"
    if len(otherwise) > MOST_INDENTED:
        return otherwise
    parts, room = [], INDENTED_TEXT
    try:
        for part in _indenting.iterencode(content):
            parts.append(part)
            room -= len(part)
            if room < 0:  # blanks alone can be a thousand times what they indent
                return otherwise
    except RecursionError:
        return otherwise
    return "".join(parts)


def _without_password(content: Json) -> Json:
    if isinstance(content, dict) and isinstance(data := content.get("data"), dict) and "password" in data:
        return {**content, "data": {**data, "password": HIDDEN}}
    return content


def _error_in(content: Json) -> str:
    # The first error that a message tells of: its own, or that of a function call.
    if not isinstance(content, dict):
        return "The message is no object"
    data = content.get("data")
    entries = data if isinstance(data, list) else []
    errors = [each.get("error") for each in [content, *entries] if isinstance(each, dict) and each.get("error")]
    return _sentence(errors[0]) if errors else ""


def _sentence(error: Json) -> str:
    if isinstance(error, dict):
        return f"{error.get('code', 'no code')}: {error.get('msg', '')}"[:500]
    return str(error)[:500]
