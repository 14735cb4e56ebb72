"""Runs the suite on a back end, and looks at the host after every few cases."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tests.sandbox.escapes.case import PRELUDE, PROFILE, Case
from tests.sandbox.escapes.world import SETTLE_S, World, available_mb, descendants, open_descriptors, state
from toolpost.calls.errors import ToolExecutionError
from toolpost.sandbox.backend import Backend, Job
from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.profile import Control

AT_ONCE = 5
CHUNK = 20
SPARE = 6
PARKED = 8
"""Descriptors by which an engine may hold more sandboxes ready than at the beginning; a leak is soon more."""
SHELLS = {"sh": "/bin/sh", "bash": "/bin/bash"}


@dataclass
class Finding:
    """One case and what was wrong; nothing where it was contained."""

    id: str
    complaints: list[str] = field(default_factory=list)
    status: str = ""
    seconds: float = 0.0
    got: bool = False


class Harness:
    """Runs cases on one back end inside one world.

    A case is contained when it ended as it may, within its time, without a line GOT, without a canary in anything that
    came out, and when the host is as before. The host is looked at between chunks of cases that run at once; what is
    wrong there is charged to the chunk, and its cases are run again one by one to find the one.
    """

    def __init__(self, backend: Backend, world: World, *, control: bool = False) -> None:
        self.backend = backend
        self.world = world
        self.control = control
        report = backend.report()
        self.hard = {control for control, held in report.enforced.items() if held.hard}
        self.processes = 0
        self.known: set[int] = set()
        self.descriptors = 0
        self.memory_mb = 0

    def run(self, cases: Iterable[Case]) -> list[Finding]:
        todo = [case for case in cases if self.applies(case)]
        self.liveness()
        self.settle()
        findings: list[Finding] = []
        together = [case for case in todo if not case.alone]
        # Slow cases first, so that none is left over at the end.
        together.sort(key=lambda case: -case.limits.get("wall_s", 0.0))
        chunks = [together[n :: -(-len(together) // CHUNK)] for n in range(-(-len(together) // CHUNK))]
        for chunk in [*chunks, *([case] for case in todo if case.alone)]:
            findings += self.chunk(chunk)
        return findings

    def applies(self, case: Case) -> bool:
        if not case.here:
            return False
        return case.control if self.control else case.needs <= self.hard

    def chunk(self, cases: list[Case]) -> list[Finding]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self.one, cases))
        wrong = list(self.host())
        if self.control and wrong:
            # What a control reached on the host tells that it got through; which of them is found one by one.
            for finding, case in zip(found, cases, strict=True):
                if not finding.got:
                    self.one(case)
                    finding.got = any("listeners" in one for one in self.host())
        elif wrong and len(cases) == 1:
            found[0].complaints += wrong
        elif wrong:
            again = [finding for case in cases for finding in self.chunk([case])]
            if not any(finding.complaints for finding in again):
                again[0].complaints += [f"{one}, after all of {', '.join(case.id for case in cases)}" for one in wrong]
            return again
        return found

    def one(self, case: Case) -> Finding:
        """Run one case and look at what came out."""
        finding = Finding(case.id)
        began = time.monotonic()
        try:
            results = list(self.results(case))
        except Exception as error:
            finding.complaints.append(
                f"the back end failed: {error!r}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}"
            )
            return finding
        finding.seconds = time.monotonic() - began
        finding.got = any(line.startswith(b"GOT:") for one in results for line in lines(one))
        if self.control:
            finding.status = results[-1].status if results else ""
            return finding
        finding.complaints += complaints(case, results, self.world)
        if finding.seconds > case.within_s + case.limits.get("wall_s", 0.0):
            finding.complaints.append(f"took {finding.seconds:.1f} s")
        finding.status = results[-1].status if results else "refused"
        return finding

    def results(self, case: Case) -> Iterator[SandboxResult]:
        """What came out of each of a case's programs."""
        beside = None
        pool = ThreadPoolExecutor(1) if case.beside else None
        try:
            if pool and case.beside:
                beside = pool.submit(self.backend.run, self.job(case, case.beside))
            session = self.backend.open_session() if case.session else None
            try:
                yield self.backend.run(self.job(case, case.program, session))
                for program in case.then:
                    try:
                        yield self.backend.run(self.job(case, program, session, last=True))
                    except ToolExecutionError:
                        if not case.may_refuse:
                            raise
                        return
            finally:
                if session is not None:
                    self.backend.close_session(session)
            if beside:
                yield beside.result()
        finally:
            if pool:
                pool.shutdown()

    def job(self, case: Case, program: str, session: str | None = None, *, last: bool = False) -> Job:
        words = self.world.words
        text = (program if case.language != "python" else f"{PRELUDE}\n{program}").replace("\0", "\0")
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        files = case.then_files if last else case.files
        limits = replace(PROFILE.limits, **case.limits)
        common = {"stdin": case.stdin, "files": files, "limits": limits, "session": session}
        if case.language == "python":
            return Job(code=text, **common)  # type: ignore[arg-type]
        return Job(argv=(SHELLS[case.language], "-c", text), **common)  # type: ignore[arg-type]

    def liveness(self) -> list[str]:
        """Whether the back end still runs an innocent program of each kind."""
        limits = PROFILE.limits
        wrong = []
        for job in (Job(code="print(6 * 7)", limits=limits), Job(argv=("/bin/echo", "42"), limits=limits)):
            try:
                result = self.backend.run(job)
            except Exception as error:
                wrong.append(f"an innocent program fails afterwards: {error!r}")
                continue
            if result.status != "ok" or result.stdout.whole != b"42\n":
                wrong.append(f"an innocent program ended with {result.status}, {result.stderr.whole[-200:]!r}")
        return wrong

    def settle(self) -> None:
        """Take the host as it is now as the measure, once what is starting has started."""
        seen: list[tuple[int, int]] = []
        while not self.control and (len(seen) < 4 or len(set(seen[-4:])) > 1):
            seen.append((len(descendants(os.getpid())), open_descriptors()))
            time.sleep(0.25)
        self.known = descendants(os.getpid())
        self.processes = len(self.known)
        self.descriptors = open_descriptors()
        self.memory_mb = available_mb()

    def at_rest(self) -> bool:
        return len(descendants(os.getpid())) <= self.processes and open_descriptors() <= self.descriptors + PARKED

    def host(self) -> Iterator[str]:
        """What is wrong with the host after some cases."""
        yield from self.world.complaints()
        if self.control:
            return
        yield from self.liveness()
        for _ in range(SPARE):
            if wait_for(self.at_rest, SETTLE_S / SPARE):
                break
            yield from self.liveness()  # uses up what is ready beyond the wanted number
        if len(descendants(os.getpid())) > self.processes:
            extra = descendants(os.getpid()) - self.known
            yield f"{len(extra)} processes are left: " + "; ".join(describe(pid) for pid in sorted(extra)[:5])
            self.processes = len(descendants(os.getpid()))
        if open_descriptors() > self.descriptors + PARKED:
            yield f"{open_descriptors() - self.descriptors} descriptors are left in the engine: {links()}"
            self.descriptors = open_descriptors()
        if not wait_for(lambda: available_mb() > self.memory_mb - 1500, 3 * SETTLE_S):
            yield f"{self.memory_mb - available_mb()} MB of the host's memory are gone"
            self.memory_mb = available_mb()


