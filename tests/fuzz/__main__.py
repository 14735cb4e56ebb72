"""`python -m tests.fuzz [NAME...]`: each target for FUZZ_SECONDS, guided by coverage where atheris is installed.

An input that breaks a promise is written to build/fuzz/, and the run ends with 1.
"""

import argparse
import logging
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.targets import LOUD, MAX_BYTES, PINNED, Target, mutated

ROOT = Path(__file__).parent.parent.parent
FOUND = ROOT / "build" / "fuzz"
SLOW_S = 10
"""No input of 4 KiB may take as long."""
INSTRUMENTED = ["toolpost", "sqlglot", "tests.fuzz"]


def main() -> int:
    """Each target in a process of its own: atheris ends the one it runs in."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", help="targets; all of them without any")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS") or 60))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        return one(asked.names[0], asked.seconds)
    from tests.fuzz.targets import targets

    known = targets()
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(known)}")
    FOUND.mkdir(parents=True, exist_ok=True)
    broken = []
    for name in asked.names or known:
        print(f"fuzz: {name} for {asked.seconds:g} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(asked.seconds)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            broken.append(name)
    for name in broken:
        print(f"fuzz: {name} broke; its input lies in build/fuzz/{name}-*. Once it is mended, pin it:", file=sys.stderr)
        print(f"      mkdir -p {PINNED.relative_to(ROOT)}/{name} && mv build/fuzz/{name}-* there", file=sys.stderr)
    print(f"fuzz: {len(asked.names or known) - len(broken)} targets held, {len(broken)} broke")
    return 1 if broken else 0


def one(name: str, seconds: float) -> int:
    """One target, here."""
    for logger in LOUD:
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        import atheris
    except ImportError:
        print("fuzz: atheris is not there for this Python; inputs are mutated without looking at coverage", flush=True)
        return by_chance(_target(name), seconds)
    with atheris.instrument_imports(include=INSTRUMENTED):
        import toolpost

        [getattr(toolpost, public) for public in toolpost.__all__]
        target = _target(name)
    folder = ROOT / ".cache" / "fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    arguments = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={SLOW_S}",
        "-rss_limit_mb=2048",
        "-verbosity=1",
        "-print_final_stats=1",
        f"-artifact_prefix={FOUND}/{name}-",
        str(folder),
    ]
    atheris.Setup([name, *arguments], target.run)
    atheris.Fuzz()
    return 0


def _target(name: str) -> Target:
    from tests.fuzz.targets import targets

    return targets()[name]


def by_chance(target: Target, seconds: float) -> int:
    """Seeds, then mutations of them, until the time is over."""
    luck = random.Random(time.time_ns())
    until = time.monotonic() + seconds
    waiting = list(target.seeds)
    tried = 0
    while time.monotonic() < until:
        data = waiting.pop() if waiting else mutated(target.seeds, luck)
        began = time.process_time()
        tried += 1
        try:
            target.run(data)
            took_s = time.process_time() - began
            assert took_s < SLOW_S, f"it took {took_s:.1f} s"
        except Exception:
            traceback.print_exc()
            (FOUND / f"{target.name}-{hash(data) & 0xFFFFFFFF:08x}").write_bytes(data)
            return 1
    print(f"fuzz: {target.name} held for {tried} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
