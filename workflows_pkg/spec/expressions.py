"""What may stand inside `${{ … }}`? A closed language of references, comparisons and and/or/not; nothing in it can run code.

    ${{ steps.score.late_share > 0.3 and not (partition.key == '2013-12-25') }}

Values are text, numbers, true, false and null. There are no calls, no subscripts and no arithmetic. Operands of a
comparison have the same type, operands of and/or/not are true or false; anything else is an error, never a guess.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from numbers import Real
from typing import Any, Literal

from workflows_pkg.errors import DataProblem, WorkflowsError, bounded, listing, suggestion

LONGEST = 500
"""Characters in one expression; a longer one belongs into a step."""
DEEPEST = 20
"""Parentheses and `not` inside each other; bounds the recursion of parser and evaluation."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "partition": ("key", "start", "end", "date"),
    "run": ("id",),
    "sensor": ("file",),
    "failure": ("step", "error", "run"),
}
"""Roots whose fields are fixed. `steps` and `secrets` take names of the author's choosing."""
ROOTS = (*FIELDS, "steps", "secrets")

_TOKEN = re.compile(
    r"""(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
      | (?P<text>'(?:[^']|'')*')
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
      | (?P<sign>==|!=|<=|>=|<|>|\(|\))""",
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\r\n]*")
_COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
_CONSTANTS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
_HINTS = (
    ("&&", "Write and."),
    ("||", "Write or."),
    ("!", "Write not."),
    ("=", "Write == to compare."),
    ('"', "Write text in single quotes."),
    ("'", "This text has no closing single quote."),
    ("[", "A field is read with a dot, such as steps.score.late_share."),
    ("+", "There is no arithmetic here; let a step compute it."),
    ("-", "There is no arithmetic here; let a step compute it."),
    ("*", "There is no arithmetic here; let a step compute it."),
    ("/", "There is no arithmetic here; let a step compute it."),
    ("%", "There is no arithmetic here; let a step compute it."),
    (".", "A dot stands between two names, without spaces."),
)

Value = str | int | float | bool | None
"""What an operand of an operator can be; a reference alone may yield any JSON value."""
TypeName = Literal["text", "number", "boolean", "null", "unknown"]


