"""Moves a database's schema to the one this code knows: numbered steps, each whole or not at all, one mover at a time.

See docs/decisions/0005-migrations.md for why this is no library.
"""

from __future__ import annotations

from typing import Any

from toolpost.calls.errors import ConfigurationError
from toolpost.stores.schema import MIGRATIONS

LATEST = MIGRATIONS[-1].number

_TABLE = (
    "create table if not exists toolpost_schema (number {} primary key, name text not null, applied_at {} not null)"
)
_WRITE = "insert into toolpost_schema (number, name, applied_at) values ({})"
_READ = "select coalesce(max(number), 0) from toolpost_schema"
LOCK = 0x746F_6F6C_706F_7374
"""The advisory lock of whoever moves a PostgreSQL schema: "toolpost" as bytes."""


def ensure(version: int, where: str, *, may_migrate: bool) -> bool:
    """Whether the schema is to be moved. Raises ConfigurationError where it cannot, or must not, be."""
    if version > LATEST:
        raise ConfigurationError(
            f"{where} has schema {version}, and this toolpost knows schemas up to {LATEST}; "
            f"install the toolpost that made it, or a newer one"
        )
    if version < LATEST and not may_migrate:
        raise ConfigurationError(
            f"{where} has schema {version}, and this toolpost needs schema {LATEST}; run: toolpost migrate"
        )
    return version < LATEST


def sqlite_version(connection: Any) -> int:
    """The schema of a SQLite database, 0 for none."""
    found = connection.execute("select 1 from sqlite_master where type = 'table' and name = 'toolpost_schema'")
    return int(connection.execute(_READ).fetchone()[0]) if found.fetchone() else 0


def migrate_sqlite(connection: Any, where: str) -> list[str]:
    """Apply what is missing; what was applied, as "1 name". connection is in autocommit and waits for locks.

    Each step holds the file's only write lock, so that a second starter waits, then finds it done; a process that is
    killed leaves nothing behind.
    """
    applied: list[str] = []
    while True:
        connection.execute("begin exclusive")
        try:
            version = sqlite_version(connection)
            if not ensure(version, where, may_migrate=True):
                connection.execute("commit")
                return applied
            step = MIGRATIONS[version]
            connection.execute(_TABLE.format("integer", "real"))
            for statement in step.sqlite:
                connection.execute(statement)
            now = "(julianday('now') - 2440587.5) * 86400.0"
            connection.execute(_WRITE.format(f"?, ?, {now}"), (step.number, step.name))
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
        applied.append(f"{step.number} {step.name}")


def postgres_version(connection: Any) -> int:
    """The schema of a PostgreSQL database, 0 for none."""
    # Not to_regclass(): within a transaction it may remember that there was no such table before the wait for the lock.
    found = connection.execute(
        "select 1 from pg_catalog.pg_class where relname = 'toolpost_schema' and pg_catalog.pg_table_is_visible(oid)"
    )
    return int(connection.execute(_READ).fetchone()[0]) if found.fetchone() else 0


def migrate_postgres(connection: Any, where: str, *, patience_s: float) -> list[str]:
    """Apply what is missing; what was applied, as "1 name". connection is in autocommit.

    Each step is one transaction under an advisory lock that ends with it, also when its session does: a second starter
    waits, at most patience_s, then finds it done; a process that is killed leaves nothing behind.
    """
    applied: list[str] = []
    while True:
        with connection.transaction():
            wait_ms = max(1, int(patience_s * 1000))
            connection.execute(f"set local lock_timeout = {wait_ms}")
            connection.execute("set local statement_timeout = 0")
            connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
            version = postgres_version(connection)
            if not ensure(version, where, may_migrate=True):
                return applied
            step = MIGRATIONS[version]
            connection.execute(_TABLE.format("bigint", "double precision"))
            for statement in step.postgres:
                connection.execute(statement)
            connection.execute(_WRITE.format("%s, %s, extract(epoch from clock_timestamp())"), (step.number, step.name))
        applied.append(f"{step.number} {step.name}")
