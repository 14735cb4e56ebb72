"""One executor with its gateway that all doors lead to, and what is seen of a call from outside of them."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.journeys import wares
from tests.journeys.observed import of_report
from tests.transports.gateway import Served, gateway
from toolpost import AuthorizationManager, Caller, ToolCall, ToolExecutor, create_tool_call
from toolpost.engine.audit_operations import AuditOperations
from toolpost.engine.registry import ToolRegistry
from toolpost.telemetry.collector import MetricsCollector
from toolpost.worker.reports import report_json

PATIENCE_S = 40.0
MARKS = itertools.count(1)
SETTINGS: dict[str, Any] = {
    "audit": "on",
    "audit_values": "redacted",
    "max_input_size": 200_000,
    "egress_private": ("127.0.0.1",),
    "secret_key": "the key of the journeys' gateways",
    "max_workers": 16,
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One call, as a caller wants it."""

    tool: str
    arguments: Mapping[str, Any]
    key: str | None = None
    deadline_s: float | None = None


def refuse(tool: Any, caller: Caller, arguments: Mapping[str, Any]) -> bool:
    """The executor's policy hook."""
    return not tool.name.endswith(".refused_by_hook")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is there of one user's calls of a tool, up to a moment."""

    requests: Counter[str]
    history: int
    audited: int
    runs: int


@dataclass(kw_only=True)
class World:
    """Everything behind the doors. known: whether callers have to say who they are, by a key."""

    executor: ToolExecutor
    served: Served
    collector: MetricsCollector
    folder: Path
    known: bool
    _keys: dict[str, tuple[str, str]] = field(default_factory=dict)

    def mark(self) -> str:
        """A mark that no other call has, as long as all others."""
        return f"mark-{next(MARKS):06d}"

    def user(self, door: str) -> str | None:
        """Who comes through a door; nobody where nobody is known."""
        return self._known(door)[0] if self.known else None

    def headers(self, door: str) -> dict[str, str]:
        """What says so in a request."""
        return {"authorization": f"Bearer {self._known(door)[1]}"} if self.known else {}

    def key(self, door: str) -> str | None:
        """The key itself."""
        return self._known(door)[1] if self.known else None

    def _known(self, door: str) -> tuple[str, str]:
        if door not in self._keys:
            user = f"user-{len(self._keys):02d}"
            self._keys[door] = (user, self.executor.api_keys.create(user_id=user, name=door).secret)
        return self._keys[door]

    def caller(self, door: str) -> Caller:
        """The same as a value."""
        return Caller(user_id=self.user(door))

    def call(self, door: str, asked: Asked) -> ToolCall:
        """The call as doors in process have it."""
        return create_tool_call(
            asked.tool,
            asked.arguments,
            user_id=self.user(door),
            idempotency_key=asked.key,
            deadline_s=asked.deadline_s,
        )

    def place(self, style: str, outcome: str, *, task: bool) -> str:
        """Have a fresh tool; its name."""
        if outcome in wares.ORDINARY:
            (definition,) = self.executor.add(wares.made(style, outcome, task=task), replace=True)
            if outcome == "unauthenticated":
                self.executor.add(replace(definition, requires_auth=True), replace=True)
        return f"{wares.NAMES[style]}.{outcome}"

    # -- what is seen --------------------------------------------------------------------------------------------------

    def seen(self, tool: str, user: str | None, mark: str) -> Seen:
        """How it stands now."""
        return Seen(
            requests=self.counted(tool),
            history=len(self.collector.rows),
            audited=len(self._rows(tool, user)),
            runs=self.runs(mark),
        )

    def counted(self, tool: str) -> Counter[str]:
        """The executor's metrics of a tool; of what is none, those of all that is unknown."""
        name = "(unknown)" if tool.startswith("No.") else tool
        found = [stats.to_dict() for stats in self.executor._metrics.tools() if stats.name == name]
        told = found[0] if found else {}
        names = ("requests", "failures", "rejected", "cache_hits", "replays")
        counts = Counter({each: told.get(each, 0) for each in names})
        counts.update({f"error {code}": number for code, number in told.get("errors", {}).items()})
        return counts

    def runs(self, mark: str) -> int:
        """How many bodies ran, of whichever style."""
        with contextlib.closing(sqlite3.connect(self.folder / "shop.db")) as shop:
            (rows,) = shop.execute("SELECT count(*) FROM runs WHERE mark = ?", (mark,)).fetchone()
        return wares.runs(mark) + int(rows)

    def record(self, call_id: str | None) -> dict[str, Any] | None:
        """What is told of a call that is looked up; None where a caller learns no id, or there is no such call."""
        if call_id is None:
            return None
        report = self.served.run(self.served.service.calls.look_up(call_id))
        return None if report is None else of_report(report_json(report))

    def audited(self, call_id: str) -> None:
        """Wait until the end of a call that another process ran is in the audit log."""
        ends = ("finish", "refused")
        audit = self.executor.audit

        def there() -> bool:
            rows = map(AuditOperations.told, audit.newest(20))
            return any(row.get("call") == call_id and row["kind"] in ends for row in rows)

        until(there, f"{call_id} is not in the audit log")

    def audit_since(self, before: Seen, tool: str, user: str | None) -> list[dict[str, Any]]:
        """What the audit log says since then, without what differs from call to call; once calls have their ends."""
        until = time.monotonic() + PATIENCE_S
        while True:
            rows = self._rows(tool, user)[before.audited :]
            open_calls = Counter(row["kind"] for row in rows)
            if open_calls["start"] == open_calls["finish"] or time.monotonic() > until:
                return [audit_row(row) for row in rows if row["kind"] != "start"]
            time.sleep(0.005)

    def _rows(self, tool: str, user: str | None) -> list[dict[str, Any]]:
        """What the audit log says of a user's calls of a tool, by now."""
        audit = self.executor.audit
        with self._reading:
            audit.newest(0)  # which has all rows written that are there
            while True:
                page, self._read = audit.since(self._read)
                for row in map(AuditOperations.told, page):
                    if row["kind"] in CALLS:
                        self._audited[row.get("tool"), row.get("user")].append(row)
                if not page:
                    return list(self._audited[tool, user])

    def __post_init__(self) -> None:
        self._audited: dict[tuple[str | None, str | None], list[dict[str, Any]]] = defaultdict(list)
        self._read = 0
        self._reading = threading.Lock()