class ExpressionError(WorkflowsError):
    """An expression that is not in the language; `offset` counts characters from the start of the text that was parsed."""

    def __init__(self, message: str, *, offset: int, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.offset = offset


@dataclass(frozen=True)
class Constant:
    """A number, text, true, false or null."""

    value: Value
    offset: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class Reference:
    """Something to look up: `steps.score.late_share` is root 'steps', name 'score', field 'late_share'.

    field: None where the whole is meant; only `steps` has fields.
    """

    root: str
    name: str
    field: str | None = None
    offset: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        return ".".join(part for part in (self.root, self.name, self.field) if part is not None)


@dataclass(frozen=True)
class Operation:
    """An operator with its operands: one for `not`, two for the others."""

    operator: str
    operands: tuple[Node, ...]
    offset: int = dataclasses.field(default=0, compare=False)


Node = Constant | Reference | Operation


@dataclass(frozen=True)
class Embedded:
    """One `${{ … }}` in a text: where it starts and ends, and where its inner text starts, in characters."""

    start: int
    end: int
    inner_start: int
    inner: str


def parse(text: str) -> Node:
    """The tree of one expression, with or without its `${{ }}`; raises ExpressionError with the offset of the mistake.

    >>> parse("steps.score.late_share > 0.3").operator
    '>'
    """
    outer = _whole(text)
    start, inner = (0, text) if outer is None else (outer.inner_start, outer.inner)
    if len(inner) > LONGEST:
        raise ExpressionError(f"expected an expression of at most {LONGEST} characters, found {len(inner)}.", offset=start)
    return _Parser(inner, start).whole()


def embedded(text: str) -> list[Embedded]:
    """Every `${{ … }}` in `text`, in order; raises ExpressionError where one is not closed."""
    found: list[Embedded] = []
    position = text.find("${{")
    while position >= 0:
        close = text.find("}}", position)
        if close < 0:
            raise ExpressionError("this ${{ has no closing }}.", offset=position)
        found.append(Embedded(position, close + 2, position + 3, text[position + 3 : close]))
        position = text.find("${{", close + 2)
    return found


def references(text: str) -> set[Reference]:
    """Everything that `text` looks up: in its `${{ }}`, or in all of it where it has none.

    >>> sorted(map(str, references("day ${{ partition.date }} of run ${{ run.id }}")))
    ['partition.date', 'run.id']
    """
    parts = embedded(text)
    trees = [parse(text[part.start : part.end]) for part in parts] if parts else [parse(text)]
    return {node for tree in trees for node in walk(tree) if isinstance(node, Reference)}


def walk(node: Node) -> Iterator[Node]:
    """`node` and everything below it, in reading order."""
    yield node
    if isinstance(node, Operation):
        for operand in node.operands:
            yield from walk(operand)


def static_type(node: Node) -> TypeName:
    """The type of `node` as far as it is known before a run; raises ExpressionError where operands can never fit."""
    if isinstance(node, Constant):
        return _type_name(node.value)
    if isinstance(node, Reference):
        return "unknown" if node.root == "steps" else "text"
    types: list[TypeName] = [static_type(operand) for operand in node.operands]
    if node.operator in _COMPARISONS:
        if not _comparable(node.operator, types[0], types[1]):
            raise ExpressionError(
                f"{_articled(types[0])} is compared with {_articled(types[1])} by {node.operator}.",
                offset=node.offset,
                fix="Both sides need the same type.",
            )
        return "boolean"
    for operand, found in zip(node.operands, types, strict=True):
        if found not in ("boolean", "unknown"):
            raise ExpressionError(
                f"'{node.operator}' expects true or false, found {_articled(found)}.",
                offset=operand.offset,
                fix="Compare it, such as x == 'text'.",
            )
    return "boolean"


def evaluate(text: str, scope: Mapping[str, Any]) -> Any:
    """The value of one expression in `scope` (root -> fields or names); raises DataProblem where a value is missing or unfit.

    >>> evaluate("${{ steps.score.late_share > 0.3 }}", {"steps": {"score": {"late_share": 0.5}}})
    True
    """
    return _value(parse(text), scope)


def resolve(value: Any, scope: Mapping[str, Any]) -> Any:
    """`value` with every `${{ }}` in it replaced; nested mappings and lists are new, everything else is kept.

    Text that is one expression and nothing else becomes that expression's value, type kept; inside longer text the value
    is written as text, which tables, lists and mappings cannot be (DataProblem).

    >>> resolve({"n": "${{ steps.a.n }}", "t": "n=${{ steps.a.n }}"}, {"steps": {"a": {"n": 3}}})
    {'n': 3, 't': 'n=3'}
    """
    if isinstance(value, Mapping):
        return {key: resolve(item, scope) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, scope) for item in value]
    if not isinstance(value, str) or "${{" not in value:
        return value
    if _whole(value) is not None:
        return evaluate(value, scope)
    pieces: list[str] = []
    position = 0
    for part in embedded(value):
        pieces.append(value[position : part.start])
        pieces.append(_as_text(part.inner.strip(), evaluate(value[part.start : part.end], scope)))
        position = part.end
    return "".join([*pieces, value[position:]])


def _whole(text: str) -> Embedded | None:
    """The one expression that `text` consists of, None where it has other characters or several expressions."""
    if not text.startswith("${{") or not text.endswith("}}"):
        return None
    first = embedded(text)[0]
    return first if first.end == len(text) else None


