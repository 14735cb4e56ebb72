"""Targets: what a worker process could not find by name is refused at once, and a target is a value."""

import functools
import pickle
import threading
from collections.abc import Callable

import pytest

from toolpost.calls.errors import ConfigurationError
from toolpost.runners.targets import Target


def add(a: int, b: int) -> int:
    return a + b


def hiding(func: Callable[..., int]) -> Callable[..., int]:
    def wrapper(n: int) -> int:
        return func(n)

    wrapper.__qualname__, wrapper.__module__ = func.__qualname__, func.__module__
    return wrapper


@hiding
def hidden(n: int) -> int:
    return n


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def run(self) -> None:
        return


def local_function() -> Callable[[], int]:
    def inner() -> int:
        return 1

    return inner


@pytest.mark.parametrize(
    ("func", "named"),
    [
        pytest.param(lambda: 1, "<lambda>", id="lambda"),
        pytest.param(local_function(), "local_function.<locals>.inner", id="local function"),
        pytest.param(functools.partial(lambda: 1), "partial", id="partial of a lambda"),
        pytest.param(Unpicklable().run, "Unpicklable cannot be pickled", id="method of what cannot be pickled"),
        pytest.param(hidden, "hidden", id="hidden by its decorator"),
    ],
)
def test_what_a_worker_cannot_find_is_refused_when_it_is_registered(func, named):
    if func is hidden:
        func = hidden.__closure__[0].cell_contents  # type: ignore[attr-defined]  # the function under the decorator

    with pytest.raises(ConfigurationError, match=r'cannot run in a worker process.*runs_in="thread"') as caught:
        Target.of(func)

    assert named in str(caught.value)


def test_a_target_is_a_value_that_can_travel():
    target = Target.of(add)

    assert pickle.loads(pickle.dumps(target)) == target
    assert target.name.endswith("test_targets.add")
