"""Measures how long a program waits for its sandbox, next to a bare process, a bare interpreter and a bare bwrap.

    python benchmarks/sandbox.py --json build/sandbox.json --concurrent 100 --leaks 10000

README.md here says how to read it. It ends with 1 where a bar was missed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import machine

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.backend import Backend, BackendFactory, Job
from toolpost.sandbox.bubblewrap import BubblewrapBackend
from toolpost.sandbox.containers import ContainerBackend
from toolpost.sandbox.link import interpreter
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.profile import Sandbox

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROFILE = Sandbox()
WARM = 2
REFILL_S = 0.03
"""How long is waited after a warm sample, which does not count: interpreters are held ready for callers who do."""
PYTHON = (interpreter(), "-I", "-S", "-E", "-c", "pass")
BWRAP = ("bwrap", "--unshare-all", "--ro-bind", "/", "/")
BARS: dict[str, tuple[float, tuple[str, ...]]] = {
    "native warm Python begun": (0.15, ("python",)),
    "native warm shell": (1.0, ("bwrap",)),
    "native cold Python": (3.0, ("bwrap python",)),
}
"""Row -> the highest ratio of its median to that of the sum of others."""
FIRST_CALLS = 300
"""Calls before the first look of --leaks, after which everything that is kept has been made."""
GROWTH_MB = 4.0


@dataclass(frozen=True)
class Contender:
    """One way to run a program.

    run says whether it went as it should, or None where its time is that of another row, as no interpreter was ready;
    or it gives the milliseconds itself, where not all of its time counts. pause follows a run and is not measured.
    """

    name: str
    what: str
    run: Callable[[], float | None]
    pause_s: float = 0.0


def spawned(*argv: str) -> Callable[[], bool]:
    """Start a process and wait for it, with as little of Python between as can be."""
    path = shutil.which(argv[0]) or argv[0]

    def run() -> bool:
        pid = os.posix_spawn(path, argv, {})
        return os.waitpid(pid, 0)[1] == 0

    return run


def called(backend: Backend, *, warm: bool, begun: bool = False, **program: Any) -> Callable[[], float | None]:
    """Run a program in a sandbox that was held ready, or was not: until its answer, or its first instruction."""
    job = Job(limits=PROFILE.limits, **program)

    def run() -> float | None:
        result = backend.run(job)
        if result.status != "ok":
            return False
        if result.warm is not warm:
            return None
        return result.usage.start_s * 1000 if begun else True

    return run


def factories(only: str) -> Iterator[tuple[str, BackendFactory]]:
    """The back ends to measure of those whose rows begin so."""
    if _wanted("native", only):
        yield "native", NativeBackend
    if _wanted("bubblewrap", only) and shutil.which("bwrap"):
        yield "bubblewrap", BubblewrapBackend
    if _wanted("podman", only):
        from tests.sandbox import images

        runtime = images.podman()
        if runtime:
            more: dict[str, Any] = {"image": images.NAME, "runtime": runtime, "arguments": images.SHOWN}
            yield "podman", functools.partial(ContainerBackend, engine="podman", **more)


def _wanted(name: str, only: str) -> bool:
    return name.startswith(only) or only.startswith(name)


def contenders(root: Path, only: str, stack: ExitStack, missing: dict[str, str]) -> list[Contender]:
    """Everything that can run here. What cannot is put into missing, with the reason."""
    found = [
        Contender("spawn", "posix_spawn /bin/true", spawned("/bin/true")),
        Contender("python", "python -I -S -E -c pass", spawned(*PYTHON)),
    ]
    if shutil.which("bwrap"):
        found.append(Contender("bwrap", "bwrap --unshare-all true", spawned(*BWRAP, "/bin/true")))
        found.append(Contender("bwrap python", "bwrap --unshare-all python -I -S -E", spawned(*BWRAP, *PYTHON)))
    else:
        missing["bwrap"] = "bubblewrap is not installed"
    for name, factory in factories(only):
        try:
            held, made = (started(factory, root / f"{name}-{warm}", warm, stack) for warm in (WARM, 0))
        except SandboxError as error:
            missing[name] = error.message
            continue
        shell = ("/bin/sh", "-c", "true")
        found += [
            Contender(
                f"{name} warm Python begun",
                "held ready, until its first instruction",
                called(held, warm=True, begun=True, code="6 * 7"),
                REFILL_S,
            ),
            Contender(f"{name} warm Python", "held ready", called(held, warm=True, code="6 * 7"), REFILL_S),
            Contender(f"{name} warm shell", "held ready, sh -c true", called(held, warm=True, argv=shell), REFILL_S),
            Contender(f"{name} cold Python", "made for the call", called(made, warm=False, code="6 * 7")),
        ]
    return found


def started(factory: BackendFactory, root: Path, warm: int, stack: ExitStack) -> Backend:
    backend = factory(PROFILE, root, warm)
    backend.start()
    stack.callback(backend.close)
    return backend


def interleaved(all_of_them: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """Milliseconds, one figure a round. Each round takes all in a new random order."""
    taken: dict[str, list[float]] = {one.name: [] for one in all_of_them}
    order, shuffle = list(all_of_them), random.Random(0).shuffle
    for number in range(rounds + 1):
        shuffle(order)
        for one in order:
            began = time.perf_counter()
            right = one.run()
            took = (time.perf_counter() - began) * 1000
            if right is False:
                raise SystemExit(f"{one.name} did not go as it should, so its time means nothing")
            if number and right:  # the first round brings programs into the page cache
                taken[one.name].append(took if right is True else right)
            time.sleep(one.pause_s)
    never = [name for name, values in taken.items() if not values]
    if never:
        raise SystemExit(f"{never[0]} was never ready in time: the machine is too busy to measure on")
    return taken


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def rows(all_of_them: Sequence[Contender], taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row a contender; ratio is None where it has no bar, or its yardstick is not here."""
    medians = {name: statistics.median(values) for name, values in taken.items()}
    found = []
    for one in all_of_them:
        bar, yardsticks = BARS.get(one.name, (None, ()))
        known = bool(yardsticks) and all(name in medians for name in yardsticks)
        ratio = medians[one.name] / sum(medians[name] for name in yardsticks) if known else None
        found.append(
            {
                "name": one.name,
                "what": one.what,
                "p50_ms": medians[one.name],
                "p99_ms": quantile(taken[one.name], 0.99),
                "min_ms": min(taken[one.name]),
                "samples": len(taken[one.name]),
                "ratio": ratio,
                "to": " + ".join(yardsticks) or None,
                "bar": bar,
                "within": None if ratio is None or bar is None else ratio <= bar,
            }
        )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'':26} {'p50 ms':>9} {'p99 ms':>9}   {'ratio':>6} {'bar':>5}"]
    for row in found:
        line = f"{row['name']:26} {row['p50_ms']:9.2f} {row['p99_ms']:9.2f}"
        if row["ratio"] is not None:
            over = "" if row["within"] else "  OVER"
            line += f"   {row['ratio']:6.2f} {row['bar']:5.2f} x {row['to']}{over}"
        lines.append(line)
    return "\n".join(lines)