class _Parser:
    """Recursive descent over the tokens of one expression; the grammar is the methods' order."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._start = start
        self._position = 0
        self._depth = 0
        self._kind, self._symbol, self._at = "", "", start
        self._advance()

    def whole(self) -> Node:
        if self._kind == "end":
            raise ExpressionError("expected an expression, found nothing.", offset=self._start)
        node = self._or()
        if self._kind != "end":
            called = self._symbol == "(" and isinstance(node, Reference)
            raise self._unexpected("There are no calls here; let a step compute it." if called else "")
        return node

    def _or(self) -> Node:
        node = self._and()
        while self._symbol == "or":
            at = self._advance()
            node = Operation("or", (node, self._and()), at)
        return node

    def _and(self) -> Node:
        node = self._not()
        while self._symbol == "and":
            at = self._advance()
            node = Operation("and", (node, self._not()), at)
        return node

    def _not(self) -> Node:
        if self._symbol != "not":
            return self._comparison()
        at = self._advance()
        self._deeper(at)
        node = Operation("not", (self._not(),), at)
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._operand()
        if self._symbol not in _COMPARISONS or self._kind != "sign":
            return left
        operator = self._symbol
        at = self._advance()
        node = Operation(operator, (left, self._operand()), at)
        if self._kind == "sign" and self._symbol in _COMPARISONS:
            raise self._unexpected("Compare twice: a < b and b < c.")
        return node

    def _operand(self) -> Node:
        kind, symbol, at = self._kind, self._symbol, self._at
        if kind == "sign" and symbol == "(":
            self._advance()
            self._deeper(at)
            node = self._or()
            if self._symbol != ")" or self._kind != "sign":
                raise ExpressionError("this ( has no closing ).", offset=at)
            self._depth -= 1
            self._advance()
            return node
        if kind == "number":
            self._advance()
            return Constant(_number(symbol, at), at)
        if kind == "text":
            self._advance()
            return Constant(symbol[1:-1].replace("''", "'"), at)
        if kind == "word" and symbol in _CONSTANTS:
            self._advance()
            return Constant(_CONSTANTS[symbol], at)
        if kind == "word" and symbol not in ("and", "or", "not"):
            self._advance()
            return _reference(symbol, at)
        raise self._unexpected("")

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionError(f"expected at most {DEEPEST} levels of ( and not inside each other.", offset=at)

    def _unexpected(self, fix: str) -> ExpressionError:
        if self._kind == "end":
            return ExpressionError("the expression ends where a value is expected.", offset=self._at, fix=fix)
        return ExpressionError(f"unexpected '{bounded(self._symbol)}'.", offset=self._at, fix=fix)

    def _advance(self) -> int:
        """Go to the next token; returns the offset of the one that was left."""
        left = self._at
        space = _SPACE.match(self._text, self._position)
        self._position = space.end() if space else self._position
        self._at = self._start + self._position
        if self._position == len(self._text):
            self._kind, self._symbol = "end", ""
            return left
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            rest = self._text[self._position :]
            sign, fix = next(((sign, fix) for sign, fix in _HINTS if rest.startswith(sign)), (rest[0], ""))
            raise ExpressionError(f"unexpected '{sign}'.", offset=self._at, fix=fix)
        self._kind, self._symbol = str(match.lastgroup), match.group()
        self._position = match.end()
        return left


def _number(token: str, at: int) -> int | float:
    if re.fullmatch(r"-?[0-9]+", token):
        if len(token) > 19:
            raise ExpressionError("expected a whole number of at most 18 digits.", offset=at)
        return int(token)
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise ExpressionError(f"the number {bounded(token)} is too large.", offset=at)
    return value


def _reference(token: str, at: int) -> Reference:
    root, *parts = token.split(".")
    if root not in ROOTS:
        fix = suggestion(root, ROOTS) or f"Text stands in single quotes; known: {', '.join(f'{name}.…' for name in ROOTS)}."
        raise ExpressionError(f"'{bounded(token)}' is not known here.", offset=at, fix=fix)
    if root in FIELDS:
        if len(parts) != 1 or parts[0] not in FIELDS[root]:
            near = suggestion(parts[0], FIELDS[root]) if parts else ""
            spelled = ", ".join(f"{root}.{name}" for name in FIELDS[root])
            raise ExpressionError(f"'{bounded(token)}' is not known here.", offset=at, fix=near or f"Known: {spelled}.")
        return Reference(root, parts[0], None, at)
    most = 2 if root == "steps" else 1
    if not 1 <= len(parts) <= most:
        form = "steps.NAME or steps.NAME.FIELD" if root == "steps" else "secrets.NAME"
        raise ExpressionError(f"expected {form}, found '{bounded(token)}'.", offset=at)
    return Reference(root, parts[0], parts[1] if len(parts) == 2 else None, at)


def _value(node: Node, scope: Mapping[str, Any]) -> Any:
    if isinstance(node, Constant):
        return node.value
    if isinstance(node, Reference):
        return _looked_up(node, scope)
    if node.operator in _COMPARISONS:
        left, right = (_value(operand, scope) for operand in node.operands)
        return _compared(node, left, right)
    wanted = node.operator == "or"
    for operand in node.operands:
        value = _value(operand, scope)
        if not isinstance(value, bool):
            raise DataProblem(f"'{node.operator}' expects true or false, found {_found(operand, value)}.")
        if node.operator == "not":
            return not value
        if value is wanted:
            return wanted
    return not wanted


def _looked_up(reference: Reference, scope: Mapping[str, Any]) -> Any:
    root = scope.get(reference.root)
    if root is None or (reference.root in FIELDS and root.get(reference.name) is None):
        raise DataProblem(f"'{reference}' has no value in this run.")
    if reference.name not in root:
        what = "secret" if reference.root == "secrets" else "step output"
        known = [] if reference.root == "secrets" else sorted(map(str, root))
        fix = suggestion(reference.name, known) or (listing(what, known) if known else "")
        raise DataProblem(f"'{reference}': there is no {what} '{bounded(reference.name)}' here.", fix=fix)
    value = root[reference.name]
    if reference.field is None:
        return _plain(value)
    if not isinstance(value, Mapping):
        found = "nothing" if value is None else _kind(value)
        raise DataProblem(f"'{reference}': the output of step '{reference.name}' has no fields; it is {found}.")
    if reference.field not in value:
        known = sorted(map(str, value))
        fix = " ".join(part for part in (suggestion(reference.field, known), listing("field", known)) if part)
        raise DataProblem(f"'{reference}': the output of step '{reference.name}' has no field '{reference.field}'.", fix=fix)
    return _plain(value[reference.field])


def _plain(value: Any) -> Any:
    """Dates as ISO text, so that a partition's bounds compare with text an author can write."""
    return value.isoformat() if isinstance(value, datetime | date) else value


