"""Sessions that several servers share, in Redis.

Each session is a hash, ``PREFIXsession:DIGEST``, where DIGEST is the SHA-256 of its id in hexadecimal digits: who reads
in Redis cannot go on with anybody's session. Its fields are JSON: ``name`` (what the client called itself), ``user``
(null for a guest), and ``data:KEY`` for each thing that functions keep in ``context.data``. It expires
``session_lifespan`` seconds after the latest message, by Redis' clock. ``PREFIXidle`` is a sorted set of all DIGESTs by
the microsecond of their latest use. Nothing else is there; no password ever is.
"""

from __future__ import annotations

import hashlib
import logging
import math

from .exceptions import HPXError, InvalidMessage
from .functions import Context
from .protocol import parse_json, to_json
from .redis_link import Argument, RedisLink, Script
from .sessions import MAX_SESSIONS, SESSION_LIFESPAN, check_limits

log = logging.getLogger("simplesockets.hpx")

MAX_KEYS = 1000
"""Keys of a session's ``context.data`` at most."""
MAX_KEPT = 1024 * 1024
"""Bytes of JSON that functions may keep of a session, with the keys."""
MAX_NAME = 64 * 1024
"""Bytes of JSON that the name of a client, or of a user, may have."""

_DATA = "data:"
_MOST = MAX_KEPT + 2 * MAX_NAME + 1024  # bytes of a session that is one of ours
_LONGEST = 2**53 - 1  # milliseconds that are a whole number to everybody

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lifespan = tonumber(ARGV[2])
local function used(key, idle, digest)
    redis.call('ZADD', idle, now, digest)
    if lifespan > 0 then
        redis.call('PEXPIRE', key, ARGV[2])
        redis.call('PEXPIRE', idle, ARGV[2])
    else
        redis.call('PERSIST', key)
        redis.call('PERSIST', idle)
    end
end
"""

_ADD = Script(
    _NOW
    + """
if lifespan > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - lifespan * 1000)
end
local over = redis.call('ZCARD', KEYS[2]) + 1 - ARGV[3]
if over > 0 then
    for _, digest in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
        redis.call('DEL', ARGV[4] .. digest)
    end
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, over - 1)
end
redis.call('HSET', KEYS[1], 'name', ARGV[5], 'user', ARGV[6])
used(KEYS[1], KEYS[2], ARGV[1])
"""
)
_USE = Script(
    _NOW
    + """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
    redis.call('ZREM', KEYS[2], ARGV[1])
    return {}
end
if kind ~= 'hash' or redis.call('HLEN', KEYS[1]) > ARGV[3] + 2 then
    return false
end
local found, size = redis.call('HGETALL', KEYS[1]), 0
for _, each in ipairs(found) do
    size = size + #each
end
if size > tonumber(ARGV[4]) then
    return false
end
used(KEYS[1], KEYS[2], ARGV[1])
return found
"""
)
_KEEP = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then
    return
end
for place = 2, #ARGV, 2 do
    if place <= ARGV[1] * 2 then
        redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1])
    else
        redis.call('HDEL', KEYS[1], ARGV[place])
    end
end
"""
)


class SharedContext(Context):
    """What one message sees of a session: :attr:`data` is as it was when the message came.

    Args:
        kept: what is in Redis of :attr:`data`: JSON by key.
    """

    def __init__(self, session: str, name: str, user: str | None, kept: dict[str, bytes]) -> None:
        super().__init__(session, name, user)
        self.data = {key: parse_json(text) for key, text in kept.items()}
        self.kept = kept


