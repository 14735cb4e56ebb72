"""The SQL tools: query a database, and tell about its tables, within what a SqlPolicy allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from toolpost import ConfigurationError, Hints, Screening, SqlDatabase, SqlPolicy, Tool, ToolContext, ToolDefinition

__all__ = ["sql_tools"]

_GRACE_S: Final = 5.0
"""What a call may take beyond the statement itself: connecting, and looking tables up."""
_PARAMETERS: Final = {
    "sqlite": "? with a list of values, or :name with an object of values",
    "postgres": "$1, $2 with a list of values, or :name with an object of values",
}
_NAMES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def sql_tools(
    database_url: str | SqlDatabase,
    policy: SqlPolicy | None = None,
    *,
    max_rows: int | None = None,
    timeout_s: float | None = None,
) -> list[ToolDefinition]:
    """SQL.Query, SQL.TableInfo and SQL.SchemaInfo on one database.

    database_url is sqlite:///relative.db, sqlite:////absolute.db or postgresql://user:password@host/database. Without
    a policy every table but the database's own may be read, and nothing written. max_rows and timeout_s may only
    tighten the policy. Raises ConfigurationError for a URL, or a policy, that is none.
    """
    if isinstance(database_url, SqlDatabase):
        if policy is not None:
            raise ConfigurationError("the SqlDatabase has its policy already; give it there")
        database = database_url
    else:
        database = SqlDatabase(database_url, policy)
    for name, value in (("max_rows", max_rows), ("timeout_s", timeout_s)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
            raise ConfigurationError(f"{name} must be more than 0, got {value!r}")
    tools = SqlTools(database, min(max_rows or database.policy.max_rows, database.policy.max_rows), timeout_s)
    return [_query_tool(tools), _table_tool(tools), _schema_tool(tools)]


class SqlTools:
    """The three operations."""

    def __init__(self, database: SqlDatabase, max_rows: int, timeout_s: float | None) -> None:
        self.database, self.max_rows, self._timeout_s = database, max_rows, timeout_s

    @property
    def total_s(self) -> float:
        """How long a call may take."""
        policy_s = self.database.policy.timeout_s
        return min(policy_s, self._timeout_s or policy_s) + _GRACE_S

    async def query(
        self, query: str, params: Any = None, max_rows: int | None = None, ctx: ToolContext | None = None
    ) -> dict[str, Any]:
        """The rows of one statement."""
        rows = min(max_rows or self.max_rows, self.max_rows)
        return await self.database.query(query, params, max_rows=rows, timeout_s=self._left(ctx))

    async def table_info(self, table: str, ctx: ToolContext | None = None) -> dict[str, Any]:
        """What is known of one table."""
        return await self.database.table_info(table, timeout_s=self._left(ctx))

    async def schema_info(self, schema: str | None = None, ctx: ToolContext | None = None) -> dict[str, Any]:
        """What may be queried."""
        return await self.database.schema_info(schema, timeout_s=self._left(ctx))

    def _left(self, ctx: ToolContext | None) -> float | None:
        left = None if ctx is None else ctx.remaining_s()
        limits = [limit for limit in (left, self._timeout_s) if limit is not None]
        return min(limits) if limits else None


# -- declaring --------------------------------------------------------------------------------------------------------


def _hints(tools: SqlTools) -> Hints:
    reads = not tools.database.policy.writes
    return Hints(read_only=reads, destructive=not reads, idempotent=reads, open_world=False)


def _query_tool(tools: SqlTools) -> ToolDefinition:
    dialect = tools.database.dialect
    policy = tools.database.policy
    does = "Read" if not policy.writes else "Read, or change where that is allowed,"
    placeholders = _PARAMETERS[dialect]
    tool = Tool(
        name="SQL.Query",
        description=f"{does} a {_NAMES[dialect]} database with one statement. Bind every value that comes from "
        f"elsewhere: write {placeholders}. SQL.SchemaInfo tells which tables and columns there are.",
        parameters={
            "query": {
                "type": "string",
                "minLength": 1,
                "maxLength": policy.max_chars,
                "description": f"One {_NAMES[dialect]} statement, such as SELECT name FROM orders WHERE id = "
                f"{'?' if dialect == 'sqlite' else '$1'}.",
            },
            "params": {
                "type": ["array", "object", "null"],
                "default": None,
                "description": f"The values to bind: {placeholders}.",
            },
            "max_rows": {
                "type": ["integer", "null"],
                "default": None,
                "minimum": 1,
                "maximum": tools.max_rows,
                "description": f"Rows to give at most; null means {tools.max_rows}.",
            },
        },
        returns=_object(
            {
                "columns": {
                    "type": "array",
                    "items": _object({"name": {"type": "string"}, "type": {"type": "string"}}),
                    "description": "The columns in their order; a name that comes again has a number, as in id_2.",
                },
                "rows": {
                    "type": "array",
                    "items": {"type": "object"},
                    "description": "Column -> value. Large numbers and decimals are text, bytes are {base64: text}.",
                },
                "row_count": {"type": "integer", "minimum": 0},
                "truncated": {"type": "boolean", "description": "Whether there are more rows than were given."},
                "truncated_by": {"enum": ["rows", "bytes", None]},
                "rows_affected": {"type": "integer", "description": "How many rows a write changed."},
            },
            optional=("rows_affected",),
        ),
        timeout_seconds=tools.total_s,
        screening=Screening(roles={"query": "sql", "params": "skip"}),  # what is bound is never read as SQL
        hints=_hints(tools),
        tags=("sql",),
        register=False,
    )
    return tool.define(tools.query)


_COLUMN: Final = {"name": {"type": "string"}, "type": {"type": "string"}, "nullable": {"type": "boolean"}}


def _table_tool(tools: SqlTools) -> ToolDefinition:
    tool = Tool(
        name="SQL.TableInfo",
        description="Tell about one table or view: columns and their types, keys, indexes, and about how many rows.",
        parameters={
            "table": {
                "type": "string",
                "minLength": 1,
                "maxLength": 200,
                "description": "The table's name, with its schema where SQL.SchemaInfo gives another than the default.",
            }
        },
        returns=_object(
            {
                "schema": {"type": "string"},
                "name": {"type": "string"},
                "kind": {"type": "string"},
                "columns": {"type": "array", "items": _object({**_COLUMN, "primary_key": {"type": "boolean"}})},
                "primary_key": {"type": "array", "items": {"type": "string"}},
                "foreign_keys": {"type": "array", "items": {"type": "object"}},
                "indexes": {"type": "array", "items": {"type": "object"}},
                "row_estimate": {"type": ["integer", "null"], "description": "null where nobody has counted."},
            }
        ),
        timeout_seconds=tools.total_s,
        screening=Screening(roles={"table": "identifier"}),
        hints=Hints(read_only=True, destructive=False, idempotent=True, open_world=False),
        tags=("sql",),
        register=False,
    )
    return tool.define(tools.table_info)


def _schema_tool(tools: SqlTools) -> ToolDefinition:
    tool = Tool(
        name="SQL.SchemaInfo",
        description="List the tables and views that SQL.Query may use, with their columns.",
        parameters={
            "schema": {
                "type": ["string", "null"],
                "default": None,
                "maxLength": 200,
                "description": "Only of this schema; null means all.",
            }
        },
        returns=_object(
            {
                "dialect": {"enum": ["sqlite", "postgres"]},
                "tables": {
                    "type": "array",
                    "items": _object(
                        {
                            "schema": {"type": "string"},
                            "name": {"type": "string"},
                            "kind": {"type": "string"},
                            "columns": {"type": "array", "items": _object(_COLUMN)},
                        }
                    ),
                },
                "count": {"type": "integer", "minimum": 0},
                "truncated": {"type": "boolean", "description": "Whether there are more tables than were listed."},
            }
        ),
        timeout_seconds=tools.total_s,
        screening=Screening(roles={"schema": "identifier"}),
        hints=Hints(read_only=True, destructive=False, idempotent=True, open_world=False),
        tags=("sql",),
        register=False,
    )
    return tool.define(tools.schema_info)


def _object(properties: Mapping[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