def _compared(node: Operation, left: Any, right: Any) -> bool:
    types = _type_name(left), _type_name(right)
    if "unknown" in types or not _comparable(node.operator, *types):
        found = " with ".join(_found(operand, value) for operand, value in zip(node.operands, (left, right), strict=True))
        raise DataProblem(f"'{node.operator}' cannot compare {found}.", fix="Both sides need the same type.")
    match node.operator:
        case "==":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
        case _:
            return bool(left >= right)


def _comparable(operator: str, left: TypeName, right: TypeName) -> bool:
    """Whether values of these types can be compared; null can only be told apart from others, truth has no order."""
    if operator in ("==", "!="):
        return left == right or "null" in (left, right) or "unknown" in (left, right)
    return all(name in ("text", "number", "unknown") for name in (left, right)) and (left == right or "unknown" in (left, right))


def _type_name(value: object) -> TypeName:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, Real):
        return "number"
    return "text" if isinstance(value, str) else "unknown"


def _articled(name: TypeName) -> str:
    return {"text": "text", "number": "a number", "boolean": "true or false", "null": "null"}.get(name, "a value")


def _found(node: Node, value: object) -> str:
    """A value for a message by its type only, so that a secret is never quoted."""
    return f"{_kind(value)} ({node})" if isinstance(node, Reference) else _kind(value)


def _kind(value: object) -> str:
    name = _type_name(value)
    if name != "unknown":
        return _articled(name)
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _as_text(inner: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Real):
        return str(value)
    raise DataProblem(f"'{bounded(inner)}' is {_kind(value)}, which cannot stand inside text.", fix="Use one of its fields.")
