"""The process that becomes the untrusted program: it confines itself, parks, and then runs what it is told.

What runs here shares its memory with the program: nothing may be in it that the program must not know, and nothing that
it says is believed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import linecache
import math
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
import types
from typing import Any, Final, NoReturn

from toolpost.sandbox import frames, kernel, landlock, seccomp

NAME: Final = "<program>"
MOST_VALUE: Final = 1 << 16
"""Bytes of a value's repr."""
_SAYS: Final = struct.Struct("=diiI")
"""What the program says of itself: when it began, the errno that ended it, that of a failed exec, length of value."""
SHARED: Final = _SAYS.size + MOST_VALUE
_AST_ONLY: Final = 0x400
_OWN_SIZE: Final = 256 << 20
"""What an interpreter takes of addresses, where /proc does not tell."""
_ADDRESSES: Final = 16 << 30
_FIGURES: Final = 50
_NOT_OF_GVISOR: Final = frozenset({"CORE", "NPROC", "MSGQUEUE", "SIGPENDING", "RTPRIO", "NICE"})
"""Limits that gVisor's kernel does not let anybody set; what they bound is its own, and not the host's."""


class Says:
    """Memory that warden and program share, so that the program needs no descriptor to say something."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SHARED)

    def put(self, *, began: float = 0.0, failed: int = 0, no_exec: int = 0, value: str | None = None) -> None:
        """Say something; what is not given stays as it was."""
        old = _SAYS.unpack_from(self._memory)
        said = b"" if value is None else value.encode("utf-8", "backslashreplace")[:MOST_VALUE]
        length = old[3] if value is None else len(said) + 1
        _SAYS.pack_into(self._memory, 0, began or old[0], failed or old[1], no_exec or old[2], length)
        self._memory[_SAYS.size : _SAYS.size + len(said)] = said

    def clear(self) -> None:
        """As if nothing had been said."""
        self._memory[: _SAYS.size] = bytes(_SAYS.size)

    def get(self) -> tuple[float, int, int, str | None]:
        """What was said, by whomever."""
        began, failed, no_exec, length = _SAYS.unpack_from(self._memory)
        if not length:
            return began, failed, no_exec, None
        said = self._memory[_SAYS.size : _SAYS.size + min(length - 1, MOST_VALUE)]
        return began, failed, no_exec, said.decode("utf-8", "replace")

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


def prepare(config: dict[str, Any]) -> None:
    """Make this interpreter look as if it had been started for the program.

    Who forks programs calls it once, when all is imported: what each program did for itself would be pages to copy.
    """
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    config["size"] = _size()
    os.environ.clear()
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = _output(1, "surrogateescape")
    sys.stderr = _output(2, "backslashreplace")
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))
    sys.argv[:] = [""]
    sys.path[:] = config["path"]
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolpost"]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")


def main(config: dict[str, Any], jobs: int, ready: int, says: Says) -> NoReturn:
    """Confine this process, say so on ready, wait for the job, run it. config is the launcher's."""
    listener = None
    try:
        _settle(config)
        if config["landlock"]:
            landlock.restrict(**config["paths"], tcp=config["network"])
        module = sys.modules["__main__"]
        _warm_up(says, module)
        listener = seccomp.load(config["filter"], notify=config["notify"])
        os.write(ready, f"ok {-1 if listener is None else listener}".encode())
    except BaseException as error:
        os.write(ready, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:1000])
        os._exit(1)
    os.close(ready)
    told = _told(jobs)
    if told is None:
        os._exit(0)
    os.close(jobs)
    if listener is not None:
        os.close(listener)
    job, body = told
    for name, value in job["rlimits"].items():
        _lower(name, value)
    if job["argv"] is not None:
        _execute(job, says)
    _interpret(job, body, module, config["work"], says)


def _told(jobs: int) -> tuple[dict[str, Any], bytes] | None:
    """The job. One frame comes and no more, so that whole pieces can be read."""
    got = frames.Frames(1 << 31)
    while (frame := got.next()) is None:
        piece = os.read(jobs, 1 << 16)
        if not piece:
            return None
        got.feed(piece)
    return frame


def _settle(config: dict[str, Any]) -> None:
    """What every program begins with: a session and signals of its own, limits, the work folder."""
    os.setsid()
    kernel.dumpable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir(config["work"])
    limits = config["limits"]
    fixed = {
        "AS": limits["memory_bytes"] + config["size"] if config["watch"] else _ADDRESSES,
        "CORE": 1,  # 0 would not stop a core pattern that is a pipe to a program of the host: core(5)
        "CPU": max(1, math.ceil(limits["cpu_s"])),
        "FSIZE": limits["file_bytes"],
        "NOFILE": limits["open_files"],
        # Where a control group counts, this one is behind it, so that what was refused is told.
        "NPROC": limits["processes"] if config["watch"] else 2 * limits["processes"] + 16,
        "MEMLOCK": 64 << 10,
        "MSGQUEUE": 0,
        "SIGPENDING": 256,
        "STACK": 64 << 20,
        "RTPRIO": 0,
        "NICE": 0,
    }
    for name, value in fixed.items():
        if name not in _NOT_OF_GVISOR or not config.get("gvisor"):
            _lower(name, value)


