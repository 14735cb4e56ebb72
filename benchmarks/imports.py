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
from typing import Any

from measure import machine

MODEL = """
from pydantic import BaseModel
class Pair(BaseModel):
    a: int
    b: int
"""
FIRST_CALL = """
from toolpost import BaseTool
class Math(BaseTool):
    def add(self, a: int, b: int) -> int:
        return a + b
assert Math().run("add", a=1, b=2) == 3
"""
USED = "from toolpost import ToolExecutor, BaseTool, Tool"

# What a row is called -> the code it runs.
CODE: dict[str, str] = {
    "pass": "pass",
    "import pydantic": "import pydantic",
    "from pydantic import BaseModel": "from pydantic import BaseModel",
    "pydantic: one model": MODEL,
    "pydantic: one model; asyncio, orjson, jsonschema_rs": f"import asyncio, orjson, jsonschema_rs{MODEL}",
    "import toolpost": "import toolpost",
    USED: USED,
    "toolpost: one tool and its first call": FIRST_CALL,
}

# Row -> the row its cost is compared with, and the highest ratio allowed. pydantic loads its parts on first use, as
# toolpost does, so `import` compares with `import`, and names that are used compare with names that are used.
BARS: dict[str, tuple[str, float]] = {
    "import toolpost": ("import pydantic", 1.5),
    USED: ("from pydantic import BaseModel", 1.5),
}

# What a fresh process runs. It loads nothing of its own, so that only the statement is measured.
PROBE = """
from sys import modules
from time import perf_counter, process_time
before = len(modules)
wall, cpu = perf_counter(), process_time()
{code}
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


def fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter. It may keep bytecode, so that sources are compiled in the first round only."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True)


def probe(code: str) -> dict[str, float]:
    """Run code in a fresh process: wall_ms and cpu_ms it took, modules it loaded, rss_mb of the process then.

    rss_mb is 0 where the system has no /proc.
    """
    run = fresh("-c", PROBE.format(code=code))
    wall_s, cpu_s, modules, pages = map(float, run.stdout.split())
    rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else 0.0
    return {"wall_ms": wall_s * 1e3, "cpu_ms": cpu_s * 1e3, "modules": modules, "rss_mb": rss_mb}


def measured(rounds: int, seed: int = 0) -> list[dict[str, Any]]:
    """The rows, with medians of rounds; each round runs all of them in a new random order."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in CODE}
    order = list(CODE)
    for name in order:
        probe(CODE[name])  # writes bytecode and fills the page cache
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            samples[name].append(probe(CODE[name]))
    medians = {
        name: {key: statistics.median([one[key] for one in of_name]) for key in of_name[0]}
        for name, of_name in samples.items()
    }
    return [_row(name, medians, samples[name]) for name in CODE]


def _row(name: str, medians: dict[str, dict[str, float]], samples: list[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, **medians[name], "min_cpu_ms": min(one["cpu_ms"] for one in samples)}
    if name not in BARS:
        return row | {"of": None, "ratio": None, "bar": None, "within": None}
    floor, bar = BARS[name]
    ratio = medians[name]["cpu_ms"] / medians[floor]["cpu_ms"]
    return row | {"of": floor, "ratio": ratio, "bar": bar, "within": ratio <= bar}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Rows as text for a terminal."""
    lines = [f"{'imported':<52} {'cpu ms':>8} {'min':>8} {'wall ms':>8} {'RSS MB':>7} {'modules':>8} {'ratio':>6}  bar"]
    for row in found:
        judged = ""
        if row["ratio"] is not None:
            judged = f"{row['ratio']:>6.2f}  <= {row['bar']:g} x {row['of']} {'ok' if row['within'] else 'OVER'}"
        lines.append(
            f"{row['name']:<52} {row['cpu_ms']:>8.1f} {row['min_cpu_ms']:>8.1f} {row['wall_ms']:>8.1f} "
            f"{row['rss_mb']:>7.1f} {row['modules']:>8.0f} {judged}".rstrip()
        )
    return "\n".join(lines)


def profile(name: str, rounds: int) -> str:
    """The modules that a row, or a statement, loads, the dearest first: the least of some rounds of -X importtime."""
    own_us: dict[str, int] = {}
    total_us: dict[str, int] = {}
    for _ in range(rounds + 1):
        run = fresh("-X", "importtime", "-c", CODE.get(name, name))
        for own, total, module in IMPORT_TIME.findall(run.stderr):
            own_us[module] = min(int(own), own_us.get(module, int(own)))
            total_us[module] = min(int(total), total_us.get(module, int(total)))
    packages: Counter[str] = Counter()
    for module, spent in own_us.items():
        packages[module.partition(".")[0]] += spent
    lines = [f"{sum(own_us.values()) / 1e3:>8.1f}  ms in all", "", f"{'own ms':>8}  package"]
    lines += [f"{spent / 1e3:>8.1f}  {package}" for package, spent in packages.most_common(25)]
    lines += ["", f"{'own ms':>8} {'with all it loads':>18}  module"]
    dearest = sorted(own_us, key=lambda module: -own_us[module])[:40]
    lines += [f"{own_us[module] / 1e3:>8.1f} {total_us[module] / 1e3:>18.1f}  {module}" for module in dearest]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. 0 however the bars come out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="processes for each row (15)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    parser.add_argument(
        "--profile", metavar="ROW", nargs="?", const=USED, help="show which modules cost the most, and end"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    if options.profile:
        print(profile(options.profile, options.rounds))
        return 0
    found = measured(options.rounds)
    print(table(found))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(), "rounds": options.rounds, "rows": found}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
