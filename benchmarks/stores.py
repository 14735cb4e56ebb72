"""Records under load: many callers of one store, next to single rows by the common drivers, in one run.

    python benchmarks/stores.py [--callers 100] [--calls 400] [--rounds 5] [--postgres URL] [--folder DIR] [--json FILE]

Each round takes every store and operation once, in a new random order. A figure is the median of the rounds; compare
ratios of one run. SQLite syncs every commit (synchronous FULL), on the disk of --folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import machine

from toolpost.stores import ClaimAsk, Records, Task, open_records

ARGUMENTS = b'{"a":1,"b":2}'
RESULT = b'{"value":3}'
BAR_PER_S, BAR_P50_MS = 40_000, 2.0
"""What submit has to reach on SQLite with 100 callers."""

INSERT = "insert into plain (task_id, tool, arguments, created_at) values ({})"
TABLE = "create table if not exists plain (task_id text primary key, tool text, arguments {}, created_at {})"


@dataclass
class Row:
    """What one operation of one store took: calls a second, and milliseconds a call at two percentiles."""

    name: str
    what: str
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    def add(self, calls: int, elapsed_s: float, latencies_s: list[float]) -> None:
        latencies_s.sort()
        self.per_s.append(calls / elapsed_s)
        self.p50_ms.append(latencies_s[len(latencies_s) // 2] * 1e3)
        self.p99_ms.append(latencies_s[int(len(latencies_s) * 0.99)] * 1e3)


def ids(count: int) -> list[str]:
    """Ids that begin with the time, as toolpost's own do."""
    start = time.time_ns()
    return [f"{start + number:016x}-{uuid.uuid4().hex[:16]}" for number in range(count)]


async def load(acts: Sequence[Sequence[Callable[[], Awaitable[Any]]]]) -> tuple[int, float, list[float], list[Any]]:
    """Each caller does its acts one after the other: how many, seconds in all, seconds of each, and the answers."""
    latencies_s: list[float] = []
    answers: list[Any] = []
    clock = time.perf_counter

    async def caller(mine: Sequence[Callable[[], Awaitable[Any]]]) -> None:
        for act in mine:
            started = clock()
            answer = await act()
            latencies_s.append(clock() - started)
            answers.append(answer)

    started = clock()
    await asyncio.gather(*map(caller, acts))
    return len(answers), clock() - started, latencies_s, answers


def submit(records: Records, task: Task) -> Callable[[], Awaitable[bool]]:
    return lambda: records.submit(task)  # type: ignore[return-value]


def claim(records: Records, ask: ClaimAsk) -> Callable[[], Awaitable[Any]]:
    return lambda: records.claim(ask)  # type: ignore[return-value]


def finish(records: Records, key: str, fence: int) -> Callable[[], Awaitable[bool]]:
    return lambda: records.finish(key, fence, "done", RESULT, 3600.0)  # type: ignore[return-value]


