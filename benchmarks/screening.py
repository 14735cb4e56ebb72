"""Measures screening: how much of each corpus is refused, beside the documents' own pattern, and what a call pays.

    python benchmarks/screening.py --json build/screening.json
    python benchmarks/screening.py --corpora FOLDER

Without a folder of corpora (mal_*.jsonl and ben_*.jsonl with {"t": text}) only the cost is measured.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.screening_rates import CORPORA, STATED, plain, share, untrusted
from toolpost.security.rules import Screen

ROUNDS = 15
CALLS = 2000
CHARS = 1_000_000
FLOOR_BAR = 2.0
"""Screening three short strings may cost so many times what pydantic takes to check them."""
TEXT_BAR_MS = 20.0
"""Milliseconds for a million characters."""


class Three(BaseModel):
    """Three short strings, as the floor checks them."""

    name: str
    path: str
    note: str


VALUES = {
    "name": "order-2291-b",
    "path": "reports/2026/may.csv",
    "note": "Please send it to Ann O'Brien by Friday; thanks",
}


def rates(folder: Path) -> list[dict[str, Any]]:
    """One row a corpus: shares refused by CRS (as published), the documents' pattern, ours for plain and untrusted."""
    rows = []
    for corpus in CORPORA:
        path = folder / f"{corpus.name}.jsonl"
        if path.is_file():
            texts = [json.loads(line)["t"] for line in path.read_text(encoding="utf-8").splitlines() if line]
            ours = {"plain": share(plain(), texts), "untrusted": share(untrusted(), texts)}
            rows.append(
                {"corpus": corpus.what, "texts": len(texts), "crs": corpus.crs, "stated": share(STATED, texts), **ours}
            )
    return rows


def interleaved(contenders: dict[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """Microseconds a call of each, the median of shuffled rounds."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name in random.sample(list(contenders), len(contenders)):
            work = contenders[name]
            began = time.thread_time()
            for _ in range(calls):
                work()
            samples[name].append((time.thread_time() - began) / calls * 1e6)
    return {name: statistics.median(took) for name, took in samples.items()}


def cost() -> dict[str, float]:
    """Of three short strings: pydantic's check, and ours by role."""
    checks = [
        (Screen(role, "medium").check, VALUES[name])
        for name, role in (("name", "text"), ("path", "path"), ("note", "text"))
    ]

    def screened() -> None:
        for check, value in checks:
            check(value)

    return interleaved({"pydantic": lambda: Three.model_validate(VALUES), "screened": screened}, CALLS)


def long_texts() -> dict[str, float]:
    """Milliseconds for a million characters: of each kind of text and each role, the slowest."""
    prose = "The quick brown fox jumps over the lazy dog, doesn't it? "
    code = 'def f(x): return "<b>" + x.replace("\'", "&#39;") + "</b>"  # 50% off; a/b\n'
    kinds = {
        "prose": prose,
        "code": code,
        "quotes": "' or '",
        "percent": "%41%2e ",
        "markup": "<a b='c'>&lt;",
        "dots": "../",
    }
    took: dict[str, float] = {}
    for kind, piece in kinds.items():
        text = (piece * (CHARS // len(piece) + 1))[:CHARS]
        for role, trust in (("text", False), ("text", True), ("html", False), ("template", False)):
            screen = Screen(role, "medium", untrusted=trust)  # type: ignore[arg-type]
            screen.check(text)
            best = min(_timed(screen.check, text) for _ in range(3))
            took[f"{kind}, {'untrusted ' if trust else ''}{role}"] = best * 1000
    return took


def _timed(work: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    work(text)
    return time.thread_time() - began


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    options = sys.argv[1:]
    folder = Path(options[options.index("--corpora") + 1]) if "--corpora" in options else None
    found: dict[str, Any] = {"rates": rates(folder) if folder is not None else []}
    if found["rates"]:
        print(f"{'corpus':32} {'texts':>6} {'CRS PL1':>8} {'stated':>8} {'plain':>8} {'untrusted':>10}")
    for row in found["rates"]:
        shares = (f"{row[name]:8.2%}" for name in ("crs", "stated", "plain"))
        print(f"{row['corpus']:32} {row['texts']:6} {' '.join(shares)} {row['untrusted']:10.2%}")
    took = found["cost_us"] = cost()
    ratio = found["ratio"] = took["screened"] / took["pydantic"]
    print(
        f"three short strings: pydantic {took['pydantic']:.2f} us, screening {took['screened']:.2f} us, {ratio:.2f} x"
    )
    longest = found["million_chars_ms"] = long_texts()
    for name, ms in sorted(longest.items(), key=lambda pair: -pair[1]):
        print(f"a million characters of {name:24} {ms:8.1f} ms")
    if "--json" in options:
        path = Path(options[options.index("--json") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2))
    missed = ratio > FLOOR_BAR or max(longest.values()) > TEXT_BAR_MS
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
