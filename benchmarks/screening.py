"""Measures screening: how much of each corpus is refused, beside the documents' own pattern, and what a call pays.

    python benchmarks/screening.py --json build/screening.json
    python benchmarks/screening.py --corpora FOLDER

Without a folder of corpora (mal_*.jsonl and ben_*.jsonl with {"t": text}) only the cost is measured.
"""

from __future__ import annotations

import base64
import json
import random
import statistics
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.screening_rates import CORPORA, STATED, plain, share, untrusted
from toolpost.security.rules import Screen
from toolpost.security.views import MAX_ENCODED

ROUNDS = 15
CALLS = 2000
SIZE = 1_000_000
"""Bytes of a long text."""
SHOWN = 15
JUDGED = (
    *(("text", "medium", False), ("text", "medium", True), ("text", "high", False), ("text", "high", True)),
    *(("document", "medium", False), ("document", "medium", True), ("html", "medium", False), ("html", "high", False)),
    *(("template", "medium", False), ("template", "high", False)),
)
FLOOR_BAR = 2.0
"""Screening three short strings may cost so many times what pydantic takes to check them."""
TEXT_BAR_MS = 20.0
"""Milliseconds for a megabyte."""


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


ORDINARY = {
    "prose": "The quick brown fox jumps over the lazy dog, doesn't it? ",
    "code": 'def f(x): return "<b>" + x.replace("\'", "&#39;") + "</b>"  # 50% off; a/b\n',
    "markup": "<p class='x'>He said &quot;hi&quot; &amp; left</p>\n",
    "Markdown": "# Head\n\n* item `code` [a](http://x.test/y) **b**\n",
    "JSON": '{"a": [1, "b\\n"], "c": "d"}, ',
    "SQL": "SELECT a, b FROM t WHERE c = 'd' AND e > 5;\n",
    "addresses": "https://example.com/a%20b?c=d&e=f ",
    "short lines": "ab cd\n",
    "one long word": "lorem",
    "base64": base64.b64encode(bytes(range(256))).decode(),
    "accents": "\xe9\xe0\xfc ",
    "Chinese": "\u4e2d\u6587\uff0c\u5b57\u7b26\u3002",
    "emoji": "\U0001f600 ",
}
"""What people send, repeated."""
HOSTILE = (
    *"'\"`;|&$()<>{}[]\\/.,:=+-*%#@!?~^_ \n\t\0",
    *("../", "..\\", "....//", "%41", "%41 ", "%41%2e ", "%252e", "%25252e", "%2e%2e%2f", "%u002e", "%zz%4", "%00"),
    *(
        "&#",
        "&#60;",
        "&#x3c;",
        "&lt;",
        "&lt",
        "&abcdef",
        "&amp;lt;",
        "&#37;25",
        "\\u",
        "\\u0041",
        "\\x41",
        "\\101",
        "\\u{",
    ),
    *(
        "+ADw-",
        "+AAAAAAAAAAA",
        "+A",
        "/**/",
        "/*",
        "*/",
        "/* a */ b ",
        "/*!50001 ",
        "union/**/select ",
        "# x\n",
        "-- x\n",
    ),
    *(
        "union select ",
        "or 1=1 ",
        "' or '",
        "'='",
        "a' and b = ",
        "(select a from ",
        "case when (",
        "0x41",
        "char(65),",
    ),
    *(
        "<a b='c'>&lt;",
        "<a ",
        "<scrip",
        " on=",
        " onload",
        "<img src=x onerror",
        "javascript",
        "j a v a ",
        "style=",
        "<!",
    ),
    *(
        "{{",
        "${",
        "#{",
        "{{__",
        "<%",
        "<?php ",
        "@import ",
        "=data:",
        "eval (",
        "[][(",
        "cat cat /",
        "$IFS",
        "/etc/",
        "file:///",
    ),
    *("\uff21", "\uff21a\uff0e", "\u200ba", "\u202e", "\U0001d4d0", "\ud800", "\xa0\xbd"),
)
"""What the rules and decoders have to stop at, repeated."""


def made_texts() -> dict[str, str]:
    """Texts of a megabyte: of one piece, and of random ones; those of encodings have as many as are looked at."""
    made = dict(ORDINARY) | {repr(piece): piece for piece in HOSTILE}
    texts = {kind: _filled(piece) for kind, piece in made.items()}
    chance = random.Random(7)
    texts["random ASCII"] = "".join(chance.choices(string.printable, k=SIZE))
    texts["random marks"] = "".join(chance.choices(string.punctuation, k=SIZE))
    texts["random base64"] = base64.b64encode(chance.randbytes(SIZE))[:SIZE].decode()
    texts["random Latin"] = "".join(chance.choices([chr(code) for code in range(32, 600)], k=SIZE // 2))
    texts["random Unicode"] = "".join(chr(chance.randint(0x20, 0xD7FF)) for _ in range(SIZE // 3))
    words = " ".join("".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 9))) for _ in range(SIZE // 5))
    for kind, piece in {"percent": "%41 ", "entities": "&#60; ", "nested": "%2541 ", "both": "\uff21 %41 "}.items():
        encoded = piece * (MAX_ENCODED // len(piece.split()) // (2 if kind == "nested" else 1) - 1)
        texts[f"words, then {kind}"] = words[: SIZE - len(encoded.encode())] + encoded
    return texts


def _filled(piece: str) -> str:
    return piece * (SIZE // len(piece.encode(errors="replace")) + 1)


def long_texts() -> dict[str, float]:
    """Milliseconds for a megabyte of UTF-8: of each kind of text and each role that has no smaller bound."""
    took: dict[str, float] = {}
    texts = made_texts()
    for role, level, trust in JUDGED:
        screen = Screen(role, level, untrusted=trust)  # type: ignore[arg-type]
        screen.check("compile \xe9%41 /* it */ <")
        for kind, text in texts.items():
            best = min(_timed(screen.check, text) for _ in range(3))
            took[f"{kind}, {'untrusted ' if trust else ''}{role} at {level}"] = best * 1000
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
    longest = found["megabyte_ms"] = long_texts()
    print(f"a megabyte of text, the slowest {SHOWN} of {len(longest)}:")
    for name, ms in sorted(longest.items(), key=lambda pair: -pair[1])[:SHOWN]:
        print(f"{name:56} {ms:8.1f} ms")
    for kind in ORDINARY:
        print(f"{kind:56} {max(ms for name, ms in longest.items() if name.startswith(f'{kind}, ')):8.1f} ms")
    if "--json" in options:
        path = Path(options[options.index("--json") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2))
    missed = ratio > FLOOR_BAR or max(longest.values()) > TEXT_BAR_MS
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