def _size() -> int:
    """Bytes of addresses that this process has already."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return _OWN_SIZE


def _lower(name: str, value: int) -> None:
    """Set a limit for good, never above what it is."""
    which = getattr(resource, f"RLIMIT_{name}")
    hardest = resource.getrlimit(which)[1]
    hard = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
    if name == "CPU":
        # The signal at the limit says what ended the program; a second later nothing is caught any more.
        resource.setrlimit(which, (hard, hard + 1 if hardest == resource.RLIM_INFINITY else min(hard + 1, hardest)))
    else:
        resource.setrlimit(which, (hard, hard))


def _warm_up(says: Says, module: types.ModuleType) -> None:
    """Do everything once: pages that are copied now need not be while somebody waits for the program."""
    read, write = os.pipe()
    try:
        head = {"argv": None, "code": 9, "rlimits": {"FSIZE": 1, "CPU": 1}, "env": {"PATH": "/usr/bin"}}
        frames.write(write, frames.packed(head, b"print('')"))
        _told(read)
    finally:
        os.close(read)
        os.close(write)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", line_buffering=True)
    source = "import sys, os\nx = [str(i) for i in range(50)]\nprint('-'.join(x), file=out)\nlen(x)\n"
    module.__dict__["out"] = out
    _run(source, module, lambda value: says.put(began=time.monotonic(), value=repr(value)))
    module.__dict__.clear()
    before = dict(os.environ)
    os.environ.update(before)
    for name in ("FSIZE", "CPU"):
        which = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(which, resource.getrlimit(which))
    _flush(says)
    says.clear()


def _execute(job: dict[str, Any], says: Says) -> NoReturn:
    argv, env = job["argv"], job["env"]
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    places = [""] if "/" in argv[0] else [f"{folder}/" for folder in env.get("PATH", "").split(":") if folder]
    why = errno.ENOENT
    for place in places:
        try:
            says.put(began=time.monotonic())
            os.execve(place + argv[0], argv, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                why = error.errno or why
        except ValueError:
            why = errno.EINVAL
    says.put(no_exec=why)
    with contextlib.suppress(OSError):
        os.write(2, f"{argv[0]}: {os.strerror(why)}\n".encode("utf-8", "backslashreplace"))
    os._exit(127 if why in (errno.ENOENT, errno.ENOTDIR) else 126)


def _interpret(job: dict[str, Any], body: bytes, module: types.ModuleType, work: str, says: Says) -> NoReturn:
    """Run code as __main__ in this interpreter, and end as an interpreter ends."""
    os.environ.update(job["env"])
    # Not before: who forks programs in a session would import what an earlier one left in the work folder.
    sys.path.insert(0, work)
    module.__dict__.update({"__name__": "__main__", "__doc__": None, "__builtins__": __builtins__})
    source = body.decode("utf-8", "replace")
    # What the launcher froze stays frozen: a collection that looked at it would copy all of its pages.
    gc.enable()
    numbers: Any = sys.modules.get("numpy.random")
    if numbers is not None:  # what the standard library's random does for itself after a fork
        numbers.seed()
    leave = os._exit  # the program may put something else into its place
    code = 1
    try:
        says.put(began=time.monotonic())
        _run(source, module, lambda value: says.put(value=repr(value)))
        code = 0
    except BaseException as error:
        with contextlib.suppress(BaseException):
            code = _failed(error, source, says)
    try:
        code = _finish(says, work) or code
    except BaseException:
        code = code or 1  # what it needs was replaced
    finally:
        leave(code & 255)


def _output(fd: int, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, newline="\n", line_buffering=True)


def _run(source: str, module: types.ModuleType, tell: Any) -> None:
    """Run source in module; tell gets the value of its last statement where that is an expression with a value."""
    tree: Any = compile(source, NAME, "exec", _AST_ONLY, dont_inherit=True)
    last = tree.body[-1] if tree.body else None
    if type(last).__name__ != "Expr":
        exec(compile(tree, NAME, "exec", dont_inherit=True), module.__dict__)
        return
    expression: Any = compile("0", NAME, "eval", _AST_ONLY, dont_inherit=True)
    expression.body = tree.body.pop().value
    first, second = (
        compile(part, NAME, how, dont_inherit=True) for part, how in ((tree, "exec"), (expression, "eval"))
    )
    exec(first, module.__dict__)
    value = eval(second, module.__dict__)
    if value is not None:
        tell(value)


def _failed(error: BaseException, source: str, says: Says) -> int:
    """Say what ended the program, as the interpreter would; returns the exit code."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and isinstance(cause.errno, int) and 0 < cause.errno < 1000:
        says.put(failed=cause.errno)
    linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    try:
        inside = error.__traceback__
        while inside is not None and inside.tb_frame.f_code.co_filename != NAME:
            inside = inside.tb_next
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error.with_traceback(inside), inside)
        else:
            traceback.print_exception(type(error), error, inside)
    except BaseException:
        pass
    return 1


def _finish(says: Says, work: str) -> int:
    """Wait for threads, save open figures, run what was left for the exit, flush. Returns 120 where that fails."""
    code = 0
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        _figures(work)
        atexit._run_exitfuncs()
    except BaseException as error:
        code = _failed(error, "", says)
    return _flush(says) or code


def _flush(says: Says) -> int:
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException as error:
            code = code or 120
            if isinstance(error, OSError) and error.errno:
                says.put(failed=error.errno)
    return code


def _figures(work: str) -> None:
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for at, number in enumerate(pyplot.get_fignums()[:_FIGURES], 1):
        pyplot.figure(number).savefig(f"{work}/figure-{at}.png")
