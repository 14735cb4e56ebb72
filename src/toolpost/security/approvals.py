"""Approvals: what people must decide before a call may run, and what they decided; single-use grants in Records.

All about one call (tool, version, definition, arguments, caller) is one document, which changes by compare-and-set:
pending -> approved, denied or edited; approved -> reserved -> consumed, or approved again when the body never ran.
Whatever cannot be told (a process died, a store is away) counts as used.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, EngineError, PermissionDeniedError
from toolpost.calls.events import ApprovalChanged
from toolpost.calls.redaction import Redactor
from toolpost.security.approval_records import (
    KEPT_S,
    KIND,
    LAST,
    LAST_KEPT_S,
    OVER,
    PAST,
    SPENT,
    ApprovalRecord,
    key_in,
    key_of,
    new_approval_id,
    record_of,
)
from toolpost.security.noting import Audit, no_audit, noted
from toolpost.security.shown import changes
from toolpost.security.waiting_room import MAX_LISTED, Had, WaitingRoom
from toolpost.stores import Answer, Document, Records

logger = logging.getLogger("toolpost")

ATTEMPTS: Final = 20


class Approvals:
    """Asks, decisions and grants. Safe from any thread and loop, and over any number of processes."""

    def __init__(
        self,
        records: Records,
        clock: Clock = SYSTEM_CLOCK,
        redactor: Redactor | None = None,
        audit: Audit = no_audit,
    ) -> None:
        self.records, self.clock, self.redactor = records, clock, redactor or Redactor()
        self.waiting = WaitingRoom(records, clock)
        self.ask_for_destructive = False
        """Whether tools that say they are destructive, and nothing of approval, have a person asked."""
        self.tell: Callable[[ApprovalChanged], None] = lambda event: None
        self.secret: Callable[[], str] = lambda: ""
        """Gives secret_key, without which digests of arguments are plain."""
        self._audit = audit

    def sealed(self, digest: str) -> str:
        """A digest of arguments as it is kept: from one made with secret_key nobody guesses what is hidden."""
        secret = self.secret()
        if not secret:
            return digest
        text = f"toolpost approvals: arguments {digest}"
        return hmac.digest(secret.encode("utf-8", "surrogatepass"), text.encode(), "sha256").hex()

    # -- for calls ----------------------------------------------------------------------------------------------------

    async def find(self, subject: str, had: Had) -> ApprovalRecord | None:
        """How a call stands: subject is the digest of all that a grant is bound to."""
        document = await had(self.records.document(KIND, key_of(subject)))
        return None if document is None else self._of(document, subject)

    async def ask(self, draft: ApprovalRecord, subject: str, max_pending: int, had: Had) -> ApprovalRecord:
        """The question about a call, which is asked anew unless one stands. Raises RateLimitError for too many."""
        for _ in range(ATTEMPTS):
            now = self.clock.now()
            document = await had(self.records.document(KIND, key_of(subject)))
            earlier = None if document is None else self._of(document, subject)
            if earlier is not None and earlier.standing(now) not in OVER:
                return earlier
            if draft.state == "pending":
                await self.waiting.check_room(draft, max_pending, had)
            made = await self._new(draft, subject, earlier, now, had)
            if made.state == "pending":
                await self.waiting.add(made, had)
            version = await had(
                self.records.put_document(self._document(subject, made), 0 if document is None else document.version)
            )
            if version:
                self._told(made, "asked" if made.state == "pending" else made.state, now, call_id=made.call_id)
                return replace(made, at_version=version)
        raise EngineError("the approval of this call changes too often to be asked for; try again")

    async def reserve(
        self, record: ApprovalRecord, subject: str, call_id: str, lease_s: float, had: Had
    ) -> ApprovalRecord | None:
        """Take a grant for one call; None when another has it, or it is no more. Say ended() of it in any case."""
        now = self.clock.now()
        if record.standing(now) != "approved":
            return None
        taken = replace(record, state="reserved", lease_until=now + lease_s, call_id=call_id)
        taken = taken.with_event(now, "reserved", call_id=call_id)
        version = await had(self.records.put_document(self._document(subject, taken), record.at_version))
        if not version:
            return None
        self._told(taken, "reserved", now, call_id=call_id)
        return replace(taken, at_version=version)

    def ended(self, record: ApprovalRecord, subject: str, why_not_run: str | None) -> Answer[int]:
        """Say what became of the call of a reserved grant: it ran, or may have (None), or why its body never did."""
        now = self.clock.now()
        if why_not_run is None:
            after = replace(record, state="consumed", lease_until=None).with_event(now, "consumed")
            self._told(record, "consumed", now, call_id=record.call_id)
        else:
            after = replace(record, state="approved", lease_until=None)
            after = after.with_event(now, "given back", call_id=record.call_id, why=why_not_run)
            self._told(record, "given back", now, reason=why_not_run, call_id=record.call_id)
        return self.records.put_document(self._document(subject, after), record.at_version)

    async def spend_key(self, key: str, record: ApprovalRecord, ttl_s: float, had: Had) -> None:
        """Remember that the call of an idempotency key ran by a grant."""
        kept = Document(
            SPENT,
            key,
            0,
            orjson.dumps({"approval_id": record.id}),
            tenant=record.tenant or "",
            user_id=record.user_id or "",
            expires_at=self.clock.now() + ttl_s,
        )
        await had(self.records.put_document(kept))

    async def is_spent(self, key: str, had: Had) -> bool:
        """Whether a call with that idempotency key ran by a grant before."""
        return await had(self.records.document(SPENT, key)) is not None

    # -- for people ---------------------------------------------------------------------------------------------------

    async def shown(self, approval_id: str, had: Had) -> ApprovalRecord | None:
        """The record of an id, also of one that another has taken the place of."""
        document = await had(self.records.document(KIND, key_in(approval_id)))
        if document is not None:
            record = record_of(document.body, document.version)
            if record.id == approval_id:
                return record
        past = await had(self.records.document(PAST, approval_id))
        return None if past is None else record_of(past.body, past.version)

    async def listed(self, state: str | None, tenant: str | None, limit: int, had: Had) -> list[ApprovalRecord]:
        """Records that stand so, oldest question first; all that are kept where state is None."""
        if state == "pending":
            return await self.waiting.oldest(tenant, limit, had)
        now = self.clock.now()
        found: list[ApprovalRecord] = []
        as_kept = {"lost": "reserved", "expired": None}.get(state or "", state)
        for kind in (KIND,) if state in ("approved", "reserved") else (KIND, PAST):
            raw = as_kept if kind == KIND else state  # what is over is kept as what it was in the end
            after = None
            while len(found) < MAX_LISTED:
                page = await had(self.records.documents(kind, tenant=tenant, state=raw, after=after, limit=500))
                records = (record_of(one.body, one.version) for one in page)
                found.extend(one for one in records if state is None or one.standing(now) == state)
                if len(page) < 500:
                    break
                after = page[-1].key
        return sorted(found, key=lambda one: (one.asked_at, one.id))[:limit]

    async def decide(
        self,
        approval_id: str,
        by: Caller | str,
        had: Had,
        *,
        approve: bool,
        reason: str | None = None,
        edited: ApprovalRecord | None = None,
        edited_subject: str = "",
    ) -> ApprovalRecord:
        """Approve a question, deny it, or (edited) grant the call with other arguments; the record, of those theirs.

        Raises ConfigurationError when it waits for no decision, PermissionDeniedError when by may not decide.
        """
        document = await had(self.records.document(KIND, key_in(approval_id)))
        record = None if document is None else record_of(document.body, document.version)
        if document is None or record is None or record.id != approval_id:
            past = await had(self.records.document(PAST, approval_id))
            said = "is over: the same call was asked about anew" if past is not None else "is not there"
            raise ConfigurationError(f"approval {approval_id!r:.80} {said}; those that are pending wait for a decision")
        now = self.clock.now()
        standing = record.standing(now)
        if standing != "pending":
            raise ConfigurationError(
                f"approval {approval_id} is {standing}; only one that is pending can be decided",
                details={"state": standing},
            )
        who = decider(record, by, approve=approve)
        if edited is not None:
            await self._check_free(edited_subject, now, had)
        what = "edited" if edited is not None else "approved" if approve else "denied"
        after = replace(
            record,
            state=what,  # type: ignore[arg-type]
            decided_by=who,
            decided_at=now,
            decision_reason=reason,
            expires_at=now + record.expires_s,
        )
        made: ApprovalRecord | None = None
        if edited is not None:
            made = replace(
                edited,
                id=new_approval_id(edited_subject),
                state="approved",
                edited_from=record.id,
                decided_by=who,
                decided_at=now,
                decision_reason=reason,
            )
            after = replace(after, edited_id=made.id, edited_arguments=edited.arguments)
        after = after.with_event(now, what, by=who, reason=reason)
        version = await had(self.records.put_document(self._document(record.subject, after), document.version))
        if not version:
            return await self.decide(
                approval_id,
                by,
                had,
                approve=approve,
                reason=reason,
                edited=edited,
                edited_subject=edited_subject,
            )
        self._told(after, what, now, by=who, reason=reason)
        await self.waiting.drop(after, had)
        if made is not None:
            return await self.ask(made, edited_subject, 1, had)
        if approve:
            await self._remember(after, had)
        return replace(after, at_version=version)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _of(self, document: Document, subject: str) -> ApprovalRecord:
        record = record_of(document.body, document.version)
        if record.subject != subject:
            raise EngineError("another call's approval is kept under the key of this one, so the call was refused")
        return record

    def _document(self, subject: str, record: ApprovalRecord) -> Document:
        until = max(record.expires_at, record.lease_until or 0.0) + KEPT_S
        return Document(
            KIND,
            key_of(subject),
            0,
            record.body(),
            tenant=record.tenant or "",
            user_id=record.user_id or "",
            state=record.state,
            expires_at=until,
        )

    async def _new(
        self, draft: ApprovalRecord, subject: str, earlier: ApprovalRecord | None, now: float, had: Had
    ) -> ApprovalRecord:
        """The record of a new question; the one in whose place it comes is put aside."""
        if earlier is not None:
            put = self._document(subject, earlier)._replace(kind=PAST, key=earlier.id, state=earlier.standing(now))
            await had(self.records.put_document(put))
        before = await had(self.records.document(LAST, _caller_and_tool(draft)))
        changed = () if before is None else tuple(changes(orjson.loads(before.body), _plain(draft.arguments)))
        made = replace(
            draft,
            id=draft.id or new_approval_id(subject),
            subject=subject,
            asked_at=now,
            expires_at=now + draft.expires_s,
            changes=changed,
        )
        more = {"after": earlier.id} if earlier is not None else {}
        return made.with_event(now, "asked" if made.state == "pending" else made.state, by=made.decided_by, **more)

    async def _check_free(self, subject: str, now: float, had: Had) -> None:
        there = await self.find(subject, had)
        standing = None if there is None else there.standing(now)
        if there is not None and standing in ("approved", "reserved", "pending", "denied", "edited"):
            raise ConfigurationError(
                f"a call with the edited arguments is {standing} already, as {there.id}; decide about that one",
                details={"state": standing, "approval_id": there.id},
            )

    async def _remember(self, record: ApprovalRecord, had: Had) -> None:
        """Keep what was approved, for the next approver to compare with; nothing hangs on it."""
        kept = Document(
            LAST,
            _caller_and_tool(record),
            0,
            orjson.dumps(_plain(record.arguments)),
            tenant=record.tenant or "",
            user_id=record.user_id or "",
            expires_at=self.clock.now() + LAST_KEPT_S,
        )
        try:
            await had(self.records.put_document(kept))
        except EngineError as error:
            logger.warning("what was approved could not be kept to compare with: %s", error.message)

    def _told(self, record: ApprovalRecord, what: str, at: float, **more: Any) -> None:
        """Tell observers and the audit log; neither can undo what happened."""
        event = ApprovalChanged(
            approval_id=record.id,
            tool=record.tool,
            version=record.version,
            what=what,
            at=at,
            user_id=record.user_id,
            tenant=record.tenant,
            session_id=record.session_id,
            **more,
        )
        try:
            self.tell(event)
        except Exception:
            logger.exception("an approval could not be told of: %s", record.id)
        noted(
            self._audit,
            f"approval.{what.replace(' ', '_')}",
            approval_id=record.id,
            tool=record.tool,
            version=record.version,
            user=record.user_id,
            tenant=record.tenant,
            session=record.session_id,
            call=more.pop("call_id", None),
            **more,
        )


def decider(record: ApprovalRecord, by: Caller | str, *, approve: bool) -> str:
    """The name of whoever decides. Raises PermissionDeniedError when they may not, ConfigurationError for nobody.

    A name comes from an operator, who may decide whatever the policy says of approvers; a Caller must be one of them.
    """
    name = by.user_id if isinstance(by, Caller) else by
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError("an approval is decided by a person: give by=, their name or their Caller")
    own = _folded(name) == _folded(record.user_id or "")
    if own and approve and not record.self_approval:
        raise PermissionDeniedError(
            f"{name!r} made this call, and nobody approves a call of their own; have somebody else decide"
        )
    if not isinstance(by, Caller):
        return name
    if (by.tenant or None) != (record.tenant or None):
        raise PermissionDeniedError(f"{name!r} is of another tenant than the call")
    if own and not approve:
        return name  # everybody may withdraw a call
    has = {f"user:{by.user_id}", *(f"role:{one}" for one in by.roles), *(f"scope:{one}" for one in by.scopes)}
    if record.approvers and has.isdisjoint(record.approvers):
        raise PermissionDeniedError(
            f"{name!r} may not decide about calls of {record.tool}; this takes {' or '.join(record.approvers)}",
            details={"approvers": list(record.approvers)},
        )
    return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _caller_and_tool(record: ApprovalRecord) -> str:
    parts = orjson.dumps([record.tool, record.tenant, record.user_id])
    return hashlib.sha256(parts).hexdigest()[:32]


def _plain(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


__all__ = ["ApprovalRecord", "Approvals", "Had", "decider"]
