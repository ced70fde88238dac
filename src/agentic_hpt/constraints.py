"""Conditions in words that a study file can hold: `num_layers * hidden_dim <= 2048`, `accuracy >= 0.9`.

The language is a small part of Python's expressions, read by `ast` and never run as Python: numbers, texts, true, false
and null; names; + - * / // % **; < <= > >= == != in and not in (chained too); and, or, not; abs, min, max, log, exp and
sqrt. A name that is no Python name stands in backquotes.

What a condition says of values is one number, its *margin*: at most 0 where it holds, and above that by how much it
does not: of `a <= b` it is a - b, of several at once the sum of what is broken, of alternatives the least. A comparison
with a value that is not there (of a parameter that plays no part) holds; one that can't be worked out (a division by
zero, the logarithm of -1) does not, by infinity.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from agentic_hpt.errors import ConfigError

__all__ = ["Condition", "conjunction"]

Value = bool | int | float | str | None
_Values = Mapping[str, Value]
_Margin = Callable[[_Values], float]
_Term = Callable[[_Values], Value]

_LONGEST = 500
_DEEPEST = 40
_HINT = "write a comparison such as num_layers * hidden_dim <= 2048"
_SAME = 1e-12
"""Numbers closer than this part of them are equal: 0.1 + 0.2 is 0.3."""
_UNEQUAL = 1.0
"""By how much a comparison is broken where there is no distance: of texts, and of `!=`."""
_BARELY = 1e-12
"""By how much `a < b` is broken where a is b."""
_QUOTED = re.compile(r"`([^`]+)`")
_WORDS: Mapping[str, Value] = {"true": True, "false": False, "null": None, "none": None}
_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: math.pow,
}
_FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., float]]] = {
    "abs": (1, 1, abs),
    "min": (2, 20, min),
    "max": (2, 20, max),
    "log": (1, 2, math.log),
    "exp": (1, 1, math.exp),
    "sqrt": (1, 1, math.sqrt),
}
_OPPOSITE: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition over named values, known by its text. Make it with `of`; equal when the texts are."""

    text: str

    @classmethod
    def of(cls, text: object) -> Condition:
        """Read a condition. Raises `ConfigError` that shows the place in the text."""
        if not isinstance(text, str):
            raise ConfigError(f"the constraint {text!r:.80} is no text", _HINT)
        condition = cls(" ".join(text.splitlines()).strip())
        _read(condition.text)
        return condition

    @property
    def names(self) -> tuple[str, ...]:
        """The names that stand in it, in their order."""
        return _read(self.text).names

    @property
    def quoted(self) -> frozenset[str]:
        """Those of the names that stand in backquotes."""
        return _read(self.text).quoted

    @property
    def numbers(self) -> frozenset[str]:
        """The names whose values are reckoned with, so that they must be numbers."""
        return _read(self.text).numbers

    @property
    def equals(self) -> tuple[tuple[str, Value], ...]:
        """The names that are compared for being equal to a value, with that value."""
        return _read(self.text).equals

    def margin(self, values: _Values) -> float:
        """Give by how much the condition does not hold; at most 0 where it does, less the further inside."""
        return _read(self.text).margin(values)

    def violation(self, values: _Values) -> float:
        """Give by how much the condition does not hold; 0 where it does."""
        return max(0.0, self.margin(values))

    def holds(self, values: _Values) -> bool:
        """Say whether the condition holds."""
        return self.margin(values) <= 0


def conjunction(margins: Iterator[float] | list[float]) -> float:
    """Give the margin of several conditions at once: the sum of what is broken, else that of the closest."""
    known = list(margins)
    broken = [margin for margin in known if margin > 0]
    return sum(broken) if broken else max(known, default=0.0)


@dataclass(frozen=True)
class _Parsed:
    names: tuple[str, ...]
    quoted: frozenset[str]
    numbers: frozenset[str]
    equals: tuple[tuple[str, Value], ...]
    margin: _Margin


@lru_cache(maxsize=1024)
def _read(text: str) -> _Parsed:
    return _Reader(text).read()


