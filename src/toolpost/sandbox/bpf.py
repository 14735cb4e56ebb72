"""An assembler for seccomp's filter programs: rules about the arguments of system calls, found by a balanced search.

Words are compared as the kernel takes them. Most arguments are 32 bits wide to it, whatever a program leaves in the
other half of the register, so tests look at the low half unless they say otherwise.
Source: Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/{filter,seccomp,audit}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

ALLOW: Final = 0x7FFF0000
USER_NOTIF: Final = 0x7FC00000
KILL_PROCESS: Final = 0x80000000
ARCHITECTURES: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32: Final = 0x40000000
"""From here on x86_64 takes a number for one of its 32-bit ABI, whose arguments and numbers differ."""

_LOAD, _JUMP, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LONGEST = 4096


class Step(NamedTuple):
    """One instruction: its code, how many to skip when its condition is true or false, and its operand."""

    code: int
    true: int
    false: int
    operand: int


Block = tuple[Step, ...]
Test = Callable[[int], Block]
"""Makes the steps of a test, given how many steps after it are to be skipped where it fails."""


class Clause(NamedTuple):
    """A verdict where all tests hold."""

    verdict: int
    tests: tuple[Test, ...] = ()


def errno_verdict(number: int) -> int:
    """The call fails with this errno; with 0 it does nothing and succeeds."""
    return 0x00050000 | number


def among(argument: int, *values: int, mask: int = 0) -> Test:
    """The argument, or the bits of it under mask, is one of the values."""

    def steps(fail: int) -> Block:
        masked = (Step(_AND, 0, 0, mask),) if mask else ()
        last = len(values) - 1
        equal = (Step(_EQUAL, last - at, fail if at == last else 0, value) for at, value in enumerate(values))
        return (_low(argument), *masked, *equal)

    return steps


def any_bit(argument: int, bits: int) -> Test:
    """The argument has at least one of these bits."""
    return lambda fail: (_low(argument), Step(_ANY_BIT, 0, fail, bits))


def above(argument: int, most: int) -> Test:
    """The argument, all 64 bits of it, is more than this."""
    return lambda fail: (_high(argument), Step(_EQUAL, 0, 2, 0), _low(argument), Step(_GREATER, 0, fail, most))


def _low(argument: int) -> Step:
    # Both architectures are little-endian.
    return Step(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _high(argument: int) -> Step:
    return Step(_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4)


def decide(clauses: Sequence[Clause]) -> Block:
    """The verdict of the first clause that holds; the last must have no tests."""
    if not clauses or clauses[-1].tests:
        raise ValueError("the last clause of a rule must hold always")
    return sum((_clause(one) for one in clauses), ())


def _clause(clause: Clause) -> Block:
    steps: Block = (Step(_RETURN, 0, 0, clause.verdict),)
    for test in reversed(clause.tests):
        steps = test(len(steps)) + steps
    return steps


def assemble(machine: str, rules: Mapping[int, Sequence[Clause]], unknown: int) -> bytes:
    """The program: what rules say of their numbers, unknown for the others, death for other architectures' calls."""
    known = {number: decide(clauses) for number, clauses in rules.items()}
    other = decide([Clause(unknown)])
    kill = decide([Clause(KILL_PROCESS)])
    ranges: list[tuple[int, Block]] = []
    for number in range(max(known) + 2):
        block = known.get(number, other)
        if not ranges or ranges[-1][1] != block:
            ranges.append((number, block))
    if machine == "x86_64":
        ranges.append((X32, kill))
    steps = (
        Step(_LOAD, 0, 0, _ARCHITECTURE),
        Step(_EQUAL, 1, 0, ARCHITECTURES[machine]),
        *kill,
        Step(_LOAD, 0, 0, _NUMBER),
        *_search(ranges),
    )
    if len(steps) > _LONGEST:
        raise ValueError(f"a filter program of {len(steps)} steps is too long for the kernel, which takes {_LONGEST}")
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _search(ranges: Sequence[tuple[int, Block]]) -> Block:
    """Halve until one range is left. Every block ends in a verdict, so nothing runs on into the next."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    lower, upper = _search(ranges[:middle]), _search(ranges[middle:])
    pivot = ranges[middle][0]
    if len(lower) < 256:
        return (Step(_AT_LEAST, len(lower), 0, pivot), *lower, *upper)
    return (Step(_AT_LEAST, 0, 1, pivot), Step(_JUMP, 0, 0, len(lower)), *lower, *upper)
