"""What operators do by hand: settle or forget idempotency claims, look at circuits, hold them open or closed."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import orjson

from toolpost.calls.clock import Clock
from toolpost.calls.errors import ConfigurationError
from toolpost.pipeline.replays import JSON
from toolpost.stores import Answer, Circuit, Claim, Claims, Pending
from toolpost.stores.circuits import Circuits

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long an operator waits for a store."""


class ClaimOperations:
    """The idempotency claims of one store. Every method blocks, for ten seconds at most, and raises
    StoreUnavailableError when the store gives no answer."""

    def __init__(self, claims: Claims, clock: Clock) -> None:
        self._claims, self._clock = claims, clock

    def unsettled(self, limit: int = 100) -> list[Claim]:
        """Claims whose end nobody knows: of holders that died, or whose bodies were given up; oldest first."""
        return self._had(self._claims.unsettled(limit))

    def show(self, key: str) -> Claim | None:
        """How a claim stands; None where there is none."""
        return self._had(self._claims.lookup(key))

    def forget(self, key: str) -> bool:
        """Let the key be used anew, as if the call had never been made. False when it is held or not there."""
        return self._had(self._claims.forget(key))

    def settle(self, key: str, result: Any, *, ttl_s: float = 86_400.0) -> bool:
        """Say that the call succeeded with this result (a JSON value), which repeats are given from now on.

        False when there is no claim of unknown end under the key: one that is held, or has ended, stays as it is.
        """
        claim = self.show(key)
        if claim is None or claim.state != "unknown":
            return False
        try:
            kept = JSON + orjson.dumps(result)
        except TypeError as error:
            raise ConfigurationError(f"a result must be a JSON value: {error}") from error
        return self._had(self._claims.finish(key, claim.fence, "done", kept, ttl_s))

    def _had(self, answer: Answer[T]) -> T:
        return answer.wait(self._clock, PATIENCE_S) if isinstance(answer, Pending) else answer


class CircuitOperations:
    """The circuits of one executor's breakers, by key: the dependency or tool a breaker names, behind its tenant.

    local are those of this process; shared, those of breakers that say shared=True.
    """

    def __init__(self, local: Circuits, shared: Any, clock: Clock) -> None:
        self._local, self._shared, self._clock = local, shared, clock

    def show(self, key: str, *, shared: bool = False) -> Circuit:
        """How a circuit stands; one that was never used is closed."""
        circuit: Circuit = self._had(self._of(shared).circuit(key))
        return circuit

    def force(self, key: str, state: Literal["open", "closed"], *, shared: bool = False) -> None:
        """Hold a circuit open (every call is refused) or closed (none is), whatever happens."""
        if state not in ("open", "closed"):
            raise ConfigurationError(f"a circuit is forced 'open' or 'closed', got {state!r}; reset(key) lets it go")
        self._had(self._of(shared).force(key, state))

    def reset(self, key: str, *, shared: bool = False) -> None:
        """Let a circuit go on by itself, closed and with nothing counted."""
        self._had(self._of(shared).force(key, ""))

    def _of(self, shared: bool) -> Any:
        return self._shared if shared else self._local

    def _had(self, answer: Answer[T]) -> T:
        return answer.wait(self._clock, PATIENCE_S) if isinstance(answer, Pending) else answer
