"""One interleaved run of contenders: shuffled rounds, medians, ratios, the machine; what to measure is others'."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import inspect
import json
import os
import platform
import pstats
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

SAMPLE_S = 0.02
"""About how long one sample takes."""
PROFILED_CALLS = 20_000

PACKAGES = (
    "toolpost pydantic pydantic-core orjson jsonschema-rs "
    "aiecs fastmcp langchain-core mcp openai-agents pydantic-ai-slim"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that makes calls.

    loop(n) makes n calls and returns the last answer; read finds the value in it, which must be 3, or the benchmark
    stops: a call that fails is no fast call. calls fixes n (a batch). cpu is the time of the running thread, for work
    that never leaves it; wall is for work that crosses threads. floor names the contender that the ratio is taken to,
    bar the highest ratio allowed, below one that must cost more.
    """

    name: str
    what: str
    loop: Callable[[int], Any]
    read: Callable[[Any], Any] = lambda answer: answer
    clock: Literal["cpu", "wall"] = "cpu"
    calls: int | None = None
    floor: str | None = None
    bar: float | None = None
    below: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A contender that cannot run here, and why."""

    name: str
    what: str
    why: str


class WrongAnswerError(Exception):
    """A contender did not give the value that all must give."""


def interleaved(
    contenders: Sequence[Contender], *, rounds: int, calls: int, runner: asyncio.Runner, seed: int = 0
) -> dict[str, list[float]]:
    """Seconds a call, one figure for each round, by contender. Each round takes all of them in a new random order.

    calls bounds the calls of one sample; a slow contender makes fewer, so that its sample takes about SAMPLE_S.
    """
    gc.collect()
    gc.freeze()  # so that nobody's collections walk what the imports of all the others left
    counts = {c.name: c.calls or _count(c, calls, runner) for c in contenders}
    samples: dict[str, list[float]] = {c.name: [] for c in contenders}
    order = list(contenders)
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for contender in order:
            n = counts[contender.name]
            if contender.calls is None:
                sample(contender, max(1, n // 10), runner)  # brings it into the processor's caches
            gc.collect()
            samples[contender.name].append(sample(contender, n, runner) / n)
    gc.unfreeze()
    return samples


def sample(contender: Contender, calls: int, runner: asyncio.Runner) -> float:
    """Make calls; the seconds they took in all. Raises WrongAnswerError."""
    clock = time.thread_time if contender.clock == "cpu" else time.perf_counter
    loop = contender.loop

    async def awaited() -> tuple[float, Any]:
        started = clock()
        answer = await loop(calls)
        return clock() - started, answer

    if inspect.iscoroutinefunction(loop):
        elapsed_s, answer = runner.run(awaited())
    else:
        started = clock()
        answer = loop(calls)
        elapsed_s = clock() - started
    value = contender.read(answer)
    if value != 3:
        raise WrongAnswerError(f"{contender.name} answered {value!r}, not 3, so its time means nothing")
    return elapsed_s


def _count(contender: Contender, most: int, runner: asyncio.Runner) -> int:
    """How many calls fit into a sample."""
    sample(contender, 1, runner)
    n = 1
    while n < most:
        elapsed_s = sample(contender, n, runner)
        if elapsed_s > SAMPLE_S / 10:
            return max(1, min(most, int(n * SAMPLE_S / elapsed_s)))
        n = min(most, n * 4)
    return most


def rows(contenders: Sequence[Contender | Missing], samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row a contender, in the order given, as JSON. Times are microseconds a call; within says if the bar was held.

    A bar whose yardstick was not measured is not judged: within is None.
    """
    medians = {name: statistics.median(times) for name, times in samples.items()}
    return [_row(c, samples, medians) for c in contenders]


