"""Follows a program's values through its statements, without running it. Pure.

A value is the set of kinds that it may be of; nothing is known of most. Kinds are the words of :mod:`.vocabulary`, and

    @hisock.server      a module, or what an original's module has under that name
    class:3  self:3     a class of the program's own, which begins in line 3; an instance of it
    func:7  bound:7     a function; a method together with its object
    super:class:3       ``super`` in a method of that class
    on:HiSockServer:x   what ``server.on("x")`` gives

Statements are followed in their order, and branches are joined afterwards. Bodies of functions come after the code
around them. What is learnt on the way (what attributes hold, what functions are called with) is kept for another round,
until there is nothing new.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .vocabulary import CALL, EACH, INSTANCES, ITEM, MEMBERS, canonical, original_of

if TYPE_CHECKING:
    from .rules import Rules

Values = frozenset[str]
NOTHING: Values = frozenset()
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Key = TypeVar("Key")

ROUNDS = 6
"""How often a program is read at most."""


class Knowledge:
    """What one round leaves to the next."""

    def __init__(self) -> None:
        self.members: dict[tuple[str, str], Values] = {}
        self.arguments: dict[tuple[str, int | str], Values] = {}
        self.returns: dict[str, Values] = {}
        self.globals: dict[str, Values] = {}
        self.shared: set[str] = set()  # those that functions assign to
        self.instances: dict[str, Values] = {}
        self.functions: dict[str, Function] = {}
        self.changed = False

    def learn(self, table: dict[Key, Values], key: Key, values: Values) -> None:
        """Add values to what is known; notes whether that is new."""
        known = table.get(key, NOTHING)
        if not values <= known:
            table[key] = known | values
            self.changed = True

    def share(self, names: Iterable[str]) -> None:
        """Note that functions assign to these global names, whenever they are called."""
        self.changed = self.changed or not self.shared.issuperset(names)
        self.shared.update(names)

    def pass_on(
        self, kind: str, arguments: Sequence[Values], keywords: Mapping[str | None, Values] | None = None
    ) -> None:
        """Tell a function, or a method with its object, what it is called with."""
        tag, first = kind.replace("bound:", "func:", 1), int(kind.startswith("bound:"))
        for place, values in enumerate(arguments):
            self.learn(self.arguments, (tag, place + first), values)
        for name, values in (keywords or {}).items():
            if name is not None:
                self.learn(self.arguments, (tag, name), values)


@dataclass
class Call:
    """A call, and what is known of its parts.

    Args:
        node: the call.
        owner: the object, where a method is called.
        name: the method.
        function: what is called.
        arguments: those without names.
        keywords: those with.
    """

    node: ast.Call
    owner: Values
    name: str
    function: Values
    arguments: list[Values]
    keywords: dict[str | None, Values]


class Scope:
    """The names of a module, a class or a function.

    Args:
        parent: where names are looked for that are not here.
        function: the kind of the function whose body it is.
        owner: the kind of the class whose body it is.
    """

    def __init__(self, parent: Scope | None = None, function: str = "", owner: str = "") -> None:
        self.parent = parent
        self.function = function
        self.owner = owner
        self.names: dict[str, Values] = {}
        self.declared_global: set[str] = set()
        self.later: list[Callable[[], None]] = []  # the bodies of its functions

    def find(self, name: str) -> Values | None:
        """What a name stands for; None if nothing binds it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def around_class(self) -> Scope:
        """This one, or that around the classes whose body it is: their names are not seen from their methods."""
        return self if not self.owner or self.parent is None else self.parent.around_class()

    def outermost(self) -> Scope:
        """The module's."""
        return self if self.parent is None else self.parent.outermost()


