"""GrantNotes: rows of the audit log about grants that were given, refused, revoked or ended; never with a token."""

from __future__ import annotations

from typing import Any
from weakref import WeakMethod

from toolpost.calls.oauth import Revoked
from toolpost.security.noting import Audit, noted
from toolpost.security.oauth_kept import Asked, Held
from toolpost.stores.documents import Document


class GrantNotes:
    """Tells the audit logs of the executors that use one AuthorizationManager."""

    def __init__(self) -> None:
        self._audits: tuple[WeakMethod[Audit], ...] = ()

    def tell(self, audit: Audit) -> None:
        """Tell the log that a method gives too, as long as its object is there."""
        living = [one for one in self._audits if one() not in (None, audit)]
        self._audits = (*living, WeakMethod(audit))

    def given(self, document: Document, flow: Asked, held: Held) -> None:
        """A person granted."""
        about = {"provider": flow.provider, "scopes": held.scopes, "expires_at": held.expires_at}
        self._noted("given", document, tool=flow.tool_name, session=flow.session_id, **about)

    def refused(self, document: Document, flow: Asked, why: str, by: str | None) -> None:
        """A person said no, or the answer was not good. by: who brought it."""
        about = {"provider": flow.provider, "scopes": flow.scopes, "reason": why}
        other = by if by != document.user_id else None
        self._noted("refused", document, tool=flow.tool_name, session=flow.session_id, by=other, **about)

    def revoked(self, document: Document, held: Held | None, provider: str, tool: str | None, done: Revoked) -> None:
        """A grant was revoked. held is None where it could not be opened any more."""
        was = {} if held is None else {"scopes": held.scopes}
        tool = tool or (None if held is None else held.tool_name)
        self._noted(
            "revoked", document, tool=tool, provider=provider, at_provider=done.at_provider, reason=done.why, **was
        )

    def ended(self, document: Document, held: Held) -> None:
        """The provider refused to refresh a grant."""
        about = {"provider": held.provider, "scopes": held.scopes, "reason": "its provider refreshes it no more"}
        self._noted("ended", document, tool=held.tool_name, **about)

    def _noted(self, what: str, document: Document, **fields: Any) -> None:
        """Executors may share a chain besides: each chain is told once."""
        told: list[Any] = []
        for audit in (one() for one in self._audits):
            log = None if audit is None else audit()
            if log is not None and log.records not in told:
                told.append(log.records)
                who = {"user": document.user_id, "tenant": document.tenant or None}
                noted(lambda log=log: log, f"grant.{what}", **who, **fields)  # type: ignore[misc]
