"""SharedCache: kept results in a store that many processes share, behind each one's own cache."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from typing import Any, NamedTuple

import orjson

from toolpost.calls.clock import Clock
from toolpost.calls.errors import OperationError, StoreUnavailableError, ToolError, ToolExecutionError
from toolpost.pipeline.answers import answered
from toolpost.pipeline.cache_keys import SHARED
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.stores import State
from toolpost.stores.pending import Answer, Pending

logger = logging.getLogger("toolpost")

PATIENCE_S = 1.0
"""How long a call waits for the store before it goes on without: less than most deadlines leave."""
SILENCE_S = 2.0
"""For how long a store that said nothing is not asked again: not each call shall wait for it."""
MAX_OWED = 10_000
"""Of so many tags it is kept that they could not be made void; of more, that everything must go."""


class Found(NamedTuple):
    """A shared value, or the failure that was kept in its place; seconds until it is stale, and until it is gone."""

    value: Any
    error: ToolExecutionError | None
    fresh_s: float
    left_s: float


class SharedCache:
    """Results as JSON in a State. What is void though the store could not be told so is told before the next look-up.

    One that cannot be reached is logged once until it can be again.
    """

    def __init__(self, state: State, clock: Clock) -> None:
        self.state = state
        self._clock = clock
        self.down = False
        """Whether the store failed when it was last asked."""
        self._silent_until = 0.0
        self._lock = threading.Lock()
        self._untold: deque[tuple[Pending[Any], tuple[str, ...] | None]] = deque()
        self._owed: dict[str, None] = {}
        self._owes_all = False

    def ask(self, key: str, tags: tuple[str, ...] = ()) -> tuple[Answer[Any], Answer[list[int]]]:
        """What get() asks for, in one go, so that it makes one round trip. Raises StoreUnavailableError."""
        if self._silent_until and self._clock.monotonic() < self._silent_until:
            raise StoreUnavailableError("the store said nothing a moment ago")
        if self._untold or self._owed or self._owes_all:
            self._pay()
        return self.state.get(key, tags), self.state.marks(tags) if tags else []

    async def get(
        self,
        key: str,
        tags: tuple[str, ...],
        inv: Invocation,
        asked: tuple[Answer[Any], Answer[list[int]]] | None = None,
    ) -> tuple[Found | None, dict[str, int]]:
        """What is kept, and the tags' marks for put(); asked: ask()'s answer, if any. Raises StoreUnavailableError."""
        got, marked = self.ask(key, tags) if asked is None else asked
        try:
            raw = await answered(got, inv, self._clock, PATIENCE_S)
            marks = await answered(marked, inv, self._clock, PATIENCE_S)
        except StoreUnavailableError as error:
            self._fell(error)
            if isinstance(got, Pending) and not got.done:
                self._silent_until = self._clock.monotonic() + SILENCE_S
            raise
        self._well()
        return _decoded(raw), dict(zip(tags, marks, strict=True))

    async def marks(self, tags: tuple[str, ...], inv: Invocation) -> dict[str, int]:
        """The tags' marks. Raises StoreUnavailableError."""
        if not tags:
            return {}
        try:
            marks = await answered(self.state.marks(tags), inv, self._clock, PATIENCE_S)
        except StoreUnavailableError as error:
            self._fell(error)
            raise
        return dict(zip(tags, marks, strict=True))

    def put(self, key: str, value: bytes, ttl_s: float, stale_s: float, marks: dict[str, int]) -> None:
        """Keep encoded() or encoded_error(). Nobody waits for it: a result is not lost because it cannot be kept."""
        self.state.put(key, value, ttl_s, stale_s, marks)

    def void(self, tags: tuple[str, ...]) -> Answer[None]:
        """Make entries with one of these tags void; what fails is done before the next look-up."""
        if self._untold or self._owed or self._owes_all:
            self._pay()
        return self._void(tags)

    async def voided(self, answer: Answer[None], inv: Invocation) -> None:
        """Wait until the store has done what void() asked, so that no process sees the old values any more."""
        if self._silent_until and self._clock.monotonic() < self._silent_until:
            return
        try:
            await answered(answer, inv, self._clock, PATIENCE_S)
        except StoreUnavailableError as error:
            self._fell(error)
        else:
            self._well()

    def clear(self, tool: str | None = None) -> int | None:
        """Forget all results, or one tool's; how many, or None when the store was not reached: then it is owed."""
        answer = self.state.clear(SHARED if tool is None else f"{SHARED}{tool}:")
        try:
            return answer.wait(self._clock, PATIENCE_S) if isinstance(answer, Pending) else answer
        except StoreUnavailableError as error:
            self._fell(error)
            self._owes_all = True
            return None

    def _void(self, tags: tuple[str, ...]) -> Answer[None]:
        answer = self.state.void(tags)
        if isinstance(answer, Pending):
            with self._lock:
                self._untold.append((answer, tags))
        return answer

    def _pay(self) -> None:
        """Ask again for what the store did not do."""
        with self._lock:
            while self._untold and self._untold[0][0].done:
                pending, tags = self._untold.popleft()
                if pending.error is not None:
                    self._owes_all |= tags is None
                    self._owed.update(dict.fromkeys(tags or ()))
            if len(self._owed) > MAX_OWED:
                self._owed.clear()
                self._owes_all = True
            owed, self._owed = tuple(self._owed), {}
            owes_all, self._owes_all = self._owes_all, False
        if owes_all:
            answer = self.state.clear(SHARED)
            if isinstance(answer, Pending):
                with self._lock:
                    self._untold.append((answer, None))
        if owed:
            self._void(owed)

    def _fell(self, error: StoreUnavailableError) -> None:
        if not self.down:
            self.down = True
            logger.warning("the shared cache is out of reach, tools run without it: %s", error.message)

    def _well(self) -> None:
        self._silent_until = 0.0
        if self.down:
            self.down = False
            logger.info("the shared cache is back")