def _row(contender: Contender | Missing, samples: dict[str, list[float]], medians: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": contender.name, "what": contender.what}
    if isinstance(contender, Missing):
        return row | {"status": contender.why}
    times, median = samples[contender.name], medians[contender.name]
    floor = medians.get(contender.floor or "")
    quiet_floor = None if floor is None else min(samples[contender.floor or ""])
    above = medians.get(contender.below or "")
    ratio = None if floor is None else median / floor
    held = []
    if contender.bar is not None and ratio is not None:
        held.append(ratio <= contender.bar)
    if above is not None:
        held.append(median < above)
    return row | {
        "status": "measured",
        "clock": contender.clock,
        "median_us": median * 1e6,
        "min_us": min(times) * 1e6,
        "max_us": max(times) * 1e6,
        "floor": contender.floor,
        "ratio": ratio,
        "ratio_of_mins": None if quiet_floor is None else min(times) / quiet_floor,
        "bar": contender.bar,
        "below": contender.below,
        "within": all(held) if held else None,
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Rows as text for a terminal."""
    lines = [f"{'contender':<32} {'clock':<5} {'us median':>10} {'min':>9} {'ratio':>7} {'of mins':>8}  {'to':<24} bar"]
    for row in found:
        if row["status"] != "measured":
            lines.append(f"{row['name']:<32} {row['status']}")
            continue
        ratio, quiet = ("" if r is None else f"{r:.2f}" for r in (row["ratio"], row["ratio_of_mins"]))
        verdict = {True: "ok", False: "OVER", None: ""}[row["within"]]
        lines.append(
            f"{row['name']:<32} {row['clock']:<5} {row['median_us']:>10.2f} {row['min_us']:>9.2f} "
            f"{ratio:>7} {quiet:>8}  {row['floor'] or '':<24} {_bar(row)} {verdict}".rstrip()
        )
    return "\n".join(lines)


def _bar(row: dict[str, Any]) -> str:
    parts = [] if row["bar"] is None else [f"<= {row['bar']:g}"]
    if row["below"] is not None:
        parts.append(f"below {row['below']}")
    return ", ".join(parts)


def machine() -> dict[str, Any]:
    """What the figures depend on: interpreter, processor, load, and the versions of what was compared."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    if versions["toolpost"] is None:  # not installed, but on the path
        import toolpost

        versions["toolpost"] = toolpost.__version__
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "compiler": platform.python_compiler(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions,
    }


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def rss_mb() -> float:
    """This process's resident memory in MB (10**6 bytes); where the system does not say, its highest ever."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# What scripts of contenders have in common.


def options_for(doc: str | None) -> argparse.ArgumentParser:
    """The options of a script, whose docstring's first sentence says what it measures."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="samples of each contender (40)")
    parser.add_argument("--calls", type=int, default=5_000, help="most calls of a sample (5000)")
    parser.add_argument("--only", metavar="PATTERN", action="append", help="names such as 'sync/*'; may be repeated")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    parser.add_argument("--profile", metavar="CONTENDER", help="show where the time of one contender goes, and end")
    parser.add_argument("--list", action="store_true", help="name the contenders, and end")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options that were given. --profile chooses its contender."""
    options = parser.parse_args(arguments)
    numbers = [name for name in ("rounds", "calls", "batch") if name in options]
    if any(getattr(options, name) < 1 for name in numbers):
        parser.error(f"{', '.join(f'--{name}' for name in numbers)} are at least 1")
    if options.profile:
        options.only = [options.profile]
    return options


def wanted(options: argparse.Namespace, name: str) -> bool:
    """Whether --only asks for it."""
    return not options.only or any(fnmatchcase(name, pattern) for pattern in options.only)


def chosen(everything: Sequence[Contender | Missing], options: argparse.Namespace) -> list[Contender | Missing]:
    """The wanted ones, and what they are compared with."""
    kept = [c for c in everything if wanted(options, c.name)]
    needed = {name for c in kept if isinstance(c, Contender) for name in (c.floor, c.below) if name}
    while more := {c.floor for c in everything if isinstance(c, Contender) and c.name in needed and c.floor} - needed:
        needed |= more
    return [c for c in everything if c.name in needed or wanted(options, c.name)]


def judged(
    everything: Sequence[Contender | Missing], options: argparse.Namespace, runner: asyncio.Runner
) -> dict[str, Any] | int:
    """Do what the options ask for. The report, its table printed; without one, the code to end with.

    2 when a pattern names nothing or an answer is wrong, 0 after a list or a profile.
    """
    found = chosen(everything, options)
    if not found:
        print(f"no contender is called {' or '.join(options.only)}; see --list", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{c.name:<32} {c.what}" for c in found))
        return 0
    measured = [c for c in found if isinstance(c, Contender)]
    try:
        if options.profile:
            print(profile(next(c for c in measured if wanted(options, c.name)), runner))
            return 0
        before = machine()
        samples = interleaved(measured, rounds=options.rounds, calls=options.calls, runner=runner)
    except WrongAnswerError as error:
        print(error, file=sys.stderr)
        return 2
    made = rows(found, samples)
    over = [row["name"] for row in made if row.get("within") is False]
    print(table(made))
    print(f"\nover their bar: {', '.join(over) or 'none'}")
    return {"machine": before, "rounds": options.rounds, "calls": options.calls, "rows": made, "over": over}


def written(report: dict[str, Any], path: Path | None) -> None:
    """Keep a report where --json says."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")


def profile(contender: Contender, runner: asyncio.Runner) -> str:
    """Where the time of a contender goes, by function. The profiler makes every Python call dearer than it is."""
    calls = contender.calls or PROFILED_CALLS
    sample(contender, 100 if contender.calls is None else calls, runner)
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        sample(contender, calls, runner)
    finally:
        profiler.disable()
    pstats.Stats(profiler, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(25)
    return f"{calls} calls of {contender.name}"
