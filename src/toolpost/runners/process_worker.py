"""The main of a worker process: takes calls from a channel, runs each, answers. Imports little: starts fast.

It runs the tool author's own code with the author's own rights, and trusts it as the parent does: what it
bounds is how long a call may last. It is not a sandbox.

A frame is a kind (one byte), a length (eight bytes, big endian) and that many bytes of pickle.
Parent to child: PATHS (sys.path, sys.argv), TARGET (key, what to load), CALL (key, arguments, contexts).
Child to parent: any number of EVENTs while a call runs, then one RESULT (its value), FAILED or UNLOADED
(stage, type, message, traceback, exception).
"""

from __future__ import annotations

import _thread
import fcntl
import os
import pickle
import signal
import struct
import sys

TYPE_CHECKING = False  # typing itself would be the dearest import here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any

    from toolpost.calls.context import ToolContext
    from toolpost.calls.events import Event

HEAD = struct.Struct("!cQ")
PATHS, TARGET, CALL = b"P", b"T", b"C"
EVENT, RESULT, FAILED, UNLOADED = b"E", b"R", b"X", b"U"
RAW = "__toolpost_raw__"
LOADING = "__toolpost_loading__"


def main(channel_fd: int, lifeline_fd: int) -> None:
    """Serve calls until the parent closes the channel."""
    for fd in (channel_fd, lifeline_fd):
        os.set_inheritable(fd, False)
    die_with(lifeline_fd)
    channel = Channel(channel_fd)
    os.register_at_fork(after_in_child=channel.close)
    os.register_at_fork(after_in_child=lambda: os.close(lifeline_fd))
    worker = Worker(channel)
    while (frame := channel.receive()) is not None:
        worker.take(*frame)


def die_with(lifeline_fd: int) -> None:
    """Have this process and its group killed when the other end of a pipe closes, as when the parent dies.

    The kernel does it (Linux, F_SETSIG), so a body that holds the interpreter's lock dies too.
    PR_SET_PDEATHSIG would need ctypes, spare what the body started, and fire when the thread that started the
    worker ends.
    """
    try:
        fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline_fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        if os.read(lifeline_fd, 1) == b"":  # it closed before this was armed
            os.killpg(0, signal.SIGKILL)
    except BlockingIOError:
        return
    except (AttributeError, OSError):  # another system: a thread watches instead
        os.set_blocking(lifeline_fd, True)
        _thread.start_new_thread(_watch, (lifeline_fd,))


def _watch(lifeline_fd: int) -> None:
    os.read(lifeline_fd, 1)
    os.killpg(0, signal.SIGKILL)


class Channel:
    """Frames over a stream socket; send may be called from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = _thread.allocate_lock()

    def receive(self) -> tuple[bytes, bytearray] | None:
        """The next frame, None when the other side has closed."""
        head = self._read(HEAD.size)
        if head is None:
            return None
        kind, size = HEAD.unpack(head)
        payload = self._read(size)
        return None if payload is None else (kind, payload)

    def send(self, kind: bytes, payload: bytes) -> None:
        """Write one frame whole. Raises OSError when the other side is gone."""
        rest = memoryview(HEAD.pack(kind, len(payload)) + payload)
        with self._lock:
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def close(self) -> None:
        """Part with the channel: in a process forked by a body, which must not answer in its place."""
        os.close(self._fd)
        self._fd = -1
        self._lock = _thread.allocate_lock()

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            try:
                got = os.readv(self._fd, [rest])
            except OSError:
                return None
            if not got:
                return None
            rest = rest[got:]
        return data


class Worker:
    """What one worker process knows: the functions it has loaded."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._functions: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._failures: dict[int, bytes] = {}

    def take(self, kind: bytes, payload: bytearray) -> None:
        """Act on one frame of the parent."""
        if kind == PATHS:
            sys.path[:], sys.argv[:] = pickle.loads(payload)
        elif kind == TARGET:
            self._load(*pickle.loads(payload))
        elif kind == CALL:
            answer = self._call(payload)
            for stream in (sys.stdout, sys.stderr):
                _flush(stream)
            self._channel.send(*answer)

    def _load(self, key: int, mapping: bool, *target: Any) -> None:
        self._failures.pop(key, None)
        try:
            self._functions[key] = (load(*target), mapping)
        except BaseException as error:
            self._failures[key] = failure("load", error)

    def _call(self, payload: bytearray) -> tuple[bytes, bytes]:
        emitter = Emitter(self._channel)
        try:
            key, kwargs, contexts = pickle.loads(payload)
            named = {name: _context(fields, emitter if heard else None) for name, (fields, heard) in contexts.items()}
        except BaseException as error:
            return FAILED, failure("arguments", error)
        if key in self._failures:
            return UNLOADED, self._failures[key]
        function, mapping = self._functions[key]
        try:
            value = function(kwargs, **named) if mapping else function(**kwargs, **named)
            if hasattr(type(value), "__await__"):
                value = _awaited(value)
        except BaseException as error:  # SystemExit and its like too: the worker lives on
            return FAILED, failure("body", error)
        finally:
            emitter.close()
        try:
            return RESULT, pickle.dumps(value, protocol=5)
        except BaseException as error:
            return FAILED, failure("result", error, about=type(value))


