"""URLs that name a Redis: what they say, and what is said of those that are none."""

from __future__ import annotations

import sys

import pytest

from simplesockets.errors import SetupError
from simplesockets.redis_url import RedisPlace


@pytest.mark.parametrize(
    ("url", "prefix", "shown"),
    [
        ("redis://localhost", "ours:", "redis://localhost"),
        ("redis://user:secret@host:7000/3?prefix=other%3A", "other:", "redis://host:7000/3"),
        ("rediss://:secret@[::1]:7000/3?socket_timeout=5&prefix=x", "x", "rediss://[::1]:7000/3"),
        ("unix:///tmp/socket?db=3&password=secret", "ours:", "unix:///tmp/socket"),
        ("unix://user:secret@/tmp/socket", "ours:", "unix:///tmp/socket"),
    ],
)
def test_what_a_url_says(url: str, prefix: str, shown: str) -> None:
    place = RedisPlace.parse("sessions", url, "ours:")
    assert (place.prefix, place.shown) == (prefix, shown)
    assert "secret" not in repr(place)
    assert place.connection() is not place.connection()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (7, "not int"),
        ("", "redis://"),
        ("localhost:6379", "redis://"),
        ("http://localhost", "redis://"),
        ("redis://", "redis://"),
        ("redis://:secret@localhost:port", "port"),
        ("redis://:secret@localhost:70000", "port"),
        ("redis://:secret@localhost/three", "'three'"),
        ("redis://:secret@localhost?prefix=", "prefix"),
        ("redis://:secret@localhost?colour=red", "colour"),
        ("redis://:secret@localhost?socket_timeout=soon", "socket_timeout"),
        ("redis://:secret@[::1", "URL"),
    ],
)
def test_what_is_no_url_of_a_redis_is_named_and_shows_no_password(url: object, named: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        RedisPlace.parse("sessions", url, "ours:")
    assert str(caught.value).startswith("sessions")
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_redis_py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SetupError, match="pip install"):
        RedisPlace.parse("sessions", "redis://localhost", "ours:")
