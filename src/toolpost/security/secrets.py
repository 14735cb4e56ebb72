"""Secrets: values by reference (secret://env/NAME), had from their provider at the last moment and kept for a while."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import fnmatch
import inspect
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import unquote

import orjson

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, SecretUnavailableError, ToolExecutionError
from toolpost.calls.redaction import Redactor, Revealed, hide
from toolpost.calls.references import Reference, is_reference, reference_of
from toolpost.security.secrets_providers import provider_named

KEEP_S: Final = 300.0
"""How long a value is taken for the current one, unless a setting says otherwise."""
_SLASH: Final = re.compile(r"[/\\#]")
ANSWER_S: Final = 30.0
"""How long a provider has to answer."""


class SecretProvider(Protocol):
    """What has secrets: path -> value, text or bytes, or a JSON object whose fields are chosen by #field.

    get may be async; one that is not, and may wait (waits, which is taken for true), is called in a thread. It raises
    KeyError for what it does not have. keeps = False has every value asked for anew.
    """

    def get(self, path: str, /) -> Any: ...


class _Kept:
    """A value as its provider gave it, out of sight, and until when it is good."""

    __slots__ = ("open", "until")

    def __init__(self, value: Any, until: float) -> None:
        self.open: Callable[[], Any] = lambda: value
        self.until = until


class _Flight:
    """One question to a provider, and all who wait for its answer."""

    __slots__ = ("done", "error", "kept")

    def __init__(self) -> None:
        self.done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.kept: _Kept | None = None
        self.error: Exception | None = None


class Secrets:
    """Resolves references, each value at most once at a time, and has the redactor hide all it gives out.

    providers are further ones by name, or others in place of built-in ones; those of the plugin group toolpost.secrets
    are found by themselves. allowed are patterns (secret://env/APP_*) of what may be resolved; empty allows all.
    directories is where secret://file looks. Safe from any thread and any event loop. Every way of failing is a
    SecretUnavailableError that names the reference and shows no value.
    """

    def __init__(
        self,
        redactor: Redactor,
        *,
        providers: Mapping[str, SecretProvider] | None = None,
        directories: Sequence[Any] = ("/run/secrets",),
        allowed: Sequence[str] = (),
        keep_s: float = KEEP_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.redactor = redactor
        self._given = dict(providers or {})
        self._made: dict[str, SecretProvider] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._flights: dict[tuple[str, str], _Flight] = {}
        self.follow(directories=directories, allowed=allowed, keep_s=keep_s)

    def follow(self, *, directories: Sequence[Any], allowed: Sequence[str], keep_s: float) -> None:
        """Go by these settings from now on."""
        if (tuple(directories), tuple(allowed), keep_s) != getattr(self, "_settings", None):
            self._settings = (tuple(directories), tuple(allowed), keep_s)
            with self._lock:
                self._made, self._kept = {}, {}

    @property
    def allowed(self) -> tuple[str, ...]:
        """The patterns of what may be resolved; empty where nothing is said."""
        return self._settings[1]

    def refuse_unless_allowed(self, reference: str) -> None:
        """Raise SecretUnavailableError for a reference that no pattern allows."""
        # From secret://file/app/* a step ".." leads elsewhere, in the reference or once its provider has decoded it.
        if self.allowed and any(step in (".", "..") for step in _SLASH.split(unquote(reference))):
            raise SecretUnavailableError(
                f"{reference} has a step '.' or '..', which no pattern of secrets_allowed fits"
            )
        if self.allowed and not any(fnmatch.fnmatchcase(reference, pattern) for pattern in self.allowed):
            raise SecretUnavailableError(
                f"{reference} is not among what may be resolved; add it to secrets_allowed, or a pattern that fits"
            )

    async def value(self, reference: str, *, fresh: bool = False) -> Revealed:
        """The value of a reference; fresh asks the provider whatever is kept. Raises SecretUnavailableError."""
        wanted = reference_of(reference)
        key = wanted.provider, wanted.path
        while True:
            kept, flight, is_mine = self._take(key, fresh)
            if kept is not None:
                return self._shown(wanted, kept.open())
            if is_mine:
                return self._shown(wanted, (await self._ask(wanted, flight)).open())
            await asyncio.shield(asyncio.wrap_future(flight.done))
            if flight.error is not None:
                raise copy.copy(flight.error)
            if flight.kept is not None:
                return self._shown(wanted, flight.kept.open())

    def value_sync(self, reference: str, *, fresh: bool = False) -> Revealed:
        """value for callers that block. Where an event loop runs here, it waits in a thread of its own."""

        def wait() -> Revealed:
            return asyncio.run(self.value(reference, fresh=fresh))

        if asyncio._get_running_loop() is None:
            return wait()
        with concurrent.futures.ThreadPoolExecutor(1, "toolpost-secret") as thread:
            return thread.submit(contextvars.copy_context().run, wait).result()

    def opened(self, text: str) -> str:
        """A setting's text, or the value of the reference that it is. May block. Raises SecretUnavailableError."""
        return str(self.value_sync(text)) if is_reference(text) else text

    async def values(self, references: Iterable[str]) -> dict[str, Revealed]:
        """The values of several references."""
        return {reference: await self.value(reference) for reference in references}

    def forget(self, references: Iterable[str]) -> None:
        """Ask anew for these next time: their values were refused, so they may have been rotated."""
        with self._lock:
            for reference in references:
                wanted = reference_of(reference)
                self._kept.pop((wanted.provider, wanted.path), None)

    def _take(self, key: tuple[str, str], fresh: bool) -> tuple[_Kept | None, _Flight, bool]:
        """What is kept, or the question to wait for, and whether it is to be asked by whoever takes it."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and not fresh and self._clock.monotonic() < kept.until:
                return kept, _NONE, False
            flight = self._flights.get(key)
            if flight is not None:
                return None, flight, False
            flight = self._flights[key] = _Flight()
            return None, flight, True

    async def _ask(self, wanted: Reference, flight: _Flight) -> _Kept:
        key = wanted.provider, wanted.path
        try:
            provider = self._provider(wanted.provider)
            kept = _Kept(await self._answer(provider, wanted), self._clock.monotonic() + self._settings[2])
            flight.kept = kept
            if getattr(provider, "keeps", True):
                with self._lock:
                    self._kept[key] = kept
            return kept
        except ToolExecutionError as error:
            flight.error = error
            raise
        finally:  # whoever waited for a question that was cancelled asks it again
            with self._lock:
                del self._flights[key]
            flight.done.set_result(None)

    def _provider(self, name: str) -> SecretProvider:
        provider = self._given.get(name) or self._made.get(name)
        if provider is None:
            provider = self._made[name] = provider_named(name, self._settings[0])
        return provider

    async def _answer(self, provider: SecretProvider, wanted: Reference) -> Any:
        named = Reference(wanted.provider, wanted.path)
        try:
            if inspect.iscoroutinefunction(provider.get):
                async with asyncio.timeout(ANSWER_S):
                    value = await provider.get(wanted.path)
            elif getattr(provider, "waits", True):
                async with asyncio.timeout(ANSWER_S):
                    value = await asyncio.to_thread(provider.get, wanted.path)
            else:
                value = provider.get(wanted.path)
            if inspect.isawaitable(value):
                async with asyncio.timeout(ANSWER_S):
                    value = await value
        except (SecretUnavailableError, ConfigurationError):
            raise
        except KeyError:
            raise SecretUnavailableError(
                f"{named}: there is no such secret", details={"reference": str(named)}
            ) from None
        except TimeoutError:
            raise _unavailable(named, f"no answer within {ANSWER_S:g} s") from None
        except Exception as raised:
            # Not as the cause, whose frames may hold what the provider reads: tokens, answers, other secrets.
            raise _unavailable(named, f"the provider failed ({type(raised).__name__}: {_said(raised)})") from None
        if not isinstance(value, (str, bytes, Mapping)):
            raise _unavailable(named, f"the provider gave a value of type {type(value).__name__}")
        return value

    def _shown(self, wanted: Reference, value: Any) -> Revealed:
        """The text that is asked for, hidden from now on."""
        if wanted.field is not None:
            value = _field(wanted, value)
        elif isinstance(value, Mapping):
            raise _unavailable(wanted, f"it has fields; name one: {Reference(wanted.provider, wanted.path)}#name")
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                self.redactor.add(value, str(wanted))
                raise _unavailable(wanted, "it is no text in UTF-8") from None
        self.redactor.add(value, str(wanted))
        return Revealed(value)


_NONE: Final = _Flight()


def _unavailable(wanted: Reference, why: str) -> SecretUnavailableError:
    return SecretUnavailableError(f"{wanted}: {why}", details={"reference": str(wanted)})


def _said(raised: Exception) -> str:
    try:
        return str(hide(str(raised)[:300]))
    except Exception:
        return "?"


def _field(wanted: Reference, value: Any) -> str:
    """A field of a JSON object: by its name, or by a JSON Pointer (RFC 6901), which begins with a slash."""
    if not isinstance(value, Mapping):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise _unavailable(wanted, "it is no JSON, so it has no fields") from None
    field = wanted.field or ""
    steps = [field] if not field.startswith("/") else field[1:].split("/")
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~") if field.startswith("/") else step
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise _unavailable(wanted, "it has no such field")
    if isinstance(value, (Mapping, list)) or value is None:
        raise _unavailable(wanted, "the field holds no text")
    return value if isinstance(value, str) else orjson.dumps(value).decode()


__all__ = ["SecretProvider", "Secrets"]