class _Reader:
    """Turns one text into functions of values; what they may do is what is written here."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._quoted = {found.start(): found.group(1) for found in _QUOTED.finditer(text)}
        # A quoted name becomes a plain one of the same length, so that places in the text stay what they are.
        self._plain = _QUOTED.sub(lambda found: "_" * len(found.group(0)), text)
        self._names: dict[str, None] = {}
        self._numbers: set[str] = set()
        self._equals: list[tuple[str, Value]] = []

    def read(self) -> _Parsed:
        if len(self._text) > _LONGEST:
            message = f"the constraint {self._text[:60]!r}… has {len(self._text)} characters"
            raise ConfigError(message, f"at most {_LONGEST} are taken")
        try:
            tree = ast.parse(self._plain, mode="eval").body
        except SyntaxError as error:
            place = error.offset or len(self._text) + 1
            message = f"the constraint {self._text!r} can't be read at character {place}: {error.msg}"
            raise ConfigError(message, _HINT) from None
        except (ValueError, MemoryError, RecursionError):
            raise ConfigError(f"the constraint {self._text!r:.100} can't be read", _HINT) from None
        if _depth(tree) > _DEEPEST:
            raise ConfigError(f"the constraint {self._text!r:.100} is nested too deeply", "make several of it")
        margin = self._condition(tree, negated=False)
        if not self._names:
            raise ConfigError(f"the constraint {self._text!r} names no parameter and no metric", _HINT)
        quoted = frozenset(self._quoted.values())
        return _Parsed(tuple(self._names), quoted, frozenset(self._numbers), tuple(self._equals), margin)

    def _wrong(self, node: ast.expr, what: str) -> ConfigError:
        start = len(self._plain.encode()[: node.col_offset].decode(errors="ignore"))
        end = len(self._plain.encode()[: node.end_col_offset].decode(errors="ignore"))
        part = self._text[start:end]
        return ConfigError(f"the constraint {self._text!r}, character {start + 1}: {part!r:.60} {what}", _HINT)

    def _condition(self, node: ast.expr, *, negated: bool) -> _Margin:
        """Read a condition, or its opposite: `not` is carried in to the comparisons, where absent values count."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._condition(node.operand, negated=not negated)
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value, negated=negated) for value in node.values]
            return _all(parts) if isinstance(node.op, ast.And) is not negated else _any(parts)
        if isinstance(node, ast.Compare):
            ends = [node.left, *node.comparators]
            parts = [
                self._comparison(_OPPOSITE.get(type(op), type(op)) if negated else type(op), a, b)
                for op, a, b in zip(node.ops, ends[:-1], ends[1:], strict=True)
            ]
            if len(parts) == 1:
                return parts[0]
            return _any(parts) if negated else _all(parts)
        raise self._wrong(node, "is no comparison")

    def _comparison(self, op: type[ast.cmpop], left: ast.expr, right: ast.expr) -> _Margin:
        held, self._names = self._names, {}
        if op in (ast.In, ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                raise self._wrong(right, "is no list of values")
            distance = self._among(left, right.elts, inside=op is ast.In)
        elif op in (ast.Eq, ast.NotEq):
            distance = self._among(left, [right], inside=op is ast.Eq)
        elif op in (ast.Lt, ast.LtE, ast.Gt, ast.GtE):
            a, b = self._number(left), self._number(right)
            if op in (ast.Gt, ast.GtE):
                a, b = b, a
            distance = _at_most(a, b, strictly=op in (ast.Lt, ast.Gt))
        else:
            raise self._wrong(left, "is compared by `is`; use ==")
        names = tuple(self._names)
        self._names = {**held, **self._names}
        return _where_known(names, distance)

    def _among(self, left: ast.expr, options: list[ast.expr], *, inside: bool) -> _Margin:
        term = self._term(left)
        terms = [self._term(option) for option in options]
        for one, other in [(left, option) for option in options] + [(option, left) for option in options]:
            name, value = self._name(one), self._constant(other)
            if name is not None and value:
                self._equals.append((name, value[0]))
        return _one_of(term, terms, inside=inside)

    def _term(self, node: ast.expr) -> _Term:
        """Read a value of whatever kind, for a comparison by ==."""
        name, constant = self._name(node), self._constant(node)
        if constant:
            value = constant[0]
            return lambda values: value
        if name is not None:
            self._names[name] = None
            return lambda values: values[name]
        return self._number(node)

    def _number(self, node: ast.expr) -> Callable[[_Values], float]:
        constant, name = self._constant(node), self._name(node)
        if constant:
            value = constant[0]
            if value is None or isinstance(value, str):
                raise self._wrong(node, "is no number")
            number = float(value)
            return lambda values: number
        if name is not None:
            self._names[name] = None
            self._numbers.add(name)
            return lambda values: _as_number(values[name])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            operand, sign = self._number(node.operand), -1.0 if isinstance(node.op, ast.USub) else 1.0
            return lambda values: sign * operand(values)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            work, left, right = _OPERATORS[type(node.op)], self._number(node.left), self._number(node.right)
            return lambda values: work(left(values), right(values))
        if isinstance(node, ast.Call):
            return self._call(node)
        raise self._wrong(node, "can't stand in a constraint")

    def _call(self, node: ast.Call) -> Callable[[_Values], float]:
        known = _FUNCTIONS.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if known is None or node.func.col_offset in self._quoted or node.keywords:
            raise self._wrong(node, f"is no call of {', '.join(_FUNCTIONS)}")
        least, most, work = known
        if not least <= len(node.args) <= most:
            raise self._wrong(node, f"has {len(node.args)} arguments, not {least} to {most}")
        parts = [self._number(arg) for arg in node.args]
        return lambda values: work(*[part(values) for part in parts])

    def _name(self, node: ast.expr) -> str | None:
        """Give the name that a node stands for, dots in it too; `None` for what is no name."""
        if isinstance(node, ast.Attribute):
            head = self._name(node.value)
            if head is None or node.attr.startswith("__"):
                raise self._wrong(node, "is no name; put odd names in backquotes")
            return f"{head}.{node.attr}"
        if not isinstance(node, ast.Name):
            return None
        place = len(self._plain.encode()[: node.col_offset].decode(errors="ignore"))
        if place in self._quoted:
            return self._quoted[place]
        return None if node.id in _WORDS else node.id

    def _constant(self, node: ast.expr) -> tuple[Value] | tuple[()]:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._constant(node.operand)
            number = inner[0] if inner else None
            return (-number,) if isinstance(number, int | float) and not isinstance(number, bool) else ()
        if isinstance(node, ast.Name) and node.id in _WORDS and self._name(node) is None:
            return (_WORDS[node.id],)
        if not isinstance(node, ast.Constant):
            return ()
        value = node.value
        if value is not None and not isinstance(value, bool | int | float | str):
            raise self._wrong(node, "is no number, text, true, false or null")
        if isinstance(value, int | float) and not abs(value) < 1e300:
            raise self._wrong(node, "is too large")
        return (value,)


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _all(parts: list[_Margin]) -> _Margin:
    return lambda values: conjunction([part(values) for part in parts])


def _any(parts: list[_Margin]) -> _Margin:
    return lambda values: min(part(values) for part in parts)


def _where_known(names: tuple[str, ...], distance: _Margin) -> _Margin:
    """Give a comparison's margin: 0 where a value is not there, infinity where it can't be worked out."""

    def margin(values: _Values) -> float:
        for name in names:
            if name not in values:
                return 0.0
        try:
            found = distance(values)
        except (ArithmeticError, ValueError, TypeError):
            return math.inf
        return math.inf if math.isnan(found) else found

    return margin


def _at_most(left: Callable[[_Values], float], right: Callable[[_Values], float], *, strictly: bool) -> _Margin:
    def distance(values: _Values) -> float:
        a, b = left(values), right(values)
        if a == b or abs(a - b) <= _SAME * max(abs(a), abs(b)) < math.inf:
            return _BARELY if strictly else 0.0
        return a - b

    return distance


def _one_of(term: _Term, options: list[_Term], *, inside: bool) -> _Margin:
    def distance(values: _Values) -> float:
        value = term(values)
        apart = min(_apart(value, option(values)) for option in options)
        return apart if inside else (_UNEQUAL if apart == 0 else -apart)

    return distance


def _apart(a: Value, b: Value) -> float:
    """Give how far two values are apart: numbers by their difference, others by 0 or 1. True is not 1 here."""
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, int | float) and isinstance(b, int | float)):
        return 0.0 if a == b and isinstance(a, bool) is isinstance(b, bool) else _UNEQUAL
    apart = abs(float(a) - float(b))
    return 0.0 if apart <= _SAME * max(abs(a), abs(b)) else apart


def _as_number(value: Value) -> float:
    if value is None or isinstance(value, str):
        raise TypeError("no number")
    return float(value)
