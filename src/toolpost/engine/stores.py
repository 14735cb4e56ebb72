"""Stores: the state, records and blobs of one executor, opened by URL and closed with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from toolpost.calls.clock import Clock
from toolpost.calls.errors import ToolExecutionError
from toolpost.engine.secret_settings import secrets_of
from toolpost.engine.settings import ExecutorConfig, redis_of
from toolpost.security.secrets import Secrets
from toolpost.stores import Blobs, Pending, Records, State, open_blobs, open_records, open_state, public_url


class Stores:
    """What an executor's settings name, or was given. A store connects when it is first asked for something.

    A store that was given stays whatever the settings say, and is its giver's to close. One that a changed setting put
    another in the place of is closed with the executor, as calls that began before may still have something to say.
    """

    state: State
    records: Records
    blobs: Blobs
    shared_cache: State | None

    def __init__(self, config: ExecutorConfig, clock: Clock, secrets: Secrets | None = None, **given: Any) -> None:
        self._clock = clock
        self._secrets = secrets_of(config, clock) if secrets is None else secrets
        self._urls: dict[str, Any] = {}
        self._earlier: list[Any] = []
        self._given = {name: store for name, store in given.items() if store is not None}
        self.shared_cache = None
        vars(self).update(self._given)
        self.follow(config)

    def follow(self, config: ExecutorConfig) -> list[str]:
        """Open anew what another setting names now; the names of the stores that are others than before."""
        clock, before = self._clock, dict(vars(self))
        opened = self._secrets.opened
        self._set(
            "state",
            (_url(config.state_url), config.state_prefix),
            lambda u: open_state(opened(u[0]), clock=clock, prefix=u[1]),
        )
        self._set("records", _url(config.records_url), lambda u: open_records(opened(u), clock=clock))
        self._set("blobs", _url(config.blobs_url), lambda u: open_blobs(opened(u), clock=clock))
        shared = redis_of(config) if config.cache_backend == "redis" else None
        # A cache in the same server goes over the same connection: what is asked of both at once is one round trip.
        beside = getattr(self.state, "beside", None) if shared == _url(config.state_url) else None
        self._set(
            "shared_cache",
            (shared, config.cache_prefix, beside and self._urls.get("state")),
            lambda u: (
                None
                if u[0] is None
                else beside(u[1])
                if beside is not None
                else open_state(opened(u[0]), clock=clock, prefix=u[1])
            ),
        )
        return [name for name in self._urls if before.get(name) is not getattr(self, name)]

    def _set(self, name: str, url: Any, opened: Any) -> None:
        if name in self._given or (name in self._urls and self._urls[name] == url):
            return
        store = opened(url)  # first, so that a mistake in a new URL leaves the old store in place
        before = getattr(self, name, None)
        setattr(self, name, store)
        self._urls[name] = url
        if before is not None:
            self._earlier.append(before)

    def close(self) -> None:
        """Let go of every connection."""
        for store in [*self._earlier, *(getattr(self, name) for name in self._urls)]:
            if store is not None:
                store.close()


def _url(setting: Any) -> str:
    return "memory://" if setting is None else setting.get_secret_value()


ANSWERS_S = 10.0
"""How long a store that is asked whether it is there has to say so."""


def who_answers(config: ExecutorConfig) -> Iterator[tuple[str, str, ToolExecutionError | None]]:
    """(state, records, blobs or cache_redis; its URL fit to be shown; what is wrong) for stores not in memory."""
    shared = redis_of(config) if config.cache_backend == "redis" else None
    secrets = secrets_of(config)
    named: list[tuple[str, str, Callable[[str], Any]]] = [
        ("state", _url(config.state_url), open_state),
        ("records", _url(config.records_url), open_records),
        ("blobs", _url(config.blobs_url), open_blobs),
        ("cache_redis", shared or "memory://", open_state),
    ]
    for name, url, opened in named:
        if url.startswith("memory://"):
            continue
        error: ToolExecutionError | None = None
        try:
            store = opened(secrets.opened(url))
            try:
                answer = store.ping()
                if isinstance(answer, Pending):
                    answer.wait(timeout_s=ANSWERS_S)
            finally:
                store.close()
        except ToolExecutionError as raised:
            error = raised
        yield name, public_url(url), error