class RedisSessions:
    """Sessions in Redis. Every server with the same Redis and prefix knows the same ones.

    Args:
        link: the way there.
        lifespan: seconds that a session lives without being used; 0 is for ever.
        limit: sessions at a time, of all servers together; for one more, that which was idle longest goes.

    Raises:
        TypeError, ValueError: an argument is of no use.
    """

    def __init__(self, link: RedisLink, lifespan: float = SESSION_LIFESPAN, limit: int = MAX_SESSIONS) -> None:
        check_limits(lifespan, limit)
        self._link = link
        self._milliseconds = math.ceil(min(lifespan * 1000, _LONGEST))
        self._limit = limit
        self.prefix = f"{link.place.prefix}session:"
        """How the names of sessions' keys begin."""
        self.idle = f"{link.place.prefix}idle"
        """The name of the key that tells who was idle for how long."""

    def add(self, session: str, context: Context, now: float) -> None:
        """Begin a session.

        Raises:
            InvalidMessage: a name is too long.
            ServerError: Redis is away, or refuses.
        """
        digest, keys = self._keys(session)
        about = (to_json(context.name), to_json(context.user))
        if max(map(len, about)) > MAX_NAME:
            raise InvalidMessage(f"Invalid message: a name takes more than {MAX_NAME} bytes of JSON")
        self._link.run(_ADD, keys, digest, self._milliseconds, self._limit, self.prefix, *about)

    def use(self, session: str, now: float) -> Context | None:
        """What is known of a session, which lives on from now; None if it is unknown or has expired.

        Raises:
            ServerError: Redis is away, or refuses.
        """
        digest, keys = self._keys(session)
        found = self._link.run(_USE, keys, digest, self._milliseconds, MAX_KEYS, _MOST)
        if found == []:
            return None
        try:
            return _context(session, found)
        except (HPXError, KeyError, TypeError, ValueError) as failure:
            log.error("what Redis has of a session is none of ours, under %s%s: %s", self.prefix, digest, failure)
            return None

    def keep(self, context: Context) -> None:
        """A message was dealt with: what functions changed in ``context.data`` is there for the next one, wherever it
        comes, if the session lives still.

        Raises:
            ServerError: Redis is away, or refuses.
            TypeError, ValueError: something is not JSON, or too much.
        """
        assert isinstance(context, SharedContext)
        if not (context.data or context.kept):
            return
        now = _texts(context.data)
        changed = {key: text for key, text in now.items() if context.kept.get(key) != text}
        gone = [key for key in context.kept if key not in now]
        if changed or gone:
            arguments: list[Argument] = []
            for key, text in (*changed.items(), *((key, b"") for key in gone)):
                arguments += [_field(key), text]
            self._link.run(_KEEP, self._keys(context.session)[1][:1], len(changed), *arguments)

    def clear(self) -> None:
        """A server is being closed; its sessions live on."""

    def _keys(self, session: str) -> tuple[str, list[str]]:
        digest = hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()
        return digest, [self.prefix + digest, self.idle]


def _context(session: str, found: object) -> SharedContext:
    if not isinstance(found, list):
        raise ValueError("it is no hash, or larger than allowed")
    pairs = zip(found[::2], found[1::2], strict=True)
    fields = {name.decode("utf-8", "surrogatepass"): text for name, text in pairs}
    name, user = parse_json(fields["name"]), parse_json(fields["user"])
    if not (isinstance(name, str) and (user is None or isinstance(user, str))):
        raise ValueError("'name' or 'user' is no text")
    kept = {field.removeprefix(_DATA): text for field, text in fields.items() if field.startswith(_DATA)}
    return SharedContext(session, name, user, kept)


def _field(key: str) -> bytes:
    return (_DATA + key).encode("utf-8", "surrogatepass")


def _texts(data: dict[str, object]) -> dict[str, bytes]:
    texts = {}
    for key, value in data.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of context.data must be texts to be kept in Redis, not {key!r}")
        try:
            texts[key] = to_json(value)
        except (TypeError, ValueError) as failure:
            raise TypeError(f"context.data[{key!r}] must be something that JSON can say: {failure}") from failure
    size = sum(len(_field(key)) + len(text) for key, text in texts.items())
    if len(texts) > MAX_KEYS or size > MAX_KEPT:
        raise ValueError(
            f"context.data has {len(texts)} keys and {size} bytes of JSON; Redis gets no more than {MAX_KEYS} keys "
            f"and {MAX_KEPT} bytes of a session"
        )
    return texts