class Reader:
    """One round through a program.

    Args:
        knowledge: of the rounds before.
        rules: are asked about every place that may matter.
    """

    def __init__(self, knowledge: Knowledge, rules: Rules) -> None:
        self._known = knowledge
        self._rules = rules
        self._scope = Scope()
        self._scope.names.update(knowledge.globals)

    def read(self, tree: ast.Module) -> None:
        """Follow a whole program."""
        self._block(tree.body)
        self._finish(self._scope)

    # ---------------------------------------------------------------------------------------------- statements

    def _block(self, statements: Iterable[ast.AST]) -> None:
        for statement in statements:
            follow = getattr(self, f"_follow_{type(statement).__name__}", self._follow_other)
            follow(statement)

    def _follow_other(self, statement: ast.AST) -> None:
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.expr):
                self.value(child)

    def _branches(self, *blocks: Sequence[ast.AST]) -> None:
        # Each begins with what is known now; afterwards any of them may have been taken.
        scope, before = self._scope, dict(self._scope.names)
        joined: dict[str, Values] = {}
        for block in blocks:
            scope.names = dict(before)
            self._block(block)
            for name, values in scope.names.items():
                joined[name] = joined.get(name, NOTHING) | values
        scope.names = joined

    def _finish(self, scope: Scope) -> None:
        while scope.later:
            scope.later.pop(0)()

    @contextmanager
    def _inside(self, scope: Scope) -> Iterator[None]:
        outside, self._scope = self._scope, scope
        try:
            yield
            self._finish(scope)
        finally:
            self._scope = outside

    def _follow_Import(self, statement: ast.Import) -> None:
        for alias in statement.names:
            self._rules.imported(alias, alias.name, canonical(alias.name))
            shown = alias.name if alias.asname else alias.name.partition(".")[0]
            found = canonical(shown)
            self._bind(alias.asname or shown, frozenset({f"@{found}"}) if original_of(found) else NOTHING)
        self._rules.imports(statement)

    def _follow_ImportFrom(self, statement: ast.ImportFrom) -> None:
        module = "" if statement.level else statement.module or ""
        for alias in statement.names:
            if alias.name == "*":
                self._star(alias, module)
                continue
            name = canonical(f"{module}.{alias.name}")
            self._rules.imported(alias, f"{module}.{alias.name}", name)
            self._bind(alias.asname or alias.name, frozenset({f"@{name}"}) if original_of(name) else NOTHING)
        self._rules.imports(statement)

    def _star(self, alias: ast.alias, written: str) -> None:
        module = canonical(written)
        self._rules.imported(alias, written, module)
        self._rules.star(module if original_of(module) else "")
        if original_of(module):
            self._bind_star(module)

    def _bind_star(self, module: str) -> None:
        for name in INSTANCES[module.partition(".")[0]]:
            self._bind(name, frozenset({f"@{module}.{name}"}))

    def _follow_Global(self, statement: ast.Global) -> None:
        self._scope.declared_global.update(statement.names)
        self._known.share(statement.names)

    def _follow_FunctionDef(self, statement: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        tag = self._function(statement)
        for decorator in reversed(statement.decorator_list):
            for kind in self.value(decorator):
                self._rules.decorated(kind, statement, frozenset({tag}), self._known)
        self._bind(statement.name, frozenset({tag}))

    _follow_AsyncFunctionDef = _follow_FunctionDef

    def _function(self, node: Function) -> str:
        tag = f"func:{node.lineno}:{node.col_offset}"
        self._known.functions[tag] = node
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.value(default)
        owner, around = self._scope.owner, self._scope.around_class()
        around.later.append(lambda: self._body(node, tag, Scope(around, tag), owner))
        return tag

    def _body(self, node: Function, tag: str, scope: Scope, owner: str) -> None:
        with self._inside(scope):
            parameters = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            for place, parameter in enumerate(parameters):
                scope.names[parameter.arg] = self._parameter(tag, place, parameter)
            for more in (node.args.vararg, node.args.kwarg):
                if more is not None:
                    scope.names[more.arg] = NOTHING
            if owner and parameters and _is_method(node):
                scope.names[parameters[0].arg] = self._known.instances.get(owner, NOTHING)
                scope.names["super"] = frozenset({f"super:{owner}"})
            if isinstance(node, ast.Lambda):
                self._known.learn(self._known.returns, tag, self.value(node.body))
            else:
                self._block(node.body)

    def _parameter(self, tag: str, place: int, parameter: ast.arg) -> Values:
        given = self._known.arguments.get((tag, place), NOTHING) | self._known.arguments.get(
            (tag, parameter.arg), NOTHING
        )
        if parameter.annotation is None:
            return given
        return given | self._made(self.value(parameter.annotation))

    def _follow_ClassDef(self, statement: ast.ClassDef) -> None:
        tag = f"class:{statement.lineno}:{statement.col_offset}"
        bases = [self.value(base) for base in statement.bases]
        for keyword in (*statement.decorator_list, *(each.value for each in statement.keywords)):
            self.value(keyword)
        made = frozenset({tag.replace("class", "self", 1)}).union(*(self._made(base) for base in bases))
        self._known.learn(self._known.instances, tag, made)
        scope = Scope(self._scope, self._scope.function, tag)
        with self._inside(scope):
            self._block(statement.body)
            for name, values in scope.names.items():
                self._known.learn(self._known.members, (tag, name), values)
        self._rules.subclassed(statement, made, scope.names, self._known)
        self._bind(statement.name, frozenset({tag}))

    def _follow_Return(self, statement: ast.Return) -> None:
        if statement.value is not None:
            values = self.value(statement.value)
            self._rules.escapes(values)
            self._known.learn(self._known.returns, self._scope.function, values)

    def _follow_Assign(self, statement: ast.Assign) -> None:
        values = self.value(statement.value)
        for target in statement.targets:
            self._store(target, values, statement.value)

    def _follow_AnnAssign(self, statement: ast.AnnAssign) -> None:
        annotated = self._made(self.value(statement.annotation))
        values = NOTHING if statement.value is None else self.value(statement.value)
        self._store(statement.target, values | annotated, statement.value)

    def _follow_AugAssign(self, statement: ast.AugAssign) -> None:
        self.value(statement.value)
        self._store(statement.target, NOTHING, None)

    def _follow_Delete(self, statement: ast.Delete) -> None:
        for target in statement.targets:
            self._store(target, NOTHING, None)

    def _follow_Expr(self, statement: ast.Expr) -> None:
        self._rules.discarded = statement.value
        self.value(statement.value)

    def _follow_For(self, statement: ast.For | ast.AsyncFor) -> None:
        self._store(statement.target, self._each(statement.iter), None)
        self._branches([], statement.body)
        self._block(statement.orelse)

    _follow_AsyncFor = _follow_For

    def _follow_While(self, statement: ast.While) -> None:
        self._condition(statement.test)
        self._branches([], statement.body)
        self._block(statement.orelse)

    def _follow_Assert(self, statement: ast.Assert) -> None:
        self._condition(statement.test)
        if statement.msg is not None:
            self.value(statement.msg)

    def _follow_If(self, statement: ast.If) -> None:
        self._condition(statement.test)
        self._branches(statement.body, statement.orelse)

    def _follow_With(self, statement: ast.With | ast.AsyncWith) -> None:
        for item in statement.items:
            values = self.value(item.context_expr)
            self._rules.entered(values)
            if item.optional_vars is not None:
                self._store(item.optional_vars, values, None)
        self._block(statement.body)

    _follow_AsyncWith = _follow_With

    def _follow_Try(self, statement: ast.Try) -> None:
        with self._rules.guarded(statement.handlers):
            self._branches([], statement.body)
        self._branches([], *([handler] for handler in statement.handlers))
        self._block(statement.orelse)
        self._block(statement.finalbody)

    _follow_TryStar = _follow_Try

    def _follow_ExceptHandler(self, handler: ast.ExceptHandler) -> None:
        if handler.type is not None:
            self.value(handler.type)
        if handler.name is not None:
            self._bind(handler.name, NOTHING)
        self._block(handler.body)

    def _follow_Match(self, statement: ast.Match) -> None:
        self.value(statement.subject)
        self._branches([], *([case] for case in statement.cases))

    def _follow_match_case(self, case: ast.match_case) -> None:
        for node in ast.walk(case.pattern):
            name = getattr(node, "name", None) or getattr(node, "rest", None)  # what the pattern binds
            if isinstance(name, str):
                self._bind(name, NOTHING)
        if case.guard is not None:
            self._condition(case.guard)
        self._block(case.body)

    # ------------------------------------------------------------------------------------------------- targets

    def _bind(self, name: str, values: Values) -> None:
        scope = self._scope.outermost() if name in self._scope.declared_global else self._scope
        if scope.parent is None:
            self._known.learn(self._known.globals, name, values)
            if name in self._known.shared:
                values = self._known.globals.get(name, NOTHING)
        scope.names[name] = values

    def _store(self, target: ast.expr, values: Values, source: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self._bind(target.id, values)
        elif isinstance(target, ast.Attribute):
            self._store_attribute(target, values)
        elif isinstance(target, ast.Starred):
            self._store(target.value, NOTHING, None)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, values, source)
        elif isinstance(target, ast.Subscript):
            self._rules.changed(target, self.value(target.value))
            self.value(target.slice)

    def _unpack(self, targets: list[ast.expr], values: Values, source: ast.expr | None) -> None:
        parts = source.elts if isinstance(source, (ast.Tuple, ast.List)) else []
        if len(targets) == 3 and "server item" in values:
            self._rules.unpacked()
        for place, target in enumerate(targets):
            self._store(target, self.value(parts[place]) if len(parts) == len(targets) else NOTHING, None)

    def _store_attribute(self, target: ast.Attribute, values: Values) -> None:
        owner = self.value(target.value)
        self._rules.assigned(target, owner, values, self._known)
        for kind in owner:
            if kind.startswith(("self:", "class:")):
                key = (kind.replace("self:", "class:", 1), target.attr)
                self._known.learn(self._known.members, key, values)

    # --------------------------------------------------------------------------------------------- expressions

    def value(self, node: ast.expr) -> Values:
        """The kinds that an expression may be of."""
        find: Callable[[ast.expr], Values] = getattr(self, f"_value_{type(node).__name__}", self._value_other)
        return find(node)

    def _value_other(self, node: ast.AST) -> Values:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
        return NOTHING

    def _condition(self, node: ast.expr) -> None:
        self._rules.asked(node, self.value(node))

    def _value_Name(self, node: ast.Name) -> Values:
        found = self._scope.find(node.id)
        if found is None:
            self._rules.unbound(node)
        return found or NOTHING

    def _value_NamedExpr(self, node: ast.NamedExpr) -> Values:
        values = self.value(node.value)
        self._store(node.target, values, None)
        return values

    def _value_Attribute(self, node: ast.Attribute) -> Values:
        owner = self.value(node.value)
        self._rules.attribute(node, owner)
        return self._member(owner, node.attr)

    def _member(self, owner: Values, name: str) -> Values:
        found = set()
        for kind in owner:
            if kind.startswith("@"):
                found.add(f"@{canonical(f'{kind[1:]}.{name}')}")
            elif name in MEMBERS.get(kind, {}):
                found.add(MEMBERS[kind][name])
            elif kind.startswith(("self:", "class:")):
                held = self._known.members.get((kind.replace("self:", "class:", 1), name), NOTHING)
                found |= {_bound(each) if kind.startswith("self:") else each for each in held}
        return frozenset(found)

    def _value_Subscript(self, node: ast.Subscript) -> Values:
        owner = self.value(node.value)
        self.value(node.slice)
        self._rules.subscripted(node, owner)
        key = f"[{node.slice.value!r}]" if isinstance(node.slice, ast.Constant) else ITEM
        return self._member(owner, key) | self._member(owner, ITEM)

    def _value_Call(self, node: ast.Call) -> Values:
        owner, name = NOTHING, ""
        if isinstance(node.func, ast.Attribute):
            owner, name = self.value(node.func.value), node.func.attr
            self._rules.attribute(node.func, owner)
            function = self._member(owner, name)
        else:
            function = self.value(node.func)
        call = Call(
            node,
            owner,
            name,
            function,
            [self.value(argument) for argument in node.args],
            {keyword.arg: self.value(keyword.value) for keyword in node.keywords},
        )
        made = NOTHING if _is_selection(node) else self._member(owner, name + CALL)
        return made | self._made(function) | self._returned(call) | self._rules.called(call, self._known)

    def _made(self, function: Values) -> Values:
        # What calling a class, or one of the originals' functions, makes.
        found: set[str] = set()
        for kind in function:
            if kind.startswith("@"):
                original, _, name = kind[1:].partition(".")
                found.update(INSTANCES[original].get(name.rpartition(".")[2], ()))
            elif kind.startswith("class:"):
                found |= self._known.instances.get(kind, NOTHING)
            elif kind.startswith("super:"):
                own = kind.removeprefix("super:")
                found |= self._known.instances.get(own, NOTHING) - {own.replace("class:", "self:", 1)}
        return frozenset(found)

    def _returned(self, call: Call) -> Values:
        # What calling a function of the program's own gives; it is told what it is called with.
        found = NOTHING
        for kind in call.function:
            if kind.startswith(("func:", "bound:")):
                self._known.pass_on(kind, call.arguments, call.keywords)
                found |= self._known.returns.get(kind.replace("bound:", "func:", 1), NOTHING)
            elif kind.startswith("class:"):
                for maker in self._known.members.get((kind, "__init__"), NOTHING):
                    self._known.pass_on(_bound(maker), call.arguments, call.keywords)
        return found

    def _value_Lambda(self, node: ast.Lambda) -> Values:
        return frozenset({self._function(node)})

    def _value_IfExp(self, node: ast.IfExp) -> Values:
        self._condition(node.test)
        return self.value(node.body) | self.value(node.orelse)

    def _value_BoolOp(self, node: ast.BoolOp) -> Values:
        found = [self.value(each) for each in node.values]
        for each, values in zip(node.values[:-1], found, strict=False):
            self._rules.asked(each, values)
        return NOTHING.union(*found)

    def _value_UnaryOp(self, node: ast.UnaryOp) -> Values:
        values = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            self._rules.asked(node.operand, values)
        return NOTHING

    def _value_Compare(self, node: ast.Compare) -> Values:
        operands = [node.left, *node.comparators]
        self._rules.compared(node, operands, [self.value(each) for each in operands])
        return NOTHING

    def _value_FormattedValue(self, node: ast.FormattedValue) -> Values:
        self._rules.shown(node.value, self.value(node.value))
        return NOTHING

    def _each(self, node: ast.expr) -> Values:
        values = self.value(node)
        self._rules.iterated(node, values)
        return self._member(values, EACH)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Values:
        with self._inside(Scope(self._scope, self._scope.function)):
            for part in node.generators:
                self._store(part.target, self._each(part.iter), None)
                for condition in part.ifs:
                    self._condition(condition)
            for name in ("elt", "key", "value"):
                if hasattr(node, name):
                    self.value(getattr(node, name))
        return NOTHING

    _value_ListComp = _value_SetComp = _value_GeneratorExp = _value_DictComp = _comprehension


def _bound(kind: str) -> str:
    return kind.replace("func:", "bound:", 1)


def _is_method(node: Function) -> bool:
    if isinstance(node, ast.Lambda):
        return False
    return not any(isinstance(each, ast.Name) and each.id in _UNBOUND for each in node.decorator_list)


_UNBOUND = ("staticmethod", "classmethod")


def _is_selection(node: ast.Call) -> bool:
    # get_all_clients("name") gives names, not clients.
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    named = isinstance(node.func, ast.Attribute) and node.func.attr == "get_all_clients"
    return named and any(isinstance(each, ast.Constant) for each in given)
