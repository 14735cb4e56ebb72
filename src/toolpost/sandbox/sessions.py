"""Sessions: sandboxes that are kept between programs, with their files, until they are idle or old."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from toolpost.calls.call import new_id
from toolpost.calls.clock import Clock
from toolpost.calls.errors import OverloadedError
from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.turns import Turns

if TYPE_CHECKING:
    from toolpost.runners.sandboxes import Sandboxes
    from toolpost.sandbox.jobs import Options

logger = logging.getLogger("toolpost")


class Kept:
    """One session. turn lets its programs run one after the other; made is the back end's name of its sandbox."""

    def __init__(self, name: str, now_s: float, life_s: float, clock: Clock) -> None:
        self.name = name
        self.turn = Turns(1, clock)
        self.made: str | None = None
        self.runs = 0
        self.begun = False
        """Whether a program ran in it, be it one that was cancelled: it may have left files."""
        self.used_s = now_s
        self.ends_s = now_s + life_s
        self.ended: str | None = None
        """Why it is no more."""
        self._seen: dict[str, bytes] = {}

    def ran(self, result: SandboxResult) -> SandboxResult:
        """Count a program; its result with those files only that are new, or not as they were."""
        self.runs += 1
        before = self._seen
        self._seen = {name: hashlib.blake2b(data).digest() for name, data in result.artifacts.items()}
        changed = {name: data for name, data in result.artifacts.items() if before.get(name) != self._seen[name]}
        self._seen = {**before, **self._seen}
        return replace(result, artifacts=changed)