class Emitter:
    """Sends what a body tells of itself; silent once its call is over."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = _thread.allocate_lock()
        self._over = False

    def __call__(self, event: Event) -> None:
        try:
            payload = pickle.dumps(event, protocol=5)
        except Exception:
            payload = pickle.dumps(_in_words(event), protocol=5)
        with self._lock:
            if not self._over:
                self._channel.send(EVENT, payload)

    def close(self) -> None:
        with self._lock:
            self._over = True


def _in_words(event: Event) -> Event:
    """A log line whose fields cannot be pickled, with them as they print."""
    import dataclasses

    words = {name: repr(value) for name, value in getattr(event, "fields", {}).items()}
    return dataclasses.replace(event, fields=words)  # type: ignore[arg-type]


def _context(fields: dict[str, Any], emitter: Emitter | None) -> ToolContext:
    from toolpost.calls.context import ToolContext

    return ToolContext(**fields, _emit=emitter)


def _awaited(value: Any) -> Any:
    import asyncio

    async def result() -> Any:
        return await value

    return asyncio.run(result())


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (AttributeError, OSError, ValueError):
        return  # closed or replaced by the body


def load(
    module: str, qualname: str, depth: int, owner: bytes | None, main: tuple[str | None, str] | None
) -> Callable[..., Any]:
    """The function of that name, `depth` decorators taken off, bound to its unpickled owner.

    Without a qualname the pickled owner is the function itself. main is (module name or None, path) of the
    parent's main module when that must be there first.
    """
    if main is not None and "__mp_main__" not in sys.modules:
        _load_main(*main)
    instance: Any = None if owner is None else pickle.loads(owner)
    if not qualname:
        return instance  # type: ignore[no-any-return]
    for layer in layers(named(module, qualname)):
        if depth == 0:
            return layer if owner is None else layer.__get__(instance, type(instance))  # type: ignore[no-any-return]
        depth -= 1
    raise LookupError(f"{module}.{qualname} has fewer decorators than where it was registered")


def named(module: str, qualname: str) -> Any:
    """What stands under a name; of a method the function, not bound."""
    __import__(module)
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part)
    return getattr(found, "__func__", found)


def layers(function: Any) -> Iterator[Any]:
    """A function, what it wraps, what that wraps, and so on; what toolpost marked as raw comes before."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        yield function
        seen.add(id(function))
        function = getattr(function, RAW, None) or getattr(function, "__wrapped__", None)


def _load_main(name: str | None, path: str) -> None:
    """Run the parent's main module as __mp_main__, the name multiprocessing gives it; it is __main__ too."""
    import runpy

    module: ModuleType = type(sys)("__mp_main__")
    setattr(module, LOADING, True)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    try:
        if name is None:
            content = runpy.run_path(path, run_name="__mp_main__")
        else:
            content = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
    except BaseException:
        del sys.modules["__mp_main__"]
        raise
    module.__dict__.update(content)
    delattr(module, LOADING)


def failure(stage: str, error: BaseException, about: type | None = None) -> bytes:
    """An exception as it crosses: with its words and traceback as text, itself where it can be pickled."""
    import traceback

    kind = type(error) if about is None else about
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception:
        message = ""
    trace = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, trace.tb_next if trace else None))[-20_000:]
    try:
        itself = pickle.dumps(error, protocol=5)
    except Exception:
        itself = None
    return pickle.dumps((stage, name, message, text, itself), protocol=5)