def shared_cache(services: Services) -> SharedCache | None:
    """The shared cache of an executor, None where its settings name none."""
    state = services.shared_cache
    if state is None:
        return None
    made = services.the("shared_cache", lambda: SharedCache(state, services.clock))
    made.state = state
    return made


def encoded(value: Any, max_bytes: int) -> bytes | None:
    """A value for the store; None for one that would come back as another, or is too large."""
    if not _is_json(value, 0):
        return None
    data = orjson.dumps(value)
    return None if len(data) > max_bytes else b"v" + data


def encoded_error(error: ToolExecutionError, max_bytes: int) -> bytes | None:
    """A failure for the store; None for one that another process could not make again."""
    kind = type(error)
    if kind not in (OperationError, ToolError) or not _is_json(error.details, 0):
        return None
    said = [kind.__name__, error.code, error.message, error.details, error.retryable]
    try:
        data = orjson.dumps(said)
    except (TypeError, ValueError):
        return None
    return None if len(data) > max_bytes else b"e" + data


def _decoded(raw: tuple[bytes, float, float] | None) -> Found | None:
    if raw is None:
        return None
    data, fresh_s, left_s = raw
    try:
        value = orjson.loads(data[1:])
        if data[:1] == b"v":
            return Found(value, None, fresh_s, left_s)
        kind, code, message, details, retryable = value
        error = OperationError(message, details=details) if kind == "OperationError" else ToolError(message)
        error.code, error.details, error.retryable = code, details, retryable
        return Found(None, error, fresh_s, left_s)
    except (TypeError, ValueError):
        logger.error("the shared cache held what toolpost did not write; it is taken for a miss")
        return None


def _is_json(value: Any, depth: int) -> bool:
    """Whether a value comes back from JSON as it is: the same types, nothing more."""
    kind = value.__class__
    if kind is str:
        return value.isascii() or _is_unicode(value)
    if kind is bool or value is None:
        return True
    if kind is int:
        return -(2**63) <= value < 2**64  # type: ignore[no-any-return]
    if kind is float:
        return math.isfinite(value)
    if depth > 200:
        return False
    if kind is list:
        return all(_is_json(item, depth + 1) for item in value)
    return kind is dict and all(
        k.__class__ is str and _is_json(k, 0) and _is_json(v, depth + 1) for k, v in value.items()
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