def concurrent(root: Path, number: int) -> dict[str, Any]:
    """So many programs at once, each with an answer of its own."""
    with ExitStack() as stack:
        backend = started(NativeBackend, root / "concurrent", WARM, stack)

        def one(n: int) -> tuple[bool, float]:
            began = time.perf_counter()
            try:
                result = backend.run(Job(code=f"{n} * 2", limits=PROFILE.limits))
            except SandboxError:
                return False, 0.0
            return result.value == str(n * 2), (time.perf_counter() - began) * 1000

        began = time.perf_counter()
        with ThreadPoolExecutor(number) as pool:
            told = list(pool.map(one, range(number)))
        took_s = time.perf_counter() - began
    times = [ms for right, ms in told if right]
    failed = sum(not right for right, _ in told)
    p50, p99 = (quantile(times, share) if times else None for share in (0.5, 0.99))
    return {"programs": number, "failed": failed, "took_s": took_s, "p50_ms": p50, "p99_ms": p99}


def leaks(root: Path, calls: int) -> dict[str, Any]:
    """What is there before and after so many calls: descriptors, control groups, and memory of engine and launcher."""
    with ExitStack() as stack:
        backend = started(NativeBackend, root / "leaks", WARM, stack)
        assert isinstance(backend, NativeBackend)
        python, shell = (called(backend, warm=True, **one) for one in ({"code": "6 * 7"}, {"argv": ("/bin/true",)}))
        for _ in range(min(FIRST_CALLS, calls)):
            python()
        before = held(backend)
        for n in range(calls):
            if (shell() if n % 4 == 3 else python()) is False:
                raise SystemExit(f"call {n} of {calls} did not go as it should")
        after = held(backend)
    grown = {name: after[name] - before[name] for name in before}
    within = (
        grown["descriptors"] <= 8  # those of sandboxes that are held ready may be more or fewer
        and grown["control_groups"] <= 2 * WARM
        and max(grown["engine_mb"], grown["launcher_mb"]) <= GROWTH_MB
    )
    return {"calls": calls, "before": before, "after": after, "within": within}


def held(backend: NativeBackend) -> dict[str, float]:
    """What this process and its launcher have, once what is being made has been made."""
    time.sleep(0.5)
    link = backend._link
    assert link is not None
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "launcher_descriptors": len(os.listdir(f"/proc/{link.pid}/fd")),
        "control_groups": control_groups(),
        "engine_mb": anonymous_mb("self"),
        "launcher_mb": anonymous_mb(str(link.pid)),
    }


def control_groups() -> int:
    """Those of this process's launchers."""
    found = 0
    for _, folders, _ in os.walk("/sys/fs/cgroup"):
        found += sum(f"l-{os.getpid()}-" in name for name in folders)
    return found


def anonymous_mb(process: str) -> float:
    with open(f"/proc/{process}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


def main() -> int:
    """Print the tables; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="samples of each row (60)")
    parser.add_argument("--only", default="", help="rows whose name begins with this, beside the yardsticks")
    parser.add_argument("--concurrent", type=int, default=0, metavar="N", help="run so many programs at once, too")
    parser.add_argument("--leaks", type=int, default=0, metavar="N", help="look for leaks over so many calls, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="toolpost-bench-"))
    told: dict[str, Any] = {"machine": machine(), "missing": {}}
    missed = False
    try:
        with ExitStack() as stack:
            all_of_them = contenders(root, options.only, stack, told["missing"])
            yardsticks = {name for _, names in BARS.values() for name in names}
            all_of_them = [one for one in all_of_them if one.name in yardsticks or one.name.startswith(options.only)]
            found = told["rows"] = rows(all_of_them, interleaved(all_of_them, options.rounds))
        print(table(found))
        for name, why in told["missing"].items():
            print(f"{name} is not measured: {why}")
        missed = any(row["within"] is False for row in found)
        if options.concurrent:
            many = told["concurrent"] = concurrent(root, options.concurrent)
            print(f"{many['programs']} programs at once: {many['took_s']:.2f} s, {many['failed']} failed")
            missed = missed or many["failed"] > 0
        if options.leaks:
            leak = told["leaks"] = leaks(root, options.leaks)
            for name, was in leak["before"].items():
                print(f"{name:24} {was:9.1f} before, {leak['after'][name]:9.1f} after {leak['calls']} calls")
            missed = missed or not leak["within"]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
