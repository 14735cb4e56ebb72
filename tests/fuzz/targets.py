"""Finds the fuzz targets: files target_*.py with TARGETS, name -> function of bytes, and SEEDS, name -> inputs.

A target raises AssertionError, or anything else, where a promise is broken. What was found once lies in
pinned/<target>/ and is tried ever after.
"""

import random
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PINNED = HERE / "pinned"
LOUD = ("toolpost.egress", "sqlglot")
"""Loggers that say something of nearly every input. A target leaves them be: it is imported beside other tests."""


class Target(NamedTuple):
    """One function that takes any bytes, and inputs to begin with."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def targets() -> dict[str, Target]:
    """Every target by name."""
    found: dict[str, Target] = {}
    for path in sorted(HERE.glob("target_*.py")):
        module = import_module(f"tests.fuzz.{path.stem}")
        for name, run in module.TARGETS.items():
            assert name not in found, f"two fuzz targets are called {name}"
            found[name] = Target(name, run, (*module.SEEDS.get(name, ()), *pinned(name)))
    return found


def pinned(name: str) -> Iterator[bytes]:
    """What was found of a target before."""
    for path in sorted((PINNED / name).glob("*")):
        yield path.read_bytes()


def mutated(seeds: tuple[bytes, ...], luck: random.Random) -> bytes:
    """An input made of others: bytes flipped, cut, doubled, moved, and pieces of other seeds put in."""
    data = bytearray(luck.choice(seeds) if seeds else b"")
    for _ in range(luck.randint(1, 6)):
        at, to = (luck.randint(0, len(data)) for _ in range(2))
        at, to = min(at, to), max(at, to)
        match luck.randrange(7):
            case 0 if data:
                data[luck.randrange(len(data))] = luck.randrange(256)
            case 1:
                del data[at:to]
            case 2:
                data[at:at] = data[at:to]
            case 3:
                data[at:at] = luck.choice(ODD)
            case 4:
                other = luck.choice(seeds) if seeds else b""
                data[at:to] = other[luck.randint(0, len(other)) :]
            case 5:
                data[at:at] = data[at:to] * luck.choice((1, 3, 50))
            case _:
                data[at:to] = data[at:to].swapcase()
        del data[MAX_BYTES:]
    return bytes(data)


MAX_BYTES = 4096
ODD = (
    *(bytes([code]) for code in (0, 9, 10, 13, 32, 34, 37, 39, 45, 46, 47, 58, 59, 60, 64, 92, 96, 127, 255)),
    *"\u202e \ufb00 \uff11 \u3002 \u200b \u2025 \uff0f \U0001d49c".encode().split(),
    *b"%2e%2e%2f %252e %c0%ae &#x2f; \\u002e \\x2e ../ ..\\ // /* */ -- '' $$ E' U&' :: [[ ]] (( )) {{ }} 0x".split(),
)
"""What parsers tend to read in more than one way."""
