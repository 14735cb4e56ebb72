"""The three store contracts, chosen by URL: State (small, atomic, shared), Records (rows that survive), Blobs (bytes).

Every operation gives an Answer: its value where it is at hand (a store in the process), else a Pending, which a task
awaits on any loop and a thread waits for. Operations raise StoreUnavailableError and nothing else for a store that
cannot be reached; driver errors stay behind it as the cause. Time in a store is the store's own clock, in seconds.
Objects are safe from any thread and any event loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from typing import Any, Literal, NamedTuple, Protocol

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError
from toolpost.stores.claims import Claim, ClaimAsk, Claims, ClaimState, Outgoing
from toolpost.stores.documents import AuditHead, AuditRow, Document
from toolpost.stores.pending import Answer, Pending
from toolpost.stores.tasks import TERMINAL, Finish, Task, TaskRow, TaskState, Work


class CircuitRules(NamedTuple):
    """A breaker's numbers, as in calls.policies.Breaker."""

    failures: int
    recovery_s: float
    half_open_calls: int
    error_rate: float | None = None
    max_failures: int = 20
    window: int = 100


class Circuit(NamedTuple):
    """How a circuit stands. admitted: this call may run, as a probe when probe is not 0 (hand it to report).

    From report and circuit, admitted says whether a further call would be. state is closed, open or half_open.
    left_s: seconds until it may be tried again; 0.0 as well where an operator holds it open. cause: code and message of
    the error that tripped it. failures: in a row, or in the window of adaptive rules. forced: "", "open" or "closed" by
    an operator. opened: it was this very report that opened it.
    """

    admitted: bool
    state: str
    probe: int = 0
    left_s: float = 0.0
    cause: str = ""
    failures: int = 0
    forced: str = ""
    opened: bool = False


class State(Claims, Protocol):
    """Small values with a lifetime, and the operations that must be atomic: each is one round trip at most."""

    url: str
    """Where it is, without password."""

    # limits
    def take(self, buckets: Sequence[tuple[str, float, float]], /) -> Answer[tuple[float, int]]:
        """Take one token from each bucket (key, rate a second, burst), or from none.

        (0.0, -1) when granted; else the seconds until the slowest would grant it, and that one's index. A bucket that
        nobody has used for as long as it takes to fill is forgotten.
        """

    def left(self, buckets: Sequence[tuple[str, float, float]], /) -> Answer[list[float]]:
        """How many tokens each bucket (key, rate a second, burst) holds now, taking none; burst for an unknown one."""

    def enter(self, key: str, holder: str, limit: int, lease_s: float, /) -> Answer[float]:
        """Take one of limit places: 0.0 when had, else the seconds until the oldest lease ends. Again: it renews."""

    def leave(self, key: str, holder: str, /) -> Answer[None]:
        """Give the place back."""

    # cache
    def get(self, key: str, tags: Sequence[str] = (), /) -> Answer[tuple[bytes, float, float] | None]:
        """(value, seconds until it is stale, seconds until it is gone), None where there is none or a tag is void."""

    def marks(self, tags: Sequence[str], /) -> Answer[list[int]]:
        """A number for each tag, which void() changes and which never comes again; put() must be told what it was
        before the body ran. A mark is good for a day at least, and as long as an entry with its tag is kept."""

    def put(
        self, key: str, value: bytes, ttl_s: float, stale_s: float = 0.0, tags: Mapping[str, int] | None = None, /
    ) -> Answer[bool]:
        """Keep a value. tags: tag -> its mark; nothing is kept (False) when a tag was made void since."""

    def void(self, tags: Sequence[str], /) -> Answer[None]:
        """Make every entry with one of these tags invalid."""

    def delete(self, key: str, /) -> Answer[bool]:
        """Forget one value."""

    def clear(self, prefix: str = "", /) -> Answer[int]:
        """Forget all values whose key begins so; how many. Touches no limit, claim or circuit."""

    # circuits
    def admit(self, key: str, rules: CircuitRules, /) -> Answer[Circuit]:
        """Ask whether a call may run. A probe that is not reported within recovery_s counts as lost and is replaced."""

    def report(
        self, key: str, rules: CircuitRules, ok: bool | None, probe: int = 0, cause: str = "", /
    ) -> Answer[Circuit]:
        """Say how an admitted call ended: True, False, or None (says nothing about the dependency)."""

    def circuit(self, key: str, /) -> Answer[Circuit]:
        """How a circuit stands, asking nothing of it."""

    def force(self, key: str, state: Literal["open", "closed", ""], /) -> Answer[None]:
        """Hold a circuit open or closed; "" lets it go on by itself, closed and empty."""

    def ping(self) -> Answer[None]:
        """Reach the store."""

    def close(self) -> None:
        """Do what was asked, then let go of connections and threads."""