def complaints(case: Case, results: list[SandboxResult], world: World) -> Iterator[str]:
    """What is wrong with what came out of a case."""
    for result in results:
        for line in lines(result):
            if line.startswith(b"GOT:"):
                yield "got " + line[4:200].decode("utf-8", "replace")
        token = world.token.encode()
        parts = {"stdout": result.stdout.whole, "stderr": result.stderr.whole, **result.artifacts}
        parts["value"] = (result.value or "").encode("utf-8", "replace")
        parts["left_behind"] = "".join(result.left_behind).encode("utf-8", "replace")
        for name, data in parts.items():
            if token in data:
                yield f"a canary in {name}"
    if not results:
        return
    first = results[0]
    ends = case.ends if not case.then else case.ends | {"ok", "exit", "signal"}
    for result in results:
        if result.status not in (case.ends if result is results[-1] else ends):
            yield (
                f"ended with {result.status} (limit {result.limit}, exit {result.exit_code}, {result.signal}): "
                f"{result.stderr.whole[-300:].decode('utf-8', 'replace')}"
            )
    if case.check and (said := case.check(results[-1] if case.then else first)):
        yield f"{said} (status {first.status}, {first.stderr.whole[-200:]!r})"
    if case.beside and (first.status not in case.ends):
        yield f"ended with {first.status}"
    if first.status == "ok" and case.language == "python" and "got(" in case.program and b":" not in first.stdout.whole:
        yield "did nothing at all"


def lines(result: SandboxResult) -> list[bytes]:
    return (result.stdout.whole + b"\n" + result.stderr.whole).split(b"\n")


def wait_for(condition: Callable[[], bool], seconds: float = SETTLE_S) -> bool:
    """Whether a condition comes true in time; killed processes take a moment to go."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def links() -> str:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return ", ".join(found)


def waits(pid: int) -> str:
    """Where in the kernel a process waits, and its numbers in its namespaces."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/wchan") as place, open(f"/proc/{pid}/status") as status:
            numbers = next(line for line in status if line.startswith("NSpid"))
            return f"{place.read()} {' '.join(numbers.split()[1:])}"
    return ""


def describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return (
                f"{pid} {state(pid)} {waits(pid)} {file.read(120).replace(bytes(1), b' ').decode('utf-8', 'replace')}"
            )
    except OSError:
        return str(pid)


__all__ = ["Control", "Finding", "Harness", "complaints"]