class Sessions:
    """Opens, finds and ends them. end is called with a back end's name of one, and may block."""

    def __init__(self, most: int, idle_s: float, life_s: float, clock: Clock, end: Callable[[str], None]) -> None:
        self._most, self._idle_s, self._life_s = most, idle_s, life_s
        self._clock, self._end = clock, end
        self._changed = threading.Condition()
        self._changes = 0
        """Counted, as what changes while sessions are looked through must have them looked through again."""
        self._kept: dict[str, Kept] = {}
        self._watch: threading.Thread | None = None

    def open(self, name: str | None) -> Kept:
        """The session of that name, made where there is none; without a name always a new one.

        Raises OverloadedError where there are too many.
        """
        self.sweep()
        with self._changed:
            now_s = self._clock.monotonic()
            if name is not None and name in self._kept:
                kept = self._kept[name]
                kept.used_s = now_s
                return kept
            if len(self._kept) >= self._most:
                raise OverloadedError(
                    f"{self._most} sandbox sessions are open, which is the most allowed (max_sessions); close one, or "
                    f"wait until one has been idle for {self._idle_s:g} s"
                )
            kept = Kept(name or new_id(), now_s, self._life_s, self._clock)
            if self._watch is None:
                watch = threading.Thread(target=self._watching, name="toolpost-sandbox-sessions", daemon=True)
                try:
                    watch.start()
                except RuntimeError as error:
                    raise OverloadedError(f"no thread to watch sessions can be started ({error}); try later") from error
                self._watch = watch
            self._kept[kept.name] = kept
            self._change()
            return kept

    def used(self, kept: Kept) -> None:
        """Its idle time begins now. Whoever has its turn says so before giving it back, and freed() afterwards."""
        kept.used_s = self._clock.monotonic()

    def freed(self) -> None:
        """A session's turn was given back: it may have become idle."""
        with self._changed:
            self._change()

    def _change(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def close(self, kept: Kept, why: str) -> None:
        """End it, with its files. A second time does nothing."""
        self._close(kept, why)

    def _close(self, kept: Kept, why: str | None) -> None:
        """End it; why None: where its time is still over, and nobody has come for it meanwhile."""
        with self._changed:
            if why is None:
                why = self._over(kept, self._clock.monotonic(), is_mine=True)
            if kept.ended is not None or why is None:
                return
            kept.ended = why
            if self._kept.get(kept.name) is kept:
                del self._kept[kept.name]
            made = kept.made
            self._change()
        if made is None:
            return
        try:
            self._end(made)
        except Exception:
            logger.exception("a sandbox session could not be ended")

    def close_all(self, why: str) -> None:
        """End all of them."""
        for kept in self.kept():
            self.close(kept, why)

    def forget(self, why: str) -> None:
        """Say that all have ended, in a forked child: the lock may be held by a thread that is not there."""
        for kept in list(self._kept.values()):
            kept.ended = why

    def kept(self) -> list[Kept]:
        """Those that are open."""
        with self._changed:
            return list(self._kept.values())

    def sweep(self) -> float | None:
        """End those whose time is over and in which nothing runs; seconds until there may be another."""
        now_s = self._clock.monotonic()
        following: float | None = None
        for kept in self.kept():
            why = self._over(kept, now_s)
            if why is None:
                ends_s = min(kept.ends_s, kept.used_s + self._idle_s) if not kept.turn.taken else kept.ends_s
                left_s = max(0.05, ends_s - now_s)
                following = left_s if following is None else min(following, left_s)
            elif not kept.turn.take_blocking(0.0):  # its program has no time beyond this
                following = 1.0 if following is None else min(following, 1.0)
            else:
                try:
                    self._close(kept, None)
                finally:
                    kept.turn.give_back()
                if kept.ended is None:  # somebody came for it; its time is reckoned anew
                    following = 0.05
                    self.freed()  # as who looked meanwhile saw that something runs in it
        return following

    def _over(self, kept: Kept, now_s: float, *, is_mine: bool = False) -> str | None:
        """Why its time is over. is_mine says that whoever asks has its turn, so that nothing runs in it."""
        if now_s >= kept.ends_s:
            return f"it was {self._life_s:g} s old, which is as old as a session may be"
        if (is_mine or not kept.turn.taken) and now_s >= kept.used_s + self._idle_s:
            return f"nothing ran in it for {self._idle_s:g} s"
        return None

    def _watching(self) -> None:
        while True:
            before = self._changes
            following = self.sweep()
            with self._changed:
                if not self._kept:
                    self._watch = None
                    return
                if self._changes == before:
                    self._changed.wait(following)


class SandboxSession:
    """A sandbox that is kept between programs, with its files: what its Sandboxes' open_session gives."""

    def __init__(self, sandboxes: Sandboxes, kept: Kept) -> None:
        self._sandboxes, self._kept = sandboxes, kept

    @property
    def name(self) -> str:
        """By which open_session finds it again."""
        return self._kept.name

    @property
    def runs(self) -> int:
        """How many programs have run in it."""
        return self._kept.runs

    @property
    def begun(self) -> bool:
        """Whether a program ran in it, be it one that was cancelled, so that there may be files."""
        return self._kept.begun

    @property
    def ended(self) -> str | None:
        """Why it is no more, None while it is."""
        return self._kept.ended

    async def run(self, argv: Sequence[str], **more: Unpack[Options]) -> SandboxResult:
        """Sandboxes.run, in this session; programs run one after the other."""
        return await self._sandboxes.run(argv, **_within(self, more))

    async def run_python(self, code: str, **more: Unpack[Options]) -> SandboxResult:
        """Sandboxes.run_python, in this session. Files stay for the next program, names and modules do not."""
        return await self._sandboxes.run_python(code, **_within(self, more))

    def run_blocking(self, argv: Sequence[str], **more: Unpack[Options]) -> SandboxResult:
        """run for callers that block."""
        return self._sandboxes.run_blocking(argv, **_within(self, more))

    def run_python_blocking(self, code: str, **more: Unpack[Options]) -> SandboxResult:
        """run_python for callers that block."""
        return self._sandboxes.run_python_blocking(code, **_within(self, more))

    def close(self) -> None:
        """End it, with its files; blocks."""
        self._sandboxes._sessions.close(self._kept, "it was closed")

    async def aclose(self) -> None:
        """close, without blocking the event loop."""
        await self._sandboxes.off_loop(self.close)


class SessionBlock:
    """A session that lasts as long as a with block."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._opened: SandboxSession | None = None

    def __enter__(self) -> SandboxSession:
        self._opened = self._sandboxes.open_session_blocking()
        return self._opened

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._opened is not None:
            self._opened.close()

    async def __aenter__(self) -> SandboxSession:
        self._opened = await self._sandboxes.open_session()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.aclose()


def _within(session: SandboxSession, more: Options) -> Options:
    return {**more, "session": session}
