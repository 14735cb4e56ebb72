"""What stands in FROM beside tables: the columns of functions, and what may be given a name."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from toolpost.security.sql_names import fold, refusal
from toolpost.security.sql_words import FUNCTIONS

_OUT: Final = {
    f"{kind}_{name}{text}": columns
    for kind in ("json", "jsonb")
    for text in ("", "_text")
    for name, columns in {"each": {"key", "value"}, "array_elements": {"value"}}.items()
}
"""PostgreSQL's functions whose columns have names of their own, whatever the alias is (pg_proc.proargnames)."""


def columns_of(table: exp.Expr, function: exp.Func, dialect: str) -> frozenset[str]:
    """The columns of a function that stands as a table: those that its alias lists, its own, or the alias itself.

    A function that a policy adds may have columns of its own, which only a list in the alias makes known.
    """
    name = (function.name if isinstance(function, exp.Anonymous) else function.sql_name()).lower()
    columns = {fold(column, dialect) for column in table.alias_column_names}
    if not columns and (name in FUNCTIONS["postgres"] or isinstance(function, exp.ExplodingGenerateSeries)):
        columns = _OUT.get(name, {fold(table.alias, dialect)})
    number = table.args.get("ordinality") or function.args.get("offset")
    if number:
        columns = columns | {fold(number.name, dialect) if isinstance(number, exp.Identifier) else "ordinality"}
    return frozenset(columns)


def check_is_query(derived: exp.Expr) -> None:
    """Refuse a name for tables in brackets: it would stand for all their columns, whatever the tables are."""
    inner = derived
    while isinstance(inner, (exp.Subquery, exp.Lateral)):
        if inner.args.get("joins") and inner is not derived:
            break
        inner = inner.this
    if not isinstance(inner, (exp.Select, exp.SetOperation, exp.Values)):
        raise refusal("sql.table", "tables in brackets are given one name", "name each table on its own")
