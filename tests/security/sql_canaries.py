"""A SQLite file and a PostgreSQL database with canaries, a canary file and a canary listener, for tests."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolpost import SqlPolicy

CANARY = "CANARY-of-the-secret-table"
PASSWORD = "CANARY-of-the-secret-column"
FILE_CANARY = "CANARY-of-the-file-outside"

SCHEMA = f"""
    CREATE TABLE items (id integer PRIMARY KEY, name text);
    CREATE TABLE ledger (id integer PRIMARY KEY, amount integer NOT NULL);
    CREATE TABLE people (id integer PRIMARY KEY, name text, password text);
    CREATE TABLE hints (id integer PRIMARY KEY, password text);
    CREATE TABLE secrets (id integer PRIMARY KEY, value text);
    INSERT INTO items VALUES (1, 'a'), (2, 'b');
    INSERT INTO ledger VALUES (1, 100), (2, 200);
    INSERT INTO people VALUES (1, 'Ann', '{PASSWORD}');
    INSERT INTO hints VALUES (1, '{PASSWORD}');
    INSERT INTO secrets VALUES (1, '{CANARY}');
    CREATE VIEW names AS SELECT id, name FROM people;
    CREATE VIEW stolen_view AS SELECT value FROM secrets;
    CREATE VIEW stolen_again AS SELECT * FROM stolen_view;
    CREATE VIEW peeping_view AS SELECT id, password AS p FROM people;
"""
POLICY = SqlPolicy(deny_tables=["secrets"], deny_columns=["*.password"], timeout_s=5.0)


@dataclass
class Canaries:
    """What must stay as it is."""

    folder: Path
    file: Path
    listener: socket.socket
    before: dict[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, Any]:
        """What hostile statements aim at."""
        return {"port": self.listener.getsockname()[1], "file": self.file, "folder": self.folder}

    def reached(self) -> bool:
        """Whether anybody connected to the listener, or wrote a file."""
        written = [path for path in self.folder.iterdir() if path != self.file]
        with contextlib.suppress(BlockingIOError):
            self.listener.accept()
            return True
        return bool(written) or self.file.read_text() != FILE_CANARY


@contextlib.contextmanager
def canaries(folder: Path) -> Iterator[Canaries]:
    """The canary file and listener, in a folder that everybody may write to."""
    folder.mkdir()
    folder.chmod(0o777)
    file = folder / "canary.txt"
    file.write_text(FILE_CANARY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Canaries(folder, file, listener)


def is_shown(answer: object) -> bool:
    """Whether a result holds what nobody may see."""
    text = str(answer)
    return any(secret in text for secret in (CANARY, PASSWORD, FILE_CANARY))


def sqlite_database(path: Path) -> str:
    """The URL of a new file with the schema."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return f"sqlite:///{path}"


def sqlite_state(url: str) -> dict[str, Any]:
    """All that is in the file."""
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        schema = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        tables = [name for kind, name, _ in schema if kind == "table"]
        rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
    return {"schema": schema, "rows": rows}


def postgres_database(url: str) -> str:
    """The same URL, after the schema was made, and what hostile statements would like to find."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute("CREATE SEQUENCE s")
        connection.execute("CREATE FUNCTION password(people) RETURNS text AS 'SELECT $1.password' LANGUAGE sql")
        for extension in ("dblink", "lo", "postgres_fdw"):
            with contextlib.suppress(psycopg.Error):
                connection.execute(f"CREATE EXTENSION {extension}")
    return url


def postgres_state(url: str) -> dict[str, Any]:
    """All that is in the database, its roles and large objects."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        schema = connection.execute(
            "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
        tables = [name for name, kind in schema if kind == "r"]
        rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}  # type: ignore[arg-type]
        roles = connection.execute("SELECT rolname, rolsuper FROM pg_roles ORDER BY 1").fetchall()
        objects = connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchall()
        last = connection.execute("SELECT last_value, is_called FROM s").fetchall()
    return {"schema": schema, "rows": rows, "roles": roles, "objects": objects, "sequence": last}
