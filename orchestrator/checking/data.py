"""What of a saga's fields its decisions depend on, read from its source.

A field is data if it is only put into messages that are returned, or into other such fields: two states that differ in
nothing else behave alike but for the contents of what they send, and count as one. So a saga that counts its months or
keeps a log comes round again. A field that only ever grows by a constant, and is compared with constants, is a counter:
above the greatest of them all its values are alike.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, get_origin

import msgspec

from ..definition import Definition
from ..saga import Child, Compensate, Finish, Goto, Saga, Stay, Wait

_MAKES_TEXT = {"str", "repr"}
_NEVER_RAISES = (ast.Add, ast.Sub, ast.Mult)  # on a field that is always a number, a text or a tuple
_COMPARES = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_SOLID = (int, float, str, bytes, Decimal, tuple)
_OURS = {"step", "on", "start", "migrate", "classmethod", "staticmethod", "property", "override", "orchestrator"}
_OUTCOMES: tuple[type, ...] = (Wait, Goto, Stay, Finish, Saga)


class Fields(msgspec.Struct, frozen=True):
    """What may be left out of a state: fields that are data; counters, with the value above which all are alike.

    blind   handlers that take the command and decide nothing by it.
    """

    data: frozenset[str] = frozenset()
    counters: dict[str, int] = {}
    blind: frozenset[str] = frozenset()

    def reduced(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state without what no decision can tell apart."""
        kept = {name: value for name, value in state.items() if name not in self.data}
        for name, most in self.counters.items():
            if isinstance(kept.get(name), int):
                kept[name] = min(kept[name], most + 1)
        return kept


def fields_of(definition: Definition) -> Fields:
    """The fields of a saga; all count where the source cannot be read or `self` is handed on whole."""
    cls = definition.cls
    flows = _Flows({field.name: field.type for field in msgspec.structs.fields(cls)})
    for base in cls.__mro__:
        if issubclass(base, Saga) and base is not Saga and not flows.read(base):
            return Fields()
    return Fields(flows.data() - {definition.key}, flows.counters(), flows.blind())


