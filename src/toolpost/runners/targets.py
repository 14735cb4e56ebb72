"""Target: what a worker process is to run, by name, so that it can import it for itself."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from toolpost.calls.errors import ConfigurationError
from toolpost.runners import process_worker as worker

WAY_OUT = 'or run the tool with runs_in="thread"'
"""How a message about what cannot reach a worker process ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a worker process is to run, by name: it imports the module and finds the function in it.

    depth counts the decorators to take off. owner is the pickled instance or class of a method, as it was
    when the target was made; without a qualname it is the pickled callable itself. main is the parent's main
    module where that is needed: (module name or None, path). takes_mapping: the arguments go in as one dict.
    """

    module: str
    qualname: str
    depth: int = 0
    owner: bytes | None = field(default=None, repr=False)
    main: tuple[str | None, str] | None = None
    takes_mapping: bool = False
    key: int = field(default_factory=itertools.count(1).__next__, repr=False, compare=False)

    @classmethod
    def of(cls, func: Callable[..., Any], *, takes_mapping: bool = False) -> Target:
        """The target of a function, a method of a picklable instance, or a picklable callable.

        Raises ConfigurationError for what a worker could not find by name: lambdas, functions made inside
        others, decorated functions that hide what they wrap, and anything of an interactive session.
        """
        if isinstance(func, types.MethodType):
            owner: Any = func.__self__
            function: Any = getattr(func.__func__, worker.RAW, func.__func__)
        elif isinstance(func, (types.FunctionType, types.BuiltinFunctionType)) and func.__module__:
            owner, function = None, getattr(func, worker.RAW, func)
        else:
            owner, function = func, None
        module, qualname, depth = (type_name(func), "", 0) if function is None else _found(function)
        pickled = None if owner is None else _pickled(owner, func)
        needs_main = module == "__main__" or (pickled is not None and b"__main__" in pickled)
        return cls(
            module=module,
            qualname=qualname,
            depth=depth,
            owner=pickled,
            main=_main_for(func) if needs_main else None,
            takes_mapping=takes_mapping,
        )

    @property
    def name(self) -> str:
        """module.qualname, for messages."""
        return f"{self.module}.{self.qualname}" if self.qualname else self.module


def _found(function: Any) -> tuple[str, str, int]:
    """Where a worker finds a function: module, qualname and how many decorators to take off.

    What a function wraps stands in for it where itself cannot be found, as for wrappers made at registration.
    """
    for candidate in worker.layers(function):
        module, qualname = getattr(candidate, "__module__", None), getattr(candidate, "__qualname__", "")
        if not module or "<" in qualname:
            continue
        try:
            there = worker.named(module, qualname)
        except (ImportError, AttributeError):
            continue
        for depth, layer in enumerate(worker.layers(there)):
            if layer is candidate:
                return module, qualname, depth
    raise ConfigurationError(
        f"{_full_name(function)} cannot run in a worker process, which must find it by name; "
        f"define it at the top level of a module, have its decorators use functools.wraps, {WAY_OUT}"
    )


def _main_for(func: Any) -> tuple[str | None, str]:
    """The main module as a worker can import it; refused where it has no file."""
    main = sys.modules["__main__"]
    sys.modules.setdefault("__mp_main__", main)  # what workers call it in what they send back
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if spec is not None and spec.name.rpartition(".")[2] != "__main__":
        return spec.name, ""
    if spec is None and path is not None and os.path.isfile(path):
        return None, os.path.abspath(path)
    raise ConfigurationError(
        f"{_full_name(func)} cannot run in a worker process, which cannot import an interactive session or "
        f"__main__.py; define it in a module, {WAY_OUT}"
    )


def _pickled(owner: object, func: Any) -> bytes:
    try:
        return pickle.dumps(owner, protocol=5)
    except Exception as error:
        raise ConfigurationError(
            f"{_full_name(func)} cannot run in a worker process: {type_name(owner)} cannot be pickled ({error}); "
            f"leave what cannot out in __getstate__, {WAY_OUT}"
        ) from error


def _full_name(func: Any) -> str:
    name = getattr(func, "__qualname__", None)
    return f"{func.__module__}.{name}" if name else repr(func)


def type_name(value: object) -> str:
    """module.qualname of a value's type, builtins without their module, for messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
