"""Measures what importing toolpost costs, in cold processes, next to pydantic, which it cannot do without.

    python benchmarks/imports.py --json build/imports.json

README.md here says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import machine

USED = "from toolpost import ToolExecutor, BaseTool, Tool"

# Statement -> the statement its cost is compared with, and the highest ratio allowed. pydantic loads its parts on first
# use, as toolpost does, so `import` compares with `import`, and names that are used compare with names that are used.
STATEMENTS: dict[str, tuple[str, float] | None] = {
    "pass": None,
    "import pydantic": None,
    "from pydantic import BaseModel": None,
    "import toolpost": ("import pydantic", 1.5),
    USED: ("from pydantic import BaseModel", 1.5),
}

# What a fresh process runs. It loads nothing of its own, so that only the statement is measured.
PROBE = """
from sys import modules
from time import perf_counter, process_time
before = len(modules)
wall, cpu = perf_counter(), process_time()
{statement}
wall, cpu = perf_counter() - wall, process_time() - cpu
loaded = len(modules) - before
try:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
except OSError:
    pages = 0
print(wall, cpu, loaded, pages)
"""
IMPORT_TIME = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| *(\S+)")


def fresh(arguments: Sequence[str], bytecode: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter, which keeps bytecode in that folder: everything is compiled once, in the first round."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True)


def probe(statement: str, bytecode: str) -> dict[str, float]:
    """Run a statement in a fresh process: wall_ms and cpu_ms it took, modules it loaded, rss_mb of the process then.

    rss_mb is 0 where the system has no /proc.
    """
    run = fresh(["-c", PROBE.format(statement=statement)], bytecode)
    wall_s, cpu_s, modules, pages = map(float, run.stdout.split())
    rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else 0.0
    return {"wall_ms": wall_s * 1e3, "cpu_ms": cpu_s * 1e3, "modules": modules, "rss_mb": rss_mb}


def measured(rounds: int, bytecode: str, seed: int = 0) -> list[dict[str, Any]]:
    """A row a statement, with medians of rounds; each round runs all of them in a new random order."""
    samples: dict[str, list[dict[str, float]]] = {statement: [] for statement in STATEMENTS}
    order = list(STATEMENTS)
    for statement in order:
        probe(statement, bytecode)  # writes bytecode and fills the page cache
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for statement in order:
            samples[statement].append(probe(statement, bytecode))
    medians = {
        statement: {key: statistics.median([one[key] for one in all_of_it]) for key in all_of_it[0]}
        for statement, all_of_it in samples.items()
    }
    return [_row(statement, medians, samples[statement]) for statement in STATEMENTS]


def _row(
    statement: str, medians: dict[str, dict[str, float]], samples: list[dict[str, float]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"statement": statement, **medians[statement]}
    row["min_cpu_ms"] = min(one["cpu_ms"] for one in samples)
    compared = STATEMENTS[statement]
    if compared is None:
        return row | {"of": None, "ratio": None, "bar": None, "within": None}
    floor, bar = compared
    ratio = medians[statement]["cpu_ms"] / medians[floor]["cpu_ms"]
    return row | {"of": floor, "ratio": ratio, "bar": bar, "within": ratio <= bar}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Rows as text for a terminal."""
    lines = [f"{'statement':<52} {'cpu ms':>8} {'min':>8} {'wall ms':>8} {'RSS MB':>7} {'modules':>8} {'ratio':>6}  bar"]
    for row in found:
        judged = ""
        if row["ratio"] is not None:
            judged = f"{row['ratio']:>6.2f}  <= {row['bar']:g} x {row['of']} {'ok' if row['within'] else 'OVER'}"
        lines.append(
            f"{row['statement']:<52} {row['cpu_ms']:>8.1f} {row['min_cpu_ms']:>8.1f} {row['wall_ms']:>8.1f} "
            f"{row['rss_mb']:>7.1f} {row['modules']:>8.0f} {judged}".rstrip()
        )
    return "\n".join(lines)


def profile(statement: str, rounds: int, bytecode: str) -> str:
    """The modules that a statement loads, the dearest first: the least of some rounds of -X importtime."""
    own_us: dict[str, int] = {}
    total_us: dict[str, int] = {}
    for _ in range(rounds + 1):
        run = fresh(["-X", "importtime", "-c", statement], bytecode)
        for own, total, name in IMPORT_TIME.findall(run.stderr):
            own_us[name] = min(int(own), own_us.get(name, int(own)))
            total_us[name] = min(int(total), total_us.get(name, int(total)))
    packages: Counter[str] = Counter()
    for name, spent in own_us.items():
        packages[name.partition(".")[0]] += spent
    lines = [f"{sum(own_us.values()) / 1e3:>8.1f}  ms in all", "", f"{'own ms':>8}  package"]
    lines += [f"{spent / 1e3:>8.1f}  {name}" for name, spent in packages.most_common(25)]
    lines += ["", f"{'own ms':>8} {'with all it loads':>18}  module"]
    dearest = sorted(own_us, key=lambda name: -own_us[name])[:40]
    lines += [f"{own_us[name] / 1e3:>8.1f} {total_us[name] / 1e3:>18.1f}  {name}" for name in dearest]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. 0 however the bars come out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="processes for each statement (15)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    parser.add_argument(
        "--profile", metavar="STATEMENT", nargs="?", const=USED, help="show which modules cost the most, and end"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    with TemporaryDirectory() as bytecode:
        if options.profile:
            print(profile(options.profile, options.rounds, bytecode))
            return 0
        found = measured(options.rounds, bytecode)
    print(table(found))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(), "rounds": options.rounds, "rows": found}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
