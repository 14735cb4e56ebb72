"""ExecutionUtils: cache keys, retries and timeouts for code that calls functions by itself."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, Rejected, ToolTimeoutError
from toolpost.stores.memory import MemoryCache


class ExecutionUtils:
    """Small tools around a call: a cache with keys, retry with growing waits, a timeout.

    retry_attempts counts all tries, the first included. Waits are retry_backoff * 2**n seconds, with jitter of up to a
    quarter, at most 60 s. Refusals (the body never ran) and cancellation are not tried again.
    """

    def __init__(
        self,
        cache_size: int = 100,
        cache_ttl: float = 3600,
        retry_attempts: int = 3,
        retry_backoff: float = 1.0,
        *,
        cache: MemoryCache | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if retry_attempts < 1:
            raise ConfigurationError(f"retry_attempts must be at least 1, got {retry_attempts!r}")
        self.cache_ttl = cache_ttl
        self.retry_attempts = retry_attempts
        self.retry_backoff = retry_backoff
        self._clock = clock
        self._cache = cache if cache is not None else MemoryCache(cache_size, clock.monotonic)

    def generate_cache_key(
        self,
        func: str | Callable[..., Any],
        user_id: str,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> str:
        """A stable digest of function, user, task and arguments. Raises ConfigurationError where there is none."""
        name = func if isinstance(func, str) else f"{func.__module__}:{func.__qualname__}"
        rest = {k: v for k, v in kwargs.items() if k not in ("user_id", "task_id")}
        try:
            text = orjson.dumps([name, user_id, task_id, list(args), rest], option=orjson.OPT_SORT_KEYS)
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"{name}: the arguments have no canonical JSON form ({exc}), so no cache key"
            ) from exc
        return hashlib.sha256(text).hexdigest()

    def get_from_cache(self, key: str, default: Any = None) -> Any:
        """A copy of the value, or default."""
        value = self._cache.get(("utils", key))
        return default if value is MemoryCache.MISSING else value

    def add_to_cache(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a copy for ttl seconds (None: cache_ttl)."""
        self._cache.put(("utils", key), value, self.cache_ttl if ttl is None else ttl)

    def clear_cache(self) -> int:
        """Forget every entry; how many there were."""
        return self._cache.clear()

    def create_retry_strategy(self, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A decorator for async functions that tries again as this object says."""

        def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(func)
            async def again(*args: Any, **kwargs: Any) -> Any:
                return await self._retrying(func, args, kwargs)

            return again

        return decorate

    @asynccontextmanager
    async def timeout_context(self, seconds: float | None) -> AsyncIterator[None]:
        """Raise ToolTimeoutError when the block takes longer; None is no limit."""
        try:
            async with asyncio.timeout(seconds) as limit:
                yield
        except TimeoutError as exc:
            if limit.expired() and not isinstance(exc, ToolTimeoutError):
                raise ToolTimeoutError(f"timed out after {seconds:g} s") from exc
            raise

    async def execute_with_retry_and_timeout(
        self, func: Callable[..., Any], timeout: float | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Call func (sync functions in a thread) with retries, all of them within timeout seconds."""
        async with self.timeout_context(timeout):
            return await self._retrying(func, args, kwargs)

    async def _retrying(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        attempt = 0
        while True:
            attempt += 1
            try:
                if inspect.iscoroutinefunction(func):
                    return await func(*args, **kwargs)
                result = await asyncio.to_thread(func, *args, **kwargs)
                return await result if isinstance(result, Awaitable) else result
            except Rejected:
                raise
            except Exception:
                if attempt >= self.retry_attempts:
                    raise
                wait = min(60.0, self.retry_backoff * 2.0 ** (attempt - 1))
                await self._clock.sleep(wait + self._clock.jitter(wait / 4))
