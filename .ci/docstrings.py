"""Docstrings for the API reference: roles (:meth:`close`, :class:`~.errors.BindError`) and ``::`` become Markdown.

Parameters that are explained together ("host, port: where to") are explained one by one, as the parser needs it.
"""

from __future__ import annotations

import re

import griffe

ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):`(?P<short>~)?\.?(?P<path>[^`]+)`")

TOGETHER = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)


class Roles(griffe.Extension):
    """Called for each object that griffe finds."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            text = ROLE.sub(as_code, obj.docstring.value).replace("::\n", ":\n")
            obj.docstring.value = TOGETHER.sub(each_alone, text)


def as_code(role: re.Match[str]) -> str:
    path = role["path"]
    return f"`{path.rpartition('.')[2] if role['short'] else path}`"


def each_alone(entry: re.Match[str]) -> str:
    return "\n".join(f"{entry['indent']}{name}: {entry['text']}" for name in entry["names"].split(", "))
