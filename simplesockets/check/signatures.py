"""How many arguments a function of a program takes, read from its text. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from .reader import Function, Knowledge, Values


@dataclass(frozen=True)
class Arity:
    """How many arguments without names a function takes.

    Args:
        least: at least so many.
        named: so many have a parameter with a name.
        open_ended: whether it takes any number, by ``*args``.
        callable_so: whether it can be called without naming arguments at all.
    """

    least: int
    named: int
    open_ended: bool
    callable_so: bool = True

    def accepts(self, count: int) -> bool:
        """Whether it can be called with so many."""
        return self.callable_so and self.least <= count and (self.open_ended or count <= self.named)

    def first_of(self, forms: tuple[int, ...]) -> int | None:
        """The first of these numbers that it can be called with; None if there is none."""
        return next((count for count in forms if self.accepts(count)), None)

    def __str__(self) -> str:
        if not self.callable_so:
            return "arguments that have to be named"
        if self.open_ended:
            return f"{self.least} or more arguments"
        if self.least == self.named:
            return "1 argument" if self.least == 1 else f"{self.least or 'no'} arguments"
        return f"{self.least} to {self.named} arguments"


def arity(function: Function, bound: bool) -> Arity:
    """How many arguments a function takes; ``bound`` if it is a method that comes with its object."""
    arguments = function.args
    named = len(arguments.posonlyargs) + len(arguments.args) - bound
    required_names = any(default is None for default in arguments.kw_defaults)
    return Arity(
        max(named - len(arguments.defaults), 0), max(named, 0), arguments.vararg is not None, not required_names
    )


def callables(values: Values, known: Knowledge) -> Iterator[tuple[str, Arity]]:
    """Those of the values that are functions of the program's own, undecorated, and what they take."""
    for kind in sorted(values):
        function = known.functions.get(kind.replace("bound:", "func:", 1))
        if function is None:
            continue
        decorators = [] if isinstance(function, ast.Lambda) else function.decorator_list
        unbound = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in decorators)
        if all(_is_plain(each) for each in decorators):
            yield kind, arity(function, kind.startswith("bound:") and not unbound)


def _is_plain(decorator: ast.expr) -> bool:
    # Those that leave a function's parameters as they are; what others do is not known.
    if isinstance(decorator, ast.Call):
        return isinstance(decorator.func, ast.Attribute) and decorator.func.attr == "on"
    return isinstance(decorator, ast.Name) and decorator.id == "staticmethod"


def annotation_of(function: Function, place: int) -> ast.expr | None:
    """The annotation of the parameter at that place; None if there is none."""
    parameters = (*function.args.posonlyargs, *function.args.args)
    return parameters[place].annotation if place < len(parameters) else None
