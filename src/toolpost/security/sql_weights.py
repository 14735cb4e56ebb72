"""Refuses queries whose subqueries multiply each other: planners put them together into one expression, of any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlglot import exp

from toolpost.security.sql_names import fold, refusal

MAX_WEIGHT: Final = 50_000
"""How many columns of tables a query may come to once its subqueries are put in; each takes some hundred bytes."""


class Weights:
    """How many columns of tables stand behind each query, were it one expression.

    SELECT x || x AS x FROM (SELECT x || x AS x FROM (...)) doubles with every step: thirty steps are a billion.
    """

    def __init__(self, tree: exp.Expr, dialect: str) -> None:
        self._tree, self._dialect = tree, dialect
        self._known: dict[int, int] = {}
        self._ctes: dict[str, list[exp.Expr]] = {}
        for cte in tree.find_all(exp.CTE):
            self._ctes.setdefault(fold(cte.alias, dialect), []).append(cte.this)

    def judge(self) -> None:
        """Weigh all queries. Raises SecurityError for one that is too heavy."""
        for query in self._tree.find_all(exp.Select):
            self._weigh(query)

    def _weigh(self, query: exp.Expr) -> int:
        """The weight of the heaviest column of a query."""
        if isinstance(query, exp.Subquery):
            return self._weigh(query.this)
        if isinstance(query, exp.SetOperation):
            return max(self._weigh(query.left), self._weigh(query.right))
        if not isinstance(query, exp.Select):
            return 1
        if id(query) not in self._known:
            self._known[id(query)] = 1  # while it is weighed, as a recursive query refers to itself
            self._known[id(query)] = self._of_select(query)
        return self._known[id(query)]

    def _of_select(self, select: exp.Select) -> int:
        sources: dict[str, int] = {}
        for key in ("from_", "joins", "laterals"):
            for part in _parts(select.args.get(key)):
                if isinstance(part, exp.Table):
                    sources[fold(part.alias or part.name, self._dialect)] = self._of_table(part)
                elif isinstance(part, exp.Query):
                    sources[fold(part.alias, self._dialect)] = self._weigh(part)
        widest = max(sources.values(), default=1)
        columns = [self._sum(one, sources, widest) for one in select.expressions]
        others = (value for key, value in select.args.items() if key not in ("expressions", "with_"))
        total = sum(columns) + sum(self._sum(value, sources, widest) for value in others)
        if total > MAX_WEIGHT:
            raise refusal("sql.size", "its subqueries multiply each other", "refer to each column of a subquery once")
        return max(1, *columns) if columns else 1

    def _of_table(self, table: exp.Table) -> int:
        queries = [] if table.args.get("db") is not None else self._ctes.get(fold(table.name, self._dialect), [])
        return max((self._weigh(query) for query in queries), default=1)

    def _sum(self, value: Any, sources: dict[str, int], widest: int) -> int:
        total = 0
        for part in _parts(value):
            if isinstance(part, exp.Column):
                total += sources.get(fold(part.table, self._dialect), widest)
            elif isinstance(part, exp.Star):
                total += widest
            elif isinstance(part, exp.Query):
                total += self._weigh(part)
        return total


def _parts(value: Any) -> Iterator[exp.Expr]:
    """Columns, stars, tables and queries within, but not what is within these."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, (exp.Column, exp.Star, exp.Query)):
            yield part
        elif isinstance(part, exp.Expr):
            if isinstance(part, exp.Table):
                yield part
            stack += list(part.args.values())
