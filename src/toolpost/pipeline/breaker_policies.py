"""Breakers as objects of their own, with the parameters that document C gives them; the stage breaker drives ours."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import CircuitOpenError, ConfigurationError, Rejected, ToolExecutionError, ToolTimeoutError
from toolpost.calls.policies import Breaker, CircuitBreakerState
from toolpost.calls.redaction import scrub_message
from toolpost.pipeline.failures import kind_of, root_of
from toolpost.stores import Circuit, CircuitRules
from toolpost.stores.circuits import Circuits

TRIPS_ON: Final = frozenset(Breaker().trips_on)
CAUSE_CHARS: Final = 300
"""How much of a message is kept as a circuit's cause."""
READ_CHARS: Final = 2000
"""And how much of it is looked at."""


@runtime_checkable
class ICircuitBreakerPolicy(Protocol):
    """A breaker of one's own: awaits func(), or raises CircuitOpenError instead. func takes nothing."""

    async def execute_with_breaker(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any: ...


def counts(raised: BaseException, trips_on: frozenset[str]) -> bool:
    """Whether an exception is a failure of what stands behind the tool, by kinds and error codes in lower case.

    Refusals, cancellation and a body that never got a thread say nothing about it.
    """
    error = root_of(raised)
    if not isinstance(error, Exception) or isinstance(error, Rejected):
        return False
    if isinstance(error, ToolTimeoutError) and error.outcome == "not_run":
        return False
    if kind_of(error) in trips_on:
        return True
    return isinstance(error, ToolExecutionError) and str(error.code).lower() in trips_on


def cause_of(raised: BaseException) -> str:
    """Code and message of an error, short and without secrets."""
    if isinstance(raised, ToolExecutionError):
        return f"{raised.code}: {_shown(raised.message)}"
    kind = type(raised).__name__
    try:
        text = _shown(str(raised))
    except Exception:
        return kind
    return f"{kind}: {text}" if text else kind


def _shown(text: str) -> str:
    """The beginning of a message. It is cut after secrets are hidden: half a password would not be known for one."""
    return scrub_message(text[:READ_CHARS])[:CAUSE_CHARS]


def refusal(key: str, circuit: Circuit) -> CircuitOpenError:
    """The error for a call that is held back; details name the circuit, its state and the error that tripped it."""
    after = f" after {circuit.cause}" if circuit.cause else ""
    when = f"; retry in {circuit.left_s:.1f} s" if circuit.left_s else ""
    if circuit.forced:
        said = f"Circuit breaker is open for {key!r}: an operator holds it"
    elif circuit.state == "half_open":
        said = f"Circuit breaker is half open for {key!r}{after}: probes find out whether it is well again{when}"
    else:
        said = f"Circuit breaker is open for {key!r}{after}{when}"
    return CircuitOpenError(
        said,
        retry_after_s=circuit.left_s or None,
        details={"circuit": key, "state": circuit.state, "cause": circuit.cause},
    )


class _CircuitPolicy:
    """One circuit for each tool name. Tools with this policy have theirs among the circuits of their executor."""

    def __init__(self, rules: CircuitRules, clock: Clock | None) -> None:
        self.rules = rules
        self._circuits = None if clock is None else Circuits(clock.monotonic)
        self._names: set[str] = set()

    def circuits_for(self, tool_name: str, executors: Circuits | None = None) -> Circuits:
        """Where this policy's circuits are: where they were first, if that is settled, else with the executor."""
        if self._circuits is None:
            self._circuits = Circuits(SYSTEM_CLOCK.monotonic) if executors is None else executors
        self._names.add(tool_name)
        return self._circuits

    async def execute_with_breaker(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any:
        """Await func(), or raise CircuitOpenError while the circuit of tool_name is open."""
        circuits, rules = self.circuits_for(tool_name), self.rules
        circuit = circuits.admit(tool_name, rules)
        if not circuit.admitted:
            raise refusal(tool_name, circuit)
        try:
            value = await func()
        except BaseException as raised:
            failed = counts(raised, TRIPS_ON)
            circuits.report(
                tool_name, rules, False if failed else None, circuit.probe, cause_of(raised) if failed else ""
            )
            raise
        circuits.report(tool_name, rules, True, circuit.probe)
        return value

    def get_state(self, tool_name: str) -> CircuitBreakerState:
        """closed, open or half_open."""
        circuits = self._circuits
        return CircuitBreakerState("closed" if circuits is None else circuits.circuit(tool_name).state)

    def reset(self, tool_name: str | None = None) -> None:
        """Close a tool's circuit and forget what was counted; without a name, all of them."""
        if self._circuits is not None:
            for name in tuple(self._names) if tool_name is None else (tool_name,):
                self._circuits.force(name, "")


class StandardCircuitBreakerPolicy(_CircuitPolicy):
    """Opens after failure_threshold failures in a row; after recovery_timeout seconds probes find out more.

    half_open_max_calls probes run at a time, and that many must succeed to close it; one that fails opens it anew.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_timeout: float = 30,
        half_open_max_calls: int = 1,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.failure_threshold = whole(self, "failure_threshold", failure_threshold)
        self.recovery_timeout = number(self, "recovery_timeout", recovery_timeout, above=0)
        self.half_open_max_calls = whole(self, "half_open_max_calls", half_open_max_calls)
        super().__init__(CircuitRules(failure_threshold, float(recovery_timeout), half_open_max_calls), clock)


class AdaptiveCircuitBreakerPolicy(_CircuitPolicy):
    """Opens when error_rate_threshold of the last window_size calls failed, once enough of them are there to judge.

    Enough is base_threshold calls, and grows up to max_threshold while calls mostly succeed.
    """

    def __init__(
        self,
        base_threshold: int = 5,
        max_threshold: int = 20,
        error_rate_threshold: float = 0.5,
        window_size: int = 100,
        recovery_timeout: float = 30,
        half_open_max_calls: int = 1,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.base_threshold = whole(self, "base_threshold", base_threshold)
        self.max_threshold = whole(self, "max_threshold", max_threshold, at_least=base_threshold)
        self.error_rate_threshold = number(self, "error_rate_threshold", error_rate_threshold, above=0, at_most=1)
        self.window_size = whole(self, "window_size", window_size)
        self.recovery_timeout = number(self, "recovery_timeout", recovery_timeout, above=0)
        self.half_open_max_calls = whole(self, "half_open_max_calls", half_open_max_calls)
        rules = CircuitRules(
            failures=base_threshold,
            recovery_s=float(recovery_timeout),
            half_open_calls=half_open_max_calls,
            error_rate=float(error_rate_threshold),
            max_failures=max_threshold,
            window=window_size,
        )
        super().__init__(rules, clock)


class NoOpCircuitBreakerPolicy:
    """Never opens."""

    async def execute_with_breaker(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any:
        """Await func()."""
        return await func()

    def get_state(self, tool_name: str) -> CircuitBreakerState:
        """Always closed."""
        return CircuitBreakerState.CLOSED

    def reset(self, tool_name: str | None = None) -> None:
        """Nothing to forget."""


def does_nothing(policy: object) -> bool:
    """Whether a policy is a NoOpCircuitBreakerPolicy that no subclass has made into something else."""
    return (
        isinstance(policy, NoOpCircuitBreakerPolicy)
        and type(policy).execute_with_breaker is NoOpCircuitBreakerPolicy.execute_with_breaker
    )


def circuit_policy(policy: object) -> _CircuitPolicy | None:
    """The policy where its circuits and rules say all about it; None where a class has its own way to run calls."""
    if not isinstance(policy, _CircuitPolicy):
        return None
    return policy if type(policy).execute_with_breaker is _CircuitPolicy.execute_with_breaker else None


class CircuitBreakerPolicyFactory:
    """Breakers by name: standard, adaptive, noop, and those that were registered."""

    _policies: ClassVar[dict[str, Any]] = {
        "standard": StandardCircuitBreakerPolicy,
        "adaptive": AdaptiveCircuitBreakerPolicy,
        "noop": NoOpCircuitBreakerPolicy,
    }

    @classmethod
    def get_policy(cls, name: str = "standard", **options: Any) -> Any:
        """A policy: a new one of a registered class, made with options; or the object that was registered.

        Raises ConfigurationError for an unknown name, and for options that the class does not take.
        """
        return made(cls, name, options, "circuit breaker policy")

    create = get_policy

    @classmethod
    def register(cls, name: str, policy: Any) -> None:
        """Give a policy object, or a class of them, a name, for the whole process."""
        cls._policies[name] = registrable(name, policy, "execute_with_breaker")


def made(factory: Any, name: str, options: dict[str, Any], what: str) -> Any:
    """What a factory has under a name."""
    known: dict[str, Any] = factory._policies
    if name not in known:
        raise ConfigurationError(f"Unknown {what}: {name!r}; there are {', '.join(sorted(known))}")
    policy = known[name]
    if isinstance(policy, type):
        try:
            return policy(**options)
        except TypeError as error:
            raise ConfigurationError(f"{what} {name!r}: {error}") from error
    if options:
        raise ConfigurationError(f"{what} {name!r} is one object, so it takes no options: {', '.join(sorted(options))}")
    return policy


def registrable(name: str, policy: Any, method: str) -> Any:
    """The policy, once it is sure that it has the method."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a policy's name must be text, got {name!r}")
    if not callable(getattr(policy, method, None)):
        kind = policy.__name__ if isinstance(policy, type) else type(policy).__name__
        raise ConfigurationError(f"policy {name!r} must have {method}(func, tool_name), got {kind}")
    return policy


def whole(owner: object, name: str, value: Any, *, at_least: int = 1) -> int:
    """A whole number that is not too small, else ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigurationError(
            f"{type(owner).__name__}: {name} must be a whole number of at least {at_least}, got {value!r}"
        )
    return value


def number(
    owner: object,
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite number within bounds, else ConfigurationError."""
    bounds = [f"{word} {bound:g}" for word, bound in _bounds(above, at_least, at_most) if bound is not None]
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if (
        not fits
        or (above is not None and value <= above)
        or (at_least is not None and value < at_least)
        or (at_most is not None and value > at_most)
    ):
        raise ConfigurationError(
            f"{type(owner).__name__}: {name} must be a number {' and '.join(bounds)}, got {value!r}"
        )
    return value  # type: ignore[no-any-return]


def _bounds(above: float | None, at_least: float | None, at_most: float | None) -> tuple[tuple[str, float | None], ...]:
    return (("above", above), ("of at least", at_least), ("at most", at_most))


__all__ = [
    "AdaptiveCircuitBreakerPolicy",
    "CircuitBreakerPolicyFactory",
    "ICircuitBreakerPolicy",
    "NoOpCircuitBreakerPolicy",
    "StandardCircuitBreakerPolicy",
]
