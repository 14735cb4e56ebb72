"""AuditWriter: keeps rows of the audit log until they are in the store, and writes them there in batches."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from toolpost.calls.clock import Clock
from toolpost.calls.errors import ToolExecutionError
from toolpost.stores import Answer, AuditHead, Pending, Records

T = TypeVar("T")
logger = logging.getLogger("toolpost.audit")

FLUSH_S: Final = 0.2
"""How long a row waits for others to be written with it."""
BATCH: Final = 500
"""So many rows are written at once, and no longer waited for."""
MOST_ROWS: Final = 10_000
MOST_BYTES: Final = 64 * 1024 * 1024
"""What is kept while the store is away; further rows are lost, and counted. Those that must be kept are kept anyhow."""
IDLE_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 2.0
ANSWER_S: Final = 30.0
CLOSE_S: Final = 5.0
ANCHOR_ROWS: Final = 1000
ANCHOR_S: Final = 300.0
"""After so many rows, or so long, a line of the program's log says where the chain stands."""
LOOKED_AT: Final = 1000


class AuditWriter:
    """The rows of one log on their way into the chain. Safe from any thread; a forked child begins with none.

    One thread writes, and lives while there is something to write. A row is written once, also when the answer to a
    write was lost: the chain is looked through for it before it is written again. told_loss(rows, since) makes the row
    that says how many were lost, and since when (wall time).
    """

    def __init__(self, records: Records, key: bytes, clock: Clock, told_loss: Callable[[int, float], bytes]) -> None:
        self._records, self._key, self._clock, self._told_loss = records, key, clock, told_loss
        self.lost_total = 0
        self.start_empty()
        _writers.add(self)

    def start_empty(self) -> None:
        """In a forked child: the parent's rows are the parent's to write."""
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._some, self._hurry = threading.Event(), threading.Event()
        self._closing, self._ended = threading.Event(), threading.Event()
        self._rows: deque[bytes] = deque()
        self._hand: list[bytes] = []
        self._bytes = 0
        self._put = self._done = 0
        self._thread: threading.Thread | None = None
        self.closed = False
        self.why: str | None = None
        """Why rows cannot be written now; None while they can."""
        self._lost = 0
        self._lost_since = 0.0
        self._head: AuditHead | None = None
        self._doubtful = False
        self._anchored = (0, self._clock.monotonic())

    @property
    def waiting(self) -> int:
        """Rows that are still to be written."""
        return len(self._rows) + len(self._hand) + bool(self._lost)

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Have all rows written that are there now; whether that was done in time."""
        with self._lock:
            until = self._put
            self._hurry.set()
            return self._written.wait_for(lambda: self._done >= until, timeout_s)

    def close(self) -> None:
        """Write what is still to be written. What cannot be is told in the program's log, row by row."""
        if self.closed:
            return
        self._closing.set()
        done = self.flush(CLOSE_S)
        with self._lock:
            self.closed = True
            thread, rest = self._thread, [*self._hand, *self._rows]
        for event in (self._ended, self._some, self._hurry):
            event.set()
        if thread is not None:
            thread.join(1.0)
        for row in rest:
            logger.error("a row of the audit log could not be written in time: %s", row.decode())
        if done:
            self._anchor()

    def add(self, body: bytes, *, kept: bool = False) -> None:
        """Have a row written. kept: it is never lost while this process lives."""
        with self._lock:
            if self.closed:
                self._add_late(body)
                return
            full = len(self._rows) + len(self._hand) >= MOST_ROWS or self._bytes + len(body) > MOST_BYTES
            if full and not kept:
                self._lose()
                return
            self._rows.append(body)
            self._bytes += len(body)
            self._put += 1
            many = len(self._rows) >= BATCH
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="toolpost-audit", daemon=True)
                self._thread.start()
        if not self._some.is_set():
            self._some.set()
        if many and not self._hurry.is_set():
            self._hurry.set()

    def _add_late(self, body: bytes) -> None:
        """The end of a call that outlived its executor: the store is told at once, if it is still there."""
        answer = self._records.append_audit([body], self._key)
        if isinstance(answer, Pending) and answer.done and answer.error is not None:
            logger.error("a row of the audit log could not be written: %s", body.decode())

    def _lose(self) -> None:
        self.lost_total += 1
        if not self._lost:
            self._lost_since = self._clock.now()
            logger.error("the audit log is full of rows that wait for the store; rows are lost from now on")
        self._lost += 1

    # -- the thread that writes ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        me = threading.current_thread()
        while self._thread is me:
            if not self._some.wait(IDLE_S):
                with self._lock:
                    if not self.waiting:
                        self._thread = None
                        return
            self._hurry.wait(FLUSH_S)
            self._some.clear()
            self._hurry.clear()
            self._write_all()
            if self.closed:
                return

    def _write_all(self) -> None:
        """Write until nothing waits, however long the store is away; or until close() has given up."""
        pause_s = FIRST_PAUSE_S
        while self.waiting and not self._ended.is_set():
            self._take()
            try:
                self._write(self._hand)
            except Exception as error:
                self._failed(error)
                if self._closing.wait(pause_s):
                    self._ended.wait(FIRST_PAUSE_S)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                continue
            pause_s = FIRST_PAUSE_S
            size, count = sum(map(len, self._hand)), len(self._hand)
            with self._lock:
                self._hand = []
                self._bytes -= size
                self._done += count
                self._written.notify_all()
            self._recovered()
            self._anchor_now_and_then()

    def _take(self) -> None:
        """Take rows in hand, as many as may be written at once; those of a write that failed stay there."""
        rows, hand = self._rows, self._hand
        if self._doubtful:  # they must stay as they are until it is known whether they are there
            return
        if self._lost and self.why is None:  # else each try would add a row about them
            self._take_losses()
        size = sum(map(len, hand))
        while rows and len(hand) < BATCH and size < MOST_BYTES // 8:
            size += len(rows[0])
            hand.append(rows.popleft())

    def _write(self, batch: list[bytes]) -> None:
        """Add rows to the chain. After a write whose answer was lost, look first whether they are there already."""
        if self._head is None:
            self._head = _had(self._records.audit_head())
        if self._doubtful and self._is_there(batch[0], self._head.seq):
            self._doubtful = False
            return
        self._doubtful = False
        answer = self._records.append_audit(batch, self._key)
        try:
            before, self._head = self._head, _had(answer)
        except Exception:
            self._doubtful = isinstance(answer, Pending) and answer.sent
            raise
        if self._head.seq < before.seq + len(batch):
            logger.error(
                "rows of the audit log were cut off: it had row %d with hash %s, and ended before it",
                before.seq,
                before.hash.hex(),
            )

    def _is_there(self, body: bytes, after: int) -> bool:
        while True:
            rows = _had(self._records.audit_rows(after, LOOKED_AT))
            if any(row.body == body for row in rows):
                return True
            if len(rows) < LOOKED_AT:
                return False
            after = rows[-1].seq

    def _take_losses(self) -> None:
        with self._lock:
            lost, self._lost = self._lost, 0
        body = self._told_loss(lost, self._lost_since)
        with self._lock:
            self._hand.append(body)
            self._bytes += len(body)
            self._put += 1

    def _failed(self, error: Exception) -> None:
        known = isinstance(error, ToolExecutionError)
        why = error.message if isinstance(error, ToolExecutionError) else f"{type(error).__name__}: {error}"
        if self.why is None:
            logger.error("the audit log cannot be written: %s; its rows wait", why, exc_info=None if known else error)
        self.why = why

    def _recovered(self) -> None:
        if self.why is not None:
            self.why = None
            logger.warning("the audit log is written again")

    def _anchor_now_and_then(self) -> None:
        seq, at = self._anchored
        head, now = self._head, self._clock.monotonic()
        if head is not None and (head.seq // ANCHOR_ROWS > seq // ANCHOR_ROWS or now - at >= ANCHOR_S):
            self._anchor()

    def _anchor(self) -> None:
        """Say where the chain stands, for whoever keeps the program's log elsewhere."""
        head = self._head
        if head is not None and head.seq > self._anchored[0]:
            self._anchored = (head.seq, self._clock.monotonic())
            logger.info("audit anchor seq=%d hash=%s", head.seq, head.hash.hex())


def _had(answer: Answer[T]) -> T:
    return answer.wait(timeout_s=ANSWER_S) if isinstance(answer, Pending) else answer


_writers: weakref.WeakSet[AuditWriter] = weakref.WeakSet()


def _start_all_anew() -> None:
    for writer in list(_writers):
        writer.start_empty()


def _write_all_at_exit() -> None:
    for writer in list(_writers):
        if writer.waiting:
            writer.flush()


atexit.register(_write_all_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
