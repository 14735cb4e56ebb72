"""Retries as objects of their own, with the parameters that document C gives them; the stage retry drives ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, ToolError
from toolpost.calls.policies import Retry
from toolpost.pipeline.breaker_policies import made, number, registrable, whole
from toolpost.pipeline.failures import kind_of, retry_after_s, root_of

PASSING: Final = frozenset(kind for kind in Retry().on if isinstance(kind, str))
"""The kinds of failure that are tried again where nothing else is said."""


@runtime_checkable
class IRetryPolicy(Protocol):
    """Retries of one's own: awaits func() as often as it sees fit. func takes nothing."""

    async def execute_with_retry(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any: ...


def passes(error: BaseException, kinds: frozenset[str], classes: tuple[type[BaseException], ...] = ()) -> bool:
    """Whether trying again may help, by kinds of failure and classes. A ToolError that says it will not is believed."""
    root = root_of(error)
    if classes and (isinstance(root, classes) or isinstance(error, classes)):
        return True
    kind = kind_of(root)
    if isinstance(root, ToolError) and not root.retryable and kind != "tool_error":
        return False
    return kind in kinds


class _DelayedRetryPolicy:
    """Tries up to max_attempts times, waiting between.

    retryable_exceptions are the classes that are tried again; None: what passes by itself (timeouts, lost connections,
    rate limits, servers that are down).
    """

    def __init__(
        self,
        max_attempts: int,
        retryable_exceptions: Sequence[type[BaseException]] | None,
        clock: Clock | None,
    ) -> None:
        self.max_attempts = whole(self, "max_attempts", max_attempts)
        self.retryable_exceptions = retryable_exceptions
        self._classes = _classes(self, retryable_exceptions)
        self._clock = clock

    def adopt(self, clock: Clock) -> None:
        """Go by this clock unless there is one."""
        if self._clock is None:
            self._clock = clock

    def should_retry(self, exception: BaseException, attempt: int) -> bool:
        """Whether to go on after an exception of attempt (0 for the first)."""
        if attempt >= self.max_attempts - 1 or not isinstance(exception, Exception):
            return False
        if self.retryable_exceptions is None:
            return passes(exception, PASSING)
        return isinstance(exception, self._classes) or isinstance(root_of(exception), self._classes)

    def calculate_delay(self, attempt: int) -> float:
        """Seconds to wait after attempt (0 for the first)."""
        raise NotImplementedError

    async def execute_with_retry(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any:
        """Await func() until it succeeds or should_retry says no; then its last exception is raised."""
        clock = self._clock or SYSTEM_CLOCK
        attempt = 0
        while True:
            try:
                return await func()
            except Exception as raised:
                if not self.should_retry(raised, attempt):
                    raise
                wait_s = max(self.calculate_delay(attempt), retry_after_s(raised, clock.now()) or 0.0)
            attempt += 1
            if wait_s > 0:
                await clock.sleep(wait_s)

    def _spread(self, delay_s: float, by_s: float) -> float:
        """The delay, up to by_s more or less."""
        if by_s <= 0:
            return delay_s
        return max(0.0, delay_s - by_s + (self._clock or SYSTEM_CLOCK).jitter(2 * by_s))


class FixedRetryPolicy(_DelayedRetryPolicy):
    """Waits delay_seconds between tries, up to jitter seconds more or less."""

    def __init__(
        self,
        max_attempts: int = 3,
        delay_seconds: float = 1.0,
        jitter: float = 0.0,
        retryable_exceptions: Sequence[type[BaseException]] | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.delay_seconds = number(self, "delay_seconds", delay_seconds, at_least=0)
        self.jitter = number(self, "jitter", jitter, at_least=0)
        super().__init__(max_attempts, retryable_exceptions, clock)

    def calculate_delay(self, attempt: int) -> float:
        """Seconds to wait after attempt (0 for the first)."""
        return self._spread(float(self.delay_seconds), self.jitter)


class ExponentialBackoffRetryPolicy(_DelayedRetryPolicy):
    """Waits base_delay * multiplier ** n seconds, at most max_delay, up to jitter (a share of that) more or less."""

    def __init__(
        self,
        max_attempts: int = 3,
        base_delay: float = 1.0,
        max_delay: float = 60.0,
        multiplier: float = 2.0,
        jitter: float = 0.1,
        retryable_exceptions: Sequence[type[BaseException]] | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.base_delay = number(self, "base_delay", base_delay, at_least=0)
        self.max_delay = number(self, "max_delay", max_delay, at_least=0)
        self.multiplier = number(self, "multiplier", multiplier, at_least=1)
        self.jitter = number(self, "jitter", jitter, at_least=0, at_most=1)
        super().__init__(max_attempts, retryable_exceptions, clock)

    def calculate_delay(self, attempt: int) -> float:
        """Seconds to wait after attempt (0 for the first)."""
        delay_s = grown(self.base_delay, self.multiplier, attempt, self.max_delay)
        return self._spread(delay_s, delay_s * self.jitter)


class NoRetryPolicy:
    """One try."""

    def should_retry(self, exception: BaseException, attempt: int) -> bool:
        """Never."""
        return False

    async def execute_with_retry(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any:
        """Await func()."""
        return await func()


class CustomRetryPolicy:
    """Retries by an async function (func, attempt, last_exception) -> result, called after each failure.

    attempt counts failures from 1. It waits as it likes and awaits func(), or raises. An exception that func raised
    anew is another failed attempt, after which it is called again; any other is the end. max_attempts bounds all tries,
    the first included.
    """

    def __init__(self, retry_func: Callable[..., Awaitable[Any]], *, max_attempts: int = 10) -> None:
        if not callable(retry_func):
            raise ConfigurationError(
                f"CustomRetryPolicy: retry_func must be callable as async (func, attempt, last_exception), "
                f"got {retry_func!r}"
            )
        self.retry_func = retry_func
        self.max_attempts = whole(self, "max_attempts", max_attempts)

    def should_retry(self, exception: BaseException, attempt: int) -> bool:
        """Whether the function is asked at all after attempt (0 for the first)."""
        return isinstance(exception, Exception) and attempt < self.max_attempts - 1

    async def execute_with_retry(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any:
        """Await func(), and after a failure what the function makes of it."""
        last: Exception | None = None
        failures = attempt = 0

        async def tried() -> Any:
            nonlocal last, failures
            try:
                return await func()
            except Exception as raised:
                last = raised
                failures += 1
                raise

        while True:
            before = failures
            try:
                return await (tried() if attempt == 0 else self.retry_func(tried, attempt, last))
            except Exception as raised:
                anew = failures > before and raised is last
                if not (anew and self.should_retry(raised, attempt)):
                    raise
            attempt += 1


def grown(first_s: float, factor: float, times: int, most_s: float) -> float:
    """first_s * factor ** times, at most most_s; however large times is."""
    try:
        return float(min(most_s, first_s * factor**times))
    except OverflowError:
        return float(most_s)


def _classes(owner: object, given: Sequence[type[BaseException]] | None) -> tuple[type[BaseException], ...]:
    classes: tuple[Any, ...] = (given,) if isinstance(given, type) else tuple(given or ())
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigurationError(
                f"{type(owner).__name__}: retryable_exceptions must be exception classes, got {kind!r}"
            )
    return classes


def does_nothing(policy: object) -> bool:
    """Whether a policy is a NoRetryPolicy that no subclass has made into something else."""
    return isinstance(policy, NoRetryPolicy) and type(policy).execute_with_retry is NoRetryPolicy.execute_with_retry


def delayed_policy(policy: object) -> _DelayedRetryPolicy | None:
    """The policy where should_retry and calculate_delay say all about it; None where a class has a way of its own."""
    if not isinstance(policy, _DelayedRetryPolicy):
        return None
    return policy if type(policy).execute_with_retry is _DelayedRetryPolicy.execute_with_retry else None


class RetryPolicyFactory:
    """Retries by name: none, fixed, exponential, and those that were registered."""

    _policies: ClassVar[dict[str, Any]] = {
        "none": NoRetryPolicy,
        "fixed": FixedRetryPolicy,
        "exponential": ExponentialBackoffRetryPolicy,
    }

    @classmethod
    def get_policy(cls, name: str = "none", **options: Any) -> Any:
        """A policy: a new one of a registered class, made with options; or the object that was registered.

        Raises ConfigurationError for an unknown name, and for options that the class does not take.
        """
        return made(cls, name, options, "retry policy")

    create = get_policy

    @classmethod
    def register(cls, name: str, policy: Any) -> None:
        """Give a policy object, or a class of them, a name, for the whole process."""
        cls._policies[name] = registrable(name, policy, "execute_with_retry")


__all__ = [
    "CustomRetryPolicy",
    "ExponentialBackoffRetryPolicy",
    "FixedRetryPolicy",
    "IRetryPolicy",
    "NoRetryPolicy",
    "RetryPolicyFactory",
]
