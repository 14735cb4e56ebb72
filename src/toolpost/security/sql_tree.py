"""Parses a statement and renders it anew, until what is rendered reads as what was judged; needs sqlglot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolpost.calls.errors import ConfigurationError
from toolpost.security.sql_names import folded, refusal

try:
    from sqlglot import exp
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.errors import SqlglotError
    from sqlglot.tokenizer_core import Token, TokenType
except ModuleNotFoundError as missing:
    raise ConfigurationError(f"SqlPolicy needs the package {missing.name}; install toolpost[sql]") from missing

MAX_TOKENS: Final = 5_000
MAX_NODES: Final = 10_000
MAX_PARAMETERS: Final = 1_000
_ROUNDS: Final = 4
_BEGINS: Final = frozenset(("select", "with", "values", "("))
_OPENS: Final = frozenset((TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE))
_CLOSES: Final = frozenset((TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END))
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_NUMBER: Final = re.compile(r"(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,3})?\Z")
_RUN: Final = 16
"""How often one token may follow itself: parsers nest for signs and NOTs without any bracket."""


def _named(names: str) -> frozenset[type]:
    return frozenset(getattr(exp, name) for name in names.split())


_QUERY: Final = _named(
    """
    Select Subquery Union Except Intersect Values Tuple With CTE TableAlias Table From Join Lateral Where Group Having
    Order Ordered Limit Offset Fetch LimitOptions Distinct Window WindowSpec WithinGroup Filter GroupingSets Rollup Cube
    Alias Column Identifier Star Literal Null Boolean Placeholder Parameter Paren DataType DataTypeParam Var Interval
    And Or Not EQ NEQ GT GTE LT LTE Is In Between Like ILike SimilarTo Escape Glob Match RegexpLike RegexpILike
    NullSafeEQ NullSafeNEQ Add Sub Mul Div Mod IntDiv Pow Neg DPipe BitwiseAnd BitwiseOr BitwiseXor BitwiseNot
    BitwiseLeftShift BitwiseRightShift Any All Exists Bracket Slice AtTimeZone Collate IgnoreNulls RespectNulls Kwarg
    JSONKeyValue JSONPath JSONPathRoot JSONPathKey JSONPathSubscript
    """
)
_WRITING: Final = _named("Insert Update Delete Schema Returning OnConflict")
_NAMERS: Final = _named("Column Table TableAlias Alias Join Schema Window OnConflict Collate Placeholder Unnest")
"""What an identifier may be part of; elsewhere a name would be read by the database, and by no check."""
_ARGUMENTS: Final[dict[type, frozenset[str]]] = {
    exp.Select: frozenset(
        "with_ expressions from_ joins laterals where group having order limit offset distinct windows".split()
    ),
    exp.Table: frozenset("this alias db ordinality joins laterals".split()),
    exp.Join: frozenset("this side kind method on using".split()),
    exp.Lateral: frozenset("this alias ordinality".split()),
    exp.Identifier: frozenset("this quoted".split()),
    exp.Column: frozenset("this table db".split()),
    exp.Insert: frozenset("with_ this expression conflict returning default".split()),
    exp.Update: frozenset("with_ this expressions from_ where returning".split()),
    exp.Delete: frozenset("with_ this using where returning".split()),
}
"""What may be said with a node, where not all of it may: INTO, FOR UPDATE, hints and samples have no place here."""

_TYPES: Final = frozenset(
    getattr(exp.DType, name)
    for name in """
    SMALLINT INT BIGINT DECIMAL FLOAT DOUBLE TEXT VARCHAR CHAR BPCHAR BOOLEAN DATE TIME TIMETZ TIMESTAMP TIMESTAMPTZ
    TIMESTAMPNTZ DATETIME UUID JSON JSONB INET INTERVAL ARRAY
    """.split()
    if hasattr(exp.DType, name)
)
"""Types that a value may be cast to. Those that look something up (regclass) or read XML are not among them."""
_SQLITE_TYPES: Final = frozenset(
    getattr(exp.DType, name) for name in "SMALLINT INT BIGINT FLOAT DOUBLE TEXT VARCHAR CHAR".split()
)
"""Those that are rendered for SQLite as what they mean: NUMERIC would become REAL, and DATE a function."""


WAY_OUT: Final = {
    "sqlite": "write ? and give params as a list, or :name and give them as an object",
    "postgres": "write $1, $2 and give params as a list, or :name and give them as an object",
}
"""How parameters are written."""


@dataclass(slots=True)
class Parsed:
    """One statement as it was read: names folded and quoted, parameters numbered, no part of it unknown.

    parameters says what is to be bound for each number. doubted are names that stood between double quotes, which
    SQLite may read as text.
    """

    tree: exp.Expr
    dialect: str
    max_depth: int
    writes: bool
    parameters: tuple[int | str, ...] = ()
    doubted: frozenset[str] = frozenset()


def read(sql: str, dialect: str, *, max_depth: int, writes: bool) -> Parsed:
    """The one statement of a text. Raises SecurityError for what is not allowed in any, by the nodes of its tree."""
    tree, doubted = _parse(sql, dialect, max_depth, writes)
    _prepare(tree, dialect, writes)
    return Parsed(tree, dialect, max_depth, writes, _number(tree, dialect), doubted)


def settle(parsed: Parsed, change: Callable[[exp.Expr], None]) -> str:
    """The normal form: quoted names, plain literals, numbered parameters, no comments.

    What is rendered is parsed again until it reads as itself, so that the last tree that change was given is the
    text's own. change judges a tree, and may qualify its tables. Raises SecurityError.
    """
    tree, dialect, text = parsed.tree, parsed.dialect, ""
    for _ in range(_ROUNDS):
        change(tree)
        rendered = _spell(_generate(tree, dialect), dialect, parsed.doubted)
        if rendered == text:
            return text
        text = rendered
        tree, _doubted = _parse(text, dialect, parsed.max_depth, parsed.writes)
        _prepare(tree, dialect, parsed.writes)
    raise refusal("sql.rendering", "it has no normal form that reads as itself", "write it more plainly")


def _prepare(tree: exp.Expr, dialect: str, writes: bool) -> None:
    _judge_nodes(tree, dialect, writes)
    for name in tree.find_all(exp.Identifier):
        name.set("this", folded(str(name.this), bool(name.quoted), dialect))
        name.set("quoted", True)


def _parse(sql: str, dialect: str, max_depth: int, writes: bool) -> tuple[exp.Expr, frozenset[str]]:
    """The one statement in a text, and the names that stand between double quotes."""
    try:
        known = Dialect.get_or_raise(dialect)
        tokens = known.tokenize(sql)
        plain = [token for token in tokens if token.token_type == TokenType.PLACEHOLDER] if dialect == "sqlite" else []
        if plain:  # numbered where they stand: a tree does not keep their order
            return _parse(_numbered(sql, plain), dialect, max_depth, writes)
        _judge_tokens(tokens, sql, dialect, max_depth, writes)
        statements = [tree for tree in _parser(known, len(tokens)).parse(tokens, sql) if tree is not None]
    except SqlglotError as error:
        problems = getattr(error, "errors", None) or [{}]
        where = f" at line {problems[0]['line']}, column {problems[0]['col']}" if problems[0].get("line") else ""
        raise refusal(
            "sql.syntax", f"it cannot be read as {dialect} SQL{where}", "correct it, or write it plainly"
        ) from None
    except RecursionError:
        raise refusal("sql.depth", "it is nested too deep to be read", "nest less") from None
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError, OverflowError) as error:
        raise refusal("sql.syntax", f"it cannot be read as {dialect} SQL", "correct it, or write it plainly") from error
    if len(statements) != 1:
        raise refusal("sql.statements", f"it holds {len(statements)} statements", "send exactly one")
    root = statements[0]
    if not isinstance(root, (exp.Query, exp.Values, exp.DML)) or (
        isinstance(root, exp.Select) and not root.expressions
    ):
        raise refusal("sql.statement", "it is no query", "send a SELECT")
    quoted = frozenset(
        token.text for token in tokens if token.token_type == TokenType.IDENTIFIER and sql[token.start] == '"'
    )
    return root, quoted


def _numbered(sql: str, plain: Sequence[Token]) -> str:
    """The text with a numbered name in place of each plain ?."""
    parts, at = [], 0
    for number, token in enumerate(plain, 1):
        parts += [sql[at : token.start], f" :{_AT_PLACE}{number} "]
        at = token.end + 1
    return "".join([*parts, sql[at:]])


def _parser(known: Dialect, tokens: int) -> Any:
    """A parser that gives up after so many steps: where it tries several readings, nesting takes exponential time."""
    plain: Any = known.parser_class

    class Counted(plain):  # type: ignore[misc]
        left = _STEPS * (tokens + 100)

        def _advance(self, times: int = 1) -> None:
            self.left -= 1
            if self.left < 0:
                raise refusal("sql.depth", "it is nested in a way that has too many readings", "write it more plainly")
            super()._advance(times)

    return Counted(dialect=known)


_STEPS: Final = 25
"""How many steps a parser may take for each word or sign; what people write takes one to two."""
_AT_PLACE: Final = "toolpost_place_"


def _judge_tokens(tokens: Sequence[Token], sql: str, dialect: str, max_depth: int, writes: bool) -> None:
    """Refuse what a parser should not even see: too much, too deep, or no query."""
    if not tokens:
        raise refusal("sql.statements", "it holds no statement", "send one SELECT")
    begins = tokens[0].text.lower()
    if begins not in _BEGINS and not (writes and begins in ("insert", "update", "delete")):
        raise refusal(
            "sql.statement", f"a statement that begins with {tokens[0].text[:30]!r} is not allowed", "send a SELECT"
        )
    if len(tokens) > MAX_TOKENS:
        raise refusal("sql.size", f"it has over {MAX_TOKENS} words and signs", "ask for less at once")
    depth = run = 0
    for before, token in zip((None, *tokens), tokens, strict=False):
        depth += (token.token_type in _OPENS) - (token.token_type in _CLOSES)
        if depth > max_depth:
            raise refusal("sql.depth", f"it is nested over {max_depth} levels deep", "nest less")
        run = run + 1 if before is not None and before.token_type == token.token_type else 0
        if run > _RUN and token.token_type not in _CLOSES:
            raise refusal("sql.depth", f"{token.text[:30]!r} stands over {_RUN} times in a row", "write it once")
        runs_on = before is not None and before.token_type == TokenType.NUMBER and token.start == before.end + 1
        if runs_on and (sql[token.start].isalnum() or sql[token.start] == "_"):
            raise refusal("sql.literal", "a number runs into a word", "write plain numbers and separate words")
        if token.token_type == TokenType.L_PAREN and dialect == "sqlite" and before and before.text.lower() == "mod":
            raise refusal("sql.function", "mod would be rendered as %, which leaves fractions out", "write %")
        if any(comment.lstrip()[:1] in ("+", "!") for comment in token.comments):
            raise refusal("sql.hint", "it holds a comment that databases act on", "leave hints out")


def _judge_nodes(tree: exp.Expr, dialect: str, writes: bool) -> None:
    """Refuse every node, argument and literal that is not among those allowed."""
    allowed = _QUERY | _WRITING if writes else _QUERY
    for number, node in enumerate(tree.walk()):
        kind = type(node)
        if number > MAX_NODES:
            raise refusal("sql.size", f"it has over {MAX_NODES} parts", "ask for less at once")
        if kind not in allowed and not isinstance(node, exp.Func):
            raise _not_allowed(node)
        said = _ARGUMENTS.get(kind)
        if said is not None:
            for name, value in node.args.items():
                if name not in said and value is not None and value is not False and value != []:
                    raise refusal(
                        "sql.clause", f"{kind.__name__} with {name.strip('_')} is not allowed", "leave it out"
                    )
        if kind is exp.Identifier and type(node.parent) not in _NAMERS:
            raise refusal("sql.node", "a name stands where none belongs", "write it with plain SELECT, JOIN and WHERE")
        if kind is exp.DataType:
            _judge_type(node, dialect)
        elif kind is exp.Literal and not node.is_string and not _NUMBER.match(node.this):
            raise refusal("sql.literal", "a number is not written plainly", "write digits, a point and an exponent")
        elif kind is exp.Literal and "\0" in node.this:
            raise refusal("sql.literal", "a text holds a NUL", "leave it out")
        elif kind is exp.Var and not all(_PLAIN.match(word) for word in str(node.this).split(" ")):
            raise refusal("sql.word", f"{str(node.this)[:40]!r} is no plain word", "leave it out")
        elif isinstance(node, exp.Anonymous) and not (isinstance(node.this, str) and _PLAIN.match(node.this)):
            raise refusal("sql.function", "a function is named in quotes or with a schema", "call it by its plain name")


def _not_allowed(node: exp.Expr) -> Exception:
    name = type(node).__name__
    if isinstance(node, exp.Dot):
        way_out = "name functions without a schema, and columns as table.column"
        return refusal("sql.qualified", "a function with a schema, or a field of a row, is named", way_out)
    if isinstance(node, (exp.ByteString, exp.UnicodeString, exp.RawString, exp.National, exp.BitString, exp.HexString)):
        return refusal(
            "sql.literal", f"a literal of the kind {name} is not allowed", "write 'text', or bind a parameter"
        )
    if isinstance(node, (exp.ObjectIdentifier, exp.PseudoType)):
        return refusal(
            "sql.type", f"a cast to {str(node.this)[:40]} is not allowed", "cast to a plain type such as text"
        )
    if isinstance(node, (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock)):
        return refusal("sql.statement", f"{name} is not allowed", "read with a plain SELECT")
    return refusal(
        "sql.node", f"{name} is not allowed in a query", "write it with plain SELECT, JOIN and WHERE", subject=name
    )


def _judge_type(node: exp.Expr, dialect: str) -> None:
    if (
        node.this not in (_SQLITE_TYPES if dialect == "sqlite" else _TYPES)
        or node.args.get("kind") is not None
        or (dialect == "sqlite" and (node.args.get("nested") or node.expressions))
    ):
        shown = getattr(node.this, "value", node.this)
        raise refusal("sql.type", f"a cast to {str(shown)[:40]} is not allowed", "cast to a plain type such as text")


def _number(tree: exp.Expr, dialect: str) -> tuple[int | str, ...]:
    """Give every parameter its number, $1 or :p1. What is to be bound for each number in turn, by place or by name."""
    places = [node for node in tree.walk() if isinstance(node, (exp.Placeholder, exp.Parameter))]
    if len(places) > MAX_PARAMETERS:
        raise refusal("sql.parameters", f"it has over {MAX_PARAMETERS} parameters", "bind fewer")
    keys = [_key(node, dialect) for node in places]
    found = list(dict.fromkeys(keys))
    by_place = [key for key in found if isinstance(key, int)]
    if by_place and len(by_place) < len(found):
        raise refusal("sql.parameters", "it has parameters with names and without", "name all of them, or none")
    if by_place and sorted(by_place) != list(range(1, len(found) + 1)):
        raise refusal("sql.parameters", "its parameters leave numbers out", "number them from $1 on")
    if by_place or {_CANONICAL % number for number in range(1, len(found) + 1)} == set(found):
        found.sort(key=lambda key: int(str(key).lstrip("p")))
    for node, key in zip(places, keys, strict=True):
        node.replace(_parameter(found.index(key) + 1, dialect))
    return tuple(found)


_CANONICAL: Final = "p%d"


def _key(node: exp.Expr, dialect: str) -> int | str:
    """By what a parameter is bound: its place, from 1 on, or its name."""
    name = node.this.name if isinstance(node.this, exp.Expr) else str(node.this or "")
    if isinstance(node, exp.Parameter) and dialect == "postgres" and re.fullmatch(r"[1-9]\d{0,3}", name):
        return int(name)
    if isinstance(node, exp.Placeholder) and name.startswith(_AT_PLACE):
        return int(name.removeprefix(_AT_PLACE)) if name.removeprefix(_AT_PLACE).isdecimal() else name
    if isinstance(node, exp.Placeholder) and _PLAIN.match(name):
        return name
    raise refusal("sql.parameters", "a parameter is written in a form not allowed", WAY_OUT[dialect])


def _parameter(number: int, dialect: str) -> exp.Expr:
    if dialect == "postgres":
        return exp.Parameter(this=exp.Literal.number(number))
    return exp.Placeholder(this=_CANONICAL % number)


def _generate(tree: exp.Expr, dialect: str) -> str:
    try:
        return tree.sql(dialect=dialect, identify=True, comments=False, unsupported_level=_RAISE)
    except RecursionError:
        raise refusal("sql.depth", "it is nested too deep to be rendered", "nest less") from None
    except SqlglotError:
        raise refusal("sql.rendering", "a part of it cannot be rendered", "write it more plainly") from None
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
        raise refusal("sql.rendering", "a part of it cannot be rendered", "write it more plainly") from error


def _spell(text: str, dialect: str, doubted: frozenset[str]) -> str:
    """The text as it is executed. For SQLite names go between backticks: it may read "x" as the text x."""
    if dialect != "sqlite":
        return text

    def one(found: re.Match[str]) -> str:
        spelled = found[0]
        if not spelled.startswith('"'):
            return spelled
        name = spelled[1:-1].replace('""', '"')
        return spelled if name in doubted else "`" + name.replace("`", "``") + "`"

    return _QUOTED.sub(one, text)


_QUOTED: Final = re.compile(r"'(?:[^']|'')*+'|\"(?:[^\"]|\"\")*+\"")


def _raise_level() -> Any:
    from sqlglot.errors import ErrorLevel

    return ErrorLevel.RAISE


_RAISE: Final = _raise_level()
