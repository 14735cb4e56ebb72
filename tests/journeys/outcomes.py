"""How each call is to end, by style and outcome; and what has to happen before, so that it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.journeys import wares
from tests.journeys.doors import Door
from tests.journeys.observed import Told
from tests.journeys.world import Asked, Held, World

DEADLINE_S = 0.3
"""How long a call may take that has to wait longer than that for its turn."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How a call ends: code is None where it succeeds. runs: how often the body ran for it."""

    code: str | None = None
    status: int = 200
    retryable: bool = False
    retry_after: bool = False
    outcome: str = "ran"
    runs: int = 1
    source: str = "run"
    errors: bool = False
    ways: tuple[str, ...] = ()


def refused(code: str, status: int, **more: Any) -> Expected:
    """A call whose body does not run."""
    return Expected(code=code, status=status, outcome="not_run", runs=0, **more)


def failed(code: str, status: int, **more: Any) -> Expected:
    """A call whose body ran."""
    return Expected(code=code, status=status, **more)


EXPECTED: dict[str, Expected] = {
    "success": Expected(),
    "null": Expected(),
    "big": Expected(),
    "artifacts": Expected(),
    "secrets": Expected(),
    "approved": Expected(),
    "replayed": Expected(runs=0, source="replay"),
    "cached": Expected(runs=0, source="cache"),
    "invalid_input": refused("invalid_input", 400, errors=True),
    "too_large": refused("invalid_input", 400, errors=True),
    "unknown_tool": refused("unknown_tool", 404),
    "screened": refused("screened", 403),
    "unauthenticated": refused("unauthenticated", 401),
    "denied": refused("denied", 403),
    "refused_by_hook": refused("denied", 403),
    "approval_required": refused("approval_required", 403, ways=("approval_id",)),
    "approval_denied": refused("approval_denied", 403, ways=("approval_id",)),
    "authorization_required": refused("authorization_required", 401, ways=("authorization_url", "flow_id")),
    "rate_limited": refused("rate_limited", 429, retryable=True, retry_after=True),
    "concurrency_limited": refused("concurrency_limited", 429, retryable=True, retry_after=True),
    "in_progress": refused("in_progress", 409, retryable=True),
    "key_mismatch": refused("key_mismatch", 422),
    "circuit_open": refused("circuit_open", 503, retryable=True, retry_after=True),
    "late": refused("timeout", 504, retryable=True),
    "timeout": failed("timeout", 504, retryable=True, outcome="unknown"),
    "cancelled": failed("cancelled", 499, outcome="unknown"),
    "raises": failed("tool_failed", 500),
    "own_error": failed("NO_ORDER", 500),
    "own_passing_error": failed("LATER", 500, retryable=True),
    "upstream_failed": failed("upstream_failed", 502, retryable=True, retry_after=True),
    "invalid_output": failed("invalid_output", 502),
}
BY_STYLE: dict[tuple[str, str], Expected] = {
    **{(style, "timeout"): replace(EXPECTED["timeout"], outcome="stopped") for style in ("async", "function")},
    ("db", "upstream_failed"): failed("upstream_failed", 502, runs=0),
    ("db", "timeout"): replace(EXPECTED["timeout"], runs=0),
}
"""Where a style's calls end otherwise than others'."""


def expected(style: str, outcome: str) -> Expected:
    """How calls of a style end."""
    return BY_STYLE.get((style, outcome), EXPECTED[outcome])


@dataclass
class Journey:
    """One call of one style through one door, with all that goes before it."""

    world: World
    door: Door
    style: str
    outcome: str
    mark: str = ""
    asked: Asked = field(init=False)
    held: Held | None = None

    def __post_init__(self) -> None:
        self.mark = self.world.mark()
        tool = self.world.place(self.style, self.outcome, task=self.door.task)
        if self.outcome == "unknown_tool":
            tool = f"No.{self.style}"
        keyed = self.outcome in ("replayed", "key_mismatch", "in_progress")
        self.asked = Asked(
            tool=tool,
            arguments=wares.arguments(self.style, self.outcome, self.mark),
            key=f"key-{self.mark}" if keyed else None,
            deadline_s=DEADLINE_S if self.outcome == "late" else None,
        )

    @property
    def user(self) -> str | None:
        return self.world.user(self.door.name)

    def prepare(self) -> None:
        """Have happen what has to be there before."""
        step = BEFORE.get(self.outcome)
        if step is not None:
            step(self)

    def make(self) -> Told:
        """The call itself."""
        if self.outcome == "cancelled":
            return self.door.cancelled(self.asked, self.begun)
        return self.door.call(self.asked)

    def begun(self) -> None:
        """Wait until the body runs."""
        from tests.journeys.world import until

        until(lambda: wares.runs(self.mark) > 0, f"{self.asked.tool} did not begin through {self.door.name}")

    def end(self) -> None:
        """Let all go that was held."""
        wares.let_go(self.mark)
        if self.held is not None:
            self.held.end()


def once_before(journey: Journey) -> None:
    """The same call through the same door."""
    journey.door.call(journey.asked)


def another_before(journey: Journey) -> None:
    """A call with the same key and other arguments."""
    other = wares.arguments(journey.style, journey.outcome, journey.mark, amount=4)
    journey.door.call(Asked(tool=journey.asked.tool, arguments=other, key=journey.asked.key))


def held_before(journey: Journey) -> None:
    """The same call of the same caller, which goes on meanwhile."""
    held = wares.arguments(journey.style, journey.outcome, journey.mark, amount=wares.HELD)
    journey.asked = replace(journey.asked, arguments=held)
    first = replace(journey.asked, deadline_s=None)
    journey.held = Held(journey.world, journey.world.call(journey.door.name, first), journey.mark)


def asked_before(journey: Journey) -> str:
    """The same call, for which a person has to be asked; the approval's id."""
    call = journey.world.call(journey.door.name, journey.asked)
    result = journey.world.executor.execute_sync(call)
    assert result.failure is not None
    return str(result.failure.details["approval_id"])


def approved_before(journey: Journey) -> None:
    """A person has approved it."""
    journey.world.executor.approvals.approve(asked_before(journey), by="eve")


def denied_before(journey: Journey) -> None:
    """A person has denied it."""
    journey.world.executor.approvals.deny(asked_before(journey), by="eve", reason="not today")


BEFORE: dict[str, Callable[[Journey], Any]] = {
    "replayed": once_before,
    "cached": once_before,
    "rate_limited": once_before,
    "circuit_open": once_before,
    "key_mismatch": another_before,
    "concurrency_limited": held_before,
    "in_progress": held_before,
    "late": held_before,
    "approved": approved_before,
    "approval_denied": denied_before,
}