class _Flows:
    """What the value of each field may come into: other fields, or a decision."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = set(fields)
        self._solid = {name for name, held in fields.items() if get_origin(held) in _SOLID or held in _SOLID}
        self._ints = {name for name, held in fields.items() if held is int}
        self._decides: set[str] = set()
        self._compared: dict[str, set[int]] = {}
        self._into: dict[str, set[str]] = {}
        self._take_command: set[str] = set()

    def read(self, cls: type) -> bool:
        """Take in one class. False: it does something that this reading does not follow."""
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            return False
        names = vars(sys.modules.get(cls.__module__, object))
        [body] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        functions = [node for node in body.body if isinstance(node, ast.FunctionDef)]
        known = _OURS | {node.name for node in functions}
        followed = all(_is_plain(node, known) for node in body.body)
        return followed and all(self._function(node, names) for node in functions)

    def data(self) -> frozenset[str]:
        """The fields that come into no decision, not even through others."""
        return frozenset(self._fields - self._deciding(self._decides | self._compared.keys()))

    def counters(self) -> dict[str, int]:
        """The fields that come into nothing but comparisons with constants; with the greatest."""
        deciding = self._deciding(self._decides)
        return {name: max(found) for name, found in self._compared.items() if name not in deciding}

    def blind(self) -> frozenset[str]:
        """The handlers of which no decision looks at the command they take."""
        deciding = self._deciding(self._decides | self._compared.keys())
        return frozenset(name for name in self._take_command if _command_of(name) not in deciding)

    def _deciding(self, decides: set[str]) -> set[str]:
        while True:
            more = {name for name, into in self._into.items() if into & decides} - decides
            if not more:
                return decides
            decides = decides | more

    def _function(self, function: ast.FunctionDef, names: dict[str, Any]) -> bool:
        if not function.args.args or _is_without_self(function):
            return True
        me = function.args.args[0].arg
        above = {child: parent for parent in ast.walk(function) for child in ast.iter_child_nodes(parent)}
        for node in ast.walk(function):
            if not (isinstance(node, ast.Name) and node.id == me):
                continue
            used = above[node]
            if not isinstance(used, ast.Attribute) or isinstance(used.ctx, ast.Del):
                return False
            if used.attr not in self._fields:
                continue
            if isinstance(used.ctx, ast.Load):
                if not self._is_compared(used, above[used]):
                    self._follow(used, used.attr, above, me, names)
            else:
                self._written(used.attr, above[used])
        self._follow_command(function, above, me, names)
        return True

    def _follow_command(
        self, function: ast.FunctionDef, above: dict[ast.AST, ast.AST], me: str, names: dict[str, Any]
    ) -> None:
        """The last parameter of a handler that takes the command too."""
        if len(function.args.args) != 3:
            return
        name = function.args.args[2].arg
        self._take_command.add(function.name)
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id == name:
                used = above[node] if isinstance(above[node], ast.Attribute) else node
                self._follow(used, _command_of(function.name), above, me, names)

    def _written(self, name: str, statement: ast.AST) -> None:
        """A write to a field: a counter is set to a constant or grows by one; what adds to itself must be able to."""
        if isinstance(statement, ast.AugAssign):
            if name not in self._solid or not isinstance(statement.op, _NEVER_RAISES):
                self._decides.add(name)
            if isinstance(statement.op, ast.Add) and _is_step(statement.value):
                return
        elif isinstance(statement, ast.Assign) and _constant(statement.value) is not None:
            return
        self._ints.discard(name)
        if name in self._compared:
            self._decides.add(name)

    def _is_compared(self, used: ast.Attribute, parent: ast.AST) -> bool:
        """Note a comparison with a constant, or a question whether it is 0."""
        if used.attr not in self._ints:
            return False
        if isinstance(parent, ast.Compare) and len(parent.ops) == 1 and isinstance(parent.ops[0], _COMPARES):
            other = _constant(parent.comparators[0] if parent.left is used else parent.left)
        else:
            is_test = isinstance(parent, ast.If | ast.IfExp | ast.While) and parent.test is used
            other = 0 if is_test or (isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not)) else None
        if other is not None:
            self._compared.setdefault(used.attr, set()).add(other)
        return other is not None

    def _follow(self, used: ast.AST, name: str, above: dict[ast.AST, ast.AST], me: str, names: dict[str, Any]) -> None:
        """Climb from a read of what is called `name` to the statement that it is part of."""
        node: ast.AST = used
        while True:
            parent = above[node]
            if isinstance(parent, ast.Assign | ast.AugAssign | ast.AnnAssign):
                targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
                into = {_field(target, me) for target in targets}
                if "" not in into:
                    self._into.setdefault(name, set()).update(into)
                    return
                break
            if isinstance(parent, ast.Call) and node in parent.args and _is_message(parent.func, names):
                if _is_returned(parent, above):
                    return
                break
            if isinstance(parent, ast.keyword) and _is_message(_called(above[parent]), names):
                if _is_returned(above[parent], above):
                    return
                break
            if not _passes_on(parent, node) or (isinstance(parent, ast.BinOp) and name not in self._solid):
                break
            node = parent
        self._decides.add(name)


def _command_of(function: str) -> str:
    return f"{function}()"


def _constant(node: ast.AST) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _is_step(node: ast.AST) -> bool:
    """Whether it is a number that is not negative: a constant, or a comparison."""
    return isinstance(node, ast.Compare) or (_constant(node) or -1) > 0


def _is_plain(node: ast.stmt, known: set[str]) -> bool:
    """Whether what stands in a class body runs no code that this reading does not see."""
    if isinstance(node, ast.FunctionDef):
        return all(_root(decorator) in known for decorator in node.decorator_list)
    if isinstance(node, ast.AnnAssign | ast.Assign):
        return not any(isinstance(part, ast.Lambda) for part in ast.walk(node))
    return isinstance(node, ast.Expr | ast.Pass)


def _root(decorator: ast.expr) -> str:
    node = decorator
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_without_self(function: ast.FunctionDef) -> bool:
    """A start that computes reads no stored state; a static method is handed none, or `self` is seen to leave."""
    return any(_root(decorator) in ("classmethod", "staticmethod") for decorator in function.decorator_list)


def _field(target: ast.expr, me: str) -> str:
    is_field = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == me
    return target.attr if is_field and isinstance(target, ast.Attribute) else ""


def _called(node: ast.AST) -> ast.AST:
    return node.func if isinstance(node, ast.Call) else node


def _is_message(func: ast.AST, names: dict[str, Any]) -> bool:
    """Whether a call makes a message: a Struct that only holds what it is given."""
    made = names.get(func.id) if isinstance(func, ast.Name) else None
    if not isinstance(made, type):
        return False
    if made in (Child, Compensate):
        return True
    return issubclass(made, msgspec.Struct) and not hasattr(made, "__post_init__") and made not in _OUTCOMES


def _is_returned(call: ast.AST, above: dict[ast.AST, ast.AST]) -> bool:
    """Whether a message is what a function returns, or part of it, and nothing looks at it first."""
    return any(isinstance(node, ast.Return) for node in _upwards(call, above))


def _upwards(node: ast.AST, above: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while True:
        parent = above[node]
        yield parent
        inside = isinstance(parent, ast.Tuple | ast.List)
        inside |= isinstance(parent, ast.ListComp) and node is parent.elt
        inside |= isinstance(parent, ast.IfExp) and node is not parent.test
        inside |= isinstance(parent, ast.Call) and node in parent.args  # Child(Disk, DiskWanted(...))
        if not inside:
            return
        node = parent


def _passes_on(parent: ast.AST, node: ast.AST) -> bool:
    """Whether an expression hands a part of it on as a value, whatever it is, and cannot raise because of it."""
    if isinstance(parent, ast.BinOp):
        return isinstance(parent.op, _NEVER_RAISES)
    if isinstance(parent, ast.IfExp):
        return node is not parent.test
    if isinstance(parent, ast.Call):
        return isinstance(parent.func, ast.Name) and parent.func.id in _MAKES_TEXT
    return isinstance(parent, ast.JoinedStr | ast.FormattedValue | ast.Tuple | ast.Starred)