class Records(Claims, Protocol):
    """Rows that survive: idempotency claims, tasks with their attempts and results, outbox, dead letters.

    What is asked while a batch is being written goes into the next one (group commit). Terminal tasks never change.
    """

    url: str
    durable: bool

    def submit(self, task: Task, /) -> Answer[bool]:
        """Write a queued task; True once it is durable, False when the task_id is there already (nothing changes)."""

    def claim_tasks(
        self, owner: str, limit: int, lease_s: float, tools: Sequence[str] | None = None, /
    ) -> Answer[list[Work]]:
        """Take tasks that are due (highest priority, then oldest first) or whose holder's lease ran out.

        tools: of these tools only, and besides those of any tool whose deadline has passed: somebody must say so.
        Of tasks with one order_key only the oldest that is not terminal is given, and only while none runs.
        """

    def claim_task(self, task: Task, owner: str, lease_s: float, /) -> Answer[Work | TaskRow]:
        """Write and take one task in one step, as a queue's worker does; a TaskRow when it is terminal or held."""

    def renew_tasks(self, owner: str, held: Sequence[tuple[str, int]], lease_s: float, /) -> Answer[list[str]]:
        """Lengthen leases of (task_id, fence): for each "held", "lost" or "cancel" (held, but it shall end)."""

    def finish_task(self, finish: Finish, /) -> Answer[bool]:
        """Attempt row, result, claim and outbox in one transaction; False when another holder took it over."""

    def cancel_task(self, task_id: str, /) -> Answer[str]:
        """Answers "cancelled" when it was not running, "told" when it is, else its terminal state, "" if not there."""

    def task(self, task_id: str, /) -> Answer[TaskRow | None]:
        """One task with its result."""

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
    ) -> Answer[list[TaskRow]]:
        """Tasks by task_id descending (time-ordered ids: newest first), below after, without their arguments.

        state: any of these. user_id: "" finds those of nobody. since and until bound created_at
        (since <= created_at < until), in wall time of the store.
        """

    def record_tasks(self, ended: Sequence[tuple[Task, Finish]], /) -> Answer[list[bool]]:
        """Write tasks that were run without a queue, with how they ended; False for each that is there already.

        Each finish has a terminal state; its fence, claim, outbox, usage and due_in_s count for nothing, as does its
        task_id, and so do order_key and due_in_s of the task: nothing waits for it, no attempt is kept, and one that is
        dead makes no letter. elapsed_ms says how long before now the task was created. One that cannot be kept keeps
        all of them from being written.
        """

    def count_tasks(self, state: str | Sequence[str] | None = None, /) -> Answer[dict[str, int]]:
        """State -> how many tasks stand in it, for each of these (those that are not terminal, where None)."""

    def crowd(self, limit: int = 1000, /) -> Answer[list[tuple[str, str, int]]]:
        """(tenant, user_id, how many of their tasks are queued or waiting), who has most first; "" is nobody."""

    def drop_tasks(self, ended_s: float, limit: int = 1000, /) -> Answer[int]:
        """Forget tasks that ended more than ended_s seconds ago, oldest first, with attempts and results; how many."""

    def put_outbox(self, messages: Sequence[Outgoing], /) -> Answer[None]:
        """Write messages that leave by themselves."""

    def take_outbox(
        self, limit: int, lease_s: float, kinds: Sequence[str] | None = None, /
    ) -> Answer[list[tuple[int, Outgoing, int]]]:
        """(id, message, tries) of messages that are due; nobody else is given them for lease_s."""

    def sent(self, ids: Sequence[int], /) -> Answer[None]:
        """Delete messages whose receiver has acknowledged them."""

    def defer_outbox(self, ids: Sequence[int], due_in_s: float, /) -> Answer[None]:
        """Not before then: sending failed."""

    def count_outbox(self, kinds: Sequence[str] | None = None, /) -> Answer[int]:
        """How many messages (of these kinds) have not left, due or not."""

    def bury(
        self,
        *,
        reason: str,
        payload: bytes,
        src: tuple[str, int, int] | None = None,
        task_id: str | None = None,
        error: str = "",
    ) -> Answer[int]:
        """Keep a dead letter, byte for byte; its id. The same src again gives the same id."""

    def dead(self, limit: int = 100, after: int | None = None, /) -> Answer[list[dict[str, Any]]]:
        """Dead letters, newest first."""

    def redrive(self, letter_id: int, task_id: str, /) -> Answer[bool]:
        """Submit a dead task again as task_id, linked to the letter; False when that was done or cannot be."""

    def sweep(self, limit: int = 1000, /) -> Answer[dict[str, int]]:
        """Drop expired claims (done or failed only) and documents; make tasks whose holder was lost too often dead.

        How many of each: "claims", "documents", "dead".
        """

    def put_document(self, document: Document, expect: int | None = None, /) -> Answer[int]:
        """Write a document; its new version (document.version, created_at and updated_at are not looked at).

        expect: None writes over whatever is there, 0 only where there is none, n only over version n. 0 is answered
        when something else was there, and nothing changes.
        """

    def document(self, kind: str, key: str, /) -> Answer[Document | None]:
        """One document."""

    def documents(
        self,
        kind: str,
        *,
        tenant: str | None = None,
        user_id: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Answer[list[Document]]:
        """Documents of a kind by key ascending, above after."""

    def drop_document(self, kind: str, key: str, expect: int | None = None, /) -> Answer[bool]:
        """Forget a document (only version expect, if given); whether it was there."""

    def append_audit(self, bodies: Sequence[bytes], key: bytes = b"", /) -> Answer[AuditHead]:
        """Add rows to the chain, in this order and without others between them; where the chain stands then."""

    def audit_rows(self, after: int = 0, limit: int = 1000, /) -> Answer[list[AuditRow]]:
        """Rows by seq ascending, above after."""

    def audit_head(self, /) -> Answer[AuditHead]:
        """Where the chain begins and ends; documents.NO_HEAD where somebody took that away."""

    def rotate_audit(self, through: int, /) -> Answer[int]:
        """Take away the rows up to this seq, and remember the last one's hash; how many there were."""

    def migrate(self) -> list[str]:
        """Bring the tables up to this version, waiting for it; number and title of each migration that was applied.

        Raises ConfigurationError for a schema that is newer than this version.
        """

    def schema_version(self) -> int:
        """The number of the last migration that the tables have seen, waiting for it; 0 for none."""

    def ping(self) -> Answer[None]:
        """Reach the store."""

    def close(self) -> None:
        """Do what was asked, then let go of connections and threads."""


class Blobs(Protocol):
    """Large bytes by digest: the key of a blob is the SHA-256 of its bytes in hex, so a put can be repeated freely."""

    url: str
    local: bool
    durable: bool

    def put(self, data: bytes, /) -> Answer[str]:
        """Keep bytes; their digest."""

    def get(self, digest: str, start: int = 0, length: int | None = None, /) -> Answer[bytes | None]:
        """The bytes, or a range of them; None where there are none. Whole blobs are checked against their digest."""

    def size(self, digest: str, /) -> Answer[int | None]:
        """Bytes, None where there is no such blob."""

    def delete(self, digest: str, /) -> Answer[bool]:
        """Forget a blob."""

    def sign(self, digest: str, ttl_s: float, /) -> Answer[str | None]:
        """A URL that gives the bytes to whoever has it, for ttl_s; None where the store has no such thing."""

    def ping(self) -> Answer[None]:
        """Reach the store."""

    def close(self) -> None:
        """Let go of connections and threads."""


_STATES = {
    "memory": "memory_state:MemoryState",
    "redis": "redis:RedisState",
    "rediss": "redis:RedisState",
    "unix": "redis:RedisState",
}
_RECORDS = {
    "memory": "memory_records:MemoryRecords",
    "sqlite": "sqlite:SqliteRecords",
    "postgresql": "postgres:PostgresRecords",
    "postgres": "postgres:PostgresRecords",
}
_BLOBS = {"memory": "memory_blobs:MemoryBlobs", "file": "local:FolderBlobs", "s3": "s3:S3Blobs"}


def open_state(url: str, *, clock: Clock = SYSTEM_CLOCK, prefix: str = "toolpost") -> State:
    """The State a URL names: memory:// or redis://[:password@]host:port/db. It connects on first use.

    prefix begins every key in a shared store. Raises ConfigurationError for any other URL, or a missing package.
    """
    return _open("state", _STATES, url, clock=clock, prefix=prefix)  # type: ignore[no-any-return]


def open_records(url: str, *, clock: Clock = SYSTEM_CLOCK) -> Records:
    """The Records a URL names: memory://, sqlite:///path/to/file, postgresql://user:password@host:port/database."""
    return _open("records", _RECORDS, url, clock=clock)  # type: ignore[no-any-return]


def open_blobs(url: str, *, clock: Clock = SYSTEM_CLOCK) -> Blobs:
    """The Blobs a URL names: memory://, file:///path/to/folder, s3://bucket/prefix?endpoint=https://..."""
    return _open("blobs", _BLOBS, url, clock=clock)  # type: ignore[no-any-return]


GROUP = "toolpost.stores"
"""Entry points of other packages: "state.SCHEME", "records.SCHEME" or "blobs.SCHEME" -> class, opened as ours are."""


def _open(kind: str, known: Mapping[str, str], url: str, **options: Any) -> Any:
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in known:
        module, _, name = known[scheme].partition(":")
        try:
            return getattr(import_module(f"toolpost.stores.{module}"), name)(url, **options)
        except ModuleNotFoundError as missing:
            extra = {"redis": "redis", "postgres": "postgres", "s3": "s3"}.get(module, "all")
            raise ConfigurationError(
                f"{scheme}:// needs the package {missing.name}; install toolpost[{extra}]"
            ) from missing
    others = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if f"{kind}.{scheme}" in others:
        return others[f"{kind}.{scheme}"].load()(url, **options)
    more = [name.partition(".")[2] for name in others if name.startswith(f"{kind}.")]
    schemes = ", ".join(f"{name}://" for name in [*known, *more])
    raise ConfigurationError(f"{kind} must be a URL that begins with one of {schemes}, got {public_url(url)!r}")


_UNSURE = re.compile(r"[:/?@=,;\s]")


def public_url(url: str) -> str:
    """A URL without its password and query, fit to be shown; of what is none, or may be read in two ways, the start."""
    head, found, rest = url.partition("://")
    if not found:
        return f"{_UNSURE.split(head)[0]}..."[:200] if "@" in head or "=" in head else head[:200]
    login, at, where = rest.rpartition("@")  # a password may hold anything, written as it must not be
    if "=" in login.partition("?")[2]:  # unless it is the query that holds the @
        return f"{head}://{_UNSURE.split(login)[0]}..."[:200]
    user = login.partition(":")[0]
    return f"{head}://{user}{'@' if at and user else ''}{where.partition('?')[0]}"[:200]


__all__ = [
    "Answer",
    "AuditHead",
    "AuditRow",
    "Blobs",
    "Circuit",
    "CircuitRules",
    "Claim",
    "ClaimAsk",
    "ClaimState",
    "Claims",
    "Document",
    "Finish",
    "Outgoing",
    "Pending",
    "Records",
    "State",
    "TERMINAL",
    "Task",
    "TaskRow",
    "TaskState",
    "Work",
    "open_blobs",
    "open_records",
    "open_state",
    "public_url",
]
