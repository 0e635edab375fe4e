"""Functions that a server offers: registered, checked, called."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from simplesockets.hpx import Context, Server
from simplesockets.hpx.exceptions import InvalidMessage
from simplesockets.hpx.functions import Functions

CONTEXT = Context("session", "name", None)


def call(function: Any, **arguments: Any) -> object:
    functions = Functions()
    functions.add("f", function)
    return functions.find("f").call(arguments, CONTEXT)


def plain(a: object, b: object = 2) -> tuple[object, object]:
    return a, b


def with_keywords(a: object, **more: object) -> tuple[object, object]:
    return a, more


def keyword_only(*, a: object) -> object:
    return a


def with_positions(*positions: object, a: object = 1) -> tuple[object, object]:
    return positions, a


class Adder:
    def __call__(self, a: int) -> int:
        return a + 1

    def method(self, a: int) -> int:
        return a + 2


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (plain, {"a": 1}, (1, 2)),
        (plain, {"b": 1, "a": None}, (None, 1)),
        (with_keywords, {"a": 1, "x": 2}, (1, {"x": 2})),
        (keyword_only, {"a": 1}, 1),
        (with_positions, {"a": 5}, ((), 5)),
        (Adder(), {"a": 1}, 2),
        (Adder().method, {"a": 1}, 3),
        (functools.partial(plain, b=7), {"a": 1}, (1, 7)),
        (lambda a=3: a, {}, 3),
    ],
)
def test_arguments_come_by_name(function: Any, arguments: dict[str, object], result: object) -> None:
    assert call(function, **arguments) == result


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (plain, {}, "'a' is missing"),
        (plain, {"b": 1}, "'a' is missing"),
        (plain, {"a": 1, "c": 1}, "unexpected argument 'c'"),
        (keyword_only, {}, "'a' is missing"),
        (with_keywords, {"x": 1}, "'a' is missing"),
        (with_positions, {"positions": 1}, "unexpected argument 'positions'"),
        (lambda: 1, {"self": 1}, "unexpected argument 'self'"),
    ],
)
def test_a_missing_and_an_unexpected_argument_are_named(function: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidMessage, match=f"f: .*{said}"):
        call(function, **arguments)


def test_a_type_error_inside_of_a_function_is_not_taken_for_wrong_arguments() -> None:
    with pytest.raises(TypeError):
        call(lambda a: a + 1, a="text")


def by_annotation(context: Context, a: int = 1) -> tuple[Context, int]:
    return context, a


def by_its_real_type(a: int, whoever: object) -> object:
    return a, whoever


by_its_real_type.__annotations__ = {"whoever": Context}


def unresolvable(a: NotHere, who: Context) -> object:  # type: ignore[name-defined]  # noqa: F821
    return a, who


def test_the_context_is_given_where_it_is_asked_for() -> None:
    assert call(by_annotation) == (CONTEXT, 1)
    assert call(by_its_real_type, a=1) == (1, CONTEXT)
    assert call(unresolvable, a=1) == (1, CONTEXT)


def test_clients_cannot_give_the_context() -> None:
    with pytest.raises(InvalidMessage, match="unexpected argument 'context'"):
        call(by_annotation, context=1)

    def anything(context: Context, **more: object) -> object:
        return context

    with pytest.raises(InvalidMessage, match="unexpected argument 'context'"):
        call(anything, context=1)


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(InvalidMessage, match="'nothing'"):
        Functions().find("nothing")


def positional(a: object, /) -> object:
    return a


def taken(fname: str) -> str:
    return fname


@pytest.mark.parametrize(("function", "named"), [(positional, "'a'"), (taken, "'fname'"), (5, "5")])
def test_functions_that_cannot_be_called_by_name_are_refused(function: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        Functions().add("f", function)


def test_the_decorator_leaves_functions_as_they_are() -> None:
    server = Server(port=0)
    assert server.function(plain) is plain
    assert server.function("other")(plain) is plain
    assert server.functions == ["other", "plain"]


def test_functions_tell_of_themselves_what_a_frontend_has_to_know() -> None:
    server = Server(port=0)

    @server.function
    def find(context: Context, words: list[int], *, most: int = 5, way: object = CONTEXT, **more: object) -> None:
        """Finds.

        Slowly.
        """

    server.function("plain")(lambda title: title)
    assert server.describe_functions() == [
        {
            "fname": "find",
            "doc": "Finds.\n\nSlowly.",
            "arguments": [
                {"name": "words", "type": "list[int]", "needed": True},
                {"name": "most", "type": "int", "needed": False, "default": 5},
                {"name": "way", "type": "object", "needed": False},
            ],
            "more": True,
        },
        {"fname": "plain", "doc": "", "arguments": [{"name": "title", "type": "", "needed": True}], "more": False},
    ]


def test_what_functions_tell_is_a_function_to_offer() -> None:
    server = Server(port=0)
    server.function(server.describe_functions)
    assert [each["fname"] for each in server.describe_functions()] == ["describe_functions"]