def contract(rows: dict[str, Row], store: str, records: Records, callers: int, calls: int) -> None:
    """One round of a store: submit, claim, and finish of what was claimed."""

    def measure(operation: str, acts: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
        split = [acts[number::callers] for number in range(callers)]
        count, elapsed_s, latencies_s, answers = asyncio.run(load(split))
        row = rows.setdefault(f"{store}/{operation}", Row(f"{store}/{operation}", f"{callers} callers"))
        row.add(count, elapsed_s, latencies_s)
        return answers

    tasks = [Task(task_id=task_id, tool="Math.add", arguments=ARGUMENTS) for task_id in ids(callers * calls)]
    answers = measure("submit", [submit(records, task) for task in tasks])
    if not all(answer is True for answer in answers):
        raise SystemExit(f"{store}: a task was not written, so its time means nothing")
    asks = [
        ClaimAsk(uuid.uuid4().hex * 2, "0" * 64, "host:1", 30.0, 3600.0, tool="Math.add")
        for _ in range(callers * calls)
    ]
    claims = measure("claim", [claim(records, ask) for ask in asks])
    if not all(answer.state == "granted" for answer in claims):
        raise SystemExit(f"{store}: a claim was not granted, so its time means nothing")
    answers = measure("finish", [finish(records, one.key, one.fence) for one in claims])
    if not all(answer is True for answer in answers):
        raise SystemExit(f"{store}: a claim was not finished, so its time means nothing")


def single(rows: dict[str, Row], name: str, insert: Callable[[str], Any], calls: int) -> None:
    """One round of a driver by hand: one row, one commit, one caller."""
    latencies_s = []
    started = time.perf_counter()
    for task_id in ids(calls):
        began = time.perf_counter()
        insert(task_id)
        latencies_s.append(time.perf_counter() - began)
    row = rows.setdefault(name, Row(name, "1 caller, a commit for each row"))
    row.add(calls, time.perf_counter() - started, latencies_s)


def plain_sqlite(folder: Path) -> Callable[[str], Any]:
    connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute(TABLE.format("blob", "real"))
    text = INSERT.format("?, ?, ?, ?")
    return lambda task_id: connection.execute(text, (task_id, "Math.add", ARGUMENTS, 1.0))


def plain_postgres(url: str) -> Callable[[str], Any]:
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    connection.execute(TABLE.format("bytea", "double precision"))
    text = INSERT.format("%s, %s, %s, %s")
    return lambda task_id: connection.execute(text, (task_id, "Math.add", ARGUMENTS, 1.0))


def table(rows: dict[str, Row], callers: int) -> list[dict[str, Any]]:
    """Rows as JSON; ratio is to the single rows of the same database."""
    found = []
    for row in rows.values():
        store = row.name.partition("/")[0]
        floor = rows[f"{store}/single"]
        per_s, p50_ms = statistics.median(row.per_s), statistics.median(row.p50_ms)
        barred = row.name == "sqlite/submit" and callers >= 100
        found.append(
            {
                "name": row.name,
                "what": row.what,
                "per_s": per_s,
                "p50_ms": p50_ms,
                "p99_ms": statistics.median(row.p99_ms),
                "ratio": per_s / statistics.median(floor.per_s),
                "bar": f">= {BAR_PER_S}/s at p50 < {BAR_P50_MS:g} ms" if barred else None,
                "within": per_s >= BAR_PER_S and p50_ms < BAR_P50_MS if barred else None,
            }
        )
    return sorted(found, key=lambda row: row["name"])


def show(found: list[dict[str, Any]]) -> str:
    lines = [f"{'operation':<18} {'a second':>10} {'p50 ms':>8} {'p99 ms':>8} {'ratio':>7}  what"]
    for row in found:
        verdict = {True: "ok", False: "UNDER", None: ""}[row["within"]]
        lines.append(
            f"{row['name']:<18} {row['per_s']:>10,.0f} {row['p50_ms']:>8.2f} {row['p99_ms']:>8.2f} "
            f"{row['ratio']:>7.1f}  {row['what']}  {row['bar'] or ''} {verdict}".rstrip()
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, default=100)
    parser.add_argument("--calls", type=int, default=400, help="of each caller in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", help="URL of a database to fill; without it PostgreSQL is left out")
    parser.add_argument("--folder", type=Path, help="where the SQLite files are made (a scratch folder)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        stores = {"sqlite": open_records(f"sqlite:///{folder}/records.db")}
        singles = {"sqlite": plain_sqlite(folder)}
        if options.postgres:
            stores["postgres"] = open_records(options.postgres)
            singles["postgres"] = plain_postgres(options.postgres)
        order = [*stores, *(f"{store}/single" for store in singles)]
        shuffle = random.Random(0).shuffle
        for _ in range(options.rounds):
            shuffle(order)
            for name in order:
                store, _, alone = name.partition("/")
                if alone:
                    single(rows, name, singles[store], max(10, options.calls * options.callers // 40))
                else:
                    contract(rows, store, stores[store], options.callers, options.calls)
        for records in stores.values():
            records.close()
    found = table(rows, options.callers)
    print(show(found))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"rows": found, "machine": machine()}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
