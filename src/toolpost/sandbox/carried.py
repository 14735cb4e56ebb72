"""Our own modules as code that a sandbox's first process runs, without any file of ours being there to see."""

from __future__ import annotations

import fcntl
import marshal
import os
import sys
from typing import Any, Final

from toolpost.sandbox import frames

BOOT: Final = """
import marshal, os, sys, types
from _frozen_importlib import ModuleSpec
class Carried:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=not carried[name]) if name in carried else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        code = carried[module.__name__]
        if code:
            exec(marshal.loads(code) if type(code) is bytes else code, module.__dict__)
def boot(module, *arguments):
    finder = Carried()
    sys.meta_path.insert(0, finder)
    __import__(module)
    sys.meta_path.remove(finder)
    sys.modules[module].main(*arguments)
"""
"""Defines boot, which imports the modules that lie in carried, by name, and runs main of one of them."""
_FROM_FILE: Final = """
fd, module = int(sys.argv[1]), sys.argv[2]
carried = marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0))
boot(module, *sys.argv[3:])
"""
_PACKAGES: Final = ("toolpost", "toolpost.sandbox")


def command(interpreter: str, code: int, module: str, *arguments: str) -> list[str]:
    """Runs module.main(*arguments) in a bare interpreter. code is a descriptor of a file with modules()."""
    return [interpreter, "-I", "-S", "-E", "-B", "-c", BOOT + _FROM_FILE, str(code), module, *arguments]


def modules() -> dict[str, bytes]:
    """What this process has imported of ours, compiled."""
    found = {name: marshal.dumps(compile(text, name, "exec", dont_inherit=True)) for name, text in sources().items()}
    return found | dict.fromkeys(_PACKAGES, b"")


def sources() -> dict[str, str]:
    """The same as text, for an interpreter of another version."""
    found = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.startswith("toolpost.sandbox.") and path:
            with open(path, encoding="utf-8") as file:
                found[name] = file.read()
    return found


def held(value: Any) -> int:
    """A descriptor of a file in memory with this value, which nobody can change."""
    fd = os.memfd_create("toolpost", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    frames.write(fd, marshal.dumps(value))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd
