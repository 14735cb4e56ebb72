"""AuditLog: tells the audit chain of Records who asked for what and how it ended."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Final, Literal

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import AuditUnavailableError, ConfigurationError, ToolExecutionError
from toolpost.calls.events import CallFinished, Event
from toolpost.calls.redaction import Redactor
from toolpost.stores import Answer, AuditHead, Records
from toolpost.telemetry.audit_keys import AuditKey, audit_key
from toolpost.telemetry.audit_rows import (
    TOLD,
    VERSION,
    Arguments,
    Face,
    Values,
    canonical,
    finished,
    instant,
    note_fields,
    program_version,
    refused,
    started,
)
from toolpost.telemetry.audit_writer import CLOSE_S, AuditWriter

logger = logging.getLogger("toolpost.audit")

_OTHERS: Final = ("call", "user", "tenant", "session", "task", "tool", "version", "scopes", "roles", *TOLD)
_PLACES: Final = ("call", "session", "task", "tenant", "tool", "user")


class AuditLog:
    """The audit log of one executor. Safe from any thread and any event loop; a forked child begins anew.

    mode "on": rows are written by a thread within 0.2 s, and never hold a call up. "required": the start of a call
    must be in the store before anything else happens, and while rows cannot be written no call is let in. values says
    what is written of arguments. redactor hides secrets by value.
    """

    def __init__(
        self,
        records: Records,
        *,
        mode: Literal["on", "required"] = "on",
        values: Values = "digests",
        key: AuditKey | None = None,
        redactor: Redactor | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if mode == "required" and not records.durable:
            raise ConfigurationError(
                "audit=required needs records that survive the process; "
                "set records_url to sqlite:///... or postgresql://..."
            )
        self.required = mode == "required"
        self.values: Values = values
        self._records, self._clock = records, clock
        self._key = key if key is not None else audit_key(None)
        self._redactor = redactor if redactor is not None else Redactor()
        self._arguments = Arguments(values, self._key.values, self._redactor)
        self._writer = AuditWriter(records, self._key.chain, clock, self._told_loss)
        self._begin_anew()
        _logs.add(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._by = os.urandom(6).hex()
        self._numbers = itertools.count(1)
        self._opened = False

    # -- rows of calls ------------------------------------------------------------------------------------------------

    def begin(
        self, face: Face, call_id: str, caller: Caller, task_id: str | None, arguments: Mapping[Any, Any]
    ) -> Answer[AuditHead] | None:
        """Write that a call was taken up. Where audit is required, the answer to wait for before it goes on.

        Raises AuditUnavailableError where it is required and rows are known not to get through.
        """
        self._open()
        try:
            told = self._arguments.told(arguments, face.marked)
        except Exception:  # whatever objects of others do when they are looked at
            logger.exception("arguments of %s could not be told in the audit log", face.tool)
            told = "unreadable"
        row = started(self._clock.now(), call_id, face, caller, task_id, told, self._redactor)
        if not self.required:
            self._add(row)
            return None
        why = self._writer.why
        if why is not None:
            raise AuditUnavailableError(f"calls must be audited, and the audit log cannot be written: {why}")
        return self._records.append_audit([self._body(row)], self._key.chain)

    def observe(self, event: Event) -> None:
        """Write how a call ended. An observer of the executor's."""
        if event.__class__ is CallFinished:
            began = event.error is None or event.error.code != AuditUnavailableError.code
            self._add(finished(self._clock.now(), event, self._redactor), kept=self.required and began)

    def refused(
        self,
        call_id: str,
        tool: str,
        error: ToolExecutionError,
        caller: Caller = ANONYMOUS,
        task_id: str | None = None,
    ) -> None:
        """Write that a call was refused before it came to a tool."""
        self._open()
        self._add(refused(self._clock.now(), str(call_id), str(tool), error, caller, task_id, self._redactor))

    # -- rows of other events -----------------------------------------------------------------------------------------

    def note(self, kind: str, /, **fields: Any) -> None:
        """Write an event that is no call: an approval, a grant, a key, a rotation. It never raises.

        user, tenant, session, task, call and tool stand in the row as they do in rows of calls; all else under data.
        """
        shown = note_fields({name: value for name, value in fields.items() if value is not None}, self._redactor)
        row: dict[str, Any] = {name: shown.pop(name) for name in _PLACES if name in shown}
        row |= {"kind": kind, "at": instant(self._clock.now())}
        if shown:
            row["data"] = shown
        self._add(row, kept=self.required)

    # -- how it stands ------------------------------------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """Where the chain is."""
        return self._records

    @property
    def waiting(self) -> int:
        """Rows that are still to be written."""
        return self._writer.waiting

    @property
    def lost(self) -> int:
        """Rows that could not be kept until the store was back."""
        return self._writer.lost_total

    @property
    def problem(self) -> str | None:
        """Why rows cannot be written now; None while they can."""
        return self._writer.why

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Have all rows written that are there now; whether that was done in time."""
        return self._writer.flush(timeout_s)

    def close(self) -> None:
        """Write what is still to be written. What cannot be is told in the program's log, row by row."""
        if self._opened and not self._writer.closed:
            self._add({"kind": "closed", "at": instant(self._clock.now()), "data": {"lost": self.lost}})
        self._writer.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _add(self, row: dict[str, Any], *, kept: bool = False) -> None:
        self._open()
        self._writer.add(self._body(row), kept=kept)

    def _body(self, row: dict[str, Any]) -> bytes:
        row["v"], row["by"], row["n"] = VERSION, self._by, next(self._numbers)
        if self._key.id:
            row["k"] = self._key.id
        body = canonical(row)
        if self._redactor.active and self._redactor.shows(self._told_by_others(row, body)):
            body = canonical(self._redactor.value(row))
        return body

    def _told_by_others(self, row: dict[str, Any], body: bytes) -> str:
        """What of a row others wrote. All of it may be, where it has values; else digests need not be looked into."""
        if self.values == "redacted" or "data" in row:
            return body.decode()
        return "\n".join([str(row[name]) for name in _OTHERS if name in row])

    def _open(self) -> None:
        """Write that this process begins, once."""
        if self._opened:
            return
        with self._lock:
            if self._opened:
                return
            self._opened = True
        if not self._records.durable:
            logger.warning("the audit log is in memory and ends with this process; set records_url to keep it")
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "toolpost": program_version(),
            "mode": "required" if self.required else "on",
            "values": self.values,
        }
        self._add({"kind": "opened", "at": instant(self._clock.now()), "data": about})

    def _told_loss(self, rows: int, since: float) -> bytes:
        about = {"rows": rows, "since": instant(since)}
        return self._body({"kind": "lost", "at": instant(self._clock.now()), "data": about})


_logs: weakref.WeakSet[AuditLog] = weakref.WeakSet()


def _begin_all_anew() -> None:
    """In a forked child: its rows are numbered by themselves, and begin with one that says so."""
    for log in list(_logs):
        log._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all_anew)