CALLS = ("start", "finish", "refused")
_ROW = ("tool", "tenant", "status", "decision", "stage", "code", "outcome", "source", "attempts")


def audit_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """How a call ended, as the audit log says it: by a start and a finish, or, refused at the door, by one row.

    Where it is from and how often it was tried is told of calls that were let in; each door has a caller of its own.
    """
    told = {name: row[name] for name in _ROW if name in row}
    if told["decision"] == "refused":
        told.pop("source", None)
        told.pop("attempts", None)
    return told | ({"user": "<user>"} if "user" in row else {})


@contextlib.contextmanager
def world(folder: Path, upstream_port: int, *, known: bool, works: bool = True, **settings: Any) -> Iterator[World]:
    """A gateway over an executor of its own."""
    collector = MetricsCollector(100_000)
    executor = ToolExecutor(
        {
            **SETTINGS,
            "egress_allowed_ports": (upstream_port,),
            "authentication": "required" if known else "none",
            **settings,
        },
        registry=ToolRegistry(),
        collector=collector,
        authorizer=refuse,
        authorization=AuthorizationManager(
            "shop",
            "the client's secret",
            "https://shop.test/back",
            authorization_endpoint="https://provider.test/authorize",
            token_endpoint="https://provider.test/token",
        ),
    )
    with gateway(executor=executor, works=works) as served:
        yield World(executor=executor, served=served, collector=collector, folder=folder, known=known)


def until(what: Callable[[], bool], why: str) -> None:
    """Wait for something that no event tells of."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.002)


class Held:
    """A call that runs beside the journey, until it is let go."""

    def __init__(self, world: World, call: ToolCall, mark: str) -> None:
        self._mark = mark
        self._thread = threading.Thread(target=world.executor.execute_sync, args=(call,), name="held")
        self._thread.start()
        until(lambda: wares.runs(mark) > 0, "the call that is held did not begin")

    def end(self) -> None:
        """Let it go, and wait for it."""
        wares.let_go(self._mark)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
