"""DeliveryLog: what became of each callback, for the loop that sends them and for those who ask, resend and enable.

A delivery is two documents, which expire: how it stands, and apart from it what was sent, for a resend. An endpoint
whose receiver said 410 Gone is a document as well, for its tenant (or its user, who has none) alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.errors import EngineError, NotFoundError
from toolpost.stores import Document, Outgoing
from toolpost.worker.callbacks import KIND as MESSAGE
from toolpost.worker.keeping import had
from toolpost.worker.seeing import OPERATE, may_see

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

DeliveryState = Literal["pending", "delivered", "failed", "disabled"]
STATES: Final = ("pending", "delivered", "failed", "disabled")
KIND: Final = "delivery"
CONTENT: Final = "delivery_content"
ENDPOINT: Final = "webhook_endpoint"
ENDPOINT_KEPT_S: Final = 90 * 86_400.0
"""How long an endpoint stays disabled when nobody enables it."""
LEAST_KEPT_S: Final = 3600.0
MOST_ATTEMPTS: Final = 60
"""How many attempts a delivery shows, the newest."""
WRITES: Final = 10
MAX_LISTED: Final = 1000
_BY_TIME: Final = re.compile(r"msg_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_DOWNWARDS: Final = str.maketrans("0123456789abcdef", "fedcba9876543210")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request that was sent, or was to be: when, what was answered or went wrong, and how long it took."""

    at: float
    turn: int
    status: int | None = None
    error: str | None = None
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a callback stands. url is without its query. turn counts resends; next_at is when it is tried again."""

    id: str
    call_id: str
    type: str
    url: str
    tenant: str | None = None
    user_id: str | None = None
    state: DeliveryState = "pending"
    turn: int = 1
    attempts: tuple[Attempt, ...] = ()
    created_at: float = 0.0
    updated_at: float = 0.0
    next_at: float | None = None
    error: str | None = None
    version: int = 0

    def to_json(self) -> dict[str, Any]:
        """As its owner sees it."""
        shown = {name: value for name, value in asdict(self).items() if name != "version" and value is not None}
        shown["attempts"] = [
            {name: value for name, value in asdict(one).items() if value is not None} for one in self.attempts
        ]
        return shown


_FIELDS: Final = frozenset(field.name for field in fields(Delivery))


class Page(NamedTuple):
    """Some deliveries, newest first; after continues the list, None at its end."""

    deliveries: tuple[Delivery, ...]
    after: str | None


class DeliveryLog:
    """The deliveries in an executor's records. Safe from any task; changes are made by compare-and-set."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor

    # -- for those who ask --------------------------------------------------------------------------------------------

    async def list(
        self,
        caller: Caller,
        *,
        state: str | None = None,
        call_id: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """The deliveries that a caller may see, newest first, below the id after."""
        if call_id is not None:
            from toolpost.worker.callbacks import message_id_of

            only = await self.find(message_id_of(call_id), caller)
            wanted = only is not None and only.call_id == call_id and state in (None, only.state)
            return Page((only,) if only is not None and wanted else (), None)
        limit = max(1, min(limit, MAX_LISTED))
        operator = OPERATE in caller.scopes
        documents = await had(
            self._executor.records.documents(
                KIND,
                tenant=None if operator and not caller.tenant else caller.tenant or "",
                user_id=None if operator else caller.user_id or "",
                state=state,
                after=None if after is None else key_of(after),
                limit=limit + 1,
            )
        )
        found = tuple(_delivery_of(document) for document in documents[:limit])
        return Page(found, found[-1].id if len(documents) > limit else None)

    async def find(self, delivery_id: str, caller: Caller) -> Delivery | None:
        """One delivery; None where there is none, or not for this caller."""
        delivery = await self._read(delivery_id)
        if delivery is None or not may_see(caller, Caller(user_id=delivery.user_id, tenant=delivery.tenant)):
            return None
        return delivery

    async def resend(self, delivery_id: str, caller: Caller) -> Delivery:
        """Send a callback again, at once and with all retries, whatever became of it. Raises NotFoundError."""
        delivery = await self.find(delivery_id, caller)
        if delivery is None:
            raise NotFoundError(f"there is no delivery {delivery_id!r:.100}")
        content = await had(self._executor.records.document(CONTENT, key_of(delivery_id)))
        if content is None:
            raise NotFoundError(f"what delivery {delivery_id!r:.100} sent is no longer kept")
        message = _message_of(content.body)
        turn = delivery.turn + 1
        again = message._replace(headers={**message.headers, "turn": str(turn)})
        # First the message, which brings the delivery to its turn by itself: the other way round a crash in between
        # would leave one that waits for ever.
        await had(self._executor.records.put_outbox([again]))
        return await self.change(delivery, lambda now: _begun(now, turn) if now.turn < turn else now)

    async def enable(self, url: str, caller: Caller) -> bool:
        """Take callbacks to a URL up again, for the caller's tenant; whether they were disabled."""
        key = _endpoint_key(url, caller.tenant, caller.user_id)
        return await had(self._executor.records.drop_document(ENDPOINT, key))

    # -- for the loop that sends --------------------------------------------------------------------------------------

    async def is_disabled(self, url: str, tenant: str | None, user_id: str | None) -> bool:
        """Whether the receiver at a URL has said that it wants no more, to this tenant."""
        return await had(self._executor.records.document(ENDPOINT, _endpoint_key(url, tenant, user_id))) is not None

    async def disable(self, url: str, tenant: str | None, user_id: str | None) -> None:
        """Send nothing more to a URL for a tenant, until it is enabled."""
        key = _endpoint_key(url, tenant, user_id)
        until = self._executor.clock.now() + ENDPOINT_KEPT_S
        body = orjson.dumps({"url": shown_url(url)})
        user = "" if tenant else user_id or ""
        document = Document(ENDPOINT, key, 0, body, tenant=tenant or "", user_id=user, expires_at=until)
        await had(self._executor.records.put_document(document))

    async def begin(self, message: Outgoing) -> Delivery | None:
        """The delivery of a message that is about to be sent; None where there is nothing to do any more."""
        delivery_id, turn = message.headers["id"], int(message.headers.get("turn", "1"))
        for _ in range(WRITES):
            known = await self._read(delivery_id)
            if known is None:
                made = self._new(message, delivery_id, turn)
                await had(self._executor.records.put_document(self._content(made, message)))
                if version := await had(self._executor.records.put_document(self._document(made), 0)):
                    return replace(made, version=version)
            elif turn < known.turn or (turn == known.turn and known.state != "pending"):
                return None
            elif turn == known.turn:
                return known
            else:
                await had(self._executor.records.put_document(self._content(known, message)))
                return await self.change(known, lambda now: _begun(now, turn) if now.turn < turn else now)
        raise EngineError(f"delivery {delivery_id} changes too often to be begun")

    async def change(self, delivery: Delivery, changed: Callable[[Delivery], Delivery]) -> Delivery:
        """Write what changed(delivery) gives, as often as somebody else writes in between."""
        for _ in range(WRITES):
            after = replace(changed(delivery), updated_at=self._executor.clock.now())
            version = await had(self._executor.records.put_document(self._document(after), delivery.version))
            if version:
                return replace(after, version=version)
            known = await self._read(delivery.id)
            delivery = replace(delivery, version=0) if known is None else known
        raise EngineError(f"delivery {delivery.id} changes too often to be written")

    async def _read(self, delivery_id: str) -> Delivery | None:
        document = await had(self._executor.records.document(KIND, key_of(delivery_id)))
        return None if document is None else _delivery_of(document)

    def _new(self, message: Outgoing, delivery_id: str, turn: int) -> Delivery:
        headers, now = message.headers, self._executor.clock.now()
        return Delivery(
            id=delivery_id,
            call_id=headers["call"],
            type=headers["type"],
            url=shown_url(message.dest),
            tenant=headers.get("tenant"),
            user_id=headers.get("user"),
            turn=turn,
            created_at=now,
            updated_at=now,
        )

    def _document(self, delivery: Delivery) -> Document:
        body = {name: value for name, value in asdict(delivery).items() if name != "version"}
        return Document(
            KIND,
            key_of(delivery.id),
            0,
            orjson.dumps(body),
            tenant=delivery.tenant or "",
            user_id=delivery.user_id or "",
            state=delivery.state,
            expires_at=self._kept_until(delivery.next_at),
        )

    def _content(self, delivery: Delivery, message: Outgoing) -> Document:
        head = orjson.dumps({"dest": message.dest, "key": message.key, "headers": dict(message.headers)})
        return Document(
            CONTENT,
            key_of(delivery.id),
            0,
            head + b"\n" + message.body,
            tenant=delivery.tenant or "",
            user_id=delivery.user_id or "",
            expires_at=self._kept_until(None) + CONTENT_KEPT_S,
        )

    def _kept_until(self, next_at: float | None) -> float:
        """As calls are kept, but never before it is tried again: who forgot the attempts would begin anew."""
        kept_s = max(self._executor.config.calls_kept, LEAST_KEPT_S)
        return max(self._executor.clock.now(), next_at or 0.0) + kept_s


CONTENT_KEPT_S: Final = 4 * 86_400.0
"""How much longer than how it stands what was sent is kept: as long as it may be retried."""


def key_of(delivery_id: str) -> str:
    """The key of a delivery's documents: those of time-ordered ids count downwards, so that the newest come first."""
    if _BY_TIME.match(delivery_id):
        return delivery_id[4:].translate(_DOWNWARDS)
    return f"~{hashlib.sha256(delivery_id.encode('utf-8', 'replace')).hexdigest()}"


def shown_url(url: str) -> str:
    """A URL without what may be a credential in it: its query, and whoever it names before the host."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "..."
    return f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"[:2048]


def _begun(delivery: Delivery, turn: int) -> Delivery:
    return replace(delivery, state="pending", turn=turn, next_at=None, error=None)


def with_attempt(
    delivery: Delivery,
    attempt: Attempt,
    state: DeliveryState,
    *,
    next_at: float | None = None,
    error: str | None = None,
) -> Delivery:
    """A delivery after one more attempt. One that was begun anew meanwhile stands as it does, and shows the attempt."""
    attempts = (*delivery.attempts, attempt)[-MOST_ATTEMPTS:]
    if delivery.turn != attempt.turn or delivery.state != "pending":
        return replace(delivery, attempts=attempts)
    return replace(delivery, attempts=attempts, state=state, next_at=next_at, error=error)


def _delivery_of(document: Document) -> Delivery:
    body: dict[str, Any] = orjson.loads(document.body)
    body["attempts"] = tuple(Attempt(**one) for one in body["attempts"])
    known = {name: value for name, value in body.items() if name in _FIELDS}  # a newer process may have written more
    return Delivery(**known, version=document.version)


def _message_of(content: bytes) -> Outgoing:
    head, _, body = content.partition(b"\n")
    about: Mapping[str, Any] = orjson.loads(head)
    return Outgoing(MESSAGE, about["dest"], about["key"], body, about["headers"])


def _endpoint_key(url: str, tenant: str | None, user_id: str | None) -> str:
    owner: Sequence[str | None] = ("tenant", tenant) if tenant else ("user", user_id)
    return hashlib.sha256(orjson.dumps([*owner, url])).hexdigest()
