"""An interpreter of seccomp's filter programs, as strict as the kernel's checker: what does one say of a call?"""

import struct
from collections.abc import Sequence

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FOREIGN = {"i386": 0x40000003, "arm": 0x40000028, "riscv64": 0xC00000F3, "none": 0}
KILL, ALLOW, NOTIFY = 0x80000000, 0x7FFF0000, 0x7FC00000


class Filter:
    """A program, taken apart."""

    def __init__(self, program: bytes) -> None:
        assert len(program) % 8 == 0
        self.steps = list(struct.iter_unpack("=HBBI", program))
        assert 0 < len(self.steps) <= 4096

    def verdict(self, number: int, arguments: Sequence[int] = (), *, architecture: int) -> int:
        """Run it. Every load must be of the call's data, every jump forward and within, every end a verdict."""
        padded = [value & 0xFFFFFFFFFFFFFFFF for value in [*arguments, *[0] * 6][:6]]
        data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0x7F0000000000, *padded)
        at = word = 0
        while True:
            code, true, false, operand = self.steps[at]
            at += 1
            if code == 0x20:  # load a word
                assert operand % 4 == 0
                (word,) = struct.unpack_from("=I", data, operand)
            elif code == 0x54:  # and
                word &= operand
            elif code == 0x05:  # jump
                at += operand
            elif code in (0x15, 0x25, 0x35, 0x45):  # if equal, greater, at least, any bit
                holds = {
                    0x15: word == operand,
                    0x25: word > operand,
                    0x35: word >= operand,
                    0x45: bool(word & operand),
                }[code]
                at += true if holds else false
            else:
                assert code == 0x06, f"step {at - 1} has the code {code:#x}"
                return operand


def errno_in(verdict: int) -> int | None:
    """The errno that a verdict gives, None where it gives none."""
    return verdict & 0xFFFF if verdict >> 16 == 5 else None
