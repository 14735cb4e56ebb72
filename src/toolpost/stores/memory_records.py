"""Records that live in the process: claims, tasks, outbox and dead letters under one lock; nothing survives it."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.stores import Finish, Task, TaskRow, TaskState, Work
from toolpost.stores.memory_documents import MemoryDocuments
from toolpost.stores.memory_history import Entry, Wanted, row_of
from toolpost.stores.standing import MAX_LOST, OPEN, checked, farewell, legible, place_of, recorded, repeated


def check(task: Task) -> None:
    """Refuse a task that a database cannot keep."""
    checked(
        task_id=task.task_id,
        tool=task.tool,
        blob=task.blob,
        version=task.version,
        tenant=task.tenant,
        user_id=task.user_id,
        session_id=task.session_id,
        idempotency_key=task.idempotency_key,
        order_key=task.order_key,
        src=task.src and task.src[0],
        reply_to=task.reply_to,
        trace=task.trace,
    )


class MemoryRecords(MemoryDocuments):
    """Records in memory. Leases run by the clock's monotonic time, what people read is its wall time.

    max_finished bounds memory: of tasks that are over, and of dead letters, the oldest go first. Expired claims go by
    themselves.
    """

    durable = False

    def __init__(self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK, max_finished: int = 10_000) -> None:
        super().__init__(clock, max_letters=max_finished)
        self.url = url
        self._max_finished = max_finished
        self._seqs = itertools.count(1)
        self._tasks: dict[str, Entry] = {}
        self._ready: dict[str, list[tuple[int, int, str]]] = {}
        """By tool, what may start now: a heap of (-priority, seq, task_id), where some may be out of date."""
        self._later: list[tuple[float, int, str]] = []
        self._running: dict[str, Entry] = {}
        self._orders: dict[str, OrderedDict[str, None]] = {}
        """Of each order_key the tasks that are not over, oldest first; only the first may run."""
        self._over: OrderedDict[str, None] = OrderedDict()

    # Tasks.

    def submit(self, task: Task, /) -> bool:
        with self._lock:
            return self._add(task) is not None

    def _add(self, task: Task) -> Entry | None:
        if task.task_id in self._tasks:
            return None
        check(task)
        now, wall = self._clock.monotonic(), self._clock.now()
        due_at = now + task.due_in_s if task.due_in_s > 0 else None
        deadline_at = None if task.deadline_in_s is None else now + task.deadline_in_s
        entry = Entry(task, next(self._seqs), wall, wall, now, due_at, deadline_at)
        self._tasks[task.task_id] = entry
        if task.order_key is not None:
            self._orders.setdefault(task.order_key, OrderedDict())[task.task_id] = None
        self._line_up(entry)
        return entry

    def _line_up(self, entry: Entry) -> None:
        """Put a queued or waiting task where claim_tasks() finds it."""
        if entry.due_at is not None:
            heapq.heappush(self._later, (entry.due_at, entry.seq, entry.task.task_id))
        elif self._leads(entry.task):
            heap = self._ready.setdefault(entry.task.tool, [])
            heapq.heappush(heap, (-entry.task.priority, entry.seq, entry.task.task_id))

    def _leads(self, task: Task) -> bool:
        return task.order_key is None or next(iter(self._orders[task.order_key])) == task.task_id

    def _promote(self, now: float) -> None:
        """Queue what was waiting and is due."""
        while self._later and self._later[0][0] <= now:
            due_at, _, task_id = heapq.heappop(self._later)
            entry = self._tasks.get(task_id)
            if entry is not None and entry.due_at == due_at and entry.state in ("queued", "waiting"):
                entry.state, entry.due_at = "queued", None
                self._line_up(entry)

    def claim_tasks(self, owner: str, limit: int, lease_s: float, tools: Sequence[str] | None = None, /) -> list[Work]:
        now = self._clock.monotonic()
        with self._lock:
            self._promote(now)
            found = self._abandoned(now, tools)
            if tools is not None:
                found += self._overdue(now, tools)
                found.sort(key=_in_turn)
            works: list[Work] = []
            while len(works) < limit:
                heap = self._best_heap(tools)
                first = found[0] if found else None
                if first is not None and (not heap or (-first.task.priority, first.seq) < heap[0][:2]):
                    works.append(self._take(found.pop(0), owner, lease_s, now))
                elif heap:
                    works.append(self._take(self._tasks[heapq.heappop(heap)[2]], owner, lease_s, now))
                else:
                    break
            return works

    def _abandoned(self, now: float, tools: Sequence[str] | None) -> list[Entry]:
        """Running tasks whose holder vanished, and that may be tried once more; what is to start first comes first."""
        found = [
            entry
            for entry in self._running.values()
            if entry.lease_until <= now
            and entry.lost < MAX_LOST - 1
            and (tools is None or entry.task.tool in tools or entry.is_late(now))
        ]
        return sorted(found, key=_in_turn)

    def _overdue(self, now: float, tools: Sequence[str]) -> list[Entry]:
        """Tasks of other tools that may start, and whose deadline has passed."""
        others = [heap for tool, heap in self._ready.items() if heap and tool not in tools]
        ready = [self._tasks[id] for heap in others for _, seq, id in heap if self._is_ready(seq, id)]
        return [entry for entry in ready if entry.is_late(now)]

    def _best_heap(self, tools: Sequence[str] | None) -> list[tuple[int, int, str]]:
        """The heap with the task that is to start first, cleared of what is out of date; empty when there is none."""
        best: list[tuple[int, int, str]] = []
        for tool in self._ready if tools is None else tools:
            heap = self._ready.get(tool, [])
            while heap and not self._is_ready(*heap[0][1:]):
                heapq.heappop(heap)
            if heap and (not best or heap[0] < best[0]):
                best = heap
        return best

    def _is_ready(self, seq: int, task_id: str) -> bool:
        entry = self._tasks.get(task_id)
        return entry is not None and entry.seq == seq and entry.state == "queued" and entry.due_at is None

    def _take(self, entry: Entry, owner: str, lease_s: float, now: float) -> Work:
        if entry.state == "running":
            entry.lost += 1
        entry.state, entry.due_at, entry.owner = "running", None, owner
        entry.fence += 1
        entry.attempt += 1
        entry.lease_until = now + lease_s
        entry.updated_at = entry.started_at = self._clock.now()
        self._running[entry.task.task_id] = entry
        left_s = None if entry.deadline_at is None else entry.deadline_at - now
        task = replace(entry.task, due_in_s=0.0, deadline_in_s=left_s)
        return Work(
            task=task,
            fence=entry.fence,
            attempt=entry.attempt,
            lost=entry.lost,
            age_s=now - entry.born_at,
            cancel=entry.cancel_at is not None,
        )

    def claim_task(self, task: Task, owner: str, lease_s: float, /) -> Work | TaskRow:
        now = self._clock.monotonic()
        with self._lock:
            entry = self._tasks.get(task.task_id) or self._add(task)
            assert entry is not None
            self._promote(now)
            free = entry.state == "queued" and entry.due_at is None and self._leads(entry.task)
            abandoned = entry.state == "running" and entry.lease_until <= now and entry.lost < MAX_LOST - 1
            if free or abandoned:
                return self._take(entry, owner, lease_s, now)
            return row_of(entry)

    def renew_tasks(self, owner: str, held: Sequence[tuple[str, int]], lease_s: float, /) -> list[str]:
        until = self._clock.monotonic() + lease_s
        answers = []
        with self._lock:
            for task_id, fence in held:
                entry = self._tasks.get(task_id)
                if entry is None or (entry.state, entry.fence, entry.owner) != ("running", fence, owner):
                    answers.append("lost")
                    continue
                entry.lease_until = until
                answers.append("cancel" if entry.cancel_at is not None else "held")
        return answers

    def finish_task(self, finish: Finish, /) -> bool:
        with self._lock:
            entry = self._tasks.get(finish.task_id)
            state = place_of(finish, entry is not None and entry.cancel_at is not None)
            if entry is None:
                return False
            if entry.state != "running" or entry.fence != finish.fence:
                result = entry.result
                if result is None:
                    return repeated(finish, entry.fence, entry.state, None, None, None, None)
                known = (result.state, result.value, result.blob, result.report)
                return repeated(finish, entry.fence, entry.state, *known)
            self._check(finish.outbox)
            del self._running[finish.task_id]
            if finish.state == "queued":  # given back: that was no attempt
                entry.attempt -= 1
            if state in ("queued", "waiting"):
                self._requeue(entry, state, finish)
            else:
                kept = replace(finish, state=state, error=legible(finish.error), error_code=legible(finish.error_code))
                self._end(entry, kept)
            if finish.claim is not None:
                key, fence, outcome, ttl_s = finish.claim
                self._settle(key, fence, outcome, finish.value, ttl_s)
            self._put(finish.outbox)
            return True

    def _requeue(self, entry: Entry, state: TaskState, finish: Finish) -> None:
        entry.state, entry.owner = state, None
        entry.due_at = self._clock.monotonic() + finish.due_in_s if finish.due_in_s > 0 else None
        entry.updated_at = self._clock.now()
        self._line_up(entry)

    def _end(self, entry: Entry, result: Finish) -> None:
        """Make a task terminal, with its result; what was behind it may go on."""
        task, wall = entry.task, self._clock.now()
        entry.state, entry.result, entry.owner, entry.due_at = result.state, result, None, None
        entry.updated_at = entry.finished_at = wall
        if result.state == "dead":
            reason = result.error_code or result.outcome
            self._bury(reason, task.arguments, task.src, task.task_id, result.error or "")
        if task.order_key is not None:
            line = self._orders[task.order_key]
            line.pop(task.task_id, None)
            if line:
                follower = self._tasks[next(iter(line))]
                if follower.state == "queued" and follower.due_at is None:
                    self._line_up(follower)
            else:
                del self._orders[task.order_key]
        self._put_by(task.task_id)

    def _put_by(self, task_id: str) -> None:
        """Keep a task that is over, in place of the oldest ones."""
        self._over[task_id] = None
        while len(self._over) > self._max_finished:
            del self._tasks[self._over.popitem(last=False)[0]]

    def _end_by_store(self, entry: Entry, state: TaskState, code: str) -> None:
        task = entry.task
        self._end(
            entry,
            Finish(task_id=task.task_id, fence=entry.fence, state=state, error_code=code, outcome=code, source="store"),
        )
        message = farewell(task.task_id, task.tool, state, task.reply_to)
        if message is not None:
            self._put([message])

    def cancel_task(self, task_id: str, /) -> str:
        with self._lock:
            entry = self._tasks.get(task_id)
            if entry is None:
                return ""
            if entry.state == "running":
                if entry.cancel_at is None:
                    entry.cancel_at = self._clock.now()
                return "told"
            if entry.state in ("queued", "waiting"):
                self._end_by_store(entry, "cancelled", "cancelled")
            return entry.state

    def task(self, task_id: str, /) -> TaskRow | None:
        with self._lock:
            entry = self._tasks.get(task_id)
            return None if entry is None else row_of(entry)

    def tasks(
        self,
        *,
        state: str | Sequence[str] | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[TaskRow]:
        wanted = Wanted(
            states=(state,) if isinstance(state, str) else state,
            tool=tool,
            tenant=tenant,
            user_id=user_id,
            session_id=session_id,
            since=since,
            until=until,
            after=after,
        )
        with self._lock:
            found = filter(wanted.has, self._tasks.values())
            newest = heapq.nlargest(limit, found, key=lambda entry: entry.task.task_id)
            return [replace(row_of(entry), arguments=b"") for entry in newest]

    def record_tasks(self, ended: Sequence[tuple[Task, Finish]], /) -> list[bool]:
        for task, finish in ended:
            recorded(finish)
            check(task)
        with self._lock:
            return [self._record(task, finish) for task, finish in ended]

    def _record(self, task: Task, finish: Finish) -> bool:
        if task.task_id in self._tasks:
            return False
        took_s = max(0.0, finish.elapsed_ms) / 1000.0
        wall, born_at = self._clock.now(), self._clock.monotonic() - took_s
        deadline_at = None if task.deadline_in_s is None else born_at + took_s + task.deadline_in_s
        entry = Entry(task, next(self._seqs), wall - took_s, wall, born_at, None, deadline_at)
        entry.state, entry.attempt, entry.started_at, entry.finished_at = finish.state, 1, entry.created_at, wall
        error, code, source = legible(finish.error), legible(finish.error_code), legible(finish.source) or ""
        if (error, code, source) != (finish.error, finish.error_code, finish.source):
            finish = replace(finish, error=error, error_code=code, source=source)
        entry.result = finish
        self._tasks[task.task_id] = entry
        self._put_by(task.task_id)
        return True

    def count_tasks(self, state: str | Sequence[str] | None = None, /) -> dict[str, int]:
        states = OPEN if state is None else (state,) if isinstance(state, str) else state
        counts = dict.fromkeys(states, 0)
        with self._lock:
            for entry in self._tasks.values():
                if entry.state in counts:
                    counts[entry.state] += 1
        return counts

    def crowd(self, limit: int = 1000, /) -> list[tuple[str, str, int]]:
        with self._lock:
            tasks = [entry.task for entry in self._tasks.values() if entry.state in ("queued", "waiting")]
        counts = Counter((task.tenant, task.user_id or "") for task in tasks)
        ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        return [(tenant, user_id, many) for (tenant, user_id), many in ordered[:limit]]

    def drop_tasks(self, ended_s: float, limit: int = 1000, /) -> int:
        before = self._clock.now() - ended_s
        dropped = 0
        with self._lock:
            while self._over and dropped < limit:
                oldest = next(iter(self._over))
                if (self._tasks[oldest].finished_at or 0.0) >= before:
                    break
                del self._over[oldest], self._tasks[oldest]
                dropped += 1
        return dropped

    # The store.

    def redrive(self, letter_id: int, task_id: str, /) -> bool:
        with self._lock:
            letter = self._letters.get(letter_id)
            if letter is None or letter["redriven_at"] is not None or letter["task_id"] is None:
                return False
            old = self._tasks.get(letter["task_id"])
            if old is None or old.state != "dead":
                return False
            again = replace(old.task, task_id=task_id, src=None, due_in_s=0.0, deadline_in_s=None)
            if self._add(again) is None:
                return False
            letter["redriven_at"], letter["redriven_as"] = self._clock.now(), task_id
            return True

    def sweep(self, limit: int = 1000, /) -> dict[str, int]:
        now = self._clock.monotonic()
        with self._lock:
            claims = self._drop_expired(now, limit)
            lost = [e for e in self._running.values() if e.lease_until <= now and e.lost >= MAX_LOST - 1]
            doomed = lost[:limit]
            for entry in doomed:
                del self._running[entry.task.task_id]
                entry.lost += 1
                self._end_by_store(entry, "dead", "lost")
            documents = self._drop_old_documents(self._clock.now(), limit)
            return {"claims": claims, "dead": len(doomed), "documents": documents}

    def ping(self) -> None:
        return None

    def migrate(self) -> list[str]:
        """Nothing to do: there is no schema."""
        return []

    def schema_version(self) -> int:
        """0: there is no schema."""
        return 0

    def close(self) -> None:
        return None


def _in_turn(entry: Entry) -> tuple[int, int]:
    """What is to start first comes first."""
    return -entry.task.priority, entry.seq
