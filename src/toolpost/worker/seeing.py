"""Who sees whose calls, which of them a list is asked for, and whose stand in one line."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from toolpost.calls.call import Caller
from toolpost.worker.reports import CallReport

OPERATE = "toolpost:operate"
"""The scope whose holders see, cancel and decide about all calls of their tenant (of all, if they have none)."""


def may_see(caller: Caller, of: Caller) -> bool:
    """Whether a caller sees the calls of another."""
    if OPERATE in caller.scopes:
        return not caller.tenant or caller.tenant == of.tenant
    return (caller.tenant or None) == (of.tenant or None) and (caller.user_id or None) == (of.user_id or None)


def line_of(caller: Caller, order_key: str) -> str:
    """What orders calls in the store: an order_key within its tenant, or its user where there is none.

    Others may choose the same key, and theirs are not to wait for one that is not theirs to see.
    """
    return orjson.dumps([caller.tenant, None if caller.tenant else caller.user_id, order_key]).decode()


class Wanted(NamedTuple):
    """What a list is asked for. user_id "" stands for nobody's calls; None and () for any."""

    states: tuple[str, ...]
    tool: str | None
    user_id: str | None
    session_id: str | None
    since: float | None
    until: float | None
    after: str | None

    def has(self, report: CallReport) -> bool:
        """Whether a call is among them."""
        return (
            (not self.states or report.state in self.states)
            and self.tool in (None, report.tool)
            and self.user_id in (None, report.caller.user_id or "")
            and self.session_id in (None, report.caller.session_id)
            and (self.since is None or self.since <= report.created_at)
            and (self.until is None or report.created_at < self.until)
            and (self.after is None or report.call_id < self.after)
        )


__all__ = ["OPERATE", "Wanted", "line_of", "may_see"]
