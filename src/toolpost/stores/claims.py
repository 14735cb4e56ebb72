"""Claims: who may run the body for a key, with what leaves when it has; what every store of them promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from toolpost.stores.pending import Answer

ClaimState = Literal["granted", "in_flight", "done", "failed", "unknown", "mismatch"]


class ClaimAsk(NamedTuple):
    """What a holder asks for. key and fingerprint are digests as text; owner names the process for people.

    fingerprint None: whatever arguments the key stands for are right. lease_s is how long the holder may be silent.
    take_over: a claim whose holder is dead, or whose end is unknown, may be taken. rerun_failed: so may a failed one.
    """

    key: str
    fingerprint: str | None
    owner: str
    lease_s: float
    ttl_s: float
    take_over: bool = False
    rerun_failed: bool = True
    tool: str = ""
    tenant: str = ""


class Claim(NamedTuple):
    """How a claim stands after claim() or lookup().

    granted: it is yours, under fence; taken_over says that an earlier holder's end is unknown (its lease ran out, or it
    said so). in_flight: another holds it, for left_s more seconds unless it renews. done, failed: result is what the
    holder left (None where it left none). unknown: nobody knows how it ended, and result is what
    was said with that. mismatch: the key stands for other arguments. began_at is wall time of the store in seconds.
    """

    state: ClaimState
    fence: int = 0
    taken_over: bool = False
    result: bytes | None = None
    left_s: float = 0.0
    began_at: float = 0.0
    owner: str = ""
    key: str = ""
    tool: str = ""
    tenant: str = ""


class Outgoing(NamedTuple):
    """A message that leaves if and only if the transaction that wrote it committed."""

    kind: str
    dest: str
    key: str
    body: bytes
    headers: Mapping[str, str] = {}
    due_in_s: float = 0.0


class Claims(Protocol):
    """Who may run the body for a key. A fence grows with each grant and is never used twice for a key, also after its
    row was swept; a write under an old fence changes nothing. A lease that ran out does not refuse a finish, only a
    takeover does."""

    local: bool
    """Whether answers are at hand: then no lease is needed, as holder and store die together."""

    def claim(self, ask: ClaimAsk, /) -> Answer[Claim]:
        """Take the claim, or say how it stands. An in-flight claim whose lease ran out counts as unknown."""

    def renew(self, held: Sequence[tuple[str, int]], lease_s: float, /) -> Answer[list[bool]]:
        """Lengthen leases of (key, fence), in one go; False for each that is no longer held."""

    def finish(
        self,
        key: str,
        fence: int,
        state: Literal["done", "failed", "unknown"],
        result: bytes | None,
        ttl_s: float,
        outbox: Sequence[Outgoing] = (),
        /,
    ) -> Answer[bool]:
        """Say how it ended, with what must leave with it, in one transaction. False when another has taken over.

        done and failed are kept for ttl_s; unknown until settled. The same finish said again is True and changes
        nothing. Stores without an outbox raise ConfigurationError for one that is not empty.
        """

    def release(self, key: str, fence: int, /) -> Answer[bool]:
        """Give the claim back: the body never ran. It is free, whatever it stood as before a takeover.

        Its lease may have run out, and its holder may have said unknown. False for what is done or failed, is not
        there, or has been taken over.
        """

    def lookup(self, key: str, /) -> Answer[Claim | None]:
        """How a claim stands, taking nothing; None where there is none."""

    def forget(self, key: str, /) -> Answer[bool]:
        """Drop a claim that nobody holds, whatever it stands as; for operators. False when held or not there."""

    def unsettled(self, limit: int = 100, /) -> Answer[list[Claim]]:
        """Claims whose end is unknown, and those in flight whose lease ran out; oldest first."""
